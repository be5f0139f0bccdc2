with

purchases as (
    select * from {{ source('raw', 'cdnow__purchases') }}
)

select
    cast(customer_id as bigint) as customer_id,
    cast(date as date) as purchased_date,
    cast(units as bigint) as units,
    cast(dollars * 100 as bigint) as amount_cents,
    cast(_loaded_at as timestamptz) as _loaded_at
from purchases
