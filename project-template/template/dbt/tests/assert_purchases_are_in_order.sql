-- Nobody pays before putting a product into the cart, or sends back what was not bought.
select
    purchase_id,
    added_to_cart_at,
    purchased_at,
    returned_at
from {{ ref('fct_purchases') }}
where
    purchased_at < added_to_cart_at
    or returned_at < purchased_at
    or (returned_at is not null and purchased_at is null)
