"""The report: one HTML page, whole in itself, that explains a project's tables, tests, runs and lineage.

It reads nothing but a ``Document``. How the page is put together is in ``page``, what it holds in ``encode``, where it
goes in ``publish``; what a person sees is in ``static``.
"""

from dml_platform.report.page import render_report

__all__ = ["render_report"]
