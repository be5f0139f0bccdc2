"""The installation's own things: secret files, registry, images, and the services outside that it is told to use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from dml_infra import engine
from dml_infra.checks import Finding, failed, ok, warning
from dml_infra.checks.host import registry_of, services
from dml_infra.errors import EngineError, InfraError
from dml_infra.installation import Installation
from dml_infra.render import OPENMETADATA_TOKEN

# Given by people; everything else `dml infra secrets` makes.
FROM_PEOPLE = {
    "oidc_client_secret": "the identity provider's client secret",
    "portainer_api_key": "an API key of Portainer",  # pragma: allowlist secret
    "airbyte_client_secret": "the secret of Airbyte's application",
}
# Name of the setting, path that answers without signing in, secret file that goes with it.
OUTSIDE = (
    ("Airbyte", "DML_AIRBYTE_URL", "/api/public/v1/health"),
    ("OpenMetadata", "DML_OPENMETADATA_URL", "/api/v1/system/version"),
    ("Portainer", "DML_PORTAINER_URL", "/api/system/status"),
)


def check_secrets(installation: Installation) -> Iterator[Finding]:
    """Files that are there can be read by their owner only; those that people give are there."""
    files = sorted(p for p in installation.secrets.rglob("*") if p.is_file()) if installation.secrets.is_dir() else []
    wrong = 0
    for file in files:
        mode = file.stat().st_mode & 0o777
        name = file.relative_to(installation.secrets)
        if mode & 0o077:
            wrong += 1
            yield failed(f"{name} has mode {mode:03o}, others can read it", f"chmod 600 {file}")
        elif not file.stat().st_size:
            wrong += 1
            yield failed(f"{name} is empty", f"Give it a value, or remove it and run this again: {file}")
    for wanted in wanted_from_people(installation):
        if not (installation.secrets / wanted).is_file():
            wrong += 1
            yield failed(
                f"{wanted} is missing: {FROM_PEOPLE[wanted]}", f"Write it to {installation.secrets / wanted}, mode 600."
            )
    if not wrong:
        missing = [n for n in mounted_secrets(installation) if not (installation.secrets / n).is_file()]
        made = f", {len(missing)} are made by 'up'" if missing else ""
        yield ok(f"{len(files)} files, none readable by others{made}")


def mounted_secrets(installation: Installation) -> list[str]:
    """Names of the secret files that the switched-on services mount."""
    names: set[str] = set()
    for service in services(installation).values():
        names |= {secret["source"] for secret in service.get("secrets") or []}
    return sorted(names)


def wanted_from_people(installation: Installation) -> list[str]:
    """Secrets that nobody can make up, as far as the settings need them."""
    names = {name for name in mounted_secrets(installation) if name in FROM_PEOPLE}
    if installation.env.get("DML_DRIVER") == "portainer":
        names.add("portainer_api_key")
    if installation.env.get("DML_AIRBYTE_CLIENT_ID"):
        names.add("airbyte_client_secret")
    return sorted(names)


def check_registry(installation: Installation) -> Iterator[Finding]:
    """The list of code locations is valid, and Postgres has connections for all of them."""
    from dml_infra.registry import load_registry

    locations = load_registry(installation, check_budget=True)
    yield ok(f"{len(locations)} code locations; within the connections that Postgres allows")


def check_images(installation: Installation) -> Iterator[Finding]:
    """Every image is here or its registry has it."""
    from dml_infra.registry import load_registry

    core = {service["image"] for service in services(installation).values()}
    projects = {location.image for location in load_registry(installation, check_budget=False)}
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(sorted(core | projects), pool.map(_find_image, sorted(core | projects)), strict=True))
    for image, problem in found.items():
        if problem:
            fix = (
                f"docker build --file images/dagster/Dockerfile --tag {image} . or: docker pull {image}"
                if registry_of(image) is None
                else (
                    f"Correct the name or the access to {registry_of(image)} (docker login), or bring it: docker load."
                )
            )
            yield failed(f"{image} is neither here nor in its registry ({problem})", fix)
    loose = sorted(image for image in core if re.search(r"(:latest|^[^:@]*)$", image.rpartition("/")[2]))
    if loose:
        yield failed(f"no exact version: {', '.join(loose)}", "Give each image of .env a version or a digest.")
    if not any(found.values()):
        yield ok(f"{len(found)} images are here or can be pulled")


def check_outside(installation: Installation) -> Iterator[Finding]:
    """Airbyte, OpenMetadata and Portainer answer, and take our credentials, where the settings name them."""
    for name, variable, path in OUTSIDE:
        address = installation.env.get(variable, "").rstrip("/")
        if not address:
            continue
        try:
            answer = requests.get(address + path, timeout=5, verify=_authority(installation, name))
            if answer.status_code >= 400:
                yield failed(f"{address + path} answers {answer.status_code}", f"Is that {name}? Correct {variable}.")
                continue
            yield ok(f"{name} answers at {address}")
            yield from SIGN_IN[name](installation, address)
        except requests.RequestException as error:
            yield failed(
                f"{name} at {address} does not answer ({_root_cause(error)})", f"Start it, or correct {variable}."
            )


def _sign_in_to_airbyte(installation: Installation, address: str) -> Iterator[Finding]:
    identity, file = installation.env.get("DML_AIRBYTE_CLIENT_ID"), installation.secrets / "airbyte_client_secret"
    if not identity or not file.is_file():  # a missing file is what `check_secrets` says
        return
    body = {"client_id": identity, "client_secret": _read(file)}
    verify = _authority(installation, "Airbyte")
    answer = requests.post(f"{address}/api/public/v1/applications/token", json=body, timeout=10, verify=verify)
    if not answer.ok:
        fix = "Correct DML_AIRBYTE_CLIENT_ID and the secret airbyte_client_secret."
        yield failed(f"Airbyte gives no token ({answer.status_code})", fix)


def _sign_in_to_openmetadata(installation: Installation, address: str) -> Iterator[Finding]:
    """With the token of each project that pushes: a bot may be one project's."""
    folder = installation.secrets / "projects"
    files = {project: folder / project / OPENMETADATA_TOKEN for project in _pushing(installation)}
    if not files:
        fix = f"Write its bot's token to {folder}/NAME/{OPENMETADATA_TOKEN} and list that secret in the registry."
        yield warning(f"no project pushes to OpenMetadata: none has the secret {OPENMETADATA_TOKEN}", fix)
    verify = _authority(installation, "OpenMetadata")
    for project, file in files.items():
        if not file.is_file():
            yield failed(f"{project} has no token for OpenMetadata", f"Write its bot's token to {file}, mode 600.")
            continue
        token = {"Authorization": f"Bearer {_read(file)}"}
        answer = requests.get(f"{address}/api/v1/users/loggedInUser", headers=token, timeout=10, verify=verify)
        if not answer.ok:
            yield failed(
                f"OpenMetadata refuses the token of {project} ({answer.status_code})",
                f"Copy the bot's token anew and write it to {file}.",
            )


def _pushing(installation: Installation) -> list[str]:
    """Projects of the list that have a token; a list that is wrong is what `check_registry` says."""
    from dml_infra.registry import load_registry

    try:
        locations = load_registry(installation, check_budget=False)
    except InfraError:
        return []
    return [location.name for location in locations if OPENMETADATA_TOKEN in location.secrets]


def _sign_in_to_portainer(installation: Installation, address: str) -> Iterator[Finding]:
    file = installation.secrets / "portainer_api_key"
    if not file.is_file():
        return
    verify = _authority(installation, "Portainer")
    answer = requests.get(f"{address}/api/endpoints", headers={"X-API-Key": _read(file)}, timeout=10, verify=verify)
    if not answer.ok:
        fix = "Make a new key in Portainer and write it to the secret portainer_api_key."
        yield failed(f"Portainer refuses the API key ({answer.status_code})", fix)


SIGN_IN = {
    "Airbyte": _sign_in_to_airbyte,
    "OpenMetadata": _sign_in_to_openmetadata,
    "Portainer": _sign_in_to_portainer,
}


def _find_image(image: str) -> str | None:
    """What is wrong; None when it is here or can be pulled."""
    if engine.inspect("image", image):
        return None
    if registry_of(image) is None and "@" not in image:
        return "it is built on this machine"
    try:
        engine.docker("manifest", "inspect", *_insecure(image), image, timeout_s=20)
    except EngineError as error:
        return error.why.splitlines()[0][:160]
    return None


def _insecure(image: str) -> list[str]:
    host = registry_of(image) or ""
    return ["--insecure"] if host.startswith(("localhost", "127.")) else []


def _authority(installation: Installation, name: str) -> bool | str:
    return installation.env.get(f"DML_{name.upper()}_CA_FILE") or True


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _root_cause(error: BaseException) -> str:
    cause: Any = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^<[^>]*>: ", "", str(cause or error)).partition("(Caused")[0][:160]
