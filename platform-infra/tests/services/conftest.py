from __future__ import annotations

from collections.abc import Iterator

import pytest
from services.servers import Servers, run_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Postgres with passwords and MinIO, provisioned for two projects; gone after the session."""
    yield from run_servers()
