"""A repository that was split off, cloned by somebody who has only that one, and what the others published."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import alone
import pytest

ROOT = Path(__file__).parent.parent
METADATA = "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder: Path) -> str:
    """A wheel as another repository publishes it; gives the line of a lock that asks for it."""
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("tiny_thing.py", "")
        for name, text in (("METADATA", METADATA), ("WHEEL", WHEEL), ("RECORD", "")):
            content.writestr(f"tiny_thing-1.0.dist-info/{name}", text)
    return f"tiny-thing==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another tree, which has one folder, in the place of this one."""
    tree = tmp_path / "tree"
    (tree / "one" / "requirements").mkdir(parents=True)
    monkeypatch.setattr(alone, "ROOT", tree)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return tree


def commit(tree: Path) -> None:
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        env = {**os.environ, **alone.PERSON}
        subprocess.run(["git", "-C", str(tree), *command], env=env, check=True)


def test_a_clone_gets_what_was_published_and_no_word_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DML_HOME": "x", "TEST_BASE_IMAGE": "x", "PWD": str(tree), "SOME": f"a:{tree}/b"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tree / ".venv" / "bin"), os.environ["PATH"]]))
    monkeypatch.setenv("KEPT", "yes")
    with alone.publish() as place:
        (tree / "one" / "requirements" / "dev.txt").write_text(build_wheel(place.wheels))
        (tree / "one" / "file").write_text("committed\n")
        commit(tree)
        (tree / "one" / "file").write_text("not committed\n")
        clone = place.clone("one")
        look = "import json, os, tiny_thing; json.dump([tiny_thing.__file__, dict(os.environ)], open('seen', 'w'))"
        clone.run("python", "-c", look, GIVEN="too")
        found, environment = json.loads((clone.folder / "seen").read_text())
        assert Path(found).is_relative_to(clone.folder / ".venv")
        assert (clone.folder / "file").read_text() == "committed\n"
    assert {"DML_HOME", "TEST_BASE_IMAGE", "SOME"} & set(environment) == set()
    assert [name for name, value in environment.items() if str(tree) in value] == []
    assert (environment["KEPT"], environment["GIVEN"]) == ("yes", "too")
    assert not place.folder.exists()


def test_what_is_not_asked_rightly_or_fails_ends_in_words(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert alone.main(["checks", "nothing-of-this-name"]) == 2
    (tree / "one" / "requirements" / "dev.txt").write_text("")
    commit(tree)
    assert alone.main(["checks", "platform-base-image"]) == 1
    assert "there is no folder 'project-sales' in HEAD" in capfd.readouterr().err


def test_images_need_an_engine_and_say_so(tmp_path: Path) -> None:
    """The session is left out with its reason where none answers; so `alone` ends well without one."""
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    command = [sys.executable, "-m", "nox", "-f", str(ROOT / "noxfile.py"), "--no-venv", "-s", "alone-images"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "alone-images skipped: no Docker engine answers here" in done.stderr
