"""``wal commit`` and ``wal clean`` themselves, from the command line, killed at their write-class system calls."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma

SEED = 20261124
SAMPLE = 3
COMMIT = ("wal", "commit", "-c", "gamma")
CLEAN = ("wal", "clean", "-c", "gamma")


def arguments(path: Path, words: tuple[str, ...]) -> list[str]:
    return ["-m", "ops", *words[:2], str(path), *words[2:], "--yes", "--json"]


def place(path: Path) -> tuple[object, ...]:
    """Watermarks and WAL of gamma."""
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    found = connection.execute(
        "SELECT (SELECT group_concat(m.seq_id) FROM segments s JOIN max_seq_id m ON m.segment_id = s.id "
        "WHERE s.collection = c.id AND s.scope = 'VECTOR'), "
        "(SELECT count(*) FROM embeddings_queue WHERE topic LIKE '%' || c.id) FROM collections c WHERE name = 'gamma'"
    ).fetchone()
    connection.close()
    return tuple(found)


def kill(chroma: Chroma, log: Path, path: Path, ready: Path, words: tuple[str, ...], sample: int | None) -> None:
    copy(ready, path)
    old, records = place(path), chroma.digest(path)
    copy(ready, path)
    finished, calls = crash.trace(arguments(path, words), log)
    assert finished.status == 0, finished.output
    new = place(path)
    assert new != old
    points = [call.point for call in crash.writing(calls, path)]
    for point in points if sample is None else random.Random(SEED).sample(points, sample):
        copy(ready, path)
        killed = crash.kill_at(arguments(path, words), point, log)
        assert killed.status in (-9, 0), f"{point}: {killed.output}"
        recovered = crash.run(["-m", "ops", "recover", str(path), "--json"])
        assert recovered.status == 0, f"{point}: {recovered.output}"
        assert not crash.state(path).strays, point
        assert place(path) in (old, new), f"{point}: between"
        for run in json.loads(recovered.output)["result"]["runs"]:
            assert run["effect_on_store"] == ("complete" if place(path) == new else "none"), point
        assert chroma.digest(path) == records, f"{point}: the records differ"


def copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


@pytest.fixture
def committed(fresh: Callable[[], Path], tmp_path: Path) -> Path:
    path = fresh()
    done = crash.run(arguments(path, COMMIT))
    assert done.status == 0, done.output
    return Path(shutil.copytree(path, tmp_path / "committed"))


def test_a_sample_of_a_commit(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    kill(chroma, log, fresh(), original, COMMIT, SAMPLE)


def test_a_sample_of_a_clean(tmp_path: Path, committed: Path, log: Path, chroma: Chroma) -> None:
    kill(chroma, log, tmp_path / "store", committed, CLEAN, SAMPLE)


@pytest.mark.torture
def test_every_point_of_a_commit(fresh: Callable[[], Path], original: Path, log: Path, chroma: Chroma) -> None:
    kill(chroma, log, fresh(), original, COMMIT, None)


@pytest.mark.torture
def test_every_point_of_a_clean(tmp_path: Path, committed: Path, log: Path, chroma: Chroma) -> None:
    kill(chroma, log, tmp_path / "store", committed, CLEAN, None)
