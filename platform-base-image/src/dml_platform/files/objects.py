"""Objects of the landing bucket: which there are, by path and ETag, and their content on this machine.

Reads only. An object is fetched as it was when it was listed, or not at all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
_WILDCARD = re.compile(r"[*?[]")
_SUFFIXES = re.compile(r"((\.[A-Za-z0-9]{1,10}){1,2})$")
_DENIED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_GONE = ("NoSuchKey", "404", "PreconditionFailed", "412")


@dataclass(frozen=True)
class FoundObject:
    """An object as it was listed; path and ETag are what it is known by."""

    uri: str
    etag: str
    size_bytes: int

    @property
    def identity(self) -> tuple[str, str]:
        """What a landed object is remembered by."""
        return self.uri, self.etag

    @property
    def suffix(self) -> str:
        """The name's last one or two extensions, e.g. ``.jsonl.gz``."""
        found = _SUFFIXES.search(self.uri.rsplit("/", 1)[-1])
        return found[1] if found else ""


class LandingBucket:
    """Reads objects with the lake's address and key. Close it after use."""

    def __init__(self, settings: Settings, ref: TableRef) -> None:
        self._settings = settings
        self._ref = ref
        self._client = _open(settings)

    def __enter__(self) -> LandingBucket:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def find(self, pattern: str) -> list[FoundObject]:
        """The objects that match ``s3://bucket/glob``, by name; ``**`` crosses folders. There may be none.

        Raises:
            ConfigError: there is no such bucket.
            PermanentError: the project may not read there.
            RetryableError: the object store does not answer.
        """
        bucket, _, glob = pattern.removeprefix(SCHEME).partition("/")
        wanted = re.compile(_translate(glob))
        wildcard = _WILDCARD.search(glob)
        prefix = glob[: wildcard.start()] if wildcard else glob
        found = []
        with self._errors(f"cannot list {SCHEME}{bucket}/{prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/") and wanted.fullmatch(entry["Key"]):
                        uri = f"{SCHEME}{bucket}/{entry['Key']}"
                        found.append(FoundObject(uri, entry["ETag"].strip('"'), entry["Size"]))
        return sorted(found, key=lambda one: one.uri)

    def fetch(self, found: FoundObject, path: Path) -> None:
        """Copy an object's content to a file.

        Raises:
            RetryableError: the object was replaced or removed since it was listed, or the store does not answer.
        """
        bucket, _, key = found.uri.removeprefix(SCHEME).partition("/")
        with self._errors(f"cannot land {found.uri!r} in {self._ref.dotted!r}"):
            answer = self._client.get_object(Bucket=bucket, Key=key, IfMatch=f'"{found.etag}"')
            with contextlib.closing(answer["Body"]) as body, path.open("wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)
        if path.stat().st_size != found.size_bytes:
            raise RetryableError(
                f"cannot land {found.uri!r} in {self._ref.dotted!r}",
                f"{path.stat().st_size:,} of its {found.size_bytes:,} bytes came",
                "Run it again.",
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._explain(what, error.response.get("Error", {})) from error
        except BotoCoreError as error:
            reason = str(error).split(":")[0]
            raise RetryableError(
                what, f"the object store does not answer ({reason})", "Check DML_LAKE__S3_ENDPOINT, then run it again."
            ) from error

    def _explain(self, what: str, error: Any) -> Exception:
        code = str(error.get("Code", ""))
        if code in _DENIED:
            place = f"s3://landing/{self._ref.project}/"
            return PermanentError(
                what,
                f"the object store does not let this project read there ({code})",
                f"A project reads below its own prefix, on the platform's server {place}; correct the path or the key.",
            )
        if code == "NoSuchBucket":
            return ConfigError(what, "there is no such bucket", "Correct the path in config/sources.yaml.")
        if code in _GONE:
            return RetryableError(what, "it was replaced or removed since it was listed", "Run it again.")
        return RetryableError(what, f"the object store refused ({code}: {error.get('Message', '')})", "Run it again.")


def _open(settings: Settings) -> S3Client:
    # Here because it takes a third of a second, which a project without objects need not wait.
    import boto3
    from botocore.config import Config

    key = settings.read_s3_key()
    lake = settings.lake
    return boto3.client(
        "s3",
        endpoint_url=lake.s3_endpoint,
        region_name=lake.s3_region,
        aws_access_key_id=key.access_key_id if key else None,
        aws_secret_access_key=key.secret_access_key.get_secret_value() if key else None,
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            s3={"addressing_style": "path"} if lake.s3_endpoint else {},
            # Not every store that speaks S3 sends checksums of its own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _translate(glob: str) -> str:
    """A glob as a regular expression: ``*`` and ``?`` stay in a folder, ``**/`` is any folders or none."""
    parts, position = [], 0
    while position < len(glob):
        if glob.startswith("**/", position):
            parts.append("(?:.*/)?")
            position += 3
        elif glob.startswith("**", position):
            parts.append(".*")
            position += 2
        elif glob[position] in "*?":
            parts.append("[^/]*" if glob[position] == "*" else "[^/]")
            position += 1
        elif glob[position] == "[" and (end := glob.find("]", position + 2)) > 0:
            inner = glob[position + 1 : end].replace("\\", r"\\")
            parts.append(f"[{'^' + inner[1:] if inner[0] == '!' else inner}]")
            position = end + 1
        else:
            parts.append(re.escape(glob[position]))
            position += 1
    return "".join(parts)
