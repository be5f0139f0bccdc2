-- Money is neither lost nor made between the purchases, the days and the cohorts.
with

totals as (
    select
        (select sum(amount_cents) from {{ ref('fct_purchases') }}) as purchases_cents,
        (select sum(revenue_cents) from {{ ref('fct_daily_revenue') }}) as days_cents,
        (select sum(revenue_cents) from {{ ref('customer_cohorts') }}) as cohorts_cents,
        (select sum(revenue_cents) from {{ ref('dim_customers') }}) as customers_cents
)

select *
from totals
where
    purchases_cents is distinct from days_cents
    or purchases_cents is distinct from cohorts_cents
    or purchases_cents is distinct from customers_cents
