-- From purchase lines to customers.
with

purchases as (
    select * from {{ ref('fct_purchases') }}
),

purchase_days as (
    select distinct
        customer_id,
        purchased_date
    from purchases
),

second_days as (
    select
        customer_id,
        purchased_date as second_purchased_date
    from purchase_days
    qualify row_number() over (partition by customer_id order by purchased_date) = 2
),

summed as (
    select
        customer_id,
        min(purchased_date) as first_purchased_date,
        max(purchased_date) as last_purchased_date,
        count(*) as purchase_count,
        count(distinct purchased_date) as purchase_day_count,
        cast(sum(units) as bigint) as units,
        cast(sum(amount_cents) as bigint) as revenue_cents
    from purchases
    group by customer_id
)

select
    summed.customer_id,
    summed.first_purchased_date,
    second_days.second_purchased_date,
    summed.last_purchased_date,
    summed.purchase_count,
    summed.purchase_day_count,
    summed.units,
    summed.revenue_cents
from summed
left join second_days on summed.customer_id = second_days.customer_id
