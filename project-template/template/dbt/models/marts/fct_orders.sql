{{ config(write_mode='merge', unique_key='order_id') }}

-- `>=`, not `>`: rows of the newest load are merged again, which changes nothing, so that rows
-- which landed later with the same load time are never left out.
with

orders as (
    select * from {{ ref('stg_files__orders') }}
    {% if is_incremental() %}
    where
        _loaded_at >= (
            select coalesce(max(done._loaded_at), timestamptz '-infinity') from {{ this }} as done
        )
    {% endif %}
)

select
    order_id,
    customer_id,
    ordered_at,
    status,
    amount_cents,
    _loaded_at
from orders
