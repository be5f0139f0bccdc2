"""The library that every project of the data platform stands on.

Layers, top to bottom (an import only ever points down):
``cli`` > ``definitions`` > ``files`` | ``airbyte`` | ``dbt`` > ``lake`` > ``core``.
"""

__version__ = "0.1.0"
