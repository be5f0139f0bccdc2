with

purchases as (
    select * from {{ source('raw', 'demo__purchases') }}
)

select
    cast(id as bigint) as purchase_id,
    cast(user_id as bigint) as user_id,
    cast(product_id as bigint) as product_id,
    cast(added_to_cart_at as timestamptz) as added_to_cart_at,
    cast(purchased_at as timestamptz) as purchased_at,
    cast(returned_at as timestamptz) as returned_at,
    cast(_loaded_at as timestamptz) as _loaded_at
from purchases
qualify row_number() over (partition by id order by _emitted_at desc, _loaded_at desc) = 1
