"""Makes the sample orders: `python data/make_sample.py` writes the same file again. Nobody's real orders are in it."""

import csv
import random
from datetime import datetime, timedelta
from pathlib import Path

ROWS = 600
TARGET = Path(__file__).parent / "drop" / "orders" / "orders_2026.csv"


def make_rows() -> list[list[str]]:
    """Draw orders of the first half of 2026, in the order of time. Only `random()` is the same in every Python."""
    draw = random.Random(1).random
    moments = sorted(draw() for _ in range(ROWS))
    start = datetime(2026, 1, 1)  # noqa: DTZ001 - the file has UTC without saying so
    rows = []
    for number, moment in enumerate(moments, 1):
        ordered_at = start + timedelta(seconds=int(moment * 181 * 86_400))
        customer = 1 + int(120 * draw() ** 2)
        amount = 5 + int(20_000 * draw() ** 3) / 100
        status = "returned" if draw() < 0.07 else "open" if moment > 0.97 else "paid"
        rows.append([str(number), str(customer), f"{ordered_at:%Y-%m-%d %H:%M:%S}", status, f"{amount:.2f}"])
    return rows


def main() -> None:
    """Write the file."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with TARGET.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["order_id", "customer_id", "ordered_at", "status", "amount"])
        writer.writerows(make_rows())


if __name__ == "__main__":
    main()
