with

products as (
    select * from {{ source('raw', 'demo__products') }}
)

select
    cast(id as bigint) as product_id,
    cast(make as varchar) as make,
    cast(model as varchar) as model_name,
    cast(round(price * 100) as bigint) as price_cents,
    cast(_loaded_at as timestamptz) as _loaded_at
from products
qualify row_number() over (partition by id order by _emitted_at desc, _loaded_at desc) = 1
