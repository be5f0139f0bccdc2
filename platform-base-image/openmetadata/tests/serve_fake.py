"""Serves the fake OpenMetadata until its standard input ends; its address is the first line of its output.

    serve_fake.py [PORT]     with a port it listens on all of the machine's addresses, as a container has to

Each later line of input is a question, ``names table`` or ``edges``, and each line of output its answer as JSON.
"""

from __future__ import annotations

import json
import sys

from fake_openmetadata import FakeOpenMetadata


def main() -> None:
    """Serve."""
    address = ("0.0.0.0", int(sys.argv[1])) if len(sys.argv) > 1 else ("127.0.0.1", 0)
    with FakeOpenMetadata(address=address).running() as fake:
        print(fake.url, flush=True)
        for line in sys.stdin:
            question, *words = line.split()
            answer = fake.edges() if question == "edges" else fake.names(words[0])
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
