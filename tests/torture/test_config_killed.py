"""``hnsw config`` and its undo, steps that change rows only, killed at their write-class system calls."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma
from tests.torture.test_operations_killed import copy, names

SEED = 20261124
SAMPLE = 4


def config_arguments(path: Path) -> list[str]:
    return ["-m", "ops", "hnsw", "config", str(path), "-c", "alpha", "--ef-search", "77", "--yes", "--json"]


def kill(
    chroma: Chroma, log: Path, path: Path, ready: Path, arguments: list[str], efs: tuple[int, int], sample: int | None
) -> Counter[str]:
    """Kill a command at its points on copies of ``ready``; ``efs`` are ef_search of alpha before and after it."""
    copy(ready, path)
    before, records = crash.state(path), chroma.digest(path)
    copy(ready, path)
    trash = names(path / ".chromaadmin" / "trash")
    finished, calls = crash.trace(arguments, log)
    assert finished.status == 0, finished.output
    points = [call.point for call in crash.writing(calls, path)]
    assert len(points) > 30
    if sample is not None:
        points = random.Random(SEED).sample(points, sample)
    tally: Counter[str] = Counter()
    for point in points:
        copy(ready, path)
        killed = crash.kill_at(arguments, point, log)
        assert killed.status in (-9, 0), f"{point}: {killed.output}"
        recovered = crash.run(["-m", "ops", "recover", str(path), "--json"])
        assert recovered.status == 0, f"{point}: {recovered.output}"
        after = crash.state(path)
        assert not after.strays, f"{point}: {after.strays}"
        assert not after.journal
        assert after.vector == before.vector
        changed = after.ef["alpha"] != before.ef["alpha"]
        assert after.ef["alpha"] == efs[changed], f"{point}: between"
        assert (names(path / ".chromaadmin" / "trash") != trash) == changed, f"{point}: the trash"
        for run in json.loads(recovered.output)["result"]["runs"]:
            assert run["effect_on_store"] == ("complete" if changed else "none"), point
        assert chroma.digest(path) == records, f"{point}: the records differ"
        tally["unharmed" if killed.status == 0 else "new" if changed else "old"] += 1
    return tally


def undo_ready(fresh: Callable[[], Path], ready: Path) -> list[str]:
    """A store with a change to undo, copied to ``ready``; the command that undoes it."""
    path = fresh()
    changed = crash.run(config_arguments(path))
    assert changed.status == 0, changed.output
    copy(path, ready)
    return ["-m", "ops", "run", "undo", str(path), "--run", str(changed.answer["run_id"]), "--yes", "--json"]


def test_a_sample_of_a_change(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    path = fresh()
    assert kill(chroma, log, path, original, config_arguments(path), (100, 77), SAMPLE).total() == SAMPLE


@pytest.mark.torture
def test_every_point_of_a_change(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    path = fresh()
    tally = kill(chroma, log, path, original, config_arguments(path), (100, 77), None)
    print(f"\nhnsw config: {tally.total()} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}


@pytest.mark.torture
def test_every_point_of_its_undo(fresh: Callable[[], Path], tmp_path: Path, log: Path, chroma: Chroma) -> None:
    arguments = undo_ready(fresh, tmp_path / "ready")
    tally = kill(chroma, log, tmp_path / "store", tmp_path / "ready", arguments, (77, 100), None)
    print(f"\nundo of hnsw config: {tally.total()} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}
