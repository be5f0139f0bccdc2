-- A cohort is everyone whose first purchase fell in the same calendar month. Months with nobody
-- active have a row too, up to the last month of the history.
with

purchases as (
    select * from {{ ref('fct_purchases') }}
),

customers as (
    select * from {{ ref('dim_customers') }}
),

cohorts as (
    select
        cohort_month_date,
        count(*) as cohort_size
    from customers
    group by cohort_month_date
),

last_month as (
    select date_trunc('month', max(purchased_date)) as last_month_date
    from purchases
),

grid as (
    select
        cohorts.cohort_month_date,
        cohorts.cohort_size,
        unnest(
            range(date_diff('month', cohorts.cohort_month_date, last_month.last_month_date) + 1)
        ) as months_since_first
    from cohorts
    cross join last_month
),

activity as (
    select
        customers.cohort_month_date,
        date_diff('month', customers.cohort_month_date, purchases.purchased_date)
            as months_since_first,
        count(distinct purchases.customer_id) as active_customer_count,
        count(*) as purchase_count,
        sum(purchases.amount_cents) as revenue_cents
    from purchases
    inner join customers on purchases.customer_id = customers.customer_id
    group by all
),

filled as (
    select
        grid.cohort_month_date,
        grid.months_since_first,
        grid.cohort_size,
        coalesce(activity.active_customer_count, 0) as active_customer_count,
        coalesce(activity.purchase_count, 0) as purchase_count,
        cast(coalesce(activity.revenue_cents, 0) as bigint) as revenue_cents
    from grid
    left join activity
        on
            grid.cohort_month_date = activity.cohort_month_date
            and grid.months_since_first = activity.months_since_first
)

select
    strftime(cohort_month_date, '%Y-%m') || '+' || lpad(cast(months_since_first as varchar), 2, '0')
        as cohort_period_id,
    cohort_month_date,
    months_since_first,
    cohort_size,
    active_customer_count,
    100.0 * active_customer_count / cohort_size as retention_pct,
    purchase_count,
    revenue_cents
from filled
