"""Real receivers on this machine: an HTTP server that answers as told, and an SMTP server."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


@dataclass
class Webhook:
    """What an endpoint got, and what it answers: statuses in turn, then 200."""

    port: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    answers: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    says: str = ""

    def url(self, path: str = "/services/T000/B000/very-secret-token") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def webhook(port: int = 0, **state: Any) -> Iterator[Webhook]:
    state_ = Webhook(**state)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state_.attempts += 1
            code = state_.answers.pop(0) if state_.answers else 200
            if code == 200:
                state_.got.append(json.loads(body))
            text = state_.says.encode()
            self.send_response(code)
            for name, value in state_.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    state_.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state_
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Mailbox:
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    signed_in: list[tuple[str, str]] = field(default_factory=list)
    refuses: tuple[str, ...] = ()

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address in self.refuses:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"


@contextmanager
def mail_server(
    *, user: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None, **state: Any
) -> Iterator[Mailbox]:
    """With ``tls`` the server asks for STARTTLS, with ``user`` for that name and password."""
    box = Mailbox(**state)

    def sign_in(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        found = (data.login.decode(), data.password.decode())
        box.signed_in.append(found)
        return AuthResult(success=found == user, handled=found == user)  # otherwise it answers nothing

    options: dict[str, Any] = {}
    if user:
        options = {"authenticator": sign_in, "auth_required": True, "auth_require_tls": tls is not None}
    if tls:
        options |= {"tls_context": tls, "require_starttls": True}
    with socket.socket() as probe:  # the controller wants to know the port to see whether it is up
        probe.bind(("127.0.0.1", 0))
        box.port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=box.port, ready_timeout=30, **options)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
