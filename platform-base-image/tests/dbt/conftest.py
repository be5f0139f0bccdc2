"""The small dbt project for every test of this folder."""

from dbt_shop import project, shop_lake

__all__ = ["project", "shop_lake"]
