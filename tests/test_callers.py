"""The files that call the reusable workflows are the examples of ci-templates, word for word: one test covers all."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "ci-templates" / "examples"
CALLERS = {"project-sales": "project", "platform-base-image": "library", "platform-infra": "library"}


@pytest.mark.parametrize("folder", CALLERS)
def test_a_folders_callers_are_the_examples(folder: str) -> None:
    for example in sorted((EXAMPLES / CALLERS[folder]).glob("*.yml")):
        caller = ROOT / folder / ".github" / "workflows" / example.name
        assert caller.read_text() == example.read_text(), f"cp {example} {caller}"
