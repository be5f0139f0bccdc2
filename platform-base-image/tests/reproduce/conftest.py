"""The small dbt project of dbt's own tests."""

from dbt_shop import project, shop_lake

__all__ = ["project", "shop_lake"]
