with

orders as (
    select * from {{ source('raw', 'files__orders') }}
)

select
    cast(order_id as bigint) as order_id,
    cast(customer_id as bigint) as customer_id,
    cast(ordered_at as timestamp) at time zone 'UTC' as ordered_at,
    cast(status as varchar) as status,
    cast(amount * 100 as bigint) as amount_cents,
    cast(_loaded_at as timestamptz) as _loaded_at
from orders
