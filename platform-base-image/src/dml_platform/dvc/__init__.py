"""DVC: files that are no tables, and pipelines that make them. Called as a program; knows no Dagster.

``client`` calls it, ``check`` is what a pull request has to pass.
"""

from dml_platform.dvc.check import Finding, check
from dml_platform.dvc.client import Dvc

__all__ = ["Dvc", "Finding", "check"]
