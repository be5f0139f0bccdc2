"""What depends on a table, a column or a file: the part of a catalogue document that is downstream of it.

Works on documents alone, so it does not matter where they came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from dml_platform.core.document import ColumnEdge, Document, Owner, Table
from dml_platform.core.errors import ConfigError
from dml_platform.lineage.columns import ALL


@dataclass(frozen=True)
class Affected:
    """A table downstream. ``columns`` are those made of what changes; ``how`` is the surest way it is reached.

    ``column``: through columns. ``filter``: only its rows depend on it. ``unknown``: somewhere on the way a table is
    read and nobody can say which columns go in. ``table``: it reads the table, no column of it.
    """

    table: str
    kind: str
    distance: int
    how: str
    columns: tuple[str, ...] = ()
    owner: str | None = None


@dataclass(frozen=True)
class Impact:
    """What a change of ``subject`` can break."""

    subject: str
    owner: str | None = None
    tables: tuple[Affected, ...] = ()
    tests: tuple[dict[str, Any], ...] = ()
    consumers: tuple[dict[str, Any], ...] = ()
    pipelines: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Graph:
    """Documents put together for walking downstream."""

    tables: dict[str, Table] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    edges: dict[str, list[ColumnEdge]] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)
    documents: tuple[Document, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Graph:
        """Several projects' documents are one graph: names carry the project."""
        graph = cls(documents=tuple(documents))
        for document in graph.documents:
            named = [document.owner, *(t.owner for t in document.tables), *(c.owner for c in document.consumers)]
            graph.addresses.update({o.name: o.email for o in named if o is not None and o.name and o.email})
            for table in document.tables:
                graph.tables.setdefault(table.name, table)
                known = graph.columns.setdefault(table.name, {})
                known.update({column.name.lower(): column.name for column in table.columns})
            for edge in document.column_edges:
                graph.edges.setdefault(edge.source, []).append(edge)
                if edge.source_column:
                    known = graph.columns.setdefault(edge.source, {})
                    known.setdefault(edge.source_column.lower(), edge.source_column)
                if edge.target_column != ALL:
                    known = graph.columns.setdefault(edge.target, {})
                    known.setdefault(edge.target_column.lower(), edge.target_column)
            for below in document.table_edges:
                graph.below.setdefault(below.source, []).append(below.target)
                graph.columns.setdefault(below.source, {})
                graph.columns.setdefault(below.target, {})
        return graph

    def resolve(self, text: str) -> tuple[str, str | None]:
        """The table and column that a person means by a model's name, a table, ``table.column`` or a file's path.

        Raises:
            ConfigError: nothing, or more than one thing, has that name.
        """
        wanted = text.strip().removeprefix("./").lower()
        found: list[tuple[str, str | None]] = [(name, None) for name in self._tables_named(wanted)]
        if not found and "." in wanted:
            table, column = wanted.rsplit(".", 1)
            names = self._tables_named(table)
            found = [(n, self.columns[n][column]) for n in names if column in self.columns.get(n, {})]
            if names and not found:
                self._fail_on_column(text, names[0], column)
        unique = list(dict.fromkeys(found))
        if len(unique) == 1:
            return unique[0]
        if unique:
            names = sorted(name for name, _ in unique)
            raise ConfigError(f"cannot say what {text!r} is", f"it may be {', '.join(names)}", "Write its full name.")
        near = difflib.get_close_matches(wanted, self._all_names(), n=3, cutoff=0.5)
        meant = f"Did you mean {' or '.join(near)}?" if near else "'dml tables' lists the lake's tables."
        raise ConfigError(f"cannot find {text!r}", "no table, model, column or file has that name", meant)

    def _tables_named(self, wanted: str) -> list[str]:
        names = self.columns.keys() | self.tables.keys()
        # What a source has is named source:<source>.<entity>; people write <source>.<entity>.
        exact = [name for name in names if name.lower() == wanted]
        paths = [t.name for t in self.tables.values() if t.path and wanted == t.path.lower()]
        ends = [name for name in names if name.lower().endswith(("." + wanted, ":" + wanted))]
        inside = [t.name for t in self.tables.values() if t.path and t.path.lower().endswith("/" + wanted)]
        return exact or paths or ends or inside

    def _fail_on_column(self, text: str, table: str, column: str) -> None:
        columns = self.columns.get(table, {})
        near = difflib.get_close_matches(column, columns, n=3, cutoff=0.5)
        listed = near or sorted(columns)[:8]
        raise ConfigError(
            f"cannot find {text!r}",
            f"{table} has no column {column!r}",
            f"Did you mean {' or '.join(columns[name] for name in listed)}?"
            if listed
            else "Its columns are not known.",
        )

    def _all_names(self) -> list[str]:
        names = [name for table in self.columns for name in (table, table.rsplit(".", 1)[-1])]
        names += [f"{t.rsplit('.', 1)[-1]}.{column}" for t, columns in self.columns.items() for column in columns]
        return sorted({name.lower() for name in names} | {t.path.lower() for t in self.tables.values() if t.path})


def find_impact(graph: Graph, table: str, column: str | None = None) -> Impact:
    """What is downstream of a table, or of one column."""
    reached: dict[str, dict[str, Any]] = {}
    start: list[str | None] = [column] if column else [*graph.columns.get(table, {}).values(), None]
    pending: list[tuple[str, str | None, str, int]] = [(table, name, "column", 0) for name in start]
    seen = {(t, name, how) for t, name, how, _ in pending}
    while pending:
        source, name, how, distance = pending.pop(0)
        for edge in graph.edges.get(source, []):
            step = _step(edge, name, how)
            if step is None:
                continue
            entry = reached.setdefault(edge.target, {"columns": set(), "how": set(), "distance": distance + 1})
            entry["how"].add(step)
            if step == "column":
                entry["columns"].add(edge.target_column)
            # Where the rows depend on it, or nobody knows which columns do, so does all that is made of the table.
            further = (edge.target, edge.target_column if step == "column" else ALL, step)
            if further not in seen:
                seen.add(further)
                pending.append((*further, distance + 1))
    if column is None:
        _add_tables(graph, table, reached)
    reached.pop(table, None)
    affected = tuple(
        sorted(
            (
                Affected(
                    name,
                    graph.tables[name].kind if name in graph.tables else "table",
                    entry["distance"],
                    next(how for how in ("column", "filter", "unknown", "table") if how in entry["how"]),
                    tuple(sorted(entry["columns"])),
                    owner_of(graph, name),
                )
                for name, entry in reached.items()
            ),
            key=lambda a: (a.distance, a.table),
        )
    )
    return _with_dependants(graph, table, column, affected)


def _step(edge: ColumnEdge, name: str | None, how: str) -> str | None:
    """How a change of one column of an edge's source reaches its target; None where it does not."""
    is_unknown = edge.via == "unknown" and edge.source_column is None
    if name == ALL:
        return how
    if is_unknown:
        return "unknown"
    if edge.source_column != name:
        return None
    return "filter" if edge.via == "filter" else "column"


def _add_tables(graph: Graph, table: str, reached: dict[str, dict[str, Any]]) -> None:
    pending, seen = [(table, 0)], {table}
    while pending:
        source, distance = pending.pop(0)
        for target in graph.below.get(source, []):
            if target not in seen:
                seen.add(target)
                reached.setdefault(target, {"columns": set(), "how": {"table"}, "distance": distance + 1})
                pending.append((target, distance + 1))


def _with_dependants(graph: Graph, table: str, column: str | None, affected: tuple[Affected, ...]) -> Impact:
    columns = {a.table: set(a.columns) for a in affected}
    names = {table, *columns}
    tests, consumers, pipelines = [], [], []
    for document in graph.documents:
        for test in document.tests:
            is_of_subject = test.table == table and (column is None or test.column in (None, column))
            is_below = test.table in columns and (test.column is None or test.column in columns[test.table])
            if is_of_subject or is_below:
                tests.append({"name": test.name, "table": test.table, "column": test.column, "severity": test.severity})
        consumers += [
            {
                "name": c.name,
                "kind": c.kind,
                "label": c.label,
                "owner": _person(graph, c.owner),
                "through": sorted(used),
            }
            for c in document.consumers
            if (used := names & set(c.depends_on))
        ]
        pipelines += [p.name for p in document.pipelines if names & set(p.tables)]
    people: list[str | None] = [*(a.owner for a in affected), *(str(c["owner"] or "") for c in consumers)]
    return Impact(
        subject=f"{table}.{column}" if column else table,
        owner=owner_of(graph, table),
        tables=affected,
        tests=tuple(sorted(tests, key=lambda t: (str(t["table"]), t["name"]))),
        consumers=tuple(consumers),
        pipelines=tuple(dict.fromkeys(pipelines)),
        owners=tuple(sorted({person for person in people if person})),
    )


def owner_of(graph: Graph, table: str) -> str | None:
    """Who answers for a table: its own owner, else the project's."""
    known = graph.tables.get(table)
    if known is not None and known.owner is not None:
        return _person(graph, known.owner)
    project = table.split(".", 1)[0]
    return next((_person(graph, d.owner) for d in graph.documents if d.project == project), None)


def _person(graph: Graph, owner: Owner | None) -> str | None:
    """Name and address, also where only one place gives the address of that name."""
    if owner is None:
        return None
    names = [name for name, email in graph.addresses.items() if email == owner.email]
    name = owner.name or (names[0] if len(names) == 1 else None)
    email = owner.email or graph.addresses.get(name or "")
    return f"{name} ({email})" if name and email else name or email
