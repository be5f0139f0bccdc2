"""All checks before anything changes: one line for each failure, with its fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.console import Console

from dml_infra.checks import Check, Finding, contents, failed, host, network, unchecked
from dml_infra.errors import CheckFailedError, InfraError
from dml_infra.installation import Installation

CHECKS: dict[str, Check] = {
    "engine": host.check_engine,
    "rights": host.check_rights,
    "memory": host.check_memory,
    "disk": host.check_disk,
    "ports": network.check_ports,
    "name": network.check_dns,
    "clock": host.check_clock,
    "secrets": contents.check_secrets,
    "registry": contents.check_registry,
    "networks": network.check_address_pools,
    "images": contents.check_images,
    "outside": contents.check_outside,
}
# What most others ask: without it they would only repeat the same failure.
NEEDED_BY_OTHERS = "engine"
WITHOUT_ENGINE = {"rights", "name", "secrets", "registry", "outside"}
_MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED", "not checked": "not checked"}


@dataclass(frozen=True)
class Result:
    """A finding and the check that it is of."""

    check: str
    finding: Finding


def run_checks(installation: Installation, *, only: tuple[str, ...] = ()) -> list[Result]:
    """Run all checks, or those named; an error of one is a finding and does not stop the others."""
    results: list[Result] = []
    for name, check in CHECKS.items():
        if only and name not in only:
            continue
        if (
            any(r.check == NEEDED_BY_OTHERS and r.finding.state == "failed" for r in results)
            and name not in WITHOUT_ENGINE
        ):
            results.append(Result(name, unchecked("needs the engine")))
            continue
        try:
            results += [Result(name, finding) for finding in check(installation)]
        except InfraError as error:
            results += [Result(name, finding) for finding in _as_findings(error)]
    return results


def show(console: Console, results: list[Result]) -> None:
    """Print one line for each finding."""
    for result in results:
        finding = result.finding
        line = f"{_MARKS[finding.state]:<11} {result.check:<9} {finding.text}"
        if finding.fix:
            line += f". {finding.fix}"
        style = {"failed": "red", "warning": "yellow", "not checked": "dim"}.get(finding.state)
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def preflight(installation: Installation, console: Console) -> None:
    """Check all, print it, and refuse to go on if anything failed.

    Raises:
        CheckFailedError: at least one check failed.
    """
    results = run_checks(installation)
    show(console, results)
    broken = sorted({result.check for result in results if result.finding.state == "failed"})
    if broken:
        raise CheckFailedError(
            f"the server in {installation.root} cannot be started",
            f"failed: {', '.join(broken)}; nothing was changed",
            "Mend what the lines above say and run it again.",
        )


def _as_findings(error: InfraError) -> list[Finding]:
    """An error with a line for each mistake, such as the registry's, is a line for each."""
    first, *mistakes = error.why.splitlines()
    lines = mistakes if mistakes and re.fullmatch(r"\d+ mistakes?", first) else [f"{error.what}: {error.why}"]
    return [failed(line.strip().rstrip("."), error.fix) for line in lines]
