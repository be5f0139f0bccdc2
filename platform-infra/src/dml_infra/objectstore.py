"""The object store: buckets, and for each service and project a policy and its keys, through MinIO's admin API.

Everything else in the platform is plain S3; another store is used by making the same buckets, users and policies there.
The work is done by `python -m dml_infra.objectstore` in a short-lived container beside the store, which publishes no
port: a request as JSON on standard input, so that no key is an argument or a variable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlparse

from dml_infra import engine
from dml_infra.errors import InfraError, PermanentError, RetryableError
from dml_infra.installation import Installation
from dml_infra.secrets import S3Key, credentials_lock, read_s3_key, read_secret

BUCKETS = ("lake", "dagster", "landing", "backups")
ENDPOINT = "http://object-store:9000"
# Folders of a project, each with a line before its name, whose pages the proxy shows: config/caddy/Caddyfile.
PAGE_AREAS = ("report", "elementary")
# Takes a request and gives the answer; raises when the store refuses.
Store = Callable[[dict[str, Any]], dict[str, Any]]


def provision(installation: Installation, projects: Iterable[str], *, store: Store | None = None) -> None:
    """Bring the object store to the wanted state, idempotently; nothing is removed.

    Raises:
        InfraError: it does not answer or refused; running it again goes on.
    """
    with credentials_lock(installation):
        users = [_user("dagster", dagster_policy(), read_s3_key(installation, "dagster_aws_credentials"))]
        for name in projects:
            key = read_s3_key(installation, f"projects/{name}/aws_credentials")
            users.append(_user(f"project-{name}", project_policy(name), key))
        public = {"lake": pages_policy()}
        ask(installation, {"do": "apply", "buckets": list(BUCKETS), "public": public, "users": users}, store=store)


def drop_project(installation: Installation, name: str, *, store: Store | None = None) -> None:
    """Remove a project's keys and policy; its objects stay."""
    ask(installation, {"do": "drop", "policy": f"project-{name}"}, store=store)


def add_key(installation: Installation, policy: str, key: S3Key, *, store: Store | None = None) -> None:
    """Make a further key with a policy that is there."""
    ask(installation, {"do": "apply", "buckets": [], "users": [_user(policy, None, key)]}, store=store)


def remove_keys(installation: Installation, policy: str, *, keep: str, store: Store | None = None) -> list[str]:
    """Remove all keys of a policy but one. Returns: those that were removed."""
    answer = ask(installation, {"do": "retire", "policy": policy, "keep": keep}, store=store)
    return [str(name) for name in answer["removed"]]


def project_policy(project: str) -> dict[str, Any]:
    """A project writes its own tables, landing files and the logs of its runs, and reads what others published."""
    return _policy(
        # Of others only what may be read; names of objects below other prefixes cannot be listed.
        _allow(
            ["s3:ListBucket"],
            ["lake"],
            {"StringLike": {"s3:prefix": [f"{project}", f"{project}/*", "*/marts/*"]}},
        ),
        _allow(["s3:ListBucket"], ["landing"], {"StringLike": {"s3:prefix": [f"{project}", f"{project}/*"]}}),
        _allow(["s3:GetBucketLocation"], ["lake", "landing", "dagster"]),
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [f"lake/{project}/*", f"landing/{project}/*"]),
        _allow(
            ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], [f"lake/{project}/*", f"landing/{project}/*"]
        ),
        _allow(["s3:GetObject"], ["lake/*/marts/*"]),
        # A run leaves its log and cannot read or list the others'.
        _allow(["s3:PutObject", "s3:AbortMultipartUpload"], ["dagster/compute-logs/*"]),
    )


def reader_policy(project: str) -> dict[str, Any]:
    """What a project reads of the lake, without writing anything."""
    own = {"StringLike": {"s3:prefix": [f"{project}", f"{project}/*", "*/marts/*"]}}
    return _policy(
        _allow(["s3:ListBucket"], ["lake"], own),
        _allow(["s3:GetBucketLocation"], ["lake"]),
        _allow(["s3:GetObject"], [f"lake/{project}/*", "lake/*/marts/*"]),
    )


def set_reader(installation: Installation, project: str, key: S3Key, *, store: Store | None = None) -> None:
    """Make a key that only reads, and end the one before it."""
    user = _user(f"reader-{project}", reader_policy(project), key)
    ask(installation, {"do": "apply", "buckets": [], "users": [user]}, store=store)
    remove_keys(installation, f"reader-{project}", keep=key.access_key, store=store)


def drop_reader(installation: Installation, project: str, *, store: Store | None = None) -> None:
    """Remove that key; nothing where there is none."""
    ask(installation, {"do": "drop", "policy": f"reader-{project}"}, store=store)


def dagster_policy() -> dict[str, Any]:
    """Dagster's webserver and daemon show and tidy the logs of runs."""
    return _policy(
        _allow(["s3:ListBucket", "s3:GetBucketLocation"], ["dagster"]),
        _allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], ["dagster/*"]),
    )


def pages_policy() -> dict[str, Any]:
    """Pages of projects are given to whoever reaches the store: the proxy, behind its sign-in, and other projects."""
    statement = _allow(["s3:GetObject"], [f"lake/*/_{area}/*.html" for area in PAGE_AREAS])
    return _policy({**statement, "Principal": {"AWS": ["*"]}})


def ask(installation: Installation, request: dict[str, Any], *, store: Store | None = None) -> dict[str, Any]:
    """Send a request as the store's administrator.

    Raises:
        InfraError: it failed; the message holds no key.
    """
    root = {
        "access_key": read_secret(installation, "object_store_root_user"),
        "secret_key": read_secret(installation, "object_store_root_password"),
    }
    request = {"endpoint": ENDPOINT, "root": root, **request}
    answer = (store or container_store(installation))(request)
    if "error" in answer:
        kind = RetryableError if answer.get("retry") else PermanentError
        raise kind("cannot prepare the object store", str(answer["error"]), str(answer["fix"]))
    return answer


def container_store(installation: Installation) -> Store:
    """Requests through a container of Dagster's image on the core's network; it ends with the answer."""

    def run(request: dict[str, Any]) -> dict[str, Any]:
        options = ["run", "--rm", "--interactive", "--pull=never", f"--network={installation.network('control')}"]
        options += ["--user=10001:10001", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        options += ["--memory=256m", "--pids-limit=100", f"--label=dml.stack={installation.stack}"]
        command = [installation.env["DML_DAGSTER_IMAGE"], "python", "-m", "dml_infra.objectstore"]
        answer: dict[str, Any] = json.loads(engine.docker(*options, *command, stdin=json.dumps(request), timeout_s=120))
        return answer

    return run


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request says, where the store can be reached; a failure is an answer too."""
    # Only here: what calls from the host needs none of it.
    from minio.error import MinioAdminException, MinioException
    from urllib3.exceptions import HTTPError

    try:
        return _Admin(request).answer(request)
    except MinioAdminException as error:
        _, (status, body) = error.__reduce__()  # it has no attributes for them (minio 7.2)
        return {"error": f"it answered {status}: {_reason(body)}", "fix": _FIX}
    except MinioException as error:
        return {"error": f"it refused: {str(error).splitlines()[0][:300]}", "fix": _FIX}
    except HTTPError as error:
        return {"error": f"it does not answer ({type(error).__name__})", "fix": "Run it again.", "retry": True}


_FIX = "Check its log (docker logs) and the secrets object_store_root_*; then run it again."


class _Admin:
    """The store's administrator."""

    def __init__(self, request: dict[str, Any]) -> None:
        from minio import Minio, MinioAdmin
        from minio.credentials import StaticProvider

        address = urlparse(request["endpoint"])
        root, secure = request["root"], address.scheme == "https"
        self.admin = MinioAdmin(
            endpoint=address.netloc,
            credentials=StaticProvider(root["access_key"], root["secret_key"]),
            secure=secure,
        )
        self.client = Minio(address.netloc, access_key=root["access_key"], secret_key=root["secret_key"], secure=secure)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "apply":
            for bucket in request["buckets"]:
                if not self.client.bucket_exists(bucket_name=bucket):
                    self.client.make_bucket(bucket_name=bucket)
            for bucket, policy in request.get("public", {}).items():
                self.client.set_bucket_policy(bucket_name=bucket, policy=json.dumps(policy))
            for user in request["users"]:
                self._apply_user(**user)
            return {}
        if request["do"] == "check":
            self.admin.info()
            return {}
        owned = self._keys(request["policy"])
        removed = [key for key in owned if key != request.get("keep")]
        for key in removed:
            self.admin.user_remove(key)
        if request["do"] == "drop" and request["policy"] in json.loads(self.admin.policy_list()):
            self.admin.policy_remove(request["policy"])
        return {"removed": removed}

    def _apply_user(self, policy: str, document: dict[str, Any] | None, access_key: str, secret_key: str) -> None:
        if document is not None:
            self.admin.policy_add(policy_name=policy, policy=document)
        self.admin.user_add(access_key, secret_key)
        if access_key not in self._keys(policy):
            self.admin.attach_policy([policy], user=access_key)

    def _keys(self, policy: str) -> list[str]:
        users = json.loads(self.admin.user_list()) or {}
        return sorted(name for name, user in users.items() if policy in (user.get("policyName") or "").split(","))


def _user(policy: str, document: dict[str, Any] | None, key: S3Key) -> dict[str, Any]:
    return {"policy": policy, "document": document, "access_key": key.access_key, "secret_key": key.secret_key}


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: list[str], places: list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{place}" for place in places],
    }
    return statement | ({"Condition": condition} if condition else {})


def _reason(body: Any) -> str:
    try:
        return str(json.loads(body)["Message"])
    except (ValueError, TypeError, KeyError):
        return str(body)[:300]


def main() -> int:
    """Read a request, print the answer."""
    try:
        print(json.dumps(answer_request(json.load(sys.stdin))))
    except InfraError as error:
        print(json.dumps({"error": error.why, "fix": error.fix}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
