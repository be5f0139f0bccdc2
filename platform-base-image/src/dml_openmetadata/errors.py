"""What ends a push: one sentence on what failed, one on why, one on what to do next."""

from __future__ import annotations


class Fault(Exception):
    """The push cannot go on. ``is_passing``: the same push may succeed later."""

    def __init__(self, what: str, why: str, fix: str, *, is_passing: bool) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix, self.is_passing = what, why, fix, is_passing

    def as_dict(self) -> dict[str, str | bool]:
        """For the answer."""
        return {"what": self.what, "why": self.why, "fix": self.fix, "is_passing": self.is_passing}


class Refused(Exception):
    """OpenMetadata refused one thing; the others may be fine. ``status`` is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why
