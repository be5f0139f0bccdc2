"""What Airbyte's S3 destination does: runs a connector, writes its records as objects, keeps its state."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-4711"  # pragma: allowlist secret


@dataclass(frozen=True)
class Landing:
    """A prefix of the landing bucket."""

    store: Any
    endpoint: str
    prefix: str


Layout = Literal["jsonl", "jsonl.gz", "flat.jsonl.gz", "parquet"]


@dataclass
class FakeDestination:
    """One connection's worker: program, config, streams with their modes, and where they are written."""

    command: Sequence[str]
    config: dict[str, Any]
    modes: dict[str, str]
    store: Any
    bucket: str
    prefix: str
    folder: Path
    layout: Layout = "jsonl.gz"
    objects_each: int = 1
    states: dict[str, Any] = field(default_factory=dict)
    written: int = 0
    generation: int = 0

    def sync(self) -> tuple[int, int]:
        """Read the source once. Gives rows and bytes."""
        self.generation += 1
        records, size = self._read(), 0
        for stream, mode in self.modes.items():
            old = self._list(stream) if mode == "full_refresh" else []
            found = records.get(stream, [])
            each = -(-len(found) // self.objects_each) or 1
            for first in range(0, len(found), each):
                content = self._encode(found[first : first + each])
                size += len(content)
                self.put(stream, content)
            for key in old:
                self.store.delete_object(Bucket=self.bucket, Key=key)
        return sum(map(len, records.values())), size

    def put(self, stream: str, content: bytes, suffix: str | None = None) -> str:
        """One object, named as the destination does: day, time, part."""
        self.written += 1
        suffix = suffix or self.layout.removeprefix("flat.")
        key = f"{self.prefix}/{stream}/2026_11_23_{int(time.time() * 1000)}_{self.written}.{suffix}"
        self.store.put_object(Bucket=self.bucket, Key=key, Body=content)
        return key

    def _list(self, stream: str) -> list[str]:
        listed = self.store.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/{stream}/")
        return [entry["Key"] for entry in listed.get("Contents", [])]

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        discovered = self._call("discover")
        streams = {s["name"]: s for m in discovered if m["type"] == "CATALOG" for s in m["catalog"]["streams"]}
        catalog = {
            "streams": [
                {"stream": streams[name], "sync_mode": mode, "destination_sync_mode": "append", "cursor_field": []}
                for name, mode in self.modes.items()
            ]
        }
        (self.folder / "catalog.json").write_text(json.dumps(catalog))
        (self.folder / "state.json").write_text(json.dumps([s for s in self.states.values() if s is not None]))
        arguments = ["--catalog", str(self.folder / "catalog.json")]
        if self.states:
            arguments += ["--state", str(self.folder / "state.json")]
        records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for message in self._call("read", *arguments):
            if message["type"] == "RECORD":
                records[message["record"]["stream"]].append(message["record"])
            elif message["type"] == "STATE" and message["state"].get("type") == "STREAM":
                name = message["state"]["stream"]["stream_descriptor"]["name"]
                if self.modes.get(name) == "incremental":
                    self.states[name] = message["state"]
        self.schemas = {name: streams[name]["json_schema"]["properties"] for name in self.modes}
        return records

    def _call(self, action: str, *arguments: str) -> list[dict[str, Any]]:
        (self.folder / "config.json").write_text(json.dumps(self.config))
        command = [*self.command, action, "--config", str(self.folder / "config.json"), *arguments]
        done = subprocess.run(command, capture_output=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]

    def _encode(self, records: Sequence[dict[str, Any]]) -> bytes:
        rows = [self._own(record) for record in records]
        if self.layout == "parquet":
            return self._parquet(rows, records)
        if self.layout.startswith("flat."):
            rows = [{**row, **record["data"]} for row, record in zip(rows, records, strict=True)]
        else:
            rows = [{**row, "_airbyte_data": record["data"]} for row, record in zip(rows, records, strict=True)]
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return gzip.compress(content) if self.layout.endswith("gz") else content

    def _own(self, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "_airbyte_raw_id": str(uuid.uuid4()),
            "_airbyte_extracted_at": record["emitted_at"],
            "_airbyte_generation_id": self.generation,
            "_airbyte_meta": {"sync_id": self.generation, "changes": []},
        }

    def _parquet(self, rows: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> bytes:
        """Typed by the stream's schema, as through Avro; objects as records."""
        changes = pa.list_(pa.struct([("field", pa.string()), ("change", pa.string()), ("reason", pa.string())]))
        columns: dict[str, pa.Array] = {
            "_airbyte_raw_id": pa.array([row["_airbyte_raw_id"] for row in rows]),
            "_airbyte_extracted_at": pa.array([row["_airbyte_extracted_at"] for row in rows], pa.int64()),
            "_airbyte_generation_id": pa.array([row["_airbyte_generation_id"] for row in rows], pa.int64()),
            "_airbyte_meta": pa.array(
                [row["_airbyte_meta"] for row in rows], pa.struct([("sync_id", pa.int64()), ("changes", changes)])
            ),
        }
        for name, schema in self.schemas[records[0]["stream"]].items():
            values = [record["data"].get(name) for record in records]
            columns[name] = _typed(values, schema)
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()


def _typed(values: list[Any], schema: dict[str, Any]) -> pa.Array:
    kinds = schema.get("type")
    kind = next((k for k in (kinds if isinstance(kinds, list) else [kinds]) if k != "null"), None)
    if kind == "string" and schema.get("format") == "date-time":
        moments = [datetime.fromisoformat(v.replace("Z", "+00:00")) if v else None for v in values]
        zoned = [m.replace(tzinfo=timezone.utc) if m and m.tzinfo is None else m for m in moments]
        return pa.array(zoned, pa.timestamp("us", tz="UTC"))
    plain = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "string": pa.string()}
    return pa.array(values, plain[kind]) if kind in plain else pa.array(values)
