"""The server part of the platform: `dml infra …`, the run launcher and the exporter.

Nothing here imports the shared library of projects: the two meet only in images and, on the command line, through
the entry-point group ``dml.commands``.
"""

__version__ = "0.1.0"
