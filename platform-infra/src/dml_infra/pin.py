"""Pin images: ask the registries what each tag of `.env` is now, and write the digests there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from dml_infra import engine
from dml_infra.checks.host import registry_of
from dml_infra.errors import EngineError, RetryableError
from dml_infra.installation import Installation

_DIGEST = re.compile(r"^Digest:\s+(sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """One image setting. ``digest`` is None where there is nothing to ask: ``note`` says why."""

    variable: str
    image: str
    digest: str | None
    note: str = ""

    @property
    def pinned(self) -> str:
        """The image with its digest; the tag stays for people."""
        return f"{self.image.partition('@')[0]}@{self.digest}" if self.digest else self.image


def resolve(installation: Installation) -> list[Pin]:
    """Ask for every image of the settings, `NAME_IMAGE`.

    Raises:
        RetryableError: a registry was not reached, or does not have an image; nothing was written.
    """
    pins: list[Pin] = []
    problems: list[str] = []
    for variable, image in sorted(installation.env.items()):
        if not (variable.startswith("DML_") and variable.endswith("_IMAGE") and image):
            continue
        if registry_of(image) is None:
            pins.append(Pin(variable, image, None, "built here, no registry has it"))
            continue
        tag = image.partition("@")[0]
        try:
            shown = engine.docker("buildx", "imagetools", "inspect", tag, timeout_s=60)
        except EngineError as error:
            problems.append(f"{tag}: {error.why.splitlines()[-1][:160]}")
            continue
        match = _DIGEST.search(shown)
        if match:
            pins.append(Pin(variable, image, match[1]))
        else:
            problems.append(f"{tag}: the registry gave no digest")
    if problems:
        raise RetryableError(
            "cannot pin the images",
            "\n  ".join([f"{len(problems)} could not be asked for", *problems]),
            "Run it where the registries are reached and copy the lines to .env; nothing was written.",
        )
    return pins


def write_pins(installation: Installation, pins: list[Pin]) -> list[Pin]:
    """Write the digests to `.env`, each in its own line; everything else there stays as it is.

    Returns: those that changed.
    """
    file = installation.env_file
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    changed = [pin for pin in pins if pin.digest and pin.pinned != installation.env.get(pin.variable)]
    for pin in changed:
        line = f"{pin.variable}={pin.pinned}"
        places = [n for n, old in enumerate(lines) if re.match(rf"\s*(export\s+)?{pin.variable}\s*=", old)]
        if places:
            lines[places[0]] = line
        else:
            lines.append(line)
    if changed:
        draft = file.with_name(".env.next")
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if file.is_file():
            draft.chmod(file.stat().st_mode & 0o777)
        os.replace(draft, file)
    return changed
