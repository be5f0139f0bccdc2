"""One GraphQL request to Dagster from inside its own container: `docker exec -i … python -m dml_infra.graphql`.

So Dagster's port is open to nobody outside. Standard library only; a JSON object ``{"query", "variables"}`` comes by
standard input, the reply goes to standard output. Exit 0: an answer, with or without GraphQL errors. Exit 1: none.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

URL_VARIABLE = "DML_DAGSTER_URL"
DEFAULT_URL = "http://127.0.0.1:3000"


def post(url: str, body: bytes, timeout_s: float) -> bytes:
    """Send a request. Dagster answers an erroneous query with status 400 and a JSON body: that is an answer too."""
    # No proxy of the environment: this is the container's own port.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{url}/graphql", data=body, headers={"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        body = error.read()
        try:
            json.loads(body)
        except ValueError:
            raise error from None
        return bytes(body)


def main() -> int:
    """Answer one request."""
    url = os.environ.get(URL_VARIABLE, DEFAULT_URL).rstrip("/")
    timeout_s = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    try:
        sys.stdout.buffer.write(post(url, sys.stdin.buffer.read(), timeout_s))
    except (OSError, ValueError) as error:
        print(f"no answer from {url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
