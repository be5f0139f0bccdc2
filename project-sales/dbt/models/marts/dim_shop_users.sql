with

users as (
    select * from {{ ref('stg_shop__users') }}
)

select
    user_id,
    age_years,
    gender,
    academic_degree,
    country_code,
    created_at,
    updated_at
from users
