-- The seed names each of the 25 pairs exactly once: a missing pair would leave customers without a
-- segment, a double one would double them.
with

pairs as (
    select
        recency.score as recency_score,
        frequency.score as frequency_score
    from range(1, 6) as recency (score)
    cross join range(1, 6) as frequency (score)
),

named as (
    select
        recency_score,
        frequency_score,
        count(*) as segment_count
    from {{ ref('rfm_segments') }}
    group by recency_score, frequency_score
)

select
    coalesce(pairs.recency_score, named.recency_score) as recency_score,
    coalesce(pairs.frequency_score, named.frequency_score) as frequency_score,
    coalesce(named.segment_count, 0) as segment_count
from pairs
full outer join named
    on
        pairs.recency_score = named.recency_score
        and pairs.frequency_score = named.frequency_score
where named.segment_count is distinct from 1 or pairs.recency_score is null
