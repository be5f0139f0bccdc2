"""A deploy in a process of its own, to be killed."""

from pathlib import Path

from deploys.conftest import SmallCore

from dml_infra.deploy import deploy
from dml_infra.installation import Installation


def main(root: str, stack: str, image: str) -> None:
    """Deploy an image of `orders`."""
    folder = Path(root)
    installation = Installation(root=folder, env={}, state=folder / "state", stack=stack)
    deploy(installation, "orders", image, core=SmallCore(installation))
