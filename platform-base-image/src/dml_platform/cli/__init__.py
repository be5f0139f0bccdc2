"""The command line ``dml``. Commands import what they need when they run, so that ``dml --help`` is quick."""

from dml_platform.cli.app import main

__all__ = ["main"]
