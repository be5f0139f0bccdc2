{# dbt's own macros that mean something else in the lake. #}

{# True as well for a `lake` model that appends or merges into a table that is already published. #}
{% macro is_incremental() %}
  {%- if not execute -%}{{ return(false) }}{%- endif -%}
  {%- set relation = load_relation(this) -%}
  {%- set is_lake = model.config.materialized == 'lake'
        and model.config.get('write_mode', 'table') in ('append', 'merge')
        and relation is not none -%}
  {%- set is_native = model.config.materialized == 'incremental'
        and relation is not none and relation.type == 'table' -%}
  {{ return((is_lake or is_native) and not should_full_refresh()) }}
{% endmacro %}

{# A custom schema is a layer of the lake, so it is used as it is. #}
{% macro duckdb__generate_schema_name(custom_schema_name, node) -%}
  {{ return((custom_schema_name or target.schema) | trim) }}
{%- endmacro %}
