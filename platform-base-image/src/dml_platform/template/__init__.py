"""The template that new projects are made from: where it is, and copier, which renders it. Knows no Dagster."""

from dml_platform.template.client import find_template, render

__all__ = ["find_template", "render"]
