with

products as (
    select * from {{ ref('stg_shop__products') }}
)

select
    product_id,
    make,
    model_name,
    model_year,
    price_cents,
    created_at,
    updated_at
from products
