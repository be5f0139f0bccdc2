"""Publishes a project's catalogue document to OpenMetadata. A distribution of its own: nothing of dml_platform is here.

It runs as a program in an environment of its own (``python -m dml_openmetadata``), with JSON in and out.
"""

__version__ = "0.1.0"
