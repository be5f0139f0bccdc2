"""Runs the publisher: a request as JSON in, an answer as JSON out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dml_platform.core.environments import Progress, ensure_environment, is_installed
from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.settings import Settings

# Beside this package in the wheel and in the tree.
SOURCE = Path(__file__).parents[2] / "dml_openmetadata"
REQUIREMENTS = SOURCE / "requirements" / "run.txt"
# Only this one package of ours is to be seen there: all others beside it were made for this environment.
_START = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "dml_openmetadata", folder + "/__init__.py", submodule_search_locations=[folder]
)
package = importlib.util.module_from_spec(spec)
sys.modules["dml_openmetadata"] = package
spec.loader.exec_module(package)
from dml_openmetadata.__main__ import main
sys.exit(main())
"""
# To start and to end, besides what the settings allow for the requests.
_MARGIN_S = 120.0


def ensure_publisher(settings: Settings, progress: Progress | None = None) -> list[str]:
    """The publisher's command, installed on first use; never in a container, which would do it again in each run.

    Raises:
        ConfigError: the program that the settings name is not there, it cannot be installed, or this image has none.
        RetryableError: the package index cannot be reached.
    """
    if named := settings.openmetadata.program:
        if not os.access(named, os.X_OK):
            raise ConfigError(
                "cannot run the publisher to OpenMetadata",
                f"{named} is no program",
                "Correct DML_OPENMETADATA__PROGRAM, or unset it to install the publisher.",
            )
        return [str(named)]
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = settings.openmetadata.cache_dir / f"publisher-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    if settings.image and not is_installed(folder):
        raise ConfigError(
            "cannot push to OpenMetadata",
            f"the publisher is not in this image (nothing at {folder})",
            "Build the project's image with --build-arg OPENMETADATA=yes, then deploy it.",
        )
    programs = ensure_environment(
        folder,
        ["--require-hashes", "-r", str(REQUIREMENTS)],
        python=sys.executable,
        label="the publisher to OpenMetadata (once; it needs an environment of its own)",
        setting="DML_OPENMETADATA__CACHE_DIR",
        progress=progress,
    )
    return [str(programs / "python"), "-I", "-W", "ignore", "-c", _START, str(SOURCE)]


def call(
    settings: Settings, command: Sequence[str], request: Mapping[str, Any], progress: Progress | None = None
) -> dict[str, Any]:
    """Give the publisher a request.

    Args:
        command: what :func:`ensure_publisher` gave.
    Returns: its answer.
    Raises:
        RetryableError: it took too long.
        PermanentError: it ended without an answer; its last words.
    """
    what = "cannot push to OpenMetadata"
    if progress:
        progress("comparing with OpenMetadata")
    limit = settings.openmetadata.timeout_s + _MARGIN_S
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RetryableError(
            what, f"it took longer than {limit:.0f} s", "Check the server, or raise DML_OPENMETADATA__TIMEOUT_S."
        ) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = " ".join(done.stderr.split())[-500:] or "it said nothing"
        raise PermanentError(what, f"the publisher ended with {done.returncode}: {said}", "Report this.") from None
    if not isinstance(answer, dict):
        raise PermanentError(what, "the publisher's answer is none", "Check DML_OPENMETADATA__PROGRAM.")
    return answer
