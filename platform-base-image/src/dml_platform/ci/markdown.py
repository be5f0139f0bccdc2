"""A checked change for people: a comment on a pull request. Counts and names only, no value of a row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from dml_platform.ci.check import CheckedChange
from dml_platform.ci.told import told_error, told_message
from dml_platform.core.errors import PlatformError
from dml_platform.dbt.messages import LEFT_OUT, told
from dml_platform.dbt.results import NodeResult
from dml_platform.lake.diff import ColumnDiff, TableDiff
from dml_platform.lineage.changes import Change
from dml_platform.lineage.impact import Impact

HOW = {
    "column": "columns",
    "filter": "its rows",
    "unknown": "unknown columns",
    "table": "the table",
}
_KINDS = ("model", "seed", "snapshot", "test")
_MOST_ROWS, _MOST_BLOCKS, _MOST_COLUMNS = 40, 5, 200  # GitHub takes 65,536 characters, people far fewer


def comment(checked: CheckedChange) -> str:
    """The whole comment."""
    lines = [f"## {checked.project}: {'cannot be merged yet' if checked.error else 'good'}", ""]
    if checked.error is not None:
        lines += [*_failure(checked.error, checked), ""]
    lines += [counts(checked), ""]
    if checked.trial and checked.trial.diffs:
        lines += ["### What it does to the data", "", *_diffs(checked.trial.diffs), ""]
    for table, why in (checked.trial.refused if checked.trial else {}).items():
        key = "/".join(table.split("."))
        lines.append(f"- `{table}` needs a full refresh once merged (`dml run --full-refresh --select key:{key}`):")
        lines[-1] += f" {'; '.join(why)}"
    if checked.not_built:
        names = ", ".join(f"`{name}`" for name in checked.not_built)
        lines += ["", f"Depends on it and was not built here, as no dbt model makes it: {names}.", ""]
    lines += [impact(checked.columns, checked.impacts, base=checked.base), ""]
    lines += [f"> {note}" for note in checked.notes]
    took = ", ".join(f"{name} {value:.1f} s" for name, value in checked.seconds.items())
    lines += ["", f"<sub>`nox -s change -- {checked.base}` says the same on a laptop · {took}</sub>"]
    return "\n".join(lines).rstrip() + "\n"


def failed(project: str, error: PlatformError) -> str:
    """The comment where the change could not even be read."""
    return f"## {project}: cannot be merged yet\n\n**{error.what}**: {told(error.why)}\n\n{error.fix}\n"


def _failure(error: PlatformError, checked: CheckedChange) -> Iterator[str]:
    nodes = checked.trial.nodes if checked.trial else []
    bad = [n for n in nodes if n.has_failed]
    bad += checked.trial.anomalies if checked.trial else ()
    public = told_error(error, nodes)
    why = _one_line(public.why)
    for node in filter(_has_lines, bad):  # they come below
        why = why.replace(_one_line(told_message(node)), _first_line(node))
    yield f"**{error.what}**: {why}"
    yield ""
    yield _fix(error, checked)
    if public is not error or any(told_message(n) != n.message for n in nodes):
        yield ""
        yield f"{LEFT_OUT} stands for what may be values of rows:"
        yield f"`nox -s change -- {checked.base}` in a terminal shows them."
    if bad:
        yield from ("", "| failed | kind | says |", "|---|---|---|")
        for node in bad[:_MOST_ROWS]:
            yield f"| `{node.name}` | {node.resource_type} | {_cell(_first_line(node))} |"
    for node in [n for n in bad if _has_lines(n)][:_MOST_BLOCKS]:
        yield from ("", f"`{node.name}`:", "", *_block(told_message(node) or ""))


def _fix(error: PlatformError, checked: CheckedChange) -> str:
    """What to do. A run's file is on the machine that made it, so who reads this somewhere else makes one first."""
    run_id = checked.trial.run_id if checked.trial else None
    if run_id is None or run_id not in error.fix:
        return error.fix
    first = f"On a laptop, first `nox -s change -- {checked.base}`: it names a RUN there."
    return f"{first} {error.fix.replace(run_id, 'RUN')}"


def _has_lines(node: NodeResult) -> bool:
    """Whether its message is read in lines only: the rows of a unit test, the columns of a contract."""
    count = len((told_message(node) or "").strip().splitlines())
    return count > (1 if node.resource_type == "unit_test" else 3)


def _first_line(node: NodeResult) -> str:
    text = (told_message(node) or "").strip()
    return text.splitlines()[0] if _has_lines(node) else text


def _block(text: str) -> Iterator[str]:
    """Lines as they are, in a fence that none of them closes."""
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    # dbt ends with the macros that led there, which are its own.
    lines = lines[: next((n for n, line in enumerate(lines) if line.lstrip().startswith("> in macro ")), len(lines))]
    fence = "`" * max(3, 1 + max(len(ticks) for ticks in re.findall("`*", text)))
    yield fence
    yield from (line if len(line) <= _MOST_COLUMNS else f"{line[:_MOST_COLUMNS]}…" for line in lines[:_MOST_ROWS])
    yield fence
    if len(lines) > _MOST_ROWS:
        yield f"and {len(lines) - _MOST_ROWS} more lines, which the log has."


def counts(checked: CheckedChange) -> str:
    """How much differs, how much of it is tested: the same sentence here and in a terminal."""
    found = checked.modified
    if not found.all and not found.removed:
        return f"No model, seed or test of dbt differs from `{checked.base}`."
    own = _kinds(found.own, removed=len(found.removed))
    text = f"{own} {'differs' if len(found.own) + len(found.removed) == 1 else 'differ'} from `{checked.base}`"
    if len(found.all) > len(found.own):
        text += f", with what is downstream {_kinds(found.all)}"
    passed = [n for n in checked.tests if n.status in ("pass", "success")]
    text += f"; {len(passed)} of {len(checked.tests)} {'test' if len(checked.tests) == 1 else 'tests'} passed"
    if warned := [n for n in checked.tests if n.status == "warn"]:
        names = ", ".join(f"`{n.name}`" for n in warned[:10])
        text += f", {len(warned)} {'warns' if len(warned) == 1 else 'warn'}: {names}"
    return f"{text}. Nothing of it is published."


def _kinds(keys: Sequence[str], *, removed: int = 0) -> str:
    """Such as ``2 models and 1 test``, of dbt's unique ids."""
    count = Counter("test" if key.startswith(("test.", "unit_test.")) else key.split(".", 1)[0] for key in keys)
    parts = [f"{count[kind]} {kind}{'' if count[kind] == 1 else 's'}" for kind in _KINDS if count[kind]]
    parts += [f"{removed} removed"] if removed else []
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _diffs(diffs: Sequence[TableDiff]) -> Iterator[str]:
    same = [found for found in diffs if found.is_same]
    other = [found for found in diffs if not found.is_same]
    if other:
        yield "| table | rows before | rows after | new | gone | changed | columns |"
        yield "|---|--:|--:|--:|--:|--:|---|"
    for found in other[:_MOST_ROWS]:
        counts = (found.rows_before, found.rows_after, found.added, found.removed)
        cells = " | ".join("" if count is None else f"{count:,}" for count in counts)
        # Without a key nobody can say which of the new rows are old ones that changed.
        changed = f"{found.changed:,}" if found.key or not found.note else "?"
        columns = "; ".join(_column(column) for column in found.columns)
        note = f" ({found.note})" if found.note else ""
        yield f"| `{found.table}`{note} | {cells} | {changed} | {columns} |"
    if len(other) > _MOST_ROWS:
        yield from ("", f"and {len(other) - _MOST_ROWS} more tables: they are in the JSON.")
    if same:
        if other:
            yield ""
        names = ", ".join(f"`{found.table}`" for found in same[:_MOST_ROWS])
        yield f"Came out as published: {names}."


def _column(column: ColumnDiff) -> str:
    if column.what == "changed":
        return f"`{column.name}` differs in {column.rows:,} rows"
    if column.what == "retyped":
        return f"`{column.name}` was {column.was}, now {column.now}"
    return f"`{column.name}` {column.what}"


def impact(changes: Sequence[Change], impacts: Sequence[Impact], *, base: str = "") -> str:
    """Columns, tables, owners: what a change reaches."""
    lines = [f"### What this changes since `{base}`" if base else "### Impact", ""]
    if base and not changes:
        lines += ["No column of a model differs.", ""]
    for change in changes:
        name = f"{change.table}.{change.column}" if change.column else change.table
        lines.append(f"- **{change.what}** `{name}`" + (f": {change.why}" if change.why else ""))
    if changes:
        lines.append("")
    rows = {}
    for found in impacts:
        for each in found.tables:
            rows[(found.subject, each.table)] = each
    if rows:
        lines += ["| change of | reaches | through | columns | owner |", "|---|---|---|---|---|"]
        for (subject, table), each in rows.items():
            columns = ", ".join(f"`{c}`" for c in each.columns)
            lines.append(f"| `{subject}` | `{table}` | {HOW[each.how]} | {columns} | {each.owner or ''} |")
        lines.append("")
    consumers = {c["name"]: c for found in impacts for c in found.consumers}
    if consumers:
        listed = ", ".join(
            f"{c['label'] or c['name']} ({c['kind']}{', ' + c['owner'] if c['owner'] else ''})"
            for c in consumers.values()
        )
        lines += [f"Used by: {listed}.", ""]
    tests = {(t["table"], t["name"]) for found in impacts for t in found.tests}
    owners = sorted({owner for found in impacts for owner in (*found.owners, found.owner) if owner})
    if tests:
        lines.append(f"{len(tests)} tests look at these columns.")
    if owners:
        lines.append(f"Owners: {', '.join(owners)}.")
    if base and changes and not rows and not consumers:
        lines.append("Nothing downstream of it.")
    return "\n".join(lines).rstrip()


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str | None) -> str:
    return _one_line(text).replace("|", "\\|")[:300]
