"""A small Airbyte source that behaves, or misbehaves, as its config says. Run as a program; imports nothing of ours.

Config keys, all optional:
    streams: name → {rows, properties (JSON schema), extra (values put into each record)}.
    state: STREAM, GLOBAL, LEGACY or none; state_every: records between states.
    padding: bytes of text in each record.
    behaviour: what goes wrong, see ``misbehave``; at: the record of each stream before which it does.
    gate: a file; at record ``at`` the source waits until it is there.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PROPERTIES = {
    "id": {"type": "integer"},
    "name": {"type": ["null", "string"]},
    "amount": {"type": "number"},
    "updated_at": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"},
}


def emit(kind, key, content):
    print(json.dumps({"type": kind, key: content}, separators=(",", ":")), flush=kind != "RECORD")


def log(text, level="INFO"):
    emit("LOG", "log", {"level": level, "message": text})


def trace_error(text, failure_type="system_error"):
    error = {"message": text, "internal_message": "Traceback: " + text, "failure_type": failure_type}
    emit("TRACE", "trace", {"type": "ERROR", "emitted_at": 1.0, "error": error})


def stream_status(name, status):
    content = {"stream_descriptor": {"name": name}, "status": status}
    emit("TRACE", "trace", {"type": "STREAM_STATUS", "emitted_at": 1.0, "stream_status": content})


def streams_of(config):
    return config.get("streams") or {"users": {"rows": 100}}


def describe(name, options):
    return {
        "name": name,
        "json_schema": {"type": "object", "properties": options.get("properties", PROPERTIES)},
        "supported_sync_modes": options.get("sync_modes", ["full_refresh", "incremental"]),
        "source_defined_cursor": True,
        "default_cursor_field": ["id"],
        "source_defined_primary_key": [["id"]],
    }


def misbehave(behaviour, name):
    if behaviour == "exit":
        sys.exit(1)
    if behaviour == "error":
        trace_error("the database said no")
        sys.exit(1)
    if behaviour == "config_error":
        trace_error("wrong password s3cr3t-value", "config_error")
        sys.exit(1)
    if behaviour == "transient_error":
        trace_error("too many requests", "transient_error")
        sys.exit(1)
    if behaviour == "killed":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "broken":
        print('{"type":"RECORD","record":{"stream":"' + name + '","data":{"id":')
    if behaviour == "broken_state":
        print('{"type":"STATE","state":{"type":"STREAM"')
    if behaviour == "stranger":
        emit("RECORD", "record", {"stream": "nobody", "data": {"id": 1}, "emitted_at": 1})
    if behaviour == "text":
        print("Downloading 12%... done\nnot json {")
    if behaviour == "incomplete":
        stream_status(name, "INCOMPLETE")
        sys.exit(0)
    if behaviour in ("hang", "hang_with_child"):
        if behaviour == "hang_with_child" and os.fork() == 0:
            Path(os.environ["FAKE_CHILD"]).write_text(str(os.getpid()))
        sys.stdout.flush()
        while True:
            signal.pause()


def wait_for(gate):
    deadline = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def seen_before(states, name):
    """How many records of a stream a state covers."""
    if isinstance(states, dict):  # LEGACY
        return states.get(name, 0)
    for state in states:
        if state["type"] == "GLOBAL":
            for stream in state["global"]["stream_states"]:
                if stream["stream_descriptor"]["name"] == name:
                    return stream["stream_state"]["seen"]
        elif state["stream"]["stream_descriptor"]["name"] == name:
            return state["stream"]["stream_state"]["seen"]
    return 0


def emit_state(kind, name, seen):
    if kind == "STREAM":
        stream = {"stream_descriptor": {"name": name}, "stream_state": {"seen": seen[name]}}
        emit("STATE", "state", {"type": "STREAM", "stream": stream, "sourceStats": {"recordCount": 1.0}})
    elif kind == "GLOBAL":
        states = [{"stream_descriptor": {"name": n}, "stream_state": {"seen": s}} for n, s in seen.items()]
        emit("STATE", "state", {"type": "GLOBAL", "global": {"shared_state": {"lsn": 1}, "stream_states": states}})
    elif kind == "LEGACY":
        emit("STATE", "state", {"data": dict(seen)})


def read(config, catalog, states):
    configured = {s["stream"]["name"]: s["sync_mode"] for s in catalog["streams"]}
    log(f"reading with password {config.get('password')}")
    seen = {n: seen_before(states, n) if mode == "incremental" else 0 for n, mode in configured.items()}
    kind = config.get("state", "STREAM")
    if config.get("behaviour") == "garbage":
        print("Segmentation fault\n<html>")
        return
    for name in configured:
        options = streams_of(config)[name]
        stream_status(name, "STARTED")
        for number in range(seen[name] + 1, options.get("rows", 100) + 1):
            if number == config.get("at"):
                misbehave(config.get("behaviour"), name)
                if config.get("gate"):
                    sys.stdout.flush()
                    wait_for(config["gate"])
            data = {"id": number, "name": f"n{number}", "amount": number / 2, "updated_at": "2026-01-01T00:00:00Z"}
            data = {k: v for k, v in data.items() if k in options.get("properties", PROPERTIES)}
            data |= options.get("extra", {})
            if number == options.get("bad_at"):
                data |= options["bad"]
            if config.get("padding"):
                data["name"] = "x" * config["padding"]
            emit("RECORD", "record", {"stream": name, "data": data, "emitted_at": 1767225600000})
            seen[name] = number
            if number % config.get("state_every", 10) == 0:
                emit_state(kind, name, seen)
        emit_state(kind, name, seen)
        stream_status(name, "COMPLETE")


def main():
    action, *rest = sys.argv[1:]
    options = {k.removeprefix("--"): Path(v) for k, v in zip(rest[::2], rest[1::2], strict=True)}
    config = json.loads(options["config"].read_text()) if "config" in options else {}
    if action == "spec":
        emit("SPEC", "spec", {"connectionSpecification": {"type": "object", "properties": {}}})
    elif action == "check":
        mode = options["config"].stat().st_mode & 0o777
        fine = mode == 0o600 and not config.get("refuse")
        status = {"status": "SUCCEEDED"} if fine else {"status": "FAILED", "message": f"no {config.get('password')}"}
        emit("CONNECTION_STATUS", "connectionStatus", status)
    elif action == "discover":
        if config.get("behaviour") == "no_discover":
            trace_error("no permission", "config_error")
            sys.exit(1)
        streams = [describe(name, options) for name, options in streams_of(config).items()]
        emit("CATALOG", "catalog", {"streams": streams})
    elif action == "read":
        states = json.loads(options["state"].read_text()) if "state" in options else []
        read(config, json.loads(options["catalog"].read_text()), states)


if __name__ == "__main__":
    main()
