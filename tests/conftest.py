"""A copy of the tree as a clone would have it: tests may plant faults in it and let tools change it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def listed_files() -> list[str]:
    """What a commit made now would hold; in an exported tree without git, everything but what tools make."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    made = {".dml", ".nox", ".venv", "__pycache__", "dist", "logs", "target"}
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [str(path) for path in paths if not any(part in made or part.endswith("_cache") for part in path.parts)]


@pytest.fixture(scope="session")
def listed() -> list[str]:
    return listed_files()


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a clone would have it."""
    target = tmp_path_factory.mktemp("copy")
    for name in listed_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target
