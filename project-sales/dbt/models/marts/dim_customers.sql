with

customers as (
    select * from {{ ref('int_customers__summed') }}
)

select
    customer_id,
    cast(date_trunc('month', first_purchased_date) as date) as cohort_month_date,
    first_purchased_date,
    second_purchased_date,
    last_purchased_date,
    purchase_count,
    purchase_day_count,
    units,
    revenue_cents,
    cast(round(revenue_cents / purchase_count) as bigint) as average_purchase_cents,
    purchase_day_count > 1 as is_repeat_customer
from customers
