with

products as (
    select * from {{ source('raw', 'shop__products') }}
)

select
    cast(id as bigint) as product_id,
    cast(make as varchar) as make,
    cast(model as varchar) as model_name,
    cast(year as bigint) as model_year,
    cast(round(price * 100) as bigint) as price_cents,
    cast(created_at as timestamptz) as created_at,
    cast(updated_at as timestamptz) as updated_at,
    cast(_loaded_at as timestamptz) as _loaded_at
from products
qualify row_number() over (partition by id order by _emitted_at desc, _loaded_at desc) = 1
