"""Turn CDNOW_master.txt, as the `lifetimes` wheel carries it, into the file that the project lands.

Belongs here: the one-off conversion, kept so that anyone can repeat it. Nothing imports this module.
Usage: `pip download --no-deps lifetimes==0.11.3`, then
`python data/convert_cdnow.py Lifetimes-0.11.3-py3-none-any.whl`.
"""

import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

MEMBER = "lifetimes/datasets/CDNOW_master.txt"
MEMBER_SHA256 = "eff6889ed364c5199d6eacbbeb7a6d559971df4406ac876f322c373f00a072ef"  # pragma: allowlist secret
TARGET = Path(__file__).parent / "drop" / "cdnow" / "cdnow_purchases.csv.gz"


def convert_purchases(text: str) -> str:
    """Return the purchases as CSV: same rows, same order, ISO dates, ids without leading zeros."""
    lines = ["customer_id,date,units,dollars"]
    for record in text.splitlines()[1:]:
        customer, day, units, dollars = record.split()
        lines.append(f"{int(customer)},{day[:4]}-{day[4:6]}-{day[6:]},{int(units)},{dollars}")
    return "\n".join(lines) + "\n"


def write_gzip(target: Path, text: str) -> None:
    """Write the text compressed with no name or time in the header: equal text gives equal bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))


def main() -> None:
    """Read the wheel named on the command line and write the drop file."""
    if len(sys.argv) != 2:
        sys.exit("cannot convert: name the lifetimes wheel, e.g. Lifetimes-0.11.3-py3-none-any.whl")
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        content = wheel.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != MEMBER_SHA256:
        sys.exit(f"cannot convert {MEMBER}: SHA-256 is {found}, expected {MEMBER_SHA256}")
    write_gzip(TARGET, convert_purchases(content.decode("ascii")))


if __name__ == "__main__":
    main()
