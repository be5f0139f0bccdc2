"""Serves the fake OpenMetadata until its standard input ends; its address is the first line of its output.

Each later line of input is a question, ``names table`` or ``edges``, and each line of output its answer as JSON.
"""

from __future__ import annotations

import json
import sys

from fake_openmetadata import FakeOpenMetadata


def main() -> None:
    """Serve."""
    with FakeOpenMetadata().running() as fake:
        print(fake.url, flush=True)
        for line in sys.stdin:
            question, *words = line.split()
            answer = fake.edges() if question == "edges" else fake.names(words[0])
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
