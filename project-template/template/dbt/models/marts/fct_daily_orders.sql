-- Days without an order have a row too: a zero, not a gap. What was returned counts as an order,
-- not as money.
with

orders as (
    select
        customer_id,
        status,
        amount_cents,
        cast(ordered_at at time zone 'UTC' as date) as order_date
    from {{ ref('fct_orders') }}
),

bounds as (
    select
        min(order_date) as first_date,
        max(order_date) as last_date
    from orders
),

calendar as (
    select
        cast(unnest(generate_series(first_date, last_date, interval 1 day)) as date)
            as order_date
    from bounds
    where first_date is not null
),

daily as (
    select
        order_date,
        count(*) as order_count,
        count(distinct customer_id) as customer_count,
        sum(amount_cents) filter (where status <> 'returned') as amount_cents
    from orders
    group by order_date
)

select
    calendar.order_date,
    coalesce(daily.order_count, 0) as order_count,
    coalesce(daily.customer_count, 0) as customer_count,
    cast(coalesce(daily.amount_cents, 0) as bigint) as amount_cents
from calendar
left join daily on calendar.order_date = daily.order_date
