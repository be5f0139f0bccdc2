"""dbt on the lake: the dbt-duckdb plugin, the ``lake`` materialization, builds in this process, Dagster assets."""
