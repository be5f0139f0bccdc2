#!/usr/bin/env python3
"""A package index of this machine, for as long as a command runs: what a release would publish, before it is one.

    tree/index.py FOLDER COMMAND ...     uv and nox below COMMAND find the wheels of FOLDER through UV_INDEX

The command ends with its own exit code. Packages that are not in FOLDER come from the usual index. It listens on the
loopback address only. Needs Python's standard library only.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def pages(folder: Path) -> dict[str, bytes]:
    """The index's pages by address: all packages, the wheels of each, and the wheels."""
    found: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for wheel in sorted(folder.glob("*.whl")):
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        content = wheel.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        found[f"/files/{wheel.name}"] = content
        link = f'<a href="/files/{wheel.name}#sha256={digest}">{html.escape(wheel.name)}</a><br>'
        links[name] = links.get(name, "") + link
    found |= {f"/simple/{name}/": text.encode() for name, text in links.items()}
    found["/simple/"] = "".join(f'<a href="/simple/{name}/">{name}</a><br>' for name in links).encode()
    return found


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Publish the wheels of a folder; gives the index's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(with_content=True)

        def do_HEAD(self) -> None:
            self.answer(with_content=False)

        def answer(self, *, with_content: bool) -> None:
            # Read anew, so that a wheel can be built while the index is there.
            content = pages(folder).get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Type", "application/zip" if self.path.endswith(".whl") else "text/html")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_content:
                self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        server.server_close()


def main(arguments: list[str]) -> int:
    """Run a command with the index; its exit code."""
    if len(arguments) < 2 or not Path(arguments[0]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    with serve(Path(arguments[0])) as address:
        env = dict(os.environ)
        env["UV_INDEX"] = " ".join(filter(None, (address, env.get("UV_INDEX"))))
        # Behind a proxy this machine is still reached directly.
        for name in ("NO_PROXY", "no_proxy"):
            env[name] = ",".join(filter(None, (env.get(name), "127.0.0.1")))
        return subprocess.run(arguments[1:], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
