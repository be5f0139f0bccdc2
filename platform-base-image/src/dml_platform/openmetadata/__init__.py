"""Calls the publisher to OpenMetadata (``dml_openmetadata``), which is never imported: it has its own environment.

What could not be sent waits beside the project's tables; docs/openmetadata.md.
"""

from dml_platform.openmetadata.push import Outcome, push, push_after_run

__all__ = ["Outcome", "push", "push_after_run"]
