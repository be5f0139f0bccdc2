"""Each folder is a repository of its own: what may cross a border, what each must have, what no file may hold.

Every rule is a function from a tree to its violations. It runs on a copy of this tree, where it must find none, and on
copies with a planted violation, which it must find.
"""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]
PACKAGES = {"platform-base-image": "dml_platform", "project-sales": "project_sales", "platform-infra": "dml_infra"}
DISTRIBUTIONS = {"dml_platform": "dml-platform", "project_sales": "project-sales", "dml_infra": "dml-infra"}
EACH_HAS = [
    ".github/workflows/ci.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "docs/adr/*.md",
    "noxfile.py",
    "pyproject.toml",
    "requirements/dev.txt",
    "tests/**/test_*.py",
]
SESSIONS = ["lint", "tests", "integration", "lock"]


def texts(root: Path, folder: str = ".") -> Iterator[tuple[str, str]]:
    """Name and content of every text file."""
    for path in sorted((root / folder).rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield str(path.relative_to(root)), content.decode("utf-8", errors="replace")


def is_lock(name: str) -> bool:
    return bool(re.search(r"(^|/)(requirements/\w+|docs/requirements|constraints)\.txt$", name))


def pins(text: str) -> dict[str, set[str]]:
    """Package → its locked versions (one for each range of Pythons)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def shape(root: Path) -> Iterator[str]:
    """Each folder has what a repository needs."""
    for folder in FOLDERS:
        for pattern in EACH_HAS:
            if not any(root.glob(f"{folder}/{pattern}")):
                yield f"{folder}: no {pattern}"
        defined = {node.name for node in ast.walk(_parse(root / folder / "noxfile.py")) if _is_function(node)}
        for session in SESSIONS:
            if session not in defined:
                yield f"{folder}/noxfile.py: no session {session!r}"


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text() if path.exists() else "")


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def paths_across(root: Path) -> Iterator[str]:
    """No folder names a path of another one."""
    for folder in FOLDERS:
        others = "|".join(re.escape(other) for other in FOLDERS if other != folder)
        by_path = re.compile(rf"\.\./(?:{others})\b")
        # Prose may name a neighbour; code and settings may not name a path in it.
        named = re.compile(rf"(?<![\w@.-])(?:{others})/|(?:root|parent|parents\[\d\]) / .(?:{others})\b", re.IGNORECASE)
        for name, text in texts(root, folder):
            for number, line in enumerate(text.splitlines(), 1):
                if re.match(r" +(- )?uses: [\w-]+/[\w-]+/\S+@[0-9a-f]{40} #", line):
                    continue  # a workflow of another repository, pinned by commit: a published thing
                if by_path.search(line) or (not name.endswith(".md") and named.search(line)):
                    yield f"{name}:{number}: path into another folder"


def imports_across(root: Path) -> Iterator[str]:
    """A folder imports another one's package only as a declared dependency."""
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.py"):
            # A folder's tests may hold a whole project, with dependencies of its own.
            home = next(parent for parent in path.parents if (parent / "pyproject.toml").exists())
            project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
            declared = {canonicalize_name(Requirement(line).name) for line in project.get("dependencies", [])}
            declared.add(canonicalize_name(project["name"]))
            nodes = list(ast.walk(_parse(path)))
            # A test may use a published package where it is installed, when it says so and is skipped elsewhere.
            declared |= {DISTRIBUTIONS.get(name) for name in map(_skipped_without, nodes)} - {None}
            for node in nodes:
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    modules = [node.module or ""]
                for module in modules:
                    distribution = DISTRIBUTIONS.get(module.partition(".")[0])
                    if distribution and distribution not in declared:
                        yield f"{path.relative_to(root)}:{node.lineno}: {module} is of {distribution}, not declared"


def _skipped_without(node: ast.AST) -> str | None:
    """The module of a ``pytest.importorskip("module", …)``."""
    match node:
        case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(name)), *_]):
            return name
    return None


def locks_pinned(root: Path) -> Iterator[str]:
    """Every locked requirement has an exact version and a hash, and nothing says where it comes from."""
    for name, text in texts(root):
        if not is_lock(name):
            continue
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            yield f"{name}: empty"
        for line in lines:
            if not re.match(r"[\w.-]+==", line):
                yield f"{name}: not an exact version: {line[:60]}"
            elif not name.endswith("constraints.txt") and not re.search(r"--hash=sha256:[0-9a-f]{64}", line):
                yield f"{name}: no hash: {line[:60]}"
        if "://" in text or " @ " in text:
            yield f"{name}: holds an address"


def locks_agree(root: Path) -> Iterator[str]:
    """All locked sets install into one environment, follow the wheel's constraints, keep the declared bounds."""
    constraints = pins((root / "platform-base-image/src/dml_platform/constraints.txt").read_text())
    seen: dict[str, tuple[str, set[str]]] = {n: ("constraints.txt", pin) for n, pin in constraints.items()}
    for name, text in texts(root):
        # Below src/ are the sets of programs that get an environment of their own: they need not agree.
        if not is_lock(name) or "/requirements/" not in name or "/src/" in name:
            continue
        for package, pin in pins(text).items():
            other, agreed = seen.setdefault(package, (name, pin))
            if not pin <= agreed and not agreed <= pin:
                yield f"{name}: {package} {sorted(pin)} but {other} has {sorted(agreed)}"
            if name.startswith("platform-base-image") and package not in constraints:
                yield f"{name}: {package} is not in constraints.txt"
    for folder in PACKAGES:
        locked = pins((root / folder / "requirements/run.txt").read_text())
        for line in tomllib.loads((root / folder / "pyproject.toml").read_text())["project"]["dependencies"]:
            wanted = Requirement(line)
            versions = locked.get(canonicalize_name(wanted.name), set())
            if wanted.name == "dml-platform":
                version = tomllib.loads((root / "platform-base-image/pyproject.toml").read_text())["project"]["version"]
                versions = {version}
            inside = [version for version in versions if wanted.specifier.contains(version)]
            if not inside or (wanted.marker is None and len(inside) < len(versions)):
                yield f"{folder}: {line!r} is locked as {sorted(versions)}"


def hooks_pinned(root: Path) -> Iterator[str]:
    """pre-commit needs only the package index, and its tools have the locked versions."""
    for folder in [*FOLDERS, "."]:
        config = yaml.safe_load((root / folder / ".pre-commit-config.yaml").read_text())
        locked = pins((root / ("project-sales" if folder == "." else folder) / "requirements/dev.txt").read_text())
        for repo in config["repos"]:
            if repo["repo"] != "local":
                yield f"{folder}/.pre-commit-config.yaml: {repo['repo']} is not local"
            for hook in repo.get("hooks", []):
                for dependency in hook.get("additional_dependencies", []):
                    name, _, version = dependency.partition("==")
                    if version not in locked.get(name, set()):
                        yield f"{folder}/.pre-commit-config.yaml: {dependency} is not the locked version"


def workflows_safe(root: Path) -> Iterator[str]:
    """Workflows have no rights by default, a time limit for each job, and actions pinned by commit."""
    for path in root.glob("**/.github/workflows/*.yml"):
        name = path.relative_to(root)
        workflow = yaml.safe_load(path.read_text())
        if workflow.get("permissions") != {}:
            yield f"{name}: no `permissions: {{}}` at the top"
        for job, content in workflow["jobs"].items():
            # A job that calls a reusable workflow may have none: the jobs that are called have theirs.
            if "timeout-minutes" not in content and "uses" not in content:
                yield f"{name}: job {job} has no time limit"
        for line in re.findall(r"uses: (.*)", path.read_text()):
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line):
                yield f"{name}: not pinned by commit with its version: {line}"


def no_places(root: Path) -> Iterator[str]:
    """No file holds a path of someone's machine or the host of an index or proxy."""
    hosts = {urlsplit(value).hostname for key, value in os.environ.items() if re.search("(?i)index|proxy", key)}
    known = {str(ROOT), *hosts} - {None, "localhost", "127.0.0.1"}
    here = "|".join(re.escape(str(word)) for word in known)
    anyones = r"(?<![\w.])/(?:root|Users/\w+|home/(?!runner\b)\w+)/"
    for name, text in texts(root):
        # The paths in an image are no machine's.
        place = re.compile(here if "Dockerfile" in name else f"{here}|{anyones}")
        for number, line in enumerate(text.splitlines(), 1):
            found = place.search(line)
            if found:
                yield f"{name}:{number}: holds {found.group()!r}"


def no_secrets(root: Path) -> Iterator[str]:
    """No file holds a secret (the pre-commit hook's own rules)."""
    with default_settings():
        for name, _ in texts(root):
            if not is_lock(name) and not name.endswith(".ipynb"):
                for secret in scan_file(str(root / name)):
                    yield f"{name}:{secret.line_number}: {secret.type}"


def no_big_files(root: Path) -> Iterator[str]:
    """No file is over 1 MiB."""
    for path in root.rglob("*"):
        if path.is_file() and path.stat().st_size > 2**20:
            yield f"{path.relative_to(root)}: {path.stat().st_size} bytes"


Rule = Callable[[Path], Iterator[str]]
RULES: list[Rule] = [
    shape,
    paths_across,
    imports_across,
    locks_pinned,
    locks_agree,
    hooks_pinned,
    workflows_safe,
    no_places,
    no_secrets,
    no_big_files,
]


@functools.cache
def violations(rule: Rule, root: Path) -> list[str]:
    """What the rule finds in an unchanged tree."""
    return list(rule(root))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(copy: Path, rule: Rule) -> None:
    assert violations(rule, copy) == []


def _append(name: str, text: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("a") as file:
            file.write(text)

    return plant


def _replace(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        text = (root / name).read_text()
        changed = re.sub(pattern, new, text, count=1)
        assert changed != text, f"{pattern!r} is not in {name}: nothing was planted"
        (root / name).write_text(changed)

    return plant


def _remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


BASE, SALES, INFRA = "platform-base-image", "project-sales", "platform-infra"
# Built from parts, so that this file does not break the rules itself.
KEY = "AKIA" + "IOSFODNN7" + "EXAMPLQ"
PLANTED: list[tuple[Rule, Callable[[Path], None]]] = [
    *((shape, _remove(f"{INFRA}/{name}")) for name in EACH_HAS if "*" not in name),
    (shape, _replace(f"{SALES}/noxfile.py", r"def integration\(", "def slow(")),
    (paths_across, _append(f"{SALES}/config/x.yaml", f"wheel: ../{BASE}/dist\n")),
    (paths_across, _append(f"{SALES}/README.md", f"[base](../{BASE}/README.md)\n")),
    (paths_across, _append(f"{BASE}/src/dml_platform/x.py", f'SALES = ROOT / "{SALES}/data"\n')),
    (paths_across, _append(f"{BASE}/tests/test_x.py", f'sys.path.insert(0, str(ROOT.parent / "{SALES}"))\n')),
    (imports_across, _append(f"{BASE}/tests/test_x.py", "from project_sales import assets\n")),
    (imports_across, _append(f"{INFRA}/tests/test_x.py", "import dml_platform.core\n")),
    (imports_across, _append(f"{BASE}/src/dml_platform/x.py", "from dml_infra import stack\n")),
    (locks_pinned, _append(f"{SALES}/requirements/run.txt", "left-pad==1.0\n")),
    (locks_pinned, _append(f"{SALES}/requirements/run.txt", "left-pad>=1.0\n")),
    (locks_pinned, _append(f"{SALES}/requirements/run.txt", "--index-url https://index.test/simple\n")),
    (locks_pinned, _append(f"{INFRA}/requirements/empty.txt", "")),
    (locks_agree, _replace(f"{SALES}/requirements/run.txt", r"(?m)^rich==\S+", "rich==13.0.0")),
    (locks_agree, _replace(f"{INFRA}/requirements/dev.txt", r"(?m)^ruff==\S+", "ruff==0.1.0")),
    (locks_agree, _append(f"{BASE}/requirements/dev.txt", "left-pad==1.0\n")),
    (locks_agree, _replace(f"{BASE}/pyproject.toml", "duckdb==1.5.5", "duckdb==1.5.4")),
    (locks_agree, _replace(f"{SALES}/pyproject.toml", r"dml-platform>=0.1,<0.2", "dml-platform>=0.9")),
    (hooks_pinned, _replace(f"{INFRA}/.pre-commit-config.yaml", r"ruff==\S+\]", "ruff==0.1.0]")),
    (hooks_pinned, _replace(".pre-commit-config.yaml", "repo: local", "repo: https://host.test/hooks")),
    (workflows_safe, _replace(f"{SALES}/.github/workflows/ci.yml", r"permissions: {}", "permissions: write-all")),
    (workflows_safe, _replace(".github/workflows/ci.yml", r" +timeout-minutes: \d+\n", "")),
    (workflows_safe, _replace(".github/workflows/ci.yml", r"checkout@[0-9a-f]+", "checkout@v4")),
    (no_places, _append(f"{SALES}/x.toml", f'home = "{ROOT}/data"\n')),
    (no_places, _append(f"{SALES}/x.toml", 'home = "/Users' + '/someone/data"\n')),
    (no_places, _append("x.toml", 'index = "https://mirror.company.test/simple"\n')),
    (no_secrets, _append(f"{SALES}/x.py", f'access_key = "{KEY}"\n')),
    (no_big_files, lambda root: (root / "x.bin").write_bytes(b"\0" * (2**20 + 1))),
]


@pytest.mark.parametrize(
    ("rule", "plant"), PLANTED, ids=[f"{rule.__name__}-{n}" for n, (rule, _) in enumerate(PLANTED)]
)
def test_the_rule_finds_a_planted_violation(
    copy: Path, tmp_path: Path, rule: Rule, plant: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.company.test/simple")
    planted = tmp_path / "planted"
    shutil.copytree(copy, planted)
    plant(planted)
    assert set(rule(planted)) - set(violations(rule, copy))


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_folder_that_was_moved_out_still_builds_its_wheel(copy: Path, tmp_path: Path, folder: str) -> None:
    alone = tmp_path / folder
    shutil.copytree(copy / folder, alone)
    command = ["uv", "build", "--wheel", "--no-build-isolation", "--offline", "--python", sys.executable]
    built = subprocess.run(
        [*command, "--out-dir", tmp_path / "dist", alone], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    content = set(zipfile.ZipFile(wheel).namelist())
    source = alone / "src" if (alone / "src").exists() else alone
    expected = {str(path.relative_to(source)) for path in (source / PACKAGES[folder]).rglob("*") if path.is_file()}
    assert expected <= content


@pytest.mark.parametrize("folder", sorted(set(FOLDERS) - set(PACKAGES)))
def test_a_folder_that_was_moved_out_still_passes_its_checks(copy: Path, tmp_path: Path, folder: str) -> None:
    """All of its checks find what they need there; the long ones run in place."""
    alone = tmp_path / folder
    shutil.copytree(copy / folder, alone)
    command = [sys.executable, "-m", "nox", "--no-venv", "-f", alone / "noxfile.py", "-s", "lint", "tests"]
    command += ["--", "-k", "readme"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
