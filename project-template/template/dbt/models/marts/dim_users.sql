with

users as (
    select * from {{ ref('stg_airbyte__users') }}
)

select
    user_id,
    age_years,
    country_code,
    created_at
from users
