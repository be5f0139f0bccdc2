"""A push of a project's documents, with what is remembered of the last one and what waits since.

Kept in ``<home>/openmetadata/<project>`` or ``<warehouse>/<project>/_openmetadata``: ``state.json``, and in
``waiting/`` the documents of runs that OpenMetadata has not got.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dml_platform.core.document import Document
from dml_platform.core.environments import Progress
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError, RetryableError
from dml_platform.core.settings import Settings
from dml_platform.core.storage import Storage, open_storage
from dml_platform.openmetadata.program import call, ensure_publisher

AREA = "openmetadata"
KEPT_WAITING = 100
# A run does not wait long for a dead catalogue.
ATTEMPTS_AFTER_RUN = 2
_STATE = "state.json"
_WAITING = "waiting"
_NOUNS = {"lineage": "lineage edge", "results": "test result"}
_WHAT = "cannot push to OpenMetadata"


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be.

    Args:
        changes: each with ``action``, ``kind``, ``name`` and ``detail``.
        kept: fields that people wrote in OpenMetadata, which stay.
        refused: what the server did not take, and why.
        sent: documents of earlier runs that had waited.
    """

    changes: tuple[Mapping[str, str], ...] = ()
    kept: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    server_version: str = ""
    sent: int = 0


def enqueue(settings: Settings, document: Document, run_id: str) -> int:
    """Keep a run's document until it is sent.

    Returns: how many wait, this one included.
    Raises:
        OSError: it could not be written.
    """
    storage = open_storage(settings, document.project, AREA)
    moment = document.generated_at[:19].replace(":", "").replace("-", "")
    content = document.model_dump_json(exclude_defaults=True).encode()
    storage.write(f"{_WAITING}/{moment}-{run_id}.json.gz", gzip.compress(content))
    names = _waiting(storage)
    for old in names[:-KEPT_WAITING]:
        storage.delete(old)
    return min(len(names), KEPT_WAITING)


def push(
    settings: Settings,
    document: Document,
    *,
    dry_run: bool = False,
    attempts: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Send a document, and what waits before it.

    Args:
        document: the newest.
        dry_run: only say what would be done.
        attempts: tries of a request; default: the settings'.
    Raises:
        ConfigError: no address or token is set, the token's file cannot be read, or there is no publisher.
        RetryableError: the server cannot be reached; what waits goes on waiting.
        PermanentError: the server does not take the token, or is of another generation.
    """
    # Before a hundred documents are read.
    url, token, command = _url(settings), _token(settings), ensure_publisher(settings, progress)
    storage = open_storage(settings, document.project, AREA)
    names = _waiting(storage)
    waiting = [json.loads(gzip.decompress(content)) for name in names if (content := storage.read(name))]
    newest = document.model_dump(mode="json", exclude_defaults=True)
    earlier = [one for one in waiting if one["generated_at"] != newest["generated_at"]]
    state = storage.read(_STATE)
    own = settings.openmetadata
    request = {
        "documents": [*earlier, newest],
        "state": json.loads(state) if state else None,
        "url": url,
        "token": token,
        "service": own.service,
        "classification": own.classification,
        "dry_run": dry_run,
        "attempts": attempts or own.request_attempts,
        "request_timeout_s": own.request_timeout_s,
        "timeout_s": own.timeout_s,
    }
    answer = call(settings, command, request, progress)
    if not dry_run and answer.get("state"):
        storage.write(_STATE, json.dumps(answer["state"]).encode())
    if fault := answer.get("fault"):
        kind = RetryableError if fault["is_passing"] else PermanentError
        raise kind(fault["what"], fault["why"], fault["fix"])
    if not dry_run:
        for name in names:
            storage.delete(name)
    return Outcome(
        changes=tuple(answer.get("changes", ())),
        kept=tuple(answer.get("kept", ())),
        refused=tuple(answer.get("refused", ())),
        notices=tuple(answer.get("notices", ())),
        server_version=answer.get("server_version", ""),
        sent=len(earlier),
    )


def push_after_run(settings: Settings, document: Document, run_id: str) -> list[str]:
    """Send the document of a run on a server where OpenMetadata is set up. It waits where that fails.

    Returns: a sentence for the run's log; none where it is not set up.
    """
    if settings.profile != "server" or not settings.openmetadata.url:
        return []
    waiting = 0
    try:
        waiting = enqueue(settings, document, run_id)
        outcome = push(settings, document, attempts=ATTEMPTS_AFTER_RUN)
    except PlatformError as error:
        what = "1 document waits" if waiting == 1 else f"{waiting} documents wait"
        return [f"OpenMetadata was not brought up to date: {error.why}. {what} for the next push."]
    except OSError as error:
        return [f"OpenMetadata was not brought up to date: what it shall get cannot be kept: {error}"]
    refused = f"; it refused {len(outcome.refused)}: {outcome.refused[0]}" if outcome.refused else ""
    return [f"OpenMetadata: {describe(outcome.changes)}{refused}"]


def _waiting(storage: Storage) -> list[str]:
    return sorted(entry.name for entry in storage.list(_WAITING) if entry.name.endswith(".json.gz"))


def _url(settings: Settings) -> str:
    if not settings.openmetadata.url:
        raise ConfigError(_WHAT, "DML_OPENMETADATA__URL is not set", "Set it, e.g. to https://catalog.example.com.")
    return settings.openmetadata.url


def _token(settings: Settings) -> str:
    own = settings.openmetadata
    fix = "Put the token of a bot into the file that DML_OPENMETADATA__TOKEN_FILE names."
    if own.token_file is None:
        if own.token is None:
            raise ConfigError(_WHAT, "DML_OPENMETADATA__TOKEN_FILE is not set", fix)
        return own.token.get_secret_value()
    try:
        token = own.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(_WHAT, f"the token cannot be read from {own.token_file} ({reason})", fix) from None
    if not token:
        raise ConfigError(_WHAT, f"{own.token_file} is empty", fix)
    return token


def describe(changes: tuple[Mapping[str, str], ...]) -> str:
    """A few words on what was done: ``24 tables created, 1 test deleted``."""
    words: Any = {"create": "created", "change": "changed", "restore": "restored", "delete": "deleted", "send": "sent"}
    counts: dict[tuple[str, str], int] = {}
    for change in changes:
        key = change["action"], change["kind"]
        counts[key] = counts.get(key, 0) + (int(change["detail"]) if change["kind"] == "results" else 1)
    parts = [
        f"{count} {_NOUNS.get(kind, kind)}{'s' * (count > 1)} {words[action]}"
        for (action, kind), count in counts.items()
    ]
    return ", ".join(parts) or "nothing to do"
