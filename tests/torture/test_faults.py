"""A disk that is full or broken at any write-class system call: the run fails, nothing is lost or left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma
from tests.torture.test_flip_killed import flip_arguments, judge, points_of, recover_arguments

SEED = 20261122
NAMES = ("alpha",)
# Reading the attributes of a file system without them answers so; it is no fault.
_HARMLESS = {"fremovexattr"}


def inject(
    fresh: Callable[[], Path],
    log: Path,
    chroma: Chroma,
    points: list[tuple[str, int]],
    error: str,
    *,
    ever: bool,
) -> Counter[str]:
    path = fresh()
    before, records = crash.state(path), chroma.digest(path)
    tally: Counter[str] = Counter()
    for point in points:
        path = fresh()
        ended = crash.fail_at(flip_arguments(path, *NAMES), point, error, log, ever=ever)
        assert ended.status in (0, 1, 3), f"{error} at {point}: {ended.output}"
        assert "Traceback" not in ended.output, f"{error} at {point}: {ended.output}"
        recovered = crash.run(recover_arguments(path))
        assert recovered.status == 0, f"{error} at {point}: {recovered.output}"
        after = crash.state(path)
        assert not after.strays, f"{error} at {point}: {after.strays}"
        state = "new" if after.vector != before.vector else "old"
        if state == "old":
            assert judge(path, before, NAMES) == "old", point
            assert ended.status != 0, f"{error} at {point}: a run that did nothing said that it succeeded"
        elif ended.status == 0:
            assert judge(path, before, NAMES) == "new", point
        tally[f"{state}, exit {ended.status}"] += 1
        assert chroma.digest(path) == records, f"{error} at {point}"
    return tally


def faulty(path: Path, log: Path) -> list[tuple[str, int]]:
    return [point for point in points_of(path, log, *NAMES) if point[0] not in _HARMLESS]


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_sample_of_faults(fresh: Callable[[], Path], log: Path, chroma: Chroma, error: str) -> None:
    points = faulty(fresh(), log)
    chosen = random.Random(f"{SEED}{error}").sample(points, 5)
    chosen += [point for point in points if point[0] in ("unlink", "fdatasync")][-3:]
    inject(fresh, log, chroma, chosen, error, ever=False)


@pytest.mark.torture
@pytest.mark.parametrize("ever", [False, True])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_every_fault(fresh: Callable[[], Path], log: Path, chroma: Chroma, error: str, ever: bool) -> None:
    points = faulty(fresh(), log)
    tally = inject(fresh, log, chroma, points, error, ever=ever)
    print(f"\n{error} {'from then on' if ever else 'once'}: {len(points)} points, {dict(tally)}")


def test_a_failing_run_leaves_no_stray_file_itself(fresh: Callable[[], Path], log: Path) -> None:
    """Without a recovery: a fault that comes and goes is rolled back by the run that met it."""
    path = fresh()
    before = crash.state(path)
    finished, calls = crash.trace(flip_arguments(path, *NAMES), log)
    assert finished.status == 0, finished.output
    syncs = [call.point for call in crash.writing(calls, path) if call.name == "fsync" and "stage/" in call.arguments]
    path = fresh()
    ended = crash.fail_at(flip_arguments(path, *NAMES), syncs[2], "EIO", log)
    assert (ended.status, ended.answer["code"]) == (1, "IO_FAILED"), ended.output
    after = crash.state(path)
    assert (after.vector, after.strays, after.directories) == (before.vector, (), before.directories)
