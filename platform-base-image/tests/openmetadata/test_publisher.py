"""``dml catalog push`` with the real publisher in its own environment, against a server that holds what it gets."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from catalog_server import CatalogServer

import dml_platform
from dml_platform.core.document import Column, Consumer, Document, Table, TableEdge
from dml_platform.core.settings import Settings
from dml_platform.openmetadata.program import SOURCE, ensure_publisher

TOKEN = "test-token-of-a-bot"  # pragma: allowlist secret


@pytest.fixture
def server() -> Iterator[CatalogServer]:
    started = CatalogServer(ensure_publisher(Settings(home=Path("unused")))[0])
    yield started
    assert started.close() == 0, "a request was of a wrong shape"


def document(name: str, day: int) -> Document:
    source, target = f"shop.raw.{name}", "shop.marts.fct_orders"
    tables = [Table(name=source, kind="raw", columns=(Column(name="id", type="BIGINT"),))]
    tables.append(Table(name=target, kind="mart", columns=(Column(name="id", type="BIGINT"),)))
    return Document(
        project="shop",
        generated_at=f"2026-11-{day:02d}T05:00:09.000+00:00",
        tables=tuple(tables),
        table_edges=(TableEdge(source=source, target=target),),
        consumers=(Consumer(name="review", kind="notebook", depends_on=(target,)),),
    )


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_push_shows_the_difference_then_makes_it_so(tmp_path: Path, server: CatalogServer) -> None:
    project, home = tmp_path / "project-shop", tmp_path / "home"
    project.mkdir()
    (project / "pyproject.toml").write_text('[tool.dml]\nproject = "shop"\n')
    (tmp_path / "token").write_text(TOKEN)
    own = {"URL": server.url, "TOKEN_FILE": str(tmp_path / "token")}
    environment = {**os.environ, "DML_HOME": str(home), **{f"DML_OPENMETADATA__{k}": v for k, v in own.items()}}

    def dml(*arguments: str) -> str:
        command = [sys.executable, "-m", "dml_platform.cli", "catalog", "push", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (home / "catalog").mkdir(parents=True)
    place = home / "catalog" / "shop.json"
    place.write_text(document("crm__orders", 1).model_dump_json(exclude_defaults=True))
    assert "would do: " in dml("--dry-run")
    assert server.ask("names table") == []
    assert "2 tables created" in dml()
    assert server.ask("names table") == ["dml.shop.marts.fct_orders", "dml.shop.raw.crm__orders"]
    assert dml().strip() == "nothing to do"
    place.write_text(document("crm__sales", 2).model_dump_json(exclude_defaults=True))
    planned = json.loads(dml("--dry-run", "--json"))
    assert {(c["action"], c["name"]) for c in planned["changes"] if c["kind"] == "table"} == {
        ("create", "dml.shop.raw.crm__sales"),
        ("delete", "dml.shop.raw.crm__orders"),
    }
    dml()
    assert server.ask("edges") == [
        "dml.shop.marts.fct_orders -> dml.shop__review",
        "dml.shop.raw.crm__sales -> dml.shop.marts.fct_orders",
    ]


def test_the_publisher_is_never_imported_and_imports_nothing_of_the_platform() -> None:
    packages = {Path(dml_platform.__file__).parent: "dml_openmetadata", SOURCE: "dml_platform"}
    for folder, other in packages.items():
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert other not in {module.partition(".")[0] for module in modules}, path


def test_the_publisher_reads_only_fields_that_the_document_has() -> None:
    """Its own models of the parts are read from their source: it cannot be imported here."""
    from dml_platform.core import document as ours

    for node in ast.parse((SOURCE / "document.py").read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = {
                one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and hasattr(one.target, "id")
            }
            assert fields <= set(getattr(ours, node.name).model_fields), node.name
