"""Finding an installation and reading its settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dml_infra.errors import ConfigError
from dml_infra.installation import find_installation, parse_env

EXAMPLE = "# Defaults\nDML_STACK=dml\nDML_STATE=/srv/dml\nDML_HTTP_PORT=80\n# DML_OIDC_ISSUER=https://id.example.com\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "server"
    (root / "registry").mkdir(parents=True)
    (root / "compose.yaml").write_text("services: {a: {image: '${DML_CADDY_IMAGE:?}'}}\n")
    (root / ".env.example").write_text(EXAMPLE)
    monkeypatch.delenv("DML_INFRA__ROOT", raising=False)
    return root


def test_found_from_its_sub_folder_from_the_folder_above_by_variable_and_by_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_installation(cwd=root / "registry").root == root
    assert find_installation(root, cwd=tmp_path).root == root
    monkeypatch.setenv("DML_INFRA__ROOT", str(root))
    assert find_installation(cwd=tmp_path).root == root
    monkeypatch.delenv("DML_INFRA__ROOT")
    root.rename(tmp_path / "platform-infra")
    assert find_installation(cwd=tmp_path).root == tmp_path / "platform-infra"


def test_missing_installation_is_a_sentence_and_a_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot find the installation: neither .*\n.*--root or DML_INFRA__ROOT"):
        find_installation(cwd=tmp_path)
    with pytest.raises(ConfigError, match=r"has no compose\.yaml beside a registry folder"):
        find_installation(tmp_path)


def test_a_changed_configuration_file_changes_its_own_checksum_only(root: Path) -> None:
    for name in ("caddy", "socket-proxy"):
        (root / "config" / name).mkdir(parents=True)
        (root / "config" / name / "a.cfg").write_text("first")
    before = find_installation(root).config_sums()
    (root / "config" / "caddy" / "a.cfg").write_text("second")
    after = find_installation(root).config_sums()
    assert set(after) == {"DML_SUM_CADDY", "DML_SUM_SOCKET_PROXY"}
    assert {name for name in after if after[name] != before[name]} == {"DML_SUM_CADDY"}


def test_every_checksum_that_compose_reads_is_of_a_folder() -> None:
    folder = Path(__file__).parents[1]
    read = set(re.findall(r"DML_SUM_[A-Z_]+", (folder / "compose.yaml").read_text()))
    assert read == set(find_installation(folder).config_sums())


def test_env_needs_only_what_differs(root: Path) -> None:
    (root / ".env").write_text("DML_STACK=test\nDML_STATE=/tmp/x\nDML_CADDY_IMAGE=caddy:2\n")
    found = find_installation(root)
    assert (found.stack, found.state, found.env["DML_HTTP_PORT"]) == ("test", Path("/tmp/x"), "80")
    assert found.network("edge") == "test_edge"
    assert found.project_network("sales") == "test_project_sales"


def test_process_variables_do_not_change_an_installation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_STACK", "other")
    assert find_installation(root).stack == "dml"


def test_unknown_name_is_refused_with_the_nearest_one(root: Path) -> None:
    (root / ".env").write_text("DML_STAK=x\nDML_OIDC_ISSUER=https://x\n")
    with pytest.raises(ConfigError, match=r"unknown name 'DML_STAK' \(did you mean DML_STACK\?\)"):
        find_installation(root)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("DML_STATE=srv", "DML_STATE='srv' is not an absolute path"),
        ("DML_STACK=My_Stack", "DML_STACK='My_Stack' is not a Compose project name"),
        ("DML_STACK", "line 1 is not NAME=value"),
        ("DML_STACK=a\nDML_STACK=b", "line 2 sets DML_STACK a second time"),
        ('DML_STACK="a', "line 1: the quotes of DML_STACK do not close"),
        ("DML_STACK=${NOBODY}", "line 1: DML_STACK refers to NOBODY, which is not set above"),
    ],
)
def test_wrong_line_is_named(root: Path, line: str, why: str) -> None:
    (root / ".env").write_text(line + "\n")
    with pytest.raises(ConfigError) as caught:
        find_installation(root)
    assert why in str(caught.value)


def test_values_are_read_as_compose_does(tmp_path: Path) -> None:
    (tmp_path / "e").write_text(
        'A=1 # one\nexport B=\'${A} # kept\'\nC="x ${A} \\"y\\""\nD=${Z:-default}\nE=\nF=a#b\nG=-Xms1g -Xmx1g\n'
    )
    expected = {"A": "1", "B": "${A} # kept", "C": 'x 1 "y"', "D": "default", "E": "", "F": "a#b", "G": "-Xms1g -Xmx1g"}
    assert parse_env(tmp_path / "e") == expected


def test_number_that_is_none_is_named(root: Path) -> None:
    (root / ".env").write_text("DML_HTTP_PORT=http\n")
    with pytest.raises(ConfigError, match="DML_HTTP_PORT='http' is not a whole number"):
        find_installation(root).number("DML_HTTP_PORT", 80)
