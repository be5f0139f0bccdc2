-- Every day of the history has a row: a day without a sale is a zero, not a gap.
with

purchases as (
    select * from {{ ref('fct_purchases') }}
),

bounds as (
    select
        min(purchased_date) as first_date,
        max(purchased_date) as last_date
    from purchases
),

calendar as (
    select
        cast(unnest(generate_series(first_date, last_date, interval 1 day)) as date)
            as revenue_date
    from bounds
    where first_date is not null
),

daily as (
    select
        purchased_date,
        count(*) as purchase_count,
        count(distinct customer_id) as customer_count,
        count(distinct customer_id) filter (where not is_repeat) as new_customer_count,
        sum(units) as units,
        sum(amount_cents) as revenue_cents,
        sum(amount_cents) filter (where is_repeat) as repeat_revenue_cents
    from purchases
    group by purchased_date
),

filled as (
    select
        calendar.revenue_date,
        coalesce(daily.purchase_count, 0) as purchase_count,
        coalesce(daily.customer_count, 0) as customer_count,
        coalesce(daily.new_customer_count, 0) as new_customer_count,
        cast(coalesce(daily.units, 0) as bigint) as units,
        cast(coalesce(daily.revenue_cents, 0) as bigint) as revenue_cents,
        cast(coalesce(daily.repeat_revenue_cents, 0) as bigint) as repeat_revenue_cents
    from calendar
    left join daily on calendar.revenue_date = daily.purchased_date
)

select
    revenue_date,
    purchase_count,
    customer_count,
    new_customer_count,
    units,
    revenue_cents,
    repeat_revenue_cents,
    cast(
        sum(revenue_cents) over (order by revenue_date rows between 6 preceding and current row)
        as bigint
    ) as revenue_7d_cents
from filled
