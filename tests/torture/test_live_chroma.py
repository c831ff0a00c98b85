"""A Chroma that has the store open, or opens it in mid-run: refused or left alone, and no record is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma
from tests.torture.driver import RUN_ID
from tests.torture.test_flip_killed import flip_arguments, judge, recover_arguments


@contextmanager
def paused(path: Path, moment: str) -> Iterator[subprocess.Popen[str]]:
    """A flip that waits for a line at a moment; it is there when this yields."""
    process = subprocess.Popen(
        [sys.executable, *flip_arguments(path, "alpha")],
        cwd=crash.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TORTURE_PAUSE": moment},
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str]) -> tuple[int, dict[str, object]]:
    output, _ = process.communicate("\n", timeout=60)
    return process.returncode, json.loads(output.strip().splitlines()[-1])


@contextmanager
def client(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = Chroma.hold(path)
    try:
        yield process
    finally:
        process.communicate(timeout=60)


def ask(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_a_client_that_has_it_open_is_named(fresh: Callable[[], Path]) -> None:
    path = fresh()
    before = crash.state(path)
    with client(path) as process:
        refused = crash.run(flip_arguments(path, "alpha"))
        assert (refused.status, refused.answer["code"]) == (3, "IN_USE")
        assert f"pid {process.pid}" in str(refused.answer["message"])
        assert judge(path, before, ("alpha",)) == "old"
    assert crash.run(flip_arguments(path, "alpha")).status == 0


@pytest.mark.parametrize("moment", ["build", "gate"])
def test_a_client_that_comes_before_the_commit_stops_it(fresh: Callable[[], Path], chroma: Chroma, moment: str) -> None:
    path = fresh()
    before = crash.state(path)
    with paused(path, moment) as run, client(path) as process:
        ask(process, "alpha late 700")
        status, answer = go_on(run)
        # Its index files changed too; which of all this is noticed first does not matter.
        assert status in (1, 3)
        assert answer["code"] in ("IN_USE", "PLAN_CHANGED", "VERIFICATION_FAILED")
        assert crash.state(path).vector == before.vector
    assert judge(path, before, ("alpha",)) == "old"
    assert chroma.digest(path)["alpha"]["count"] == 1550


@pytest.mark.parametrize("moment", ["build", "gate"])
def test_a_client_that_came_wrote_and_left_stops_it(fresh: Callable[[], Path], chroma: Chroma, moment: str) -> None:
    path = fresh()
    before = crash.state(path)
    with paused(path, moment) as run:
        chroma.add(path, "alpha", "late", 700)
        _, answer = go_on(run)
    assert answer["code"] in ("PLAN_CHANGED", "VERIFICATION_FAILED")
    assert judge(path, before, ("alpha",)) == "old"
    assert chroma.digest(path)["alpha"]["count"] == 1550


def test_a_client_that_comes_between_the_last_scan_and_the_retiring_keeps_its_files(
    fresh: Callable[[], Path], chroma: Chroma
) -> None:
    path = fresh()
    before = crash.state(path)
    with paused(path, "transaction") as run:
        process = Chroma.hold(path, wait=False)
        opened = path / "chroma.sqlite3"
        deadline = time.monotonic() + 30
        while not _has_open(process.pid, opened):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        status, _ = go_on(run)
        assert status == 0
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        after = crash.state(path)
        assert after.vector["alpha"] != before.vector["alpha"]
        assert before.vector["alpha"] in after.directories, "left in place"
        ask(process, "alpha late 700")
        process.communicate(timeout=60)
    assert chroma.digest(path)["alpha"]["count"] == 1550
    chroma.add(path, "alpha", "later", 600)
    assert chroma.digest(path)["alpha"] | {"sha256": ""} == {"count": 2150, "self_hits": 1.0, "sha256": ""}


def test_sigterm_while_staging_leaves_nothing(fresh: Callable[[], Path]) -> None:
    path = fresh()
    before = crash.state(path)
    with paused(path, "build") as run:
        run.send_signal(signal.SIGTERM)
        status, answer = go_on(run)
    assert (status, answer["code"]) == (4, "CANCELLED")
    assert judge(path, before, ("alpha",)) == "old"


def test_sigterm_after_the_commit_is_too_late(fresh: Callable[[], Path]) -> None:
    path = fresh()
    before = crash.state(path)
    with paused(path, "committed") as run:
        run.send_signal(signal.SIGTERM)
        status, _ = go_on(run)
    assert status == 0
    assert judge(path, before, ("alpha",)) == "new"


def test_a_second_run_is_told_who_holds_the_lock(fresh: Callable[[], Path]) -> None:
    path = fresh()
    with paused(path, "build") as run:
        second = crash.run(flip_arguments(path, "gamma"))
        assert (second.status, second.answer["code"]) == (3, "LOCKED")
        assert f"pid {run.pid}" in str(second.answer["message"])
        assert RUN_ID in str(second.answer["message"])
        recovery = crash.run(recover_arguments(path))
        assert (recovery.status, recovery.answer["code"]) == (3, "LOCKED")
        assert go_on(run)[0] == 0


def _has_open(pid: int, path: Path) -> bool:
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.path.samefile(f"/proc/{pid}/fd/{name}", path):
                return True
        except OSError:
            continue
    return False
