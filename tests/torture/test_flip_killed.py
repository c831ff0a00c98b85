"""A flip killed at every write-class system call leaves the old state or the new one, and says which."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma
from tests.torture.driver import NEW_EF, RUN_ID

FLIP = "tests.torture.driver"
SAMPLE = 10
SEED = 20261121


def flip_arguments(path: Path, *names: str) -> list[str]:
    return ["-m", FLIP, "flip", str(path), *names]


def recover_arguments(path: Path, how: str = "recover") -> list[str]:
    return ["-m", FLIP, how, str(path)]


def outcome(path: Path) -> dict[str, object]:
    """What ``done`` says of the run; an empty one when nothing was kept, which means that nothing was done."""
    file = path / ".chromaadmin" / "done" / f"{RUN_ID}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def judge(path: Path, before: crash.State, names: tuple[str, ...]) -> str:
    """``old``, ``new`` or ``partial`` by what an independent probe sees; fails the test for anything between."""
    after = crash.state(path)
    assert not after.strays, after.strays
    assert not after.journal
    flipped = [name for name in before.vector if after.vector[name] != before.vector[name]]
    for name in before.vector:
        assert after.ef[name] == (NEW_EF if name in flipped else before.ef[name]), f"{name} is between"
    trash = path / ".chromaadmin" / "trash" / RUN_ID
    kept = set(os.listdir(trash)) if trash.exists() else set()
    wanted = {before.vector[name] for name in flipped} | {f"undo-{names.index(name) + 1}.json" for name in flipped}
    assert kept == wanted, "the trash holds exactly what was replaced"
    done = outcome(path)
    steps = [step for step in done.get("steps", []) if step["state"] == "committed"]  # type: ignore[attr-defined]
    assert len(steps) == len(flipped), "the outcome names what was committed"
    if len(flipped) == len(names):
        assert (done["state"], done["effect_on_store"]) == ("succeeded", "complete")
        return "new"
    if flipped:
        assert (done["state"], done["effect_on_store"]) == ("failed", "partial")
        return "partial"
    assert not done or (done["state"], done["effect_on_store"]) == ("failed", "none")
    return "old"


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory, but the locks, whose text names the last holder."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("lock", "intent-lock")
    }


def points_of(path: Path, log: Path, *names: str) -> list[tuple[str, int]]:
    finished, calls = crash.trace(flip_arguments(path, *names), log)
    assert finished.status == 0, finished.output
    return [call.point for call in crash.writing(calls, path)]


def kill_flip(
    fresh: Callable[[], Path], log: Path, chroma: Chroma, points: list[tuple[str, int]], names: tuple[str, ...]
) -> Counter[str]:
    path = fresh()
    before, records = crash.state(path), chroma.digest(path)
    tally: Counter[str] = Counter()
    for point in points:
        path = fresh()
        assert crash.state(path) == before
        killed = crash.kill_at(flip_arguments(path, *names), point, log)
        # How many pages a commit writes depends on where the new UUID sorts: a run may end before its last points.
        assert killed.status in (-9, 0), f"{point}: {killed.output}"
        recovered = crash.run(recover_arguments(path))
        assert recovered.status == 0, f"{point}: {recovered.output}"
        seen = judge(path, before, names)
        tally[seen if killed.status else "unharmed"] += 1
        once = tree(path)
        for _ in range(2):
            assert crash.run(recover_arguments(path)).status == 0
        assert tree(path) == once, f"{point}: three recoveries are not one"
        assert chroma.digest(path) == records, f"{point}: the records differ"
    return tally


def test_a_sample_of_kill_points(fresh: Callable[[], Path], log: Path, chroma: Chroma) -> None:
    names = ("alpha",)
    points = points_of(fresh(), log, *names)
    assert len(points) > 80
    chosen = random.Random(SEED).sample(points, SAMPLE)
    chosen += [point for point in points if point[0] == "unlink"]  # the commit point itself
    tally = kill_flip(fresh, log, chroma, chosen, names)
    assert set(tally) <= {"old", "new", "unharmed"}
    assert tally["unharmed"] <= 2


@pytest.mark.torture
def test_every_kill_point_of_one_step(fresh: Callable[[], Path], log: Path, chroma: Chroma) -> None:
    names = ("alpha",)
    points = points_of(fresh(), log, *names)
    tally = kill_flip(fresh, log, chroma, points, names)
    print(f"\none step: {len(points)} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}


@pytest.mark.torture
def test_every_kill_point_of_two_steps(fresh: Callable[[], Path], log: Path, chroma: Chroma) -> None:
    names = ("alpha", "gamma")
    points = points_of(fresh(), log, *names)
    tally = kill_flip(fresh, log, chroma, points, names)
    print(f"\ntwo steps: {len(points)} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "partial", "new"}


def test_a_run_killed_in_its_second_step_keeps_the_first(fresh: Callable[[], Path], log: Path, chroma: Chroma) -> None:
    names = ("alpha", "gamma")
    path = fresh()
    finished, calls = crash.trace(flip_arguments(path, *names), log)
    assert finished.status == 0, finished.output
    intents = [call for call in crash.writing(calls, path) if "-2.json" in call.arguments and call.name == "renameat"]
    # the first rename after the one that makes the second step's intent visible
    later = next(call for call in crash.writing(calls, path)[crash.writing(calls, path).index(intents[0]) + 1 :])
    tally = kill_flip(fresh, log, chroma, [later.point], names)
    assert tally == {"partial": 1}


def crashed_before_and_after_commit(
    fresh: Callable[[], Path], log: Path, names: tuple[str, ...] = ("alpha",)
) -> list[tuple[str, int]]:
    """Two kill points: the unlink of the journal (old, hot journal) and the call after it (new, not retired)."""
    path = fresh()
    finished, calls = crash.trace(flip_arguments(path, *names), log)
    assert finished.status == 0, finished.output
    writes = crash.writing(calls, path)
    commit = next(index for index, call in enumerate(writes) if call.name == "unlink")
    return [writes[commit].point, writes[commit + 1].point]


def recovery_points(path: Path, log: Path, crashed: Path) -> list[tuple[str, int]]:
    copy_store(crashed, path)
    finished, calls = crash.trace(recover_arguments(path), log)
    assert finished.status == 0, finished.output
    return [call.point for call in crash.writing(calls, path)]


def copy_store(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


def kill_recovery(
    fresh: Callable[[], Path], log: Path, chroma: Chroma, tmp_path: Path, *, sample: int | None
) -> Counter[str]:
    names = ("alpha",)
    path = fresh()
    before, records = crash.state(path), chroma.digest(path)
    tally: Counter[str] = Counter()
    for point in crashed_before_and_after_commit(fresh, log):
        path = fresh()
        assert crash.kill_at(flip_arguments(path, *names), point, log).status == -9
        crashed = tmp_path / "crashed"
        copy_store(path, crashed)
        points = recovery_points(path, log, crashed)
        if sample is not None:
            points = random.Random(SEED).sample(points, sample)
        for again in points:
            copy_store(crashed, path)
            killed = crash.kill_at(recover_arguments(path), again, log)
            assert killed.status in (-9, 0), f"{again}: {killed.output}"
            assert crash.run(recover_arguments(path)).status == 0, again
            seen = judge(path, before, names)
            tally[seen if killed.status else "unharmed"] += 1
            assert chroma.digest(path) == records, again
    return tally


def test_a_sample_of_kill_points_of_the_recovery(
    fresh: Callable[[], Path], log: Path, chroma: Chroma, tmp_path: Path
) -> None:
    tally = kill_recovery(fresh, log, chroma, tmp_path, sample=3)
    assert tally["old"] <= 3
    assert tally["new"] <= 3
    assert tally["unharmed"] <= 1
    assert tally.total() == 6


@pytest.mark.torture
def test_every_kill_point_of_the_recovery(fresh: Callable[[], Path], log: Path, chroma: Chroma, tmp_path: Path) -> None:
    tally = kill_recovery(fresh, log, chroma, tmp_path, sample=None)
    print(f"\nrecovery: {tally.total()} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}


def test_chroma_writes_between_crash_and_recovery(fresh: Callable[[], Path], log: Path, chroma: Chroma) -> None:
    names = ("alpha",)
    before = crash.state(fresh())
    for point, wanted in zip(crashed_before_and_after_commit(fresh, log), ("old", "new"), strict=True):
        path = fresh()
        assert crash.kill_at(flip_arguments(path, *names), point, log).status == -9
        chroma.add(path, "alpha", "late", 700)  # past sync_threshold: Chroma persists the index and purges its WAL
        records = chroma.digest(path)
        assert records["alpha"]["count"] == 1550
        assert crash.run(recover_arguments(path)).status == 0
        assert judge(path, before, names) == wanted
        assert chroma.digest(path) == records
        chroma.add(path, "alpha", "later", 700)
        assert chroma.digest(path)["alpha"]["count"] == 2250


def test_chroma_deletes_the_collection_between_crash_and_recovery(
    fresh: Callable[[], Path], log: Path, chroma: Chroma
) -> None:
    for point, effect in zip(crashed_before_and_after_commit(fresh, log), ("none", "complete"), strict=True):
        path = fresh()
        assert crash.kill_at(flip_arguments(path, "alpha"), point, log).status == -9
        chroma.delete_collection(path, "alpha")
        records = chroma.digest(path)
        assert crash.run(recover_arguments(path)).status == 0
        assert outcome(path)["effect_on_store"] == effect
        assert chroma.digest(path) == records
