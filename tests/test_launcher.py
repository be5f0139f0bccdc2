"""The real launcher in a tiny tree: a fake command line, packages from a folder of wheels, no network."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCHER = ROOT / "dml"
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PLAIN_PROGRAMS = [
    "awk",
    "cat",
    "cksum",
    "dirname",
    "env",
    "grep",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sed",
    "sh",
    "sleep",
]

# Stands in for dml_platform.cli: says what it got and which version of the package `tiny` it sees.
FAKE_CLI = """
import os, sys, tiny
def main():
    print("args", sys.argv[1:], "tiny", tiny.version, "index", os.environ.get("UV_DEFAULT_INDEX"))
    try:
        import tinydev
        print("with developer tools")
    except ImportError:
        pass
    sys.exit(7 if "fail" in sys.argv else 0)
"""
# A build backend without dependencies, because hatchling would have to be downloaded.
FAKE_BACKEND = """
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    info, name = "dml_platform-0.1.0.dist-info", "dml_platform-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("dml_platform.pth", os.getcwd())
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: dml-platform\\nVersion: 0.1.0\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/entry_points.txt", "[console_scripts]\\ndml = dml_platform.cli:main\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "dml-platform"
version = "0.1.0"
"""


class Tree:
    """A tree with the real launcher in a folder whose name has spaces."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.root = tmp / "my own tree"
        self.base = self.root / "platform-base-image"
        self.wheels = tmp / "wheels"
        self.bin = tmp / "bin"
        self.uv_log = tmp / "uv.log"
        for folder in (self.base / "dml_platform", self.base / "requirements", self.wheels, self.bin):
            folder.mkdir(parents=True)
        shutil.copy(LAUNCHER, self.root / "dml")
        (self.base / "pyproject.toml").write_text(PYPROJECT)
        (self.base / "backend.py").write_text(FAKE_BACKEND)
        (self.base / "dml_platform/__init__.py").touch()
        (self.base / "dml_platform/cli.py").write_text(FAKE_CLI)
        (self.base / "requirements/build.txt").touch()
        self.pin("tiny", "1.0")
        self.pin("tinydev", "1.0", file="dev.txt")
        for program in PLAIN_PROGRAMS:
            (self.bin / program).symlink_to(str(shutil.which(program)))
        (self.bin / "python3").symlink_to(sys.executable)
        self.wrap_uv()

    def pin(self, name: str, version: str, *, file: str = "run.txt", digest: str = "") -> None:
        """Publish a wheel in the folder of wheels and lock it."""
        wheel = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as content:
            # Another size for each version: Python takes a compiled file of the same second and size for the same file.
            content.writestr(f"{name}.py", f"version = {version!r}\n" + "\n" * int(float(version)))
            content.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            content.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            content.writestr(f"{info}/RECORD", "")
        digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.base / "requirements" / file).write_text(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")

    def wrap_uv(self, before_sync: str = "") -> None:
        """Put a uv on the PATH that records its calls; `before_sync` is shell that runs first when it installs."""
        script = f'#!/bin/sh\necho "$*" >>"{self.uv_log}"\ncase "$*" in "pip sync"*) {before_sync or ":"} ;; esac\n'
        (self.bin / "uv").unlink(missing_ok=True)
        (self.bin / "uv").write_text(script + f'exec "{UV}" "$@"\n')
        (self.bin / "uv").chmod(0o755)

    def environment(self, **extra: str) -> dict[str, str]:
        """Nothing of ours: an empty home, no index, only the folder of wheels."""
        return {
            "PATH": str(self.bin),
            "HOME": str(self.tmp),
            "UV_CACHE_DIR": str(self.tmp / "cache"),
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_INDEX": "1",
            **extra,
        }

    def start(self, *args: str, launcher: str = "", cwd: Path | None = None, **env: str) -> subprocess.Popen:
        # Through env, so that a bare name is searched on the tree's own PATH.
        command = ["env", launcher or str(self.root / "dml"), *args]
        return subprocess.Popen(
            command,
            cwd=cwd or self.root,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *args: str, **options) -> subprocess.CompletedProcess:
        with self.start(*args, **options) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def installs(self) -> int:
        """How often uv was asked to install the pins."""
        log = self.uv_log.read_text() if self.uv_log.exists() else ""
        return log.count("pip sync")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_launcher_parses_in_every_shell(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", LAUNCHER], check=True)


@pytest.mark.parametrize("script", [LAUNCHER, ROOT / ".ci/run", ROOT / ".ci/beside"], ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (Debian: apt install shellcheck)")
    found = subprocess.run(["shellcheck", script], stdout=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_first_use_installs_and_then_the_arguments_and_exit_code_are_those_of_the_command(tree: Tree) -> None:
    first = tree.run("sql", "select 'a b'", "", "*")
    assert first.returncode == 0, first.stderr
    assert "installing into" in first.stderr
    assert "args ['sql', \"select 'a b'\", '', '*'] tiny 1.0" in first.stdout
    assert (tree.root / ".dml").is_dir()
    second = tree.run("fail")
    assert second.returncode == 7
    assert second.stderr == ""
    assert tree.installs() == 1


def test_a_project_whose_lock_disagrees_is_left_out_and_the_rest_works(tree: Tree) -> None:
    for name, lock in (("project-good", ""), ("project-odd", "# for the plots\ntiny==2.0 \\\n    --hash=sha256:00\n")):
        (tree.root / name / "requirements").mkdir(parents=True)
        (tree.root / name / "pyproject.toml").write_text(f'[tool.dml]\nproject = "{name[8:]}"\n')
        (tree.root / name / "requirements" / "run.txt").write_text(lock)
    good = tree.root / "project-good" / "requirements" / "run.txt"
    good.write_text((tree.base / "requirements" / "run.txt").read_text())

    first, second = tree.run("tables"), tree.run("tables", cwd=tree.root / "project-good")
    inside = tree.run("tables", cwd=tree.root / "project-odd")

    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "tiny 1.0" in done.stdout
        assert "project-odd is left out: its lock has tiny 2.0, that of platform-base-image 1.0" in done.stderr.replace(
            "project-good 1.0", "platform-base-image 1.0"
        )
        assert "in project-odd: nox -s lock -- --upgrade-package tiny==1.0" in done.stderr
    assert (inside.returncode, inside.stdout) == (2, ""), "it ran with packages that are not in its lock"
    assert tree.installs() == 1

    (tree.root / "project-odd" / "requirements" / "run.txt").write_text(good.read_text())
    mended = tree.run("tables", cwd=tree.root / "project-odd")
    assert (mended.returncode, "left out" in mended.stderr) == (0, False)


@pytest.mark.parametrize(
    ("own", "others", "found"),
    [
        ("a==1", "a==1", ""),
        ("a==1", "b==2", ""),
        ("a==2", "a==1", "a 2 1 project-x"),
        ("a[x]==2 \\", "a==1 \\", "a 2 1 project-x"),
        ("a==2 ; python_version < '3.11'", "a==1 ; python_version < '3.11'", "a 2 1 project-x"),
        ("a==2 ; python_version < '3.11'", "a==1 ; python_version >= '3.11'", ""),
        ("a==2 ; python_version < '3.11'", "a==1", "a 2 1 project-x"),
        ("a==2", "a==1 ; os_name == 'nt'\na==2 ; os_name != 'nt'", ""),
    ],
)
def test_pins_that_cannot_be_in_one_environment_are_found(tmp_path: Path, own: str, others: str, found: str) -> None:
    text = LAUNCHER.read_text()
    function = text[text.index("find_dispute() {") :].partition("\n}\n")[0]
    (tmp_path / "own.txt").write_text(f"{own}\n    --hash=sha256:00\n")
    place = tmp_path / "project-x" / "requirements"
    place.mkdir(parents=True)
    (place / "run.txt").write_text(f"{others}\n")
    script = f'{function}\n}}\nfind_dispute "$1" "$2"'
    command = ["sh", "-c", script, "sh", str(tmp_path / "own.txt"), str(place / "run.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found, done.stderr


def test_launcher_works_from_any_folder_and_through_symlinks(tree: Tree) -> None:
    (tree.tmp / "one").symlink_to(tree.root / "dml")
    (tree.bin / "two").symlink_to("../one")
    (tree.root / "below").mkdir()
    for launcher, cwd in ((str(tree.tmp / "one"), "/"), ("two", "/"), ("./dml", tree.root), ("../dml", "below")):
        assert "tiny 1.0" in tree.run("x", launcher=launcher, cwd=tree.root / cwd).stdout
    # A folder with a module of the same name as one of ours must not win.
    (tree.tmp / "tiny.py").write_text("version = 'wrong'\n")
    assert "tiny 1.0" in tree.run("x", cwd=tree.tmp, PYTHONPATH=str(tree.tmp)).stdout
    assert tree.installs() == 1


def test_an_unchanged_tree_costs_no_noticeable_time(tree: Tree) -> None:
    tree.run("x")

    def fastest(command: Path) -> float:
        seconds = []
        for _ in range(15):
            start = time.perf_counter()
            subprocess.run([command, "x"], env=tree.environment(), stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    overhead = fastest(tree.root / "dml") - fastest(tree.root / ".venv/bin/dml")
    assert overhead < 0.03, f"{overhead * 1000:.0f} ms"


def test_a_changed_pin_is_installed_by_the_next_call(tree: Tree) -> None:
    tree.run("x")
    tree.pin("tiny", "2.0")
    after = tree.run("x")
    assert "tiny 2.0" in after.stdout
    assert "installing into" in after.stderr


def test_a_changed_pin_is_installed_also_from_the_activated_environment(tree: Tree) -> None:
    tree.run("x")
    programs = tree.root / ".venv" / "bin"
    # The environment has a uv of its own; only what is outside may make it anew.
    (programs / "uv").symlink_to(tree.bin / "uv")
    tree.pin("tiny", "2.0")
    origin = (tree.root / ".venv" / ".dml-installed").read_text().splitlines()[1]
    after = tree.run("x", PATH=f"{programs}:{tree.bin}")
    assert "tiny 2.0" in after.stdout
    assert (tree.root / ".venv" / ".dml-installed").read_text().splitlines()[1] == origin


def test_a_changed_package_list_is_installed_by_the_next_call(tree: Tree) -> None:
    tree.run("x")
    pyproject = tree.base / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + 'dependencies = ["tiny"]\n')
    tree.run("x")
    tree.run("x")
    assert tree.installs() == 2


def test_developer_tools_come_with_test_only_and_then_stay(tree: Tree) -> None:
    assert "developer tools" not in tree.run("demo").stdout
    assert "developer tools" in tree.run("test").stdout
    assert "developer tools" in tree.run("demo").stdout
    assert tree.installs() == 2
    tree.pin("tiny", "2.0")
    assert "developer tools" in tree.run("demo").stdout


def test_developer_tools_come_when_asked_for(tree: Tree) -> None:
    assert "developer tools" in tree.run("demo", DML_DEV="1").stdout


def test_a_package_with_the_wrong_hash_is_refused_and_the_next_call_repairs(tree: Tree) -> None:
    tree.pin("tiny", "1.0", digest="0" * 64)
    refused = tree.run("x")
    assert refused.returncode == 1
    assert "dml: cannot install the packages" in refused.stderr.splitlines()[-1]
    assert "args" not in refused.stdout
    tree.pin("tiny", "1.0")
    assert "tiny 1.0" in tree.run("x").stdout


def test_an_install_that_was_killed_is_repaired_by_running_again(tree: Tree) -> None:
    tree.run("x")
    tree.pin("tiny", "2.0")
    reached = tree.tmp / "reached"
    tree.wrap_uv(before_sync=f'touch() {{ : >"$1"; }}; touch "{reached}"; sleep 600')
    with tree.start("x") as process:
        wait_for(reached)
        os.killpg(process.pid, signal.SIGKILL)
    # What a half-written package looks like: its record is there, its code is not.
    for module in tree.root.glob(".venv/lib/python*/site-packages/tiny.py"):
        module.unlink()
    tree.wrap_uv()
    after = tree.run("x")
    assert "tiny 2.0" in after.stdout, after.stderr
    assert "waiting" not in after.stderr


@pytest.mark.parametrize("lost", ["bin/python", "bin/dml", ".dml-installed", "."])
def test_a_damaged_environment_is_made_anew(tree: Tree, lost: str) -> None:
    tree.run("x")
    path = tree.root / ".venv" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert "tiny 1.0" in tree.run("x").stdout


def test_a_moved_tree_is_installed_again(tree: Tree) -> None:
    tree.run("x")
    tree.root = tree.root.rename(tree.tmp / "moved")
    tree.base = tree.root / "platform-base-image"
    after = tree.run("x")
    assert "tiny 1.0" in after.stdout
    assert "my own tree" not in (tree.root / ".venv/bin/dml").read_text()


def test_two_launchers_at_once_install_once(tree: Tree) -> None:
    reached = tree.tmp / "reached"
    tree.wrap_uv(before_sync=f': >"{reached}"; sleep 1')
    with tree.start("one") as first:
        wait_for(reached)
        with tree.start("two") as second:
            outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "waiting for it" in outputs[1][1]
    assert "args ['two'] tiny 1.0" in outputs[1][0]
    assert tree.installs() == 1


def test_without_a_python_it_says_what_to_install(tree: Tree) -> None:
    (tree.bin / "python3").unlink()
    found = tree.run("demo")
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.startswith("dml: no Python 3.10 to 3.13 on the PATH. Install one")
    assert len(found.stderr.splitlines()) == 1


def test_a_broken_shim_is_passed_over(tree: Tree) -> None:
    (tree.bin / "python3.13").write_text("#!/bin/sh\necho 'shim: not found' >&2; exit 127\n")
    (tree.bin / "python3.13").chmod(0o755)
    assert "tiny 1.0" in tree.run("x").stdout


def test_a_python_that_is_too_old_is_passed_over(tree: Tree) -> None:
    (tree.bin / "python3").unlink()
    (tree.bin / "python3").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'raise SystemExit(1)'\n")
    (tree.bin / "python3").chmod(0o755)
    assert "no Python 3.10 to 3.13" in tree.run("x").stderr


def test_a_wrong_dml_python_is_named(tree: Tree) -> None:
    found = tree.run("x", DML_PYTHON="/nowhere/python3.11")
    assert found.returncode == 1
    assert found.stderr.startswith("dml: DML_PYTHON=/nowhere/python3.11 is not a working Python 3.10 to 3.13.")


def test_without_a_network_it_ends_with_one_sentence_and_a_fix(tree: Tree) -> None:
    closed = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    found = tree.run("demo", UV_HTTP_RETRIES="0", **closed)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "127.0.0.1:9" in found.stderr  # uv went to the index that pip's variable names
    assert found.stderr.splitlines()[-1].startswith("dml: cannot install the packages (see above). Check the network")


def test_without_uv_and_without_a_network_it_ends_with_one_sentence_and_a_fix(tree: Tree) -> None:
    (tree.bin / "uv").unlink()
    run = tree.base / "requirements/run.txt"
    run.write_text(run.read_text() + f"uv==0.13.9 \\\n    --hash=sha256:{'0' * 64}\n")
    found = tree.run("demo")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("dml: cannot download the installer, uv. Check the network")


def test_pips_variables_reach_the_programs_that_the_command_starts(tree: Tree) -> None:
    tree.run("x")
    assert "index http://mirror.test/simple" in tree.run("x", PIP_INDEX_URL="http://mirror.test/simple").stdout
    own = {"PIP_INDEX_URL": "http://mirror.test/simple", "UV_DEFAULT_INDEX": "http://own.test/simple"}
    assert "index http://own.test/simple" in tree.run("x", **own).stdout
