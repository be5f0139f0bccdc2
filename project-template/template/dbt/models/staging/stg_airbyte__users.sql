-- Name, e-mail, telephone and street stay in the raw table: nothing here needs them.
with

users as (
    select * from {{ source('raw', 'airbyte__users') }}
)

select
    cast(id as bigint) as user_id,
    cast(age as bigint) as age_years,
    cast(cast(address as json) ->> '$.country_code' as varchar) as country_code,
    cast(created_at as timestamptz) as created_at,
    cast(_loaded_at as timestamptz) as _loaded_at
from users
qualify row_number() over (partition by id order by _emitted_at desc, _loaded_at desc) = 1
