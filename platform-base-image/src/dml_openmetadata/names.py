"""One name of the lake is one fully qualified name: ``sales.marts.fct_orders`` → ``<service>.sales.marts.fct_orders``.

A file source or connector stream, ``sales.source:shop.orders``, is ``<service>.sales.sources.shop__orders``.
"""

from __future__ import annotations

import hashlib
import re

SOURCES = "sources"
_SOURCE = re.compile(r"(?P<project>[^.]+)\.source:(?P<source>[^.]+)\.(?P<entity>.+)")
_NOT_IN_A_NAME = re.compile(r"[^\w\-. ]+")
_MAX = 200


def quote(part: str) -> str:
    """One part of a fully qualified name."""
    if re.search(r'[."]', part):
        return '"{}"'.format(part.replace('"', '\\"'))
    return part


def join(*parts: str) -> str:
    """A fully qualified name of its parts."""
    return ".".join(quote(part) for part in parts)


def split_table(name: str) -> tuple[str, str, str]:
    """Project, schema and table of a name in the document."""
    if found := _SOURCE.fullmatch(name):
        return found["project"], SOURCES, f"{found['source']}__{found['entity']}".replace(".", "__")
    project, schema, table = name.split(".", 2)
    return project, schema, table


def table_fqn(service: str, name: str) -> str:
    """The fully qualified name of a table in the document."""
    return join(service, *split_table(name))


def clean(text: str, *, max_length: int = _MAX) -> str:
    """A name that OpenMetadata takes: letters, digits, ``_ - .`` and spaces; a long one ends in a hash."""
    cleaned = _NOT_IN_A_NAME.sub("_", text).strip()
    if cleaned == text and len(text) <= max_length:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{cleaned[: max_length - 9]}_{digest}"


def mark(project: str) -> str:
    """What tells that a project made something: its ``sourceHash``, which has room for 32 characters."""
    return f"dml-{hashlib.sha256(project.encode()).hexdigest()[:28]}"
