with

purchases as (
    select * from {{ ref('int_purchases__keyed') }}
)

select
    purchase_id,
    customer_id,
    purchased_date,
    line_number,
    units,
    amount_cents,
    is_repeat
from purchases
