select
    batch_id,
    count(*) as order_count,
    sum(amount_cents) as amount_cents
from {{ source('raw', 'till__orders') }}
group by batch_id
