"""Where the document is kept: ``<home>/catalog/<project>.json``, on a server beside the project's tables.

There also the documents of the last runs.
"""

from __future__ import annotations

import gzip

from dml_platform.core.document import Document
from dml_platform.core.settings import Settings
from dml_platform.core.storage import FolderStorage, Storage, open_storage

AREA = "catalog"
KEPT_DOCUMENTS = 30


def document_place(settings: Settings, project: str) -> tuple[Storage, str]:
    """The storage and the name of a project's document."""
    if settings.is_s3:
        return open_storage(settings, project, AREA), "document.json"
    return FolderStorage(settings.home / AREA), f"{project}.json"


def write_document(settings: Settings, document: Document, *, run_id: str | None = None) -> str:
    """Keep a document as the newest, and on a server as that of its run besides.

    Returns: where it is.
    Raises:
        OSError: it could not be written.
    """
    storage, name = document_place(settings, document.project)
    content = document.model_dump_json(exclude_defaults=True).encode()
    place = storage.write(name, content)
    if settings.is_s3 and run_id:
        moment = document.generated_at[:19].replace(":", "").replace("-", "")
        storage.write(f"history/{moment}-{run_id}.json.gz", gzip.compress(content))
        names = sorted(entry.name for entry in storage.list("history") if entry.name.endswith(".json.gz"))
        for old in names[:-KEPT_DOCUMENTS]:
            storage.delete(old)
    return place


def read_document(settings: Settings, project: str) -> Document | None:
    """The newest document; None where there is none yet.

    Raises:
        OSError: it could not be read.
    """
    storage, name = document_place(settings, project)
    content = storage.read(name)
    return Document.model_validate_json(content) if content else None
