from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from dml_platform.core.settings import LakeSettings, Settings


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1, and a server's side of it."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


@pytest.fixture
def server_only(tmp_path: Path, object_store: str) -> Settings:
    """Settings whose warehouse is an object store; alerts need no database."""
    return Settings(
        home=tmp_path / "home",
        lake=LakeSettings(
            warehouse=f"s3://lake/{tmp_path.name}",
            s3_endpoint=object_store,
            s3_access_key_id="test-access-key",
            s3_secret_access_key=SecretStr("test-secret-key-4711"),  # pragma: allowlist secret
        ),
    )
