"""The object store in a backup: copying what is new, finding what tables need, writing it back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from minio.datatypes import Object
from minio.error import S3Error

from dml_infra.backup.iceberg import TablePointer, table_files
from dml_infra.backup.manifest import StoredObject
from dml_infra.backup.target import PART, HashingReader, Target
from dml_infra.errors import CheckFailedError

# Mostly small files: the time goes into waiting for answers.
WORKERS = 8
# Backups of backups: a target may be this object store's own bucket.
SKIPPED = {"backups"}

Tick = Callable[[int, int, int], None]


def stored_name(stack: str, bucket: str, key: str, etag: str, size: int) -> str:
    """Where an object's content is kept: for one version of one object the same in every backup."""
    digest = hashlib.sha256("\0".join([bucket, key, etag, str(size)]).encode()).hexdigest()
    return f"{stack}/objects/{bucket}/{digest[:2]}/{digest}"


def list_store(store: Minio) -> list[Object]:
    """Every object, of all buckets that a backup keeps."""
    found: list[Object] = []
    for bucket in store.list_buckets():
        if bucket.name not in SKIPPED:
            found += [o for o in store.list_objects(bucket.name, recursive=True) if not o.is_dir]
    return found


def copy_objects(
    store: Minio, target: Target, stack: str, known: dict[str, StoredObject], tick: Tick
) -> tuple[list[StoredObject], int, int]:
    """Bring the target to what the object store has now.

    Args:
        store: the object store.
        target: where to.
        stack: the installation's name.
        known: objects by their stored name whose content the target has.
        tick: called with objects done, all objects, and bytes of each.

    Returns: all objects, and how many and how many bytes were copied.
    """
    there = list_store(store)
    done: list[StoredObject] = []
    todo: list[Object] = []
    for found in there:
        name = stored_name(stack, found.bucket_name, str(found.object_name), str(found.etag), int(found.size or 0))
        if name in known:
            done.append(known[name])
        else:
            todo.append(found)
    tick(len(done), len(there), 0)
    copied = copied_bytes = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="backup") as pool:
        futures = [pool.submit(_copy_one, store, target, stack, found) for found in todo]
        try:
            for future in as_completed(futures):
                record = future.result()
                if record is not None:
                    done.append(record)
                    known[record.stored] = record
                    copied += 1
                    copied_bytes += record.size
                tick(len(done), len(there), record.size if record else 0)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return sorted(done, key=lambda o: (o.bucket, o.key)), copied, copied_bytes


def _copy_one(store: Minio, target: Target, stack: str, found: Object) -> StoredObject | None:
    """Copy an object as it is now; nothing when it is gone: whether a table misses it is found out later."""
    bucket, key = found.bucket_name, str(found.object_name)
    try:
        answer = store.get_object(bucket, key)
    except S3Error as error:
        if error.code in {"NoSuchKey", "NoSuchBucket"}:
            return None
        raise
    try:
        etag = str(answer.headers["ETag"]).strip('"')
        size = int(answer.headers["Content-Length"])
        reader = HashingReader(answer)
        record = StoredObject(
            bucket,
            key,
            size,
            etag,
            "",
            stored_name(stack, bucket, key, etag, size),
            answer.headers.get("Content-Type", "application/octet-stream"),
        )
        target.put(record.stored, reader)
    finally:
        answer.close()
        answer.release_conn()
    if reader.size != size:
        target.delete(record.stored)
        raise CheckFailedError(
            f"cannot copy {bucket}/{key}", f"{reader.size} of {size} bytes came", "Run the backup again."
        )
    return replace(record, sha256=reader.sha256)


def missing_files(
    pointers: Iterable[TablePointer], sizes: dict[tuple[str, str], int], read: Callable[[str, str], bytes]
) -> tuple[dict[str, list[str]], int]:
    """Which files of tables are not there, by table, and the time of the newest commit in milliseconds.

    Args:
        pointers: the catalogue.
        sizes: what is there, by bucket and key.
        read: an object's content by bucket and key.
    """
    cache: dict[str, dict[str, int]] = {}
    missing: dict[str, list[str]] = {}
    newest = 0

    def load(location: str) -> bytes:
        address = split_location(location)
        if address not in sizes:
            raise FileNotFoundError(location)
        return read(*address)

    for pointer in pointers:
        files = table_files(pointer, load, cache)
        newest = max(newest, files.updated_ms)
        lost = dict(files.unreadable)
        for location, size in files.files.items():
            there = sizes.get(split_location(location))
            if there is None:
                lost[location] = "not there"
            elif size not in {-1, there}:
                lost[location] = f"{there} bytes instead of {size}"
        if lost:
            missing[pointer.identifier] = [f"{location} ({reason})" for location, reason in sorted(lost.items())]
    return missing, newest


def write_objects(store: Minio, target: Target, objects: list[StoredObject], tick: Tick) -> None:
    """Put all objects back and check each one's content on the way.

    Raises:
        CheckFailedError: a content is not as it was when the backup was made.
    """
    existing = {bucket.name for bucket in store.list_buckets()}
    for bucket in sorted({o.bucket for o in objects} - existing):
        store.make_bucket(bucket)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="restore") as pool:
        futures = [pool.submit(_write_one, store, target, found) for found in objects]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                tick(number, len(objects), future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _write_one(store: Minio, target: Target, found: StoredObject) -> int:
    with target.open(found.stored) as stream:
        reader = HashingReader(stream)
        length = found.size if found.size < PART else -1
        store.put_object(
            found.bucket,
            found.key,
            reader,  # type: ignore[arg-type]
            length,
            content_type=found.content_type,
            part_size=0 if length >= 0 else PART,
            num_parallel_uploads=1,
        )
    if reader.sha256 != found.sha256:
        raise CheckFailedError(
            f"cannot restore {found.bucket}/{found.key}", "its content is not as it was written", "Use another backup."
        )
    return found.size


def split_location(location: str) -> tuple[str, str]:
    """Bucket and key of an address; a bucket that no store has where it is none of an object store."""
    parts = urlsplit(location, allow_fragments=False)
    if parts.scheme not in {"s3", "s3a"}:
        return "", location
    key = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    return parts.netloc, key


def read_object(store: Minio, bucket: str, key: str) -> bytes:
    """A small object's content."""
    answer: Any = store.get_object(bucket, key)
    try:
        return bytes(answer.read())
    finally:
        answer.close()
        answer.release_conn()
