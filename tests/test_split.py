"""The tree cut into its five repositories: the same files, the history, what their workflows call."""

import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SPLIT = ROOT / "tree" / "split.py"
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]
AUTHOR = {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z"}
METADATA = "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
COMMITTER = {key.replace("AUTHOR", "COMMITTER"): value for key, value in AUTHOR.items()}


def git(repository: Path, *arguments: str) -> str:
    env = {**os.environ, **AUTHOR, **COMMITTER}
    return subprocess.run(
        ["git", *arguments], cwd=repository, env=env, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def run_split(source: Path, destination: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SPLIT, "--source", source, destination, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def commit(tree: Path, message: str, **files: str) -> None:
    for name, text in files.items():
        path = tree / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", message)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of two folders, a merge, tags, odd names and a message that looks like what git exports."""
    tree = tmp_path / "tree"
    tree.mkdir()
    git(tree, "init", "--quiet", "--initial-branch=main")
    commit(tree, "both", one__a="1\n", two__a="1\n", README="x\n")
    commit(tree, "only one\n\nM 100644 :1 one/not-a-path\ndata 5", one__b="2\n")
    git(tree, "tag", "--annotate", "one/v0.1.0", "--message", "first")
    commit(tree, "only two", two__b="M 100644 :9 two/text\n")
    git(tree, "tag", "two/v0.2.0")
    git(tree, "switch", "--quiet", "--create", "side", "HEAD~2")
    (tree / "one" / "sub").mkdir()
    commit(tree, "beside", **{"one__sub__Größe 1.txt": "3\n"})
    git(tree, "switch", "--quiet", "main")
    git(tree, "merge", "--quiet", "--no-ff", "side", "--message", "merged")
    git(tree, "rm", "--quiet", "one/a")
    git(tree, "commit", "--quiet", "--message", "take a away")
    return tree


def test_each_repository_has_exactly_its_folders_files_and_commits(tree: Path, tmp_path: Path) -> None:
    done = run_split(tree, tmp_path / "out", "one", "two")
    assert done.returncode == 0, done.stderr
    for folder in ("one", "two"):
        made = tmp_path / "out" / folder
        assert git(made, "rev-parse", "HEAD^{tree}") == git(tree, "rev-parse", f"HEAD:{folder}")
        assert git(made, "status", "--porcelain") == ""
    one = git(tmp_path / "out" / "one", "log", "--format=%an %aI %s").splitlines()
    subjects = sorted(line.split(" ", 2)[2] for line in one)
    assert subjects == ["beside", "both", "merged", "only one", "take a away"]
    assert all(line.startswith("Ada 2026-01-02T03:04:05") for line in one)
    assert "one/not-a-path" in git(tmp_path / "out" / "one", "log", "--format=%B")


def test_a_folders_tags_become_the_repositorys(tree: Path, tmp_path: Path) -> None:
    assert run_split(tree, tmp_path / "out", "one", "two").returncode == 0
    one, two = tmp_path / "out" / "one", tmp_path / "out" / "two"
    assert (git(one, "tag").split(), git(two, "tag").split()) == (["v0.1.0"], ["v0.2.0"])
    assert git(one, "log", "-1", "--format=%s", "v0.1.0").strip() == "only one"
    assert git(one, "cat-file", "-t", "v0.1.0").strip() == "tag"


def test_a_later_split_can_be_pushed_onto_the_first(tree: Path, tmp_path: Path) -> None:
    assert run_split(tree, tmp_path / "first", "one").returncode == 0
    git(tmp_path, "clone", "--quiet", "--bare", str(tmp_path / "first" / "one"), "published.git")
    commit(tree, "later", one__c="4\n")
    assert run_split(tree, tmp_path / "second", "one").returncode == 0
    git(tmp_path / "second" / "one", "push", "--quiet", str(tmp_path / "published.git"), "main")
    assert git(tmp_path / "published.git", "log", "-1", "--format=%s", "main").strip() == "later"


def test_an_older_state_can_be_split_and_the_tree_keeps_no_trace(tree: Path, tmp_path: Path) -> None:
    refs = git(tree, "for-each-ref")
    assert run_split(tree, tmp_path / "out", "two", "--ref", "one/v0.1.0").returncode == 0
    assert git(tmp_path / "out" / "two", "log", "--format=%s").split("\n")[:-1] == ["both"]
    assert git(tree, "for-each-ref") == refs


def test_what_would_stop_it_is_said_before_anything_is_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "one").mkdir(parents=True)
    done = run_split(tree, tmp_path / "out", "one", "three")
    assert done.returncode == 1
    assert "there is no folder 'three' in main" in done.stderr
    assert "is there already" in done.stderr
    assert not any((tmp_path / "out" / "one").iterdir())
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tree}", "shallow")
    done = run_split(tmp_path / "shallow", tmp_path / "new", "one")
    assert "this clone is shallow. Fetch its history: git fetch --unshallow" in done.stderr


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree's own repositories."""
    if not (ROOT / ".git").exists() or git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("this copy of the tree has no history to split")
    target = tmp_path_factory.mktemp("repositories")
    git(target, "clone", "--quiet", "--shared", str(ROOT), "tree")
    ref = git(target / "tree", "rev-parse", "HEAD").strip()
    done = run_split(target / "tree", target, "--ref", ref)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("folder", FOLDERS)
def test_this_trees_folder_becomes_a_repository_with_its_history(repositories: Path, folder: str) -> None:
    made, tree = repositories / folder, repositories / "tree"
    assert git(made, "rev-parse", "HEAD^{tree}") == git(tree, "rev-parse", f"HEAD:{folder}")
    log = ["log", "--format=%an %aI %cI %s"]
    assert git(made, *log).splitlines() == git(tree, *log, "HEAD", "--", folder).splitlines()
    assert git(made, "fsck", "--strict", "--no-dangling") == ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_repositorys_workflows_run_is_in_it(repositories: Path, folder: str) -> None:
    made = repositories / folder
    workflows = sorted((made / ".github" / "workflows").glob("*.yml"))
    assert made / ".github" / "workflows" / "ci.yml" in workflows
    sessions = set(re.findall(r"^def (\w+)\(session", (made / "noxfile.py").read_text(), re.MULTILINE))
    sessions |= set(re.findall(r"@nox\.session\([^)]*name=\"([\w-]+)\"", (made / "noxfile.py").read_text()))
    for path in workflows:
        if "workflow_call:" in path.read_text():
            continue  # reusable: what it runs is its caller's
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for script in (step.get("run", "") for step in job.get("steps", [])):
                for called in re.findall(r"bin/nox --session ([\w -]+)", script):
                    assert set(called.partition(" --")[0].split()) <= sessions, f"{path.name} calls {called}"
                for needed in re.findall(r"requirements/\w+\.txt", script):
                    if "/workflows/" in str(path) and folder != "ci-templates":
                        assert (made / needed).is_file(), f"{path.name} installs {needed}"


def owners_of(hosting: Path, text: str) -> set[str]:
    """Whose workflows and actions a workflow runs, down to the last, in what was pushed."""
    found = set()
    for owner, path, pin in re.findall(r"uses: ([\w-]+)/ci-templates/([\w./-]+)@([0-9a-f]{40})", text):
        called = git(
            hosting / "ci-templates.git", "show", f"{pin}:{path if path.endswith('.yml') else path + '/action.yml'}"
        )
        found |= {owner, *owners_of(hosting, called)}
    return found


def test_the_page_on_five_repositories_leaves_workflows_of_one_owner(repositories: Path, tmp_path: Path) -> None:
    """Its commands are typed as they stand; only the hosting is a folder of this machine."""
    hosting = tmp_path / "hosting"
    for name in FOLDERS:
        git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(hosting / f"{name}.git"))
        git(tmp_path, "clone", "--quiet", str(repositories / name), str(tmp_path / "repositories" / name))
    (tmp_path / "tree").mkdir()
    page = (ROOT / "docs/polyrepo.md").read_text()
    typed = [block for block in re.findall(r"```sh[^\n]*\n(.*?)```", page, re.DOTALL) if "git@git.example.com" in block]
    assert len(typed) == 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in typed:
        commands = block.replace("git@git.example.com:data", str(hosting))
        env = {**os.environ, **AUTHOR, **COMMITTER, "PATH": path}
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=tmp_path / "tree", env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for name in FOLDERS:
        pushed = git(hosting / f"{name}.git", "ls-tree", "-r", "--name-only", "main").splitlines()
        workflows = [path for path in pushed if ".github/workflows/" in path]
        found = [owners_of(hosting, git(hosting / f"{name}.git", "show", f"main:{path}")) for path in workflows]
        assert set().union(*found) == {"data"}, name


def test_what_is_built_here_is_published_to_a_command_and_then_gone(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("tiny_thing.py", "")
        for name, text in (("METADATA", METADATA), ("WHEEL", WHEEL), ("RECORD", "")):
            content.writestr(f"tiny_thing-1.0.dist-info/{name}", text)
    ask = "import os, urllib.request as u; a = os.environ['UV_INDEX'].split()[0]; print(a); print(u.urlopen(a).read())"
    command = [sys.executable, ROOT / "tree" / "index.py", tmp_path]
    env = {**os.environ, "UV_INDEX": "http://other.test/simple", "UV_CACHE_DIR": str(tmp_path / "cache")}
    seen = subprocess.run([*command, sys.executable, "-c", ask], env=env, check=True, stdout=subprocess.PIPE, text=True)
    address, listed = seen.stdout.splitlines()
    assert "tiny-thing" in listed
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)
    install = ["uv", "pip", "install", "--quiet", "--no-config", "--target", tmp_path / "there", "tiny-thing==1.0"]
    subprocess.run([*command, *install], env={**env, "UV_INDEX": ""}, check=True)
    assert (tmp_path / "there" / "tiny_thing.py").is_file()
    assert subprocess.run([*command, sys.executable, "-c", "raise SystemExit(7)"], env=env, check=False).returncode == 7
