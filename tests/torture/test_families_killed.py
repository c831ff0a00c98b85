"""``hnsw rebuild`` and ``run undo`` on stores of releases before 1.0, killed at their write-class system calls."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests import environments
from tests.ops import stores
from tests.ops.releases import Release, Seen
from tests.torture import crash

SEED = 20261127
SAMPLE = 2
NAMES = ("0.4.24", "0.6.3")
State = tuple[str, dict[str, object], frozenset[str]]


def rebuild_arguments(path: Path) -> list[str]:
    options = ["-c", "by-l2", "--ef-search", "77", "--m", "6", "--num-threads", "1", "--yes", "--json"]
    return ["-m", "ops", "hnsw", "rebuild", str(path), *options]


def state(path: Path) -> State:
    """Segment of by-l2, its configuration in both places, and all directories, as a plain reader sees them."""
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        collection, segment = connection.execute(
            "SELECT c.id, s.id FROM collections c JOIN segments s ON s.collection = c.id"
            " WHERE s.scope = 'VECTOR' AND c.name = 'by-l2'"
        ).fetchone()
        used = "SELECT key, int_value, str_value FROM segment_metadata WHERE segment_id = ? ORDER BY key"
        shown = "SELECT key, int_value, str_value FROM collection_metadata WHERE collection_id = ? ORDER BY key"
        rows: dict[str, object] = {
            "segment": connection.execute(used, (segment,)).fetchall(),
            "collection": connection.execute(shown, (collection,)).fetchall(),
        }
        current = {row[0] for row in connection.execute("SELECT id FROM segments WHERE scope = 'VECTOR'")}
    finally:
        connection.close()
    assert rows["segment"] == rows["collection"], "what Chroma uses and what it shows agree"
    assert len(os.listdir(path / segment)) == 5, "the current index is whole"
    assert not (path / "chroma.sqlite3-journal").exists()
    assert not crash._strays(path, current), crash._strays(path, current)
    return segment, rows, frozenset(name for name in os.listdir(path) if crash.UUID.fullmatch(name))


def copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


def records(chroma: Release, path: Path) -> dict[str, tuple[object, ...]]:
    """What the release that wrote the store sees of its records."""
    scratch = path.parent / "scratch"
    copy(path, scratch)
    found: dict[str, Seen] = chroma.look(scratch)
    return {key: (one.ids, one.documents, one.metadatas, one.embeddings) for key, one in found.items()}


def kill(chroma: Release, log: Path, path: Path, ready: Path, arguments: list[str], sample: int | None) -> Counter[str]:
    """Kill a command at its points on copies of ``ready``: afterwards the store is as before it or as after it."""
    before, seen = state(ready), records(chroma, ready)
    copy(ready, path)
    finished, calls = crash.trace(arguments, log)
    assert finished.status == 0, finished.output
    after = state(path)
    assert after[0] != before[0]
    assert after[1] != before[1]
    writes = [call.point for call in crash.writing(calls, path)]
    assert len(writes) > 60
    points = writes
    if sample is not None:
        points = random.Random(SEED).sample(writes, sample) + [point for point in writes if point[0] == "unlink"]
    tally: Counter[str] = Counter()
    for point in points:
        copy(ready, path)
        killed = crash.kill_at(arguments, point, log)
        assert killed.status in (-9, 0), f"{point}: {killed.output}"
        recovered = crash.run(["-m", "ops", "recover", str(path), "--json"])
        assert recovered.status == 0, f"{point}: {recovered.output}"
        now = state(path)
        flipped = now[0] != before[0]
        assert now[1] == (after if flipped else before)[1], f"{point}: between"
        assert now[2] == before[2] - {before[0]} | {now[0]}, point
        for run in json.loads(recovered.output)["result"]["runs"]:
            assert run["effect_on_store"] == ("complete" if flipped else "none"), point
        assert records(chroma, path) == seen, f"{point}: the records differ"
        tally["unharmed" if killed.status == 0 else "new" if flipped else "old"] += 1
    return tally


def killed_both_ways(name: str, tmp_path: Path, log: Path, sample: int | None) -> dict[str, Counter[str]]:
    try:
        chroma = Release(name)
    except environments.EnvironmentFailed as failure:
        pytest.skip(f"the environment of Chroma {name} can not be made: {failure}")
    try:
        path, ready = tmp_path / "store", stores.unpacked(name, tmp_path / "ready")
        done = {"rebuild": kill(chroma, log, path, ready, rebuild_arguments(path), sample)}
        copy(ready, path)
        rebuilt = crash.run(rebuild_arguments(path))
        assert rebuilt.status == 0, rebuilt.output
        copy(path, ready)
        undo = ["-m", "ops", "run", "undo", str(path), "--run", str(rebuilt.answer["run_id"]), "--yes", "--json"]
        done["undo"] = kill(chroma, log, path, ready, undo, sample)
        return done
    finally:
        chroma.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample(name: str, tmp_path: Path, log: Path) -> None:
    done = killed_both_ways(name, tmp_path, log, SAMPLE)
    assert all(tally.total() >= SAMPLE for tally in done.values())


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_every_point(name: str, tmp_path: Path, log: Path) -> None:
    for what, tally in killed_both_ways(name, tmp_path, log, None).items():
        print(f"\n{what} on {name}: {tally.total()} kill points, {dict(tally)}, 0 between")
        assert set(tally) - {"unharmed"} == {"old", "new"}
