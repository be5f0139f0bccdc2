"""Puts the report where its readers find it: called after each run of a server.

Where the tables are in an object store it is ``<warehouse>/<project>/_report/index.html``, else a file of the state
folder.
"""

from dml_platform.core.document import Document
from dml_platform.core.errors import RetryableError
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage, page_address
from dml_platform.report.page import render_report

AREA = "report"
PAGE = "index.html"


def publish_report(settings: Settings, document: Document) -> str:
    """Write a project's page where its readers find it, replacing the last one.

    Returns: where people open it: its address, or, where none is set, its place.

    Raises:
        RetryableError: the disk or the object store refused.
    """
    page = render_report(document).encode("utf-8")
    try:
        open_storage(settings, document.project, AREA).write(PAGE, page)
    except OSError as error:
        raise RetryableError(
            f"cannot publish the report of {document.project!r}",
            str(error),
            "Check the free space or the object store, then run the project again, or call 'dml report'.",
        ) from error
    return page_address(settings, document.project, AREA, PAGE)
