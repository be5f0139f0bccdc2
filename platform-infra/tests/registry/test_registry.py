"""The list of code locations: what is refused and how it is told, and changes that leave the rest of the file alone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dml_infra import records, registry_edit
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.registry import load_registry, parse_registry

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SALES: dict[str, Any] = {
    "name": "sales", "image": f"registry.example.com/project-sales@{DIGEST}", "owner": "team:sales",
    "alerts": "sales@example.com",
}  # fmt: skip


def text_of(*entries: dict[str, Any]) -> str:
    lines = ["code_locations:"]
    for entry in entries:
        lines += [("  - " if i == 0 else "    ") + f"{key}: {value}" for i, (key, value) in enumerate(entry.items())]
    return "\n".join(lines) + "\n"


def refuse(text: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_registry(text, path=Path("registry/code-locations.yaml"), **options)
    return str(raised.value)


def test_entry_has_defaults_and_an_image_in_two_parts() -> None:
    (sales,) = parse_registry(text_of(SALES), path=Path("x"))
    assert (sales.repository, sales.digest) == ("registry.example.com/project-sales", DIGEST)
    assert (sales.memory, sales.run_memory, sales.max_runs) == ("512m", "2g", 2)


def test_every_mistake_is_named_with_its_line_and_field() -> None:
    message = refuse(
        text_of(
            {**SALES, "image": "registry.example.com/project-sales:1.4", "memroy": "1g"},
            {"name": "HR-Data", "image": f"registry.example.com/hr@{OTHER}", "owner": "team:hr"},
        )
    )
    assert message.startswith("cannot use registry/code-locations.yaml: 4 mistakes\n")
    assert (
        "line 3, sales.image: 'registry.example.com/project-sales:1.4' has tag '1.4' and no digest; write " in message
    )
    assert "line 6, sales.memroy: is no field; use one of name, image, owner" in message
    assert "line 7, name: 'HR-Data' is not allowed; use 2 to 24 lower-case letters and digits" in message
    assert "such as 'hrdata'" in message
    assert "line 7, HR-Data.alerts: is missing; add 'alerts: …'" in message


@pytest.mark.parametrize("name", ["order", "user", "raw", "postgres", "dagster", "lake", "x", "1st", "a" * 25, "a_b"])
def test_name_that_postgres_dns_buckets_or_sql_do_not_bear_is_refused(name: str) -> None:
    assert f"line 2, name: {name!r} is" in refuse(text_of({**SALES, "name": f'"{name}"'}))


def test_same_name_twice_is_refused_with_both_lines() -> None:
    message = refuse(text_of(SALES, {**SALES, "image": f"registry.example.com/other@{DIGEST}"}))
    assert "line 6, name: 'sales' is there already, in line 2; remove one of the two" in message


def test_two_projects_cannot_share_an_image_repository() -> None:
    assert "has the image repository of 'sales' (line 2)" in refuse(text_of(SALES, {**SALES, "name": "shop"}))


def test_renamed_project_is_refused_because_its_schedules_would_be_lost(installation: Installation) -> None:
    registry_edit.register(installation, SALES)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], ["add", "registry"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], cwd=installation.root, check=True)
    path = installation.registry_file
    path.write_text(path.read_text().replace("name: sales", "name: shop"))
    with pytest.raises(ConfigError, match=r"was registered as 'sales' and is now 'shop'.*write 'name: sales' again"):
        load_registry(installation)


def test_name_of_a_deployed_project_is_known_without_git(installation: Installation) -> None:
    records.add_record(installation, records.Record("deploy", "ada", "sales", None, SALES["image"], 1.0, "live"))
    with pytest.raises(ConfigError, match="was registered as 'sales'"):
        registry_edit.register(installation, {**SALES, "name": "shop"})
    records.add_record(installation, records.Record("remove", "ada", "sales", SALES["image"], None, 1.0, "removed"))
    registry_edit.register(installation, {**SALES, "name": "shop"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOP_PASSWORD", "x"),
        ("SHOP_API_KEY", "x"),
        ("CLIENT_SECRET", "x"),
        ("SHOP_URL", "postgresql://shop:hunter2@db.example.com/shop"),  # pragma: allowlist secret
        ("SHOP_SETTING", "AKIAIOSFODNN7EXAMPLE"),  # pragma: allowlist secret
        ("SHOP_DSN", "host=db password=hunter2"),  # pragma: allowlist secret
    ],
)
def test_variable_that_looks_like_a_secret_is_refused_without_showing_it(name: str, value: str) -> None:
    message = refuse(text_of({**SALES, "environment": "{" + f'{name}: "{value}"' + "}"}))
    assert f"{name}" in message
    assert "put the value into a file listed under 'secrets:'" in message
    assert "hunter2" not in message
    assert "AKIA" not in message


def test_variable_of_the_platform_or_without_quotes_is_refused() -> None:
    message = refuse(text_of({**SALES, "environment": "{PGUSER: postgres, PORT: 8080}"}))
    assert "PGUSER is set by the platform; remove it" in message
    assert "PORT is not text; write its value in quotes" in message


def test_plain_variables_and_the_name_of_a_secret_file_are_allowed() -> None:
    entry = {**SALES, "environment": '{SHOP: eu, SHOP_TOKEN_FILE: /run/secrets/shop_token, URL: "https://a.b/c"}'}
    (sales,) = parse_registry(text_of(entry), path=Path("x"))
    assert sales.environment["SHOP"] == "eu"


def test_broken_yaml_is_told_with_its_line() -> None:
    assert "line 4" in refuse("code_locations:\n  - name: sales\n    image: [\n")
    assert "the file has one field, 'code_locations:'" in refuse("- name: sales\n")
    assert "found duplicate key" in refuse("code_locations:\n  - name: sales\n    name: shop\n")


def test_register_adds_an_entry_and_shows_the_pull_request(installation: Installation) -> None:
    change = registry_edit.register(installation, {**SALES, "memory": "1g", "environment": {"SHOP": "eu"}})
    assert "+  - name: sales\n" in change
    assert "+    memory: 1g\n" in change
    assert "-code_locations: []" in change
    assert installation.registry_file.read_text().startswith("# The list.\ncode_locations:\n  - name: sales\n")
    again = registry_edit.register(
        installation, {**SALES, "name": "people", "image": f"registry.example.com/people@{DIGEST}"}
    )
    assert [line for line in again.splitlines() if line.startswith("-") and not line.startswith("---")] == []
    assert [location.name for location in load_registry(installation)] == ["sales", "people"]


def test_new_image_changes_one_line_and_keeps_comments_quotes_and_order(installation: Installation) -> None:
    before = (
        "# Above.\ncode_locations:\n  # Sales first.\n  - image: registry.example.com/project-sales@"
        f"{DIGEST}  # from the build\n    name: sales\n    owner: 'team:sales'\n    alerts: \"#sales\"\n\n"
        "    environment: {SHOP: eu}\n"
    )
    installation.registry_file.write_text(before)
    registry_edit.set_image(installation, "sales", f"registry.example.com/project-sales@{OTHER}")
    assert installation.registry_file.read_text() == before.replace(DIGEST, OTHER)


def test_refused_change_leaves_the_file_alone(installation: Installation) -> None:
    registry_edit.register(installation, SALES)
    before = installation.registry_file.read_text()
    with pytest.raises(ConfigError, match="'sales' is there already"):
        registry_edit.register(installation, {**SALES, "image": f"registry.example.com/other@{DIGEST}"})
    assert installation.registry_file.read_text() == before
    assert [p.name for p in installation.registry_file.parent.iterdir() if "new" in p.name] == []


def test_too_many_connections_are_refused_with_the_setting_that_helps(installation: Installation) -> None:
    registry_edit.register(installation, SALES)
    small = replace(installation, env={**installation.env, "DML_POSTGRES_MAX_CONNECTIONS": "70"})
    with pytest.raises(ConfigError, match=r"need \d+ Postgres connections .* DML_POSTGRES_MAX_CONNECTIONS allows 70"):
        load_registry(small)


def test_more_memory_than_the_host_has_is_refused(installation: Installation) -> None:
    host = replace(installation, env={**installation.env, "DML_HOST_MEMORY": "16g"})
    registry_edit.register(host, {**SALES, "run_memory": "2g", "max_runs": 2})
    with pytest.raises(ConfigError, match=r"everything at its limit is \d+ MB .* DML_HOST_MEMORY is 16384 MB"):
        registry_edit.register(
            host, {**SALES, "name": "people", "image": f"example.com/people@{DIGEST}", "run_memory": "6g"}
        )


def test_name_that_makes_the_container_name_too_long_is_refused(installation: Installation) -> None:
    long = replace(installation, stack="s" * 31)
    with pytest.raises(ConfigError, match="at most 13 characters are left"):
        registry_edit.register(long, {**SALES, "name": "a" * 14})


def test_shipped_list_is_valid() -> None:
    path = Path(__file__).parents[2] / "registry" / "code-locations.yaml"
    assert parse_registry(path.read_text(encoding="utf-8"), path=path) == []


def test_new_image_leaves_a_file_of_another_style_as_it_is(installation: Installation) -> None:
    before = f"code_locations:\n- {{name: sales,   image: 'a.b/sales@{DIGEST}', owner: team:sales, alerts: x@y.z}}\n"
    installation.registry_file.write_text(before)
    assert registry_edit.set_image(installation, "sales", f"a.b/sales@{DIGEST}") == ""
    assert installation.registry_file.read_text() == before
    registry_edit.set_image(installation, "sales", f"a.b/sales@{OTHER}")
    assert installation.registry_file.read_text() == before.replace(DIGEST, OTHER)
