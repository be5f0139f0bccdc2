"""How a public name goes: it works on for a while, and says at each use what takes its place.

Rules: docs/api.md. A test of this library fails when a name is still here in the release that was to take it away.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PlatformDeprecationWarning(FutureWarning):
    """A project uses a name that a later release takes away. Shown by default, unlike a DeprecationWarning."""


class Deprecation(NamedTuple):
    """One name that goes: which, what takes its place, the first release without it."""

    name: str
    use: str
    until: str


# Every one that was declared, for the test that nothing outlives its time.
DECLARED: list[Deprecation] = []


def deprecated(*, use: str, until: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a function that goes.

    Args:
        use: what to use instead, with its module.
        until: the first release without it.
    """

    def mark(function: Callable[P, T]) -> Callable[P, T]:
        going = _declare(f"{function.__module__}.{function.__qualname__}", use, until)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            _warn(going)
            return function(*args, **kwargs)

        return call

    return mark


def renamed_argument(old: str, new: str, *, until: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Let a function take an argument by its old name too."""

    def mark(function: Callable[..., T]) -> Callable[..., T]:
        name = f"{function.__module__}.{function.__qualname__}"
        going = _declare(f"{name}({old}=)", f"{new}=", until)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{name}() got both {new!r} and its old name {old!r}")
                _warn(going)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return mark


def moved_names(module: str, moved: Mapping[str, str], *, until: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names that are elsewhere now.

    Args:
        moved: old name → new place, ``"package.module.name"``.
    """
    going = {name: _declare(f"{module}.{name}", place, until) for name, place in moved.items()}

    def find(name: str) -> Any:
        if name not in going:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(going[name])
        place, _, target = going[name].use.rpartition(".")
        return getattr(importlib.import_module(place), target)

    return find


def _declare(name: str, use: str, until: str) -> Deprecation:
    DECLARED.append(Deprecation(name, use, until))
    return DECLARED[-1]


def _warn(going: Deprecation) -> None:
    text = f"{going.name} goes with dml-platform {going.until}: use {going.use}"
    warnings.warn(text, PlatformDeprecationWarning, stacklevel=3)
