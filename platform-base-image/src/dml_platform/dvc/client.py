"""Calls DVC's program in its own environment, with the remote that the settings name.

DVC pins an ANTLR that breaks Dagster's reading of asset selections, so it is never imported here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dml_platform.core.environments import Progress, ensure_environment
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError, RetryableError
from dml_platform.core.settings import Settings

REQUIREMENTS = Path(__file__).parent / "requirements" / "dvc.txt"
SERVER_REMOTE = "server"
# Commands that take --remote: there the settings' remote stands in for the default one.
_WITH_REMOTE = frozenset({"push", "pull", "fetch"})
_UNREACHED = re.compile(
    r"could not connect|connection (refused|reset|error)|connect(ion)? timeout|timed out|temporary failure|unreachable",
    re.IGNORECASE,
)


class Dvc:
    """DVC in one project's folder.

    Args:
        root: the folder that has ``.dvc``.
        settings: name the program, or where it is installed on first use; and the remote.
        remote: address of a remote to use instead of the settings' or the project's own.
        progress: told what happens before steps that take seconds.
    """

    def __init__(
        self, root: Path, settings: Settings, *, remote: str | None = None, progress: Progress | None = None
    ) -> None:
        self.root = root
        self.settings = settings
        self.remote_url = remote or settings.dvc.remote_url
        self._progress = progress

    def program(self) -> Path:
        """DVC's program, installed on the first call.

        Raises:
            ConfigError: the program that the settings name is not there, or it cannot be installed.
            RetryableError: the package index cannot be reached.
        """
        if named := self.settings.dvc.program:
            if not os.access(named, os.X_OK):
                raise ConfigError(
                    "cannot run DVC", f"{named} is no program", "Correct DML_DVC__PROGRAM, or unset it to install DVC."
                )
            return named
        digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
        python = f"py{sys.version_info.major}.{sys.version_info.minor}"
        folder = self.settings.dvc.cache_dir / f"dvc-{digest}-{python}"
        locked = ["--require-hashes", "-r", str(REQUIREMENTS)]
        return (
            ensure_environment(
                folder,
                locked,
                python=sys.executable,
                label="DVC (once; it needs an environment of its own)",
                setting="DML_DVC__CACHE_DIR",
                progress=self._progress,
            )
            / "dvc"
        )

    def call(self, arguments: Sequence[str]) -> int:
        """Run a command as a person does, with this process's terminal. Returns: its exit code."""
        with self._environment() as environment:
            command = [str(self.program()), *self._with_remote(arguments)]
            here = Path.cwd()
            folder = here if here.is_relative_to(self.root) else self.root
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode

    def run(self, *arguments: str) -> str:
        """Run a command and give what it printed.

        Raises:
            RetryableError: the remote cannot be reached, or it took too long.
            PermanentError: it failed; in DVC's words.
        """
        what = f"cannot run 'dvc {' '.join(arguments)}'"
        limit = self.settings.dvc.timeout_s
        with self._environment() as environment:
            command = [str(self.program()), *self._with_remote(arguments)]
            try:
                done = subprocess.run(
                    command,
                    cwd=self.root,
                    env=environment,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=limit,
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
            except subprocess.TimeoutExpired as error:
                raise RetryableError(
                    what, f"it took longer than {limit:.0f} s", "Check the remote, or raise DML_DVC__TIMEOUT_S."
                ) from error
        if done.returncode != 0:
            raise _explain(what, done.stderr or done.stdout)
        return done.stdout

    def status(self) -> dict[str, list[Any]]:
        """What differs from the lock, by stage or ``.dvc`` file; empty when everything is up to date."""
        return _parsed(self.run("status", "--json"))

    def remote_status(self) -> dict[str, str]:
        """What the cache and the remote do not both have, by file: ``new``, ``deleted`` or ``missing``."""
        return _parsed(self.run("status", "--cloud", "--json"))

    def default_remote(self) -> tuple[str, str] | None:
        """Name and address of the remote that ``push`` and ``pull`` use; None where there is none."""
        if self.remote_url:
            return SERVER_REMOTE, self.remote_url
        listed = self.run("config", "--list").splitlines()
        values = dict(line.partition("=")[::2] for line in listed if "=" in line)
        name = values.get("core.remote")
        return (name, values.get(f"remote.{name}.url", "")) if name else None

    def _with_remote(self, arguments: Sequence[str]) -> list[str]:
        given = list(arguments)
        named = any(argument in ("-r", "--remote") or argument.startswith("--remote=") for argument in given)
        takes = given[:1] and (
            given[0] in _WITH_REMOTE or (given[0] == "status" and {"-c", "--cloud"} & set(given[1:]))
        )
        return [*given[:1], "--remote", SERVER_REMOTE, *given[1:]] if self.remote_url and takes and not named else given

    @contextmanager
    def _environment(self) -> Iterator[dict[str, str]]:
        """What DVC and the stages run in: this process's Python first, so that stages find the project's packages."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore"}
        if not self.remote_url:
            yield environment
            return
        # The remote is named in DVC's configuration of the machine: nothing is written into the project.
        with tempfile.TemporaryDirectory(prefix="dml-dvc-") as folder:
            lines = [f"['remote \"{SERVER_REMOTE}\"']", f"url = {self.remote_url}"]
            if self.remote_url.startswith("s3://"):
                lake = self.settings.lake
                if endpoint := self.settings.dvc.s3_endpoint or lake.s3_endpoint:
                    lines.append(f"endpointurl = {endpoint}")
                lines.append(f"region = {lake.s3_region}")
                if key := self.settings.read_s3_key():
                    environment["AWS_ACCESS_KEY_ID"] = key.access_key_id
                    environment["AWS_SECRET_ACCESS_KEY"] = key.secret_access_key.get_secret_value()
            Path(folder, "config").write_text("\n".join(lines) + "\n", encoding="utf-8")
            yield {**environment, "DVC_SYSTEM_CONFIG_DIR": folder}


def _parsed(output: str) -> Any:
    # A stage that DVC looks at may print a line before.
    return json.loads(output.strip().splitlines()[-1]) if output.strip() else {}


def _explain(what: str, output: str) -> PlatformError:
    lines = [re.sub(r"^ERROR:\s*(unexpected error - )?", "", line).strip() for line in output.splitlines()]
    text = " ".join(line for line in lines if line and "dvc.org/support" not in line)[-600:] or "DVC gave no reason"
    if _UNREACHED.search(text):
        return RetryableError(what, text, "Check the remote (DML_DVC__REMOTE_URL, or 'dml dvc remote list').")
    if "Unable to locate credentials" in text:
        return ConfigError(what, text, "Set the object store's key: DML_LAKE__S3_CREDENTIALS_FILE, or AWS's variables.")
    return PermanentError(what, text, "Correct it; 'dml dvc' and the same words show all that DVC says.")
