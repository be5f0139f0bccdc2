{{ config(write_mode='merge', unique_key='purchase_id') }}

-- `>=`, not `>`: rows of the newest load are merged again, which changes nothing, so that rows
-- which landed later with the same load time are never left out.
with

purchases as (
    select * from {{ ref('stg_demo__purchases') }}
    {% if is_incremental() %}
    where
        _loaded_at >= (
            select coalesce(max(done._loaded_at), timestamptz '-infinity') from {{ this }} as done
        )
    {% endif %}
),

products as (
    select * from {{ ref('stg_demo__products') }}
)

select
    purchases.purchase_id,
    purchases.user_id,
    purchases.product_id,
    products.price_cents as amount_cents,
    case
        when purchases.returned_at is not null then 'returned'
        when purchases.purchased_at is not null then 'purchased'
        else 'in_cart'
    end as status,
    purchases.added_to_cart_at,
    purchases.purchased_at,
    purchases.returned_at,
    purchases._loaded_at
from purchases
left join products on purchases.product_id = products.product_id
