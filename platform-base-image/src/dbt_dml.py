"""dbt-core finds this module by its name's prefix and so knows our macros in every project, with nothing to install.

dbt's plugin interface is marked experimental; the one thing used of it is that ``initialize`` runs
after the profile is read and before macros are.
"""

from __future__ import annotations

import os
from pathlib import Path

from dbt.plugins.manager import dbtPlugin

MACROS = "dml_lake"


class LakeMacros(dbtPlugin):  # type: ignore[misc]
    """Adds the ``lake`` materialization and its companions to the duckdb adapter."""

    def initialize(self) -> None:
        """Register the macros as an internal package that is searched before dbt's own."""
        from dbt.adapters.base.plugin import AdapterPlugin
        from dbt.adapters.factory import FACTORY

        import dml_platform.dbt

        duckdb = FACTORY.plugins.get("duckdb")
        if duckdb is None:
            return
        folder = Path(dml_platform.dbt.__file__).parent / "macros"
        _tell_yaml()
        FACTORY.plugins[MACROS] = AdapterPlugin(
            adapter=duckdb.adapter,
            credentials=duckdb.credentials,
            include_path=str(folder),
            project_name=MACROS,
        )
        FACTORY.packages[MACROS] = folder
        # A copy: dbt reads the adapter module's own plugin again in the next invocation of this process,
        # and would try to import what is in its dependencies.
        FACTORY.plugins["duckdb"] = AdapterPlugin(
            adapter=duckdb.adapter,
            credentials=duckdb.credentials,
            include_path=duckdb.include_path,
            project_name=duckdb.project_name,
            dependencies=[*duckdb.dependencies, MACROS],
        )


def _tell_yaml() -> None:
    """Say whether Elementary is installed, also in a terminal: dbt took its copy of the environment before."""
    from dbt.flags import get_flags
    from dbt_common.context import get_invocation_context

    from dml_platform.dbt.packages import FLAG, set_flag

    set_flag(Path(get_flags().PROJECT_DIR))
    get_invocation_context()._env[FLAG] = os.environ[FLAG]


plugins = [LakeMacros]
