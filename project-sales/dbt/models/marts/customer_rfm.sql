-- Recency and money are scored by rank among all customers, so that equal customers always get
-- equal scores (ntile would split them). Half of the customers bought on one day only: frequency
-- has fixed steps instead.
with

customers as (
    select * from {{ ref('dim_customers') }}
),

segments as (
    select * from {{ ref('rfm_segments') }}
),

ranked as (
    select
        customer_id,
        max(last_purchased_date) over () as as_of_date,
        last_purchased_date,
        purchase_day_count,
        revenue_cents,
        percent_rank() over (order by last_purchased_date) as recency_rank,
        percent_rank() over (order by revenue_cents) as monetary_rank
    from customers
),

scored as (
    select
        customer_id,
        as_of_date,
        date_diff('day', last_purchased_date, as_of_date) as recency_days,
        purchase_day_count,
        revenue_cents,
        least(1 + cast(floor(5 * recency_rank) as bigint), 5) as recency_score,
        cast(
            case
                when purchase_day_count >= 8 then 5
                when purchase_day_count >= 5 then 4
                when purchase_day_count >= 3 then 3
                when purchase_day_count >= 2 then 2
                else 1
            end as bigint
        ) as frequency_score,
        least(1 + cast(floor(5 * monetary_rank) as bigint), 5) as monetary_score
    from ranked
)

select
    scored.customer_id,
    scored.as_of_date,
    scored.recency_days,
    scored.purchase_day_count,
    scored.revenue_cents,
    scored.recency_score,
    scored.frequency_score,
    scored.monetary_score,
    segments.segment
from scored
left join segments
    on
        scored.recency_score = segments.recency_score
        and scored.frequency_score = segments.frequency_score
