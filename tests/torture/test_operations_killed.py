"""``hnsw rebuild`` and ``run undo`` themselves, from the command line, killed at their write-class system calls."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma

SEED = 20261123
SAMPLE = 3
Arguments = Callable[[Path], list[str]]


def rebuild_arguments(path: Path) -> list[str]:
    options = ["-c", "alpha", "--ef-search", "77", "--num-threads", "1", "--yes", "--json"]
    return ["-m", "ops", "hnsw", "rebuild", str(path), *options]


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
    assert len(points) > 60
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
        flipped = after.vector["alpha"] != before.vector["alpha"]
        assert after.ef["alpha"] == efs[flipped], f"{point}: between"
        assert {**after.vector, "alpha": ""} == {**before.vector, "alpha": ""}
        if not flipped:
            assert names(path / ".chromaadmin" / "trash") == trash, f"{point}: the trash is not what it was"
        for run in json.loads(recovered.output)["result"]["runs"]:
            assert run["effect_on_store"] == ("complete" if flipped else "none"), point
        assert chroma.digest(path) == records, f"{point}: the records differ"
        tally["unharmed" if killed.status == 0 else "new" if flipped else "old"] += 1
    return tally


def copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


def names(directory: Path) -> list[str]:
    return sorted(str(entry.relative_to(directory)) for entry in directory.rglob("*"))


def undo_ready(fresh: Callable[[], Path], ready: Path) -> list[str]:
    """A store with a rebuild to undo, copied to ``ready``; the command that undoes it."""
    path = fresh()
    rebuilt = crash.run(rebuild_arguments(path))
    assert rebuilt.status == 0, rebuilt.output
    copy(path, ready)
    return ["-m", "ops", "run", "undo", str(path), "--run", str(rebuilt.answer["run_id"]), "--yes", "--json"]


def test_a_sample_of_a_rebuild(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    path = fresh()
    tally = kill(chroma, log, path, original, rebuild_arguments(path), (100, 77), SAMPLE)
    assert tally.total() == SAMPLE


def test_a_sample_of_an_undo(fresh: Callable[[], Path], tmp_path: Path, log: Path, chroma: Chroma) -> None:
    arguments = undo_ready(fresh, tmp_path / "ready")
    tally = kill(chroma, log, tmp_path / "store", tmp_path / "ready", arguments, (77, 100), SAMPLE)
    assert tally.total() == SAMPLE


@pytest.mark.torture
def test_every_point_of_a_rebuild(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    path = fresh()
    tally = kill(chroma, log, path, original, rebuild_arguments(path), (100, 77), None)
    print(f"\nhnsw rebuild: {tally.total()} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}


@pytest.mark.torture
def test_every_point_of_an_undo(fresh: Callable[[], Path], tmp_path: Path, log: Path, chroma: Chroma) -> None:
    arguments = undo_ready(fresh, tmp_path / "ready")
    tally = kill(chroma, log, tmp_path / "store", tmp_path / "ready", arguments, (77, 100), None)
    print(f"\nrun undo: {tally.total()} kill points, {dict(tally)}, 0 between")
    assert set(tally) - {"unharmed"} == {"old", "new"}
