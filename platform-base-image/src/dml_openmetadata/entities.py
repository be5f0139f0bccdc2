"""What a project is in OpenMetadata: services, a database with its schemas and tables, tests, pipelines, dashboards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dml_openmetadata import kinds
from dml_openmetadata.columns import describe_type
from dml_openmetadata.document import Column, Consumer, Document, Owner, Pipeline, Table, Test
from dml_openmetadata.kinds import Kind, Wanted
from dml_openmetadata.names import clean, join, mark, quote, split_table, table_fqn

FindOwner = Callable[[Owner | None], list[dict[str, Any]]]
# What lives inside a run only is a view; what is outside of the lake is not ours to describe further.
_TABLE_TYPES = {"staging": "View", "intermediate": "View", "file": "External", "stream": "External"}
_RESOURCES = {"seed": "seed", "staging": "model", "intermediate": "model", "mart": "model"}
_TEST_LABELS = {
    "data": "a data test of dbt",
    "unit": "a unit test of dbt",
    "check": "a check of an asset",
    "freshness": "whether a table is as new as it should be",
    "anomaly": "an anomaly test of Elementary",
}


class Entities:
    """The entities of one document, in the order in which they can be made."""

    def __init__(self, document: Document, service: str, classification: str, find_owner: FindOwner) -> None:
        self.document = document
        self.service = service
        self.classification = classification
        self._find_owner = find_owner
        self.mark = mark(document.project)
        self.tables = {t.name: t for t in document.tables if split_table(t.name)[0] == document.project}
        self.tests = _cases(document.tests, self.tables, service)

    def __iter__(self) -> Iterator[Wanted]:
        yield from self._services()
        yield from self._tags()
        database = join(self.service, self.document.project)
        yield self._wanted(
            kinds.DATABASE,
            database,
            {"name": self.document.project, "service": quote(self.service), "sourceHash": self.mark},
            description=self.document.description,
            owner=self.document.owner,
        )
        for schema in sorted({split_table(name)[1] for name in self.tables}):
            create = {"name": schema, "database": database, "sourceHash": self.mark}
            yield self._wanted(kinds.SCHEMA, join(self.service, self.document.project, schema), create)
        for table in self.tables.values():
            yield self._table(table)
        yield from self._pipelines()
        for consumer in self.document.consumers:
            yield self._dashboard(consumer)
        yield from self._suite()

    def pipeline_fqn(self, job: str | None) -> str:
        """The pipeline that shows a run: its job's, or that of the project for runs of no job."""
        known = {pipeline.name for pipeline in self.document.pipelines}
        name = f"{self.document.project}__{job}" if job in known else self.document.project
        return join(self.service, name)

    def dashboard_fqn(self, name: str) -> str:
        """The dashboard of a consumer."""
        return join(self.service, clean(f"{self.document.project}__{name}"))

    def tasks_of(self, fqn: str) -> set[str]:
        """The tables that a pipeline makes; all of the project's for runs of no job."""
        for pipeline in self.document.pipelines:
            if self.pipeline_fqn(pipeline.name) == fqn:
                return set(pipeline.tables) & set(self.tables)
        return {name for name, table in self.tables.items() if table.kind not in ("file", "stream")}

    def _services(self) -> Iterator[Wanted]:
        for kind, service_type, text in (
            (kinds.DATABASE_SERVICE, "CustomDatabase", "The lake: Iceberg tables, one database for each project."),
            (kinds.PIPELINE_SERVICE, "CustomPipeline", "Dagster's jobs."),
            (kinds.DASHBOARD_SERVICE, "CustomDashboard", "Notebooks and applications that read the lake."),
        ):
            config = {"config": {"type": service_type}}
            create = {"name": self.service, "serviceType": service_type, "connection": config, "description": text}
            yield Wanted(kind, quote(self.service), create)

    def _tags(self) -> Iterator[Wanted]:
        tables = self.tables.values()
        used = {tag for t in tables for tags in (t.tags, *(c.tags for c in t.columns)) for tag in tags}
        if not used:
            return
        text = "Tags that projects give their tables and columns."
        yield Wanted(
            kinds.CLASSIFICATION, quote(self.classification), {"name": self.classification, "description": text}
        )
        for tag in sorted(used):
            create = {
                "name": clean(tag),
                "classification": self.classification,
                "description": f"{tag!r} in a project.",
            }
            yield Wanted(kinds.TAG, self._tag(tag), create)

    def _tag(self, tag: str) -> str:
        return join(self.classification, clean(tag))

    def _wanted(
        self,
        kind: Kind,
        fqn: str,
        create: Mapping[str, Any],
        *,
        ours: Mapping[str, Any] | None = None,
        description: str = "",
        owner: Owner | None = None,
        tags: Iterable[str] | None = None,
        columns: tuple[Mapping[str, Any], ...] | None = None,
    ) -> Wanted:
        shared: dict[str, Any] = {"description": description, "owners": self._find_owner(owner)}
        if tags is not None:
            shared["tags"] = [self._tag(tag) for tag in tags]
        return Wanted(kind, fqn, create, ours or {}, shared, columns)

    def _table(self, table: Table) -> Wanted:
        _, schema, name = split_table(table.name)
        ours: dict[str, Any] = {"tableType": _TABLE_TYPES.get(table.kind, "Iceberg")}
        if len(table.unique_key) > 1:
            ours["tableConstraints"] = [{"constraintType": "PRIMARY_KEY", "columns": list(table.unique_key)}]
        else:
            ours["tableConstraints"] = None
        if table.kind in _RESOURCES and (table.sql or table.path):
            model = {"modelType": "DBT", "resourceType": _RESOURCES[table.kind], "path": table.path, "sql": table.sql}
            model["dbtSourceProject"] = self.document.project
            ours["dataModel"] = {key: value for key, value in model.items() if value}
        url = self._dagster(f"assets/{table.name.replace('.', '/')}")
        if url and table.kind not in ("file", "stream"):
            ours["sourceUrl"] = url
        schema_fqn = join(self.service, self.document.project, schema)
        return self._wanted(
            kinds.TABLE,
            table_fqn(self.service, table.name),
            {"name": name, "databaseSchema": schema_fqn, "sourceHash": self.mark},
            ours=ours,
            description=table.description,
            owner=table.owner or self.document.owner,
            tags=table.tags,
            columns=tuple(self._column(table, column) for column in table.columns),
        )

    def _column(self, table: Table, column: Column) -> dict[str, Any]:
        found = {"name": column.name, **describe_type(column.type), "description": column.description}
        found["tags"] = [self._tag(tag) for tag in column.tags]
        tested = {test.name for test in self.document.tests if test.table == table.name and test.column == column.name}
        if table.unique_key == (column.name,):
            found["constraint"] = "PRIMARY_KEY"
        elif any(name.startswith("unique_") for name in tested):
            found["constraint"] = "UNIQUE"
        elif any(name.startswith("not_null_") for name in tested):
            found["constraint"] = "NOT_NULL"
        return found

    def _pipelines(self) -> Iterator[Wanted]:
        for pipeline in self.document.pipelines:
            yield self._pipeline(pipeline, f"{self.document.project}__{pipeline.name}", f"jobs/{pipeline.name}")
        known = {pipeline.name for pipeline in self.document.pipelines}
        if any(run.job not in known for run in self.document.runs):
            text = f"Runs of project {self.document.project} outside of its jobs."
            yield self._pipeline(Pipeline(name=self.document.project, description=text), self.document.project, "runs")

    def _pipeline(self, pipeline: Pipeline, name: str, page: str) -> Wanted:
        fqn = join(self.service, name)
        made = self.tasks_of(fqn)
        after = defaultdict(list)
        for edge in self.document.table_edges:
            if edge.source in made and edge.target in made:
                after[edge.source].append(edge.target)
        tasks = []
        for table in sorted(made):
            task: dict[str, Any] = {"name": table, "downstreamTasks": sorted(set(after[table]))}
            if url := self._dagster(f"assets/{table.replace('.', '/')}"):
                task["sourceUrl"] = url
            tasks.append(task)
        started_by = f"Started by {' and '.join(pipeline.sensors)}." if pipeline.sensors else ""
        location = f"locations/{self.document.project}/{page}" if page != "runs" else page
        ours = {"tasks": tasks, "displayName": pipeline.name, "sourceUrl": self._dagster(location)}
        return self._wanted(
            kinds.PIPELINE,
            fqn,
            {"name": name, "service": quote(self.service), "sourceHash": self.mark},
            ours=ours | {"scheduleInterval": pipeline.schedule},
            description=" ".join(part for part in (pipeline.description, started_by) if part),
            owner=self.document.owner,
        )

    def _dashboard(self, consumer: Consumer) -> Wanted:
        name = clean(f"{self.document.project}__{consumer.name}")
        ours = {"displayName": consumer.label or consumer.name, "project": self.document.project}
        kind = f"({consumer.kind})" if consumer.kind not in ("dashboard", "") else ""
        return self._wanted(
            kinds.DASHBOARD,
            join(self.service, name),
            {"name": name, "service": quote(self.service), "sourceHash": self.mark},
            ours=ours | {"sourceUrl": consumer.url},
            description=" ".join(part for part in (consumer.description, kind) if part),
            owner=consumer.owner or self.document.owner,
        )

    def _suite(self) -> Iterator[Wanted]:
        if not self.tests:
            return
        for name, (kind, on) in {definition(*key): key for key in map(_definition_key, self.tests.values())}.items():
            platform = "Other" if kind in ("check", "freshness") else "dbt"
            text = f"{_TEST_LABELS.get(kind, kind)}, run by the platform"
            create = {"name": name, "entityType": on, "testPlatforms": [platform], "description": text}
            yield Wanted(kinds.TEST_DEFINITION, name, create)
        text = f"All tests of project {self.document.project}."
        yield Wanted(kinds.TEST_SUITE, self.suite_fqn, {"name": self.suite_fqn, "description": text})
        for fqn, test in self.tests.items():
            assert test.table
            table = table_fqn(self.service, test.table)
            column = f"::columns::{test.column}" if test.column else ""
            create = {
                "name": _last(fqn, table, test.column),
                "testDefinition": definition(*_definition_key(test)),
                "entityLink": f"<#E::table::{table}{column}>",
            }
            yield Wanted(kinds.TEST_CASE, fqn, create, {}, {"description": test.description})

    @property
    def suite_fqn(self) -> str:
        """The suite that has all tests of the project."""
        return clean(f"{self.service}_{self.document.project}")

    def _dagster(self, page: str) -> str | None:
        return f"{self.document.dagster_url.rstrip('/')}/{page}" if self.document.dagster_url else None


def definition(kind: str, on: str) -> str:
    """The name of a test definition."""
    return f"dml_{kind}_{on.lower()}"


def _definition_key(test: Test) -> tuple[str, str]:
    return test.kind, "COLUMN" if test.column else "TABLE"


def _cases(tests: Iterable[Test], tables: Mapping[str, Table], service: str) -> dict[str, Test]:
    """Tests of the project's own tables by fully qualified name; of a column only where the table has it."""
    found: dict[str, Test] = {}
    for test in sorted(tests, key=lambda test: test.id):
        table = tables.get(test.table or "")
        if table is None:
            continue
        if test.column not in {column.name for column in table.columns}:
            test = test.model_copy(update={"column": None})
        inside = [test.column] if test.column else []
        base = table_fqn(service, table.name)
        fqn = ".".join([base, *map(quote, inside), quote(clean(test.name))])
        if fqn in found:
            fqn = ".".join([base, *map(quote, inside), quote(clean(test.id))])
        found[fqn] = test
    return found


def _last(fqn: str, table: str, column: str | None) -> str:
    rest = fqn[len(table) + 1 :]
    rest = rest[len(quote(column)) + 1 :] if column else rest
    return rest[1:-1] if rest.startswith('"') else rest
