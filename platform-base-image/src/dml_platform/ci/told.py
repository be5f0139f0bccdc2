"""What of a checked change may be told where many read it: in a comment, its JSON, a job's log.

Unit tests make up their rows, so what they find is told whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from dml_platform.core.errors import PlatformError
from dml_platform.dbt.messages import without_values
from dml_platform.dbt.results import NodeResult

_ERROR = ("error", "runtime error")  # a test that merely fails says how many rows it found


def told_message(node: NodeResult) -> str | None:
    """What dbt says of a node, without values of rows."""
    if node.message is None or node.resource_type == "unit_test" or node.status not in _ERROR:
        return node.message
    return without_values(node.message)


def told_error(error: PlatformError, nodes: Sequence[NodeResult]) -> PlatformError:
    """An error that came of these nodes, without values of rows."""
    why = error.why
    broken = [node for node in nodes if node.message and node.status in _ERROR]
    for node in broken:
        why = why.replace(" ".join((node.message or "").split()), " ".join((told_message(node) or "").split()))
    if broken and why == error.why:  # the lake's own error, of which dbt's message is another wording
        why = without_values(why)
    return error if why == error.why else type(error)(error.what, why, error.fix)
