"""OpenMetadata's own description of what it takes and gives.

Two forms of one source: the models of openmetadata-ingestion, which OpenMetadata generates from its JSON schemas, are
always there and of the release that the publisher uses. The JSON schemas themselves are in a Maven artefact;
``TEST_OPENMETADATA_SPEC`` names a jar or folder with them, or ``MAVEN_REPOSITORY_URL`` a repository that has it; then
it is fetched into the cache.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
from pydantic import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

RELEASE = "2.0.5"
_ARTEFACT = f"org/open-metadata/openmetadata-spec/{RELEASE}/openmetadata-spec-{RELEASE}.jar"
_PREFIX = "json/schema/"


class WrongShape(AssertionError):
    """A request or response that is not as OpenMetadata describes it."""


class Spec:
    """The JSON schemas, by their path below ``json/schema``."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self._registry: Registry[Any] = Registry(retrieve=self._retrieve)

    @functools.cache  # noqa: B019 - as long as the tests
    def validator(self, path: str) -> jsonschema.Draft7Validator:
        """What checks against one schema."""
        return jsonschema.Draft7Validator({"$ref": f"https://spec.test/{path}"}, registry=self._registry)

    def _retrieve(self, uri: str) -> Resource[Any]:
        # Java's flag for letters of all scripts, which is what Python does anyway.
        text = self.files[uri.removeprefix("https://spec.test/")].replace(b"(?U)", b"")
        content = json.loads(text, parse_float=Decimal)
        content.pop("$id", None)  # its references are relative to the file
        profile = content.get("definitions", {}).get("columnProfile", {}).get("properties", {})
        for name in ("min", "max"):  # of exactly one type, but a date is a string there as well, 1 also a number
            if "oneOf" in profile.get(name, {}):
                profile[name]["anyOf"] = profile[name].pop("oneOf")
        return Resource.from_contents(content, default_specification=DRAFT7)


@functools.cache
def find_spec() -> Spec | str:
    """The JSON schemas, or the sentence on why they are not there."""
    named = os.environ.get("TEST_OPENMETADATA_SPEC")
    if named and Path(named).is_dir():
        root = Path(named)
        return Spec({path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.json")})
    jar = Path(named) if named else Path("~/.cache/dml/openmetadata-spec").expanduser() / Path(_ARTEFACT).name
    if not jar.is_file() and (said := _fetch(jar)):
        return said
    with zipfile.ZipFile(jar) as archive:
        names = [name for name in archive.namelist() if name.startswith(_PREFIX) and name.endswith(".json")]
        return Spec({name.removeprefix(_PREFIX): archive.read(name) for name in names})


def _fetch(jar: Path) -> str | None:
    repository = os.environ.get("MAVEN_REPOSITORY_URL")
    if not repository:
        return "OpenMetadata's JSON schemas are not here: set TEST_OPENMETADATA_SPEC or MAVEN_REPOSITORY_URL"
    try:
        with urllib.request.urlopen(f"{repository.rstrip('/')}/{_ARTEFACT}", timeout=60) as answer:
            content = answer.read()
    except OSError as error:
        return f"OpenMetadata's JSON schemas ({_ARTEFACT}) cannot be fetched: {error}"
    jar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=jar.parent, delete=False) as partial:
        partial.write(content)
    os.replace(partial.name, jar)
    return None


class Checker:
    """Checks bodies, and counts them: a test asserts that something was checked."""

    def __init__(self, spec: Spec | None) -> None:
        self._spec = spec
        self.count = 0

    def check(self, schema: str, body: Any, what: str) -> None:
        """Check a body against the JSON schema and the generated model of a path, e.g. ``api/data/createTable``.

        Raises:
            WrongShape: it is of another shape.
        """
        self.count += 1
        try:
            _model(schema).model_validate_json(json.dumps(body), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            raise WrongShape(f"{what}: {found['loc']}: {found['msg']}: {json.dumps(body)[:600]}") from None
        if self._spec is not None:
            path, sign, inside = schema.partition("#")
            errors = list(
                self._spec.validator(f"{path}.json{sign}{inside}").iter_errors(
                    json.loads(json.dumps(body), parse_float=Decimal)
                )
            )
            if errors:
                best = jsonschema.exceptions.best_match(errors)
                raise WrongShape(f"{what}: {list(best.absolute_path)}: {best.message[:300]}: {json.dumps(body)[:600]}")


@functools.cache
def _model(schema: str) -> Any:
    path, _, inside = schema.partition("#")
    module = importlib.import_module(f"metadata.generated.schema.{path.replace('/', '.')}")
    if inside:
        return getattr(module, inside.rpartition("/")[2][:1].upper() + inside.rpartition("/")[2][1:])
    name = path.rpartition("/")[2]
    for candidate in (name[0].upper() + name[1:], f"{name[0].upper()}{name[1:]}Request"):
        if hasattr(module, candidate):
            return getattr(module, candidate)
    raise LookupError(schema)
