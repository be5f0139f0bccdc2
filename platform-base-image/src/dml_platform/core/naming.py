"""The one place that names tables.

A table has one name everywhere: Dagster's asset key, the Iceberg identifier, the path in the
warehouse, the relation inside DuckDB and the catalogue's name all come from ``TableRef``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dml_platform.core.errors import ConfigError

_WORD = re.compile(r"[a-z][a-z0-9_]*")
LAYERS = ("raw", "staging", "intermediate", "marts", "seeds", "elementary")


@dataclass(frozen=True, order=True)
class TableRef:
    """``project.layer.name``, e.g. ``sales.marts.fct_orders``.

    Raises:
        ConfigError: a part is not lower case snake_case or the layer is unknown.
    """

    project: str
    layer: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.project, self.layer, self.name):
            if not _WORD.fullmatch(part):
                raise ConfigError(
                    f"cannot name a table {self.dotted!r}",
                    f"{part!r} is not lower case letters, digits and underscores",
                    "Rename it, e.g. 'sales.marts.fct_orders'.",
                )
        if self.layer not in LAYERS:
            raise ConfigError(
                f"cannot name a table {self.dotted!r}",
                f"{self.layer!r} is not a layer",
                f"Use one of: {', '.join(LAYERS)}.",
            )

    @classmethod
    def parse(cls, dotted: str) -> TableRef:
        """Read ``project.layer.name``.

        Raises:
            ConfigError: not three parts, or a part is not allowed.
        """
        parts = dotted.split(".")
        if len(parts) != 3:
            raise ConfigError(
                f"cannot read table name {dotted!r}",
                f"it has {len(parts)} parts",
                "Write project.layer.name, e.g. 'sales.marts.fct_orders'.",
            )
        return cls(*parts)

    @property
    def dotted(self) -> str:
        """``sales.marts.fct_orders``: for people, SQL and catalogues."""
        return f"{self.project}.{self.layer}.{self.name}"

    @property
    def identifier(self) -> tuple[str, str, str]:
        """Iceberg's identifier: namespace parts, then the table."""
        return (self.project, self.layer, self.name)

    @property
    def namespace(self) -> tuple[str, str]:
        """Iceberg's namespace of the table."""
        return (self.project, self.layer)

    @property
    def asset_key(self) -> list[str]:
        """Path of Dagster's asset key."""
        return [self.project, self.layer, self.name]

    @property
    def path(self) -> str:
        """Path below the warehouse: ``sales/marts/fct_orders``."""
        return "/".join(self.identifier)

    @property
    def sql(self) -> str:
        """The quoted relation name inside DuckDB."""
        return f'"{self.project}"."{self.layer}"."{self.name}"'

    @property
    def rejects(self) -> TableRef:
        """The table that keeps the rows which did not parse."""
        return TableRef(self.project, self.layer, f"{self.name}__rejects")

    def __str__(self) -> str:
        return self.dotted
