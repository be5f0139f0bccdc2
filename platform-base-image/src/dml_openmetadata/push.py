"""A push: what a project is, was and shall be in OpenMetadata is compared, then made so. Twice is as good as once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from metadata.generated.schema.api.tests.createLogicalTestCases import CreateLogicalTestCases

from dml_openmetadata import kinds
from dml_openmetadata.document import Document, Owner
from dml_openmetadata.entities import Entities
from dml_openmetadata.errors import Fault, Refused
from dml_openmetadata.kinds import Kind, Wanted, checked
from dml_openmetadata.merge import covers, difference, merge, remembered
from dml_openmetadata.names import join, mark, quote
from dml_openmetadata.server import Server
from dml_openmetadata.state import Known, State


@dataclass(frozen=True)
class Change:
    """Something that is done, or would be: ``action`` is create, change, restore, delete or send."""

    action: str
    kind: str
    name: str
    detail: str = ""


@dataclass
class Push:
    """One push of one project, or what it would do where it ``is_dry``.

    ``there`` is what the server has, and ``ids`` the ids of it, by kind and fully qualified name; ``kept`` are fields
    that people wrote; ``refused`` what the server did not take.
    """

    server: Server
    document: Document
    service: str
    classification: str
    state: State
    is_dry: bool = False
    changes: list[Change] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    _owners: dict[Owner, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mark = mark(self.document.project)
        self.entities = Entities(self.document, self.service, self.classification, self.find_owner)
        self.wanted = {wanted.key: wanted for wanted in self.entities}

    def make_entities(self) -> None:
        """Look at what is there; make and correct what should be."""
        for entity, kind in self._present():
            self._note(kind, entity)
            if kind is kinds.TEST_CASE:
                self.members.add(entity["id"])
        for wanted in self.wanted.values():
            with_name = f"{wanted.kind.label} {wanted.fqn}"
            self.attempt(with_name, self._ensure, wanted)
        self._fill_suite()
        homeless = sorted(test.name for test in self.document.tests if test.table is None)
        if homeless:
            count = "1 test belongs" if len(homeless) == 1 else f"{len(homeless)} tests belong"
            names = ", ".join(homeless[:3]) + (", …" if len(homeless) > 3 else "")
            self.notices.append(f"{count} to no table, so OpenMetadata cannot show it: {names}.")

    def gone(self) -> list[tuple[Kind, str]]:
        """What we made and the project has no more, parts first."""
        found = []
        order = (kinds.TEST_CASE, kinds.DASHBOARD, kinds.PIPELINE, kinds.TABLE, kinds.SCHEMA)
        for kind in order:
            for key in sorted(self.there):
                if not key.startswith(f"{kind.type}:") or key in self.wanted or self.there[key].get("deleted"):
                    continue
                if self._is_ours(kind, key) and not self._holds_others(kind, key):
                    found.append((kind, key))
        return found

    def delete_gone(self) -> None:
        """Soft delete: people can restore it, with all that they wrote."""
        for kind, key in self.gone():
            entity = self.there[key]
            name = entity["fullyQualifiedName"]
            self.attempt(f"{kind.label} {name}", self._delete, kind, key, entity)

    def find_owner(self, owner: Owner | None) -> list[dict[str, Any]]:
        """A reference to the user with that address, or the team of that name, if OpenMetadata knows them."""
        if owner is None or not (owner.email or owner.name):
            return []
        if owner not in self._owners:
            self._owners[owner] = self._look_up(owner)
        return self._owners[owner]

    def note(self, action: str, kind: str, name: str, detail: str = "") -> None:
        """Remember a change for the account of what was done."""
        self.changes.append(Change(action, kind, name, detail))

    def write(self, call: Callable[[], Any]) -> Any:
        """Do it, unless this is only to say what would be done."""
        return None if self.is_dry else call()

    def attempt(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        """Go on with the others where the server refuses one."""
        try:
            call(*arguments)
        except Refused as error:
            self.refused.append(f"{name}: {error.why}")

    def _delete(self, kind: Kind, key: str, entity: dict[str, Any]) -> None:
        path = f"{kind.route}/{entity['id']}"
        self.write(lambda: self.server.delete(path, hardDelete="false", recursive="true"))
        self.note("delete", kind.label, entity["fullyQualifiedName"])
        if not self.is_dry:
            self.state.entities.pop(key, None)

    def _present(self) -> Iterator[tuple[dict[str, Any], Kind]]:
        database = join(self.service, self.document.project)
        suite = self.server.by_name(kinds.TEST_SUITE.route, self.entities.suite_fqn)
        lists: list[tuple[Kind, dict[str, Any]]] = [
            (kinds.SCHEMA, {"database": database}),
            (kinds.TABLE, {"database": database}),
            (kinds.PIPELINE, {"service": quote(self.service)}),
            (kinds.DASHBOARD, {"service": quote(self.service)}),
        ]
        if suite:
            yield suite, kinds.TEST_SUITE
            lists.append((kinds.TEST_CASE, {"testSuiteId": suite["id"]}))
        for kind, query in lists:
            for entity in self.server.pages(kind.route, fields=",".join(kind.fields), include="all", **query):
                yield entity, kind

    def _note(self, kind: Kind, entity: dict[str, Any]) -> str:
        key = f"{kind.type}:{entity['fullyQualifiedName']}"
        self.there[key], self.ids[key] = entity, entity["id"]
        return key

    def _ensure(self, wanted: Wanted) -> None:
        entity = self.there.get(wanted.key)
        if entity is None:
            entity = self.server.by_name(wanted.kind.route, wanted.fqn, fields=wanted.kind.fields)
        if entity is None:
            self._create(wanted)
            return
        id_ = entity["id"]
        if entity.get("deleted") and not self.is_dry:  # what it is in may have been restored just now, with its parts
            entity = self.server.by_name(wanted.kind.route, wanted.fqn, fields=wanted.kind.fields) or entity
        self._note(wanted.kind, entity)
        known = self.state.entities.get(wanted.key)
        if entity.get("deleted"):
            restored = self.write(lambda: self.server.put(f"{wanted.kind.route}/restore", {"id": id_}))
            self.note("restore", wanted.kind.label, wanted.fqn)
            entity = {**entity, **(restored or {}), "deleted": False}
            self._note(wanted.kind, entity)
        self._correct(wanted, entity, known.sent if known and known.id == entity["id"] else {})

    def _create(self, wanted: Wanted) -> None:
        body = {**wanted.create, **wanted.ours, **wanted.shared}
        if "tags" in body:
            body["tags"] = [kinds.tag_label(name) for name in body["tags"]]
        body = {name: value for name, value in body.items() if value not in (None, "", [])}
        if wanted.columns is not None:
            body["columns"] = [_bare(column) for column in wanted.columns]
        body = checked(wanted.kind.create, body)
        made = self.write(lambda: self.server.put(wanted.kind.route, body))
        self.note("create", wanted.kind.label, wanted.fqn)
        self.created.add(wanted.key)
        if made:
            self._note(wanted.kind, made)
            self.state.entities[wanted.key] = Known(id=made["id"], sent=remembered(wanted))

    def _correct(self, wanted: Wanted, entity: dict[str, Any], sent: dict[str, Any]) -> None:
        if not (wanted.ours or wanted.shared or wanted.columns is not None):
            return
        target, remember, kept = merge(wanted, entity, sent)
        self.kept += [f"{wanted.fqn}: {name}" for name in kept]
        model = wanted.ours.get("dataModel")
        is_other_model = model is not None and not covers(entity.get("dataModel"), model)
        target["dataModel"] = entity.get("dataModel")
        operations = difference(entity, {name: value for name, value in target.items() if value is not None})
        operations = [operation for operation in operations if not operation["path"].startswith("/dataModel")]
        route = f"{wanted.kind.route}/{entity['id']}"
        if operations:
            self.write(lambda: self.server.patch(route, operations))
        if is_other_model and model:
            self.write(lambda: self.server.put(f"{route}/dataModel", model))
        changed = {_field(operation["path"], target) for operation in operations}
        if changed or is_other_model:
            changed |= {"model"} if is_other_model else set()
            self.note("change", wanted.kind.label, wanted.fqn, ", ".join(sorted(changed)))
        if not self.is_dry and wanted.kind not in (kinds.TEST_DEFINITION, kinds.TEST_SUITE):
            self.state.entities[wanted.key] = Known(id=entity["id"], sent=remember)

    def _fill_suite(self) -> None:
        """A test that is new, or that was made by an interrupted push, becomes a member of the project's suite."""
        suite = self.ids.get(f"{kinds.TEST_SUITE.type}:{self.entities.suite_fqn}")
        cases = [key for key, wanted in self.wanted.items() if wanted.kind is kinds.TEST_CASE and key in self.ids]
        new = [self.ids[key] for key in cases if self.ids[key] not in self.members]
        if suite and new:
            body = checked(CreateLogicalTestCases, {"testSuiteId": suite, "testCaseIds": new})
            self.attempt(
                f"test suite {self.entities.suite_fqn}",
                lambda: self.write(lambda: self.server.put(f"{kinds.TEST_CASE.route}/logicalTestCases", body)),
            )

    def _is_ours(self, kind: Kind, key: str) -> bool:
        entity, known = self.there[key], self.state.entities.get(key)
        if kind is kinds.TEST_CASE:
            definition = (entity.get("testDefinition") or {}).get("name") or ""
            return known is not None or definition.startswith("dml_")
        return entity.get("sourceHash") == self.mark or bool(known and known.id == entity["id"])

    def _holds_others(self, kind: Kind, key: str) -> bool:
        """Whether a schema has tables that we did not make."""
        if kind is not kinds.SCHEMA:
            return False
        inside = f"{kinds.TABLE.type}:{self.there[key]['fullyQualifiedName']}."
        return any(
            other.startswith(inside) and not entity.get("deleted") and not self._is_ours(kinds.TABLE, other)
            for other, entity in self.there.items()
        )

    def _look_up(self, owner: Owner) -> list[dict[str, Any]]:
        if owner.email:
            user = self.server.by_name("/users", owner.email.partition("@")[0].lower(), include="non-deleted")
            if user and str(user.get("email", "")).lower() == owner.email.lower():
                return [{"id": user["id"], "type": "user"}]
        for route, kind in (("/teams", "team"), ("/users", "user")):
            found = self.server.by_name(route, quote(owner.name), include="non-deleted") if owner.name else None
            if found:
                return [{"id": found["id"], "type": kind}]
        who = " ".join(part for part in (owner.name, f"<{owner.email}>" if owner.email else "") if part)
        self.notices.append(f"Owner {who} is neither a user nor a team in OpenMetadata, so nobody is shown there.")
        return []


def check_order(documents: Sequence[Document], state: State) -> str | None:
    """The sentence on why there is nothing to do, if so."""
    newest = documents[-1].generated_at
    if newest < state.generated_at:
        return f"OpenMetadata has the document of {state.generated_at}, which is newer than that of {newest}."
    return None


def not_one_project(documents: Sequence[Document]) -> Fault | None:
    """Documents of one push are of one project."""
    projects = sorted({document.project for document in documents})
    if len(projects) == 1:
        return None
    return Fault(
        "cannot push to OpenMetadata", f"the documents are of {projects}", "Push each alone.", is_passing=False
    )


def _bare(column: Any) -> dict[str, Any]:
    found = {name: value for name, value in column.items() if value not in ("", None, [])}
    if "tags" in found:
        found["tags"] = [kinds.tag_label(name) for name in found["tags"]]
    if "children" in found:
        found["children"] = [_bare(child) for child in found["children"]]
    return found


def _field(path: str, target: dict[str, Any]) -> str:
    """What a patch's path is about, for people: a column by its name."""
    parts = path.split("/")[1:]
    if parts[0] == "columns" and len(parts) > 1 and parts[1].isdigit():
        return ".".join(["columns", target["columns"][int(parts[1])]["name"], *parts[2:3]])
    return parts[0]
