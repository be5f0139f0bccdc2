"""`.ci/beside`: two commands at once, each output whole, no failure lost, nothing left after a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BESIDE = Path(__file__).parent.parent / ".ci" / "beside"
CLEANS_UP = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
folder = pathlib.Path(sys.argv[1])
try:
    (folder / "first").touch()
    time.sleep(60)
finally:
    time.sleep(0.3)
    print("cleaned up")
"""


def run_beside(first: list[str], second: list[str], *, every_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [str(BESIDE), *first, "--", *second]
    environment = {**os.environ, "BESIDE_EVERY_S": str(every_s)}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )


def shell(script: str, *arguments: str | Path) -> list[str]:
    return ["sh", "-c", script, "sh", *map(str, arguments)]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} never appeared"
        time.sleep(0.02)


@pytest.mark.parametrize(("first", "second", "exit_code"), [(0, 0, 0), (3, 0, 3), (0, 4, 4), (3, 4, 3)])
def test_it_fails_where_either_failed_and_runs_the_other_to_its_end(first: int, second: int, exit_code: int) -> None:
    for delays in ((0, 0.3), (0.3, 0)):
        done = run_beside(
            shell(f"sleep {delays[0]}; echo end of one; exit {first}"),
            shell(f"sleep {delays[1]}; echo end of two; exit {second}"),
        )
        assert done.returncode == exit_code, done.stdout
        assert done.stdout.count("\nend of one\n") == 1
        assert done.stdout.count("end of two\n") == 1


def test_they_run_at_the_same_time(tmp_path: Path) -> None:
    script = 'touch "$1/$2"; until [ -e "$1/$3" ]; do sleep 0.02; done'
    done = run_beside(shell(script, tmp_path, "one", "two"), shell(script, tmp_path, "two", "one"))
    assert done.returncode == 0, done.stdout


def test_the_seconds_lines_come_at_once_and_the_firsts_as_one_piece_after_them(tmp_path: Path) -> None:
    first = shell('echo one; touch "$1/said"; until [ -e "$1/over" ]; do sleep 0.02; done; echo >&2 more', tmp_path)
    second = shell('until [ -e "$1/said" ]; do sleep 0.02; done; echo two; sleep 0.5; touch "$1/over"', tmp_path)
    done = run_beside(first, second, every_s=0.1)
    seen, _, kept = done.stdout.partition("printed:\n")
    assert "two\n" in seen
    assert seen.count(": one\n") >= 2, "it says now and then how far the first is"
    assert kept.startswith("one\nmore\n== end of what")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_both_with_their_children_after_they_cleaned_up(tmp_path: Path, name: str) -> None:
    first = [sys.executable, "-c", CLEANS_UP, str(tmp_path)]
    second = shell('sh -c "echo \\$\\$ >$1/child; exec sleep 60"; echo too far', tmp_path)
    with subprocess.Popen([str(BESIDE), *first, "--", *second], stdout=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "first", tmp_path / "child")
        number = getattr(signal, name)
        process.send_signal(number)
        printed = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, printed
    assert "\ncleaned up\n" in printed
    assert "\ntoo far" not in printed
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    assert not child.exists() or child.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_is_asked_wrongly_is_refused() -> None:
    for arguments in ([], ["true"], ["true", "--"], ["--", "true"]):
        done = subprocess.run([str(BESIDE), *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: .ci/beside" in done.stderr


def test_a_command_that_is_not_there_fails() -> None:
    done = run_beside(["no-such-command"], ["true"])
    assert done.returncode == 127
    assert "no-such-command: command not found" in done.stdout
