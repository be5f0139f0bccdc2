"""Elementary's report, one page, made by ``edr`` from the history in the lake, or from what one build found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dml_platform.core.errors import PermanentError
from dml_platform.core.project import Project
from dml_platform.core.storage import open_storage, page_address
from dml_platform.elementary.edr import Workplace, last_words, run_edr, workplace
from dml_platform.lake import Lake

AREA = "elementary"
REPORT = "report.html"

# A server shows pages without an origin, so that their scripts can do nothing in the name of who looks at them. A
# browser refuses such a page its storage, which Elementary's scripts ask for before they draw (seen with 0.25.1).
_STORAGE = """<script>
for (const name of ["localStorage", "sessionStorage"]) {
  try { void window[name]; } catch {
    const kept = new Map();
    Object.defineProperty(window, name, {value: {
      getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => { kept.set(key, String(value)); },
      removeItem: (key) => { kept.delete(key); }, clear: () => { kept.clear(); },
      key: (index) => [...kept.keys()][index] ?? null, get length() { return kept.size; },
    }});
  }
}
</script>"""


def make_report(project: Project, lake: Lake, progress: Callable[[str], None] | None = None) -> str:
    """Make the page and keep it beside the project's tables.

    Returns: where people open it: its address, or, where none is set, its place.
    Raises:
        ConfigError: the dbt package is not installed.
        PermanentError: ``edr`` failed; its last words.
    """
    what = f"cannot make Elementary's report of project {project.name!r}"
    with workplace(project, lake, what=what, progress=progress) as place:
        page = _write_page(place, project, lake, what)
        open_storage(lake.settings, project.name, AREA).upload(REPORT, page)
    return page_address(lake.settings, project.name, AREA, REPORT)


def with_storage(page: str) -> str:
    """A page whose scripts find a storage where the browser gives it none: one that lasts as long as the page."""
    return page.replace("<head>", f"<head>{_STORAGE}", 1)


def report_on_trial(
    project: Project, lake: Lake, database: Path, page: Path, progress: Callable[[str], None] | None = None
) -> None:
    """Make the page of what one build left in its DuckDB file: its own results.

    Args:
        page: the file to write.
    Raises:
        ConfigError: the dbt package is not installed.
        PermanentError: ``edr`` failed; its last words.
    """
    what = f"cannot make Elementary's report of what was tried of project {project.name!r}"
    with workplace(project, lake, what=what, database=database, progress=progress) as place:
        shutil.copyfile(_write_page(place, project, lake, what), page)


def _write_page(place: Workplace, project: Project, lake: Lake, what: str) -> Path:
    page = place.folder / REPORT
    done = run_edr(
        place,
        "report",
        f"--file-path={page}",
        "--open-browser=false",
        f"--project-name={project.name}",
        f"--env={lake.settings.profile}",
        what=what,
    )
    if done.returncode != 0 or not page.is_file():
        raise PermanentError(
            what, f"edr ended with {done.returncode}: {last_words(done)}", "Correct it and run it again."
        )
    page.write_text(with_storage(page.read_text(encoding="utf-8")), encoding="utf-8")
    return page
