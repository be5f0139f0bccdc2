"""The program: a request as JSON on standard input, an answer as JSON on standard output.

Request: ``documents`` (the backlog, the newest last), ``state`` of the last push, ``url``, ``token``, ``service``,
``dry_run`` and what else :class:`Request` has. Answer: :class:`Answer`. Whatever the client's libraries print goes to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from dml_openmetadata.document import Document
from dml_openmetadata.errors import Fault, Refused
from dml_openmetadata.state import State

_NOT_UNDERSTOOD = "Check that the publisher goes with the server's version."


class Request(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    documents: list[Document] = Field(min_length=1)
    state: State | None = None
    url: str
    token: SecretStr
    service: str = "dml"
    classification: str = "DataPlatform"
    dry_run: bool = False
    attempts: int = 5
    wait_s: float = 0.5
    request_timeout_s: float = 30.0
    timeout_s: float = 600.0


class Answer(BaseModel):
    """What was done, or would be. ``state`` is to be kept, also after a fault: it has what was done until then."""

    state: State | None = None
    server_version: str = ""
    changes: list[dict[str, str]] = []
    kept: list[str] = []
    refused: list[str] = []
    notices: list[str] = []
    requests_that_write: int = 0
    fault: dict[str, Any] | None = None


def answer(request: Request) -> Answer:
    """Do what is asked for."""
    # Importing OpenMetadata's models takes seconds: a wrong request has been refused by now.
    from dml_openmetadata.edges import make_edges
    from dml_openmetadata.push import Push, check_order, not_one_project
    from dml_openmetadata.sending import send_events
    from dml_openmetadata.server import Access, Server

    done = Answer()
    state = request.state or State()
    if not state.fits(request.url, request.service):
        state = State(url=request.url, service=request.service)
    push = None
    server = None
    try:
        if wrong := not_one_project(request.documents):
            raise wrong
        documents = sorted(request.documents, key=lambda document: document.generated_at)
        if said := check_order(documents, state):
            return Answer(state=state, notices=[said])
        limits = request.model_dump(include={"attempts", "wait_s", "request_timeout_s", "timeout_s"})
        server = Server(Access(request.url, request.token.get_secret_value(), **limits))
        done.server_version = server.check_version()
        push = Push(server, documents[-1], request.service, request.classification, state, is_dry=request.dry_run)
        push.make_entities()
        make_edges(push)
        send_events(push, documents)
        push.delete_gone()
        if not request.dry_run:
            state.generated_at = documents[-1].generated_at
    except Refused as refused:  # of something that nothing goes on without
        fault = Fault(f"cannot push to OpenMetadata at {request.url}", refused.why, _NOT_UNDERSTOOD, is_passing=False)
        done.fault = fault.as_dict()
    except Fault as fault:
        done.fault = fault.as_dict()
    finally:
        if server is not None:
            server.close()
    done.state = state
    done.requests_that_write = server.writes if server else 0
    if push is not None:
        done.changes = [asdict(change) for change in push.changes]
        done.kept, done.refused, done.notices = push.kept, push.refused, push.notices
    return done


def main() -> int:
    """Read, do, answer. Returns: the exit code; 0 also where the answer has a fault."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        try:
            request = Request.model_validate_json(sys.stdin.buffer.read())
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False, include_context=False)
            print(f"this is no request: {json.dumps(found, default=str)}", file=sys.stderr)
            return 2
        output.write(answer(request).model_dump_json(exclude_none=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
