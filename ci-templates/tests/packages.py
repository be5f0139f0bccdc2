"""A package index of this machine that takes wheels with a password, as a company's does, and lets installers read."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Index:
    """What arrived, by file name, and what was answered to each upload."""

    user: str
    password: str
    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    answers: list[int] = field(default_factory=list)

    @property
    def upload(self) -> str:
        return f"{self.address}/upload/"

    @property
    def simple(self) -> str:
        return f"{self.address}/simple/"

    def take(self, authorization: str, parts: dict[str, Message]) -> int:
        """The status of an upload; what is there already is refused."""
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if authorization != f"Basic {wanted}":
            return 403
        name, content = parts["content"].get_filename(), parts["content"].get_payload(decode=True)
        assert name
        assert isinstance(content, bytes)
        if not name.endswith(".whl"):
            return 400
        if name in self.files:
            return 409
        self.files[name] = content
        return 200

    def page(self) -> str:
        """The page of a package; there is one."""
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        return "".join(f'<a href="/files/{name}#sha256={digest}">{name}</a>' for name, digest in digests.items())


@contextmanager
def serve(user: str, password: str) -> Iterator[Index]:
    """An empty index on the loopback address."""
    index = Index(user, password)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, index.page())

        def do_POST(self) -> None:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            form = BytesParser().parsebytes(head + self.rfile.read(int(self.headers["Content-Length"])))
            parts = {str(p.get_param("name", header="Content-Disposition")): p for p in form.walk() if p is not form}
            index.answers.append(index.take(self.headers.get("Authorization", ""), parts))
            self.answer(index.answers[-1], "")

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
