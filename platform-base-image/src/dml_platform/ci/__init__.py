"""What a pull request is told: what its change touches, breaks and does to the data. The same on a laptop and in CI."""

from dml_platform.ci.check import CheckedChange, check_change
from dml_platform.ci.columns import changes_since

__all__ = ["CheckedChange", "changes_since", "check_change"]
