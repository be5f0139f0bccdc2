{#
  A model that lives in the lake. Its rows go to the step's branch of the Iceberg table of the same name;
  tests read the branch; lake_publish moves main at the end of `dbt build`.

  config: write_mode = table (default) | append | merge; unique_key for merge.
#}
{% materialization lake, adapter='duckdb' %}
  {%- set target = this.incorporate(type='view') -%}
  {%- set query = api.Relation.create(
        database=this.database, schema=this.schema, identifier=this.identifier ~ '__query', type='view') -%}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}

  {%- set select = compiled_code -%}
  {%- if config.get('contract').enforced -%}
    {%- do get_assert_columns_equivalent(select) -%}
    {%- set select = get_select_subquery(select) -%}
  {%- endif -%}
  {% call statement('main') -%}
    create or replace view {{ query }} as (
      {{ select }}
    )
  {%- endcall %}
  {{ adapter.commit() }}

  {%- do adapter.store_relation('lake', target, [], query.render(), 'write', {
        'write_mode': config.get('write_mode', 'table'),
        'unique_key': config.get('unique_key'),
        'full_refresh': should_full_refresh(),
      }) -%}

  {% call statement('drop_query') -%} drop view {{ query }} {%- endcall %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {{ adapter.commit() }}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [target]}) }}
{% endmaterialization %}


{# Hands the outcome to the platform, which publishes when this was a build and nothing blocking failed. #}
{% macro lake_publish(results) %}
  {#- A project without lake models shares the environment, not the plugin. -#}
  {%- set lake_models = results | selectattr('node.resource_type', 'equalto', 'model')
        | selectattr('node.config.materialized', 'equalto', 'lake') | list -%}
  {%- if execute and lake_models -%}
    {%- set failed = [] -%}
    {%- for result in results if result.status | string in ('error', 'fail', 'runtime error', 'skipped') -%}
      {%- do failed.append(result.node.unique_id) -%}
    {%- endfor -%}
    {%- do adapter.store_relation('lake', api.Relation.create(database=target.database, schema='marts'), [], '', 'publish', {
          'command': flags.WHICH,
          'failed': failed,
          'is_untested': 'test' in (invocation_args_dict.get('exclude_resource_types') or [])
            or (invocation_args_dict.get('resource_types') or []) | length > 0
               and 'test' not in (invocation_args_dict.get('resource_types') or []),
          'is_sample': (flags.EMPTY or false) or (flags.SAMPLE is not none and flags.SAMPLE is not undefined),
        }) -%}
  {%- endif -%}
{% endmacro %}
