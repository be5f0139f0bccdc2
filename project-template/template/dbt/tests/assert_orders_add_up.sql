-- Money is neither lost nor made between the orders and the days.
with

totals as (
    select
        (
            select sum(amount_cents) from {{ ref('fct_orders') }}
            where status <> 'returned'
        ) as orders_cents,
        (select sum(amount_cents) from {{ ref('fct_daily_orders') }}) as days_cents
)

select *
from totals
where orders_cents is distinct from days_cents
