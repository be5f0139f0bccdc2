-- The source has no purchase id and holds rows that are equal in every column, so a running number
-- within customer and day completes the key. Equal rows are interchangeable: the key is stable.
with

purchases as (
    select * from {{ ref('stg_cdnow__purchases') }}
),

numbered as (
    select
        customer_id,
        purchased_date,
        units,
        amount_cents,
        row_number() over (
            partition by customer_id, purchased_date
            order by amount_cents, units
        ) as line_number,
        min(purchased_date) over (partition by customer_id) as first_purchased_date
    from purchases
)

select
    concat_ws('/', customer_id, purchased_date, line_number) as purchase_id,
    customer_id,
    purchased_date,
    line_number,
    units,
    amount_cents,
    purchased_date > first_purchased_date as is_repeat
from numbered
