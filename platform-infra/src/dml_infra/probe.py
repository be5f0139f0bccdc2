"""What a code server offers, asked before anybody is sent there: `python -m dml_infra.probe HOST PORT`.

Runs inside Dagster's own container, with the version and the network that will load the code. Prints JSON:
``{"image", "repositories": {name: {"schedules", "sensors", "assets", "metadata"}}}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import sys
import traceback
from types import SimpleNamespace
from typing import Any


def ask(host: str, port: int) -> dict[str, Any]:
    """Load the definitions of a code server by the same class as Dagster's webserver and daemon do."""
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
    from dagster._core.remote_representation.code_location import GrpcServerCodeLocation

    # The only thing that loading wants of an instance; a real one would open the database.
    instance: Any = SimpleNamespace(auto_materialize_use_sensors=True)
    origin = GrpcServerCodeLocationOrigin(host=host, port=port, location_name="probe")
    location = GrpcServerCodeLocation(origin, instance=instance)
    found: dict[str, Any] = {}
    for name, repository in location.get_repositories().items():
        snap = repository.repository_snap
        found[name] = {
            "schedules": sorted(s.name for s in repository.get_schedules()),
            "sensors": sorted(s.name for s in repository.get_sensors()),
            "assets": sorted("/".join(n.asset_key.path) for n in snap.asset_nodes if n.is_executable),
            "metadata": {k: str(getattr(v, "value", v)) for k, v in (snap.metadata or {}).items()},
        }
    return {"image": location.container_image, "repositories": found}


def main() -> int:
    """Print what is offered, or the error as Dagster would show it."""
    try:
        answer = ask(sys.argv[1], int(sys.argv[2]))
    except Exception as error:  # noqa: BLE001 -- a process edge: whatever it is goes into the answer
        infos = getattr(error, "user_code_process_error_infos", None) or getattr(error, "load_error_infos", None)
        text = "\n".join(info.to_string() for info in infos) if infos else traceback.format_exc()
        answer = {"error": text}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
