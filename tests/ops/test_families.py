"""Stores of every release of Chroma: read, rebuilt, undone, and opened again by the release that wrote them."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ops.execute import execute
from ops.operation import Operation
from ops.operations.db_info import CollectionInfo, DbInfo, DbInfoResult
from ops.operations.hnsw_rebuild import HnswRebuild, HnswRebuildResult
from ops.operations.run_undo import RunUndo
from ops.store.id_map import FILE_NAME, IdMapReader
from tests import environments
from tests.ops import releases, stores
from tests.ops.releases import Release, Seen

NEWEST = "1.5.9"
RANGES = {
    "0.4.3": "0.4.0–0.4.3",
    "0.4.14": "0.4.6–0.4.14",
    "0.4.24": "0.4.15–0.4.24",
    "0.5.0": "0.5.0",
    "0.5.5": "0.5.4–0.5.5",
    "0.5.23": "0.5.9–0.6.3",
    "0.6.3": "0.5.9–0.6.3",
    "1.0.21": "1.0.0–1.2.2",
    "1.3.7": "1.3.0–1.4.1",
    "1.5.9": "1.5.0–1.5.9",
    "0.4.24-1.5.9": "1.5.0–1.5.9",
    "0.6.3-1.5.9": "1.5.0–1.5.9",
    "1.0.21-1.5.9": "1.5.0–1.5.9",
}
NAMES = tuple(RANGES)
# An untouched store with entries in the WAL is answered with wrong distances by this release; 1.5.9 answers it rightly.
ANSWERS_WRONGLY = ("0.4.3",)
OTHER = {"l2": "cosine", "cosine": "ip", "ip": "l2"}


def first(name: str) -> str:
    """The release that made the collections."""
    return name.partition("-")[0]


def last(name: str) -> str:
    """The release that wrote last."""
    return name.rpartition("-")[2]


def old(name: str) -> bool:
    """True for stores whose indexes Chroma before 1.0 made."""
    return first(name).startswith("0.")


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Release]]:
    with releases.running() as found:
        yield found


def release(running: dict[str, Release], name: str) -> Release:
    try:
        return releases.started(running, name)
    except environments.EnvironmentFailed as failure:
        pytest.skip(f"the environment of Chroma {name} can not be made: {failure}")


@pytest.fixture
def store(name: str, tmp_path: Path) -> Path:
    return stores.unpacked(name, tmp_path / "store")


def places(path: Path) -> releases.Places:
    """The databases that have collections; 0.4.14 knows the first one only."""
    return releases.PLACES[: max(1, info(path).databases)]


def look(chroma: Release, path: Path) -> dict[str, Seen]:
    """What a release sees, in a copy: opening a store may change it."""
    copy = path.parent / f"copy-{uuid.uuid4()}"
    shutil.copytree(path, copy)
    try:
        return chroma.look(copy, places(path))
    finally:
        shutil.rmtree(copy)


def run(path: Path, operation: Operation[object]) -> object:
    ended = execute(operation, str(path), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)
    assert ended.error is None, ended.error
    assert ended.status == "succeeded"
    return ended.result


def info(path: Path) -> DbInfoResult:
    result = run(path, DbInfo(verbose=True))
    assert isinstance(result, DbInfoResult)
    return result


def key_of(found: CollectionInfo) -> str:
    """Where a release lists it; before 0.4.15 there are no databases, and later ones call that the default."""
    return f"{found.tenant or 'default_tenant'}/{found.database or 'default_database'}/{found.name}"


def persisted(path: Path) -> dict[str, CollectionInfo]:
    """Collections with an index, by tenant/database/name."""
    return {key_of(found): found for found in info(path).collections if found.hnsw.state == "persisted"}


def rebuild(path: Path, *ids: str, **parameters: object) -> str:
    """Rebuild and answer the run's id."""
    run_id = str(uuid.uuid4())
    operation = HnswRebuild(collection_id=ids, **parameters)  # type: ignore[arg-type]
    ended = execute(operation, str(path), run_id=run_id, approved=None, allow_unplanned=True)
    assert ended.error is None, ended.error
    assert isinstance(ended.result, HnswRebuildResult)
    for one in ended.result.collections:
        assert one.vectors == one.verified.vectors_equal == one.verified.ids_equal == one.after.slots
        assert one.after.tombstones == 0
    return run_id


def everything(path: Path) -> dict[str, object]:
    """Every row of the catalogue and every index file."""
    found: dict[str, object] = {}
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    try:
        for table in ("collections", "segments", "segment_metadata", "collection_metadata", "max_seq_id", "embeddings"):
            found[table] = sorted(map(repr, connection.execute(f"SELECT * FROM {table}")))  # noqa: S608
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    for file in path.glob("*-*/*"):
        if not file.parent.name.startswith("."):
            found[str(file.relative_to(path))] = file.read_bytes()
    return found


def check_queries(chroma: Release, seen: Seen, space: str) -> None:
    """Every distance is that of the space, and the nearest are found."""
    if chroma.name in ANSWERS_WRONGLY:
        return
    ids = list(seen.embeddings)
    rows = np.array([np.frombuffer(seen.embeddings[key], "<f4") for key in ids], np.float64)
    hits = total = 0
    for query, near, far in seen.queries:
        vector = np.array(query)
        exact = distances(rows, vector, space)
        assert len(near) == len(far) == min(10, len(ids))
        for key, distance in zip(near, far, strict=True):
            assert distance == pytest.approx(exact[ids.index(key)], rel=1e-4, abs=1e-4), (space, key)
        hits += len({ids[place] for place in np.argsort(exact)[: len(near)]} & set(near))
        total += len(near)
    assert hits >= 0.95 * total, f"{hits} of {total}"


def distances(rows: np.ndarray, vector: np.ndarray, space: str) -> np.ndarray:
    if space == "l2":
        return ((rows - vector) ** 2).sum(axis=1)
    if space == "cosine":
        rows, vector = rows / np.linalg.norm(rows, axis=1)[:, None], vector / np.linalg.norm(vector)
    return 1 - rows @ vector


def check_records(now: Seen, then: Seen, tolerance: float) -> None:
    """Records as before; vectors bit by bit where ``tolerance`` is 0, else within so much of their size."""
    assert (now.count, sorted(now.ids)) == (then.count, sorted(then.ids))
    assert (now.documents, now.metadatas) == (then.documents, then.metadatas)
    if tolerance == 0:
        assert now.embeddings == then.embeddings
        return
    for key, row in then.embeddings.items():
        mine, other = np.frombuffer(now.embeddings[key], "<f4"), np.frombuffer(row, "<f4")
        assert np.abs(mine - other).max() <= tolerance * max(1.0, float(np.abs(other).max())), key


def check_written(now: Seen, then: Seen, order: tuple[str, ...]) -> None:
    """After ``Release.write``, which takes ids in ``order``: what was not written to is there unchanged."""
    gone, back = set(order[7:10]), {*order[5:7], "late1"}
    late = {f"late{j}" for j in range(75)} - {"late0"}
    assert set(now.ids) == (set(then.ids) - gone) | late | back
    assert now.count == len(now.ids)
    for key in order[10:]:
        mine, other = np.frombuffer(now.embeddings[key], "<f4"), np.frombuffer(then.embeddings[key], "<f4")
        assert np.allclose(mine, other, rtol=1e-6, atol=1e-6), key
        assert (now.documents[key], now.metadatas[key]) == (then.documents[key], then.metadatas[key])
    assert now.metadatas["late7"] == {"late": "yes", "n": 7}


@pytest.mark.parametrize("name", NAMES)
def test_info(store: Path, name: str) -> None:
    before = stores.manifest(store)
    found = info(store)
    assert stores.manifest(store) == before
    assert found.chroma.releases == RANGES[name]
    assert found.chroma.writable
    assert found.chroma.foreign_objects == found.chroma.differences == ()
    assert found.orphans == ()
    by = {key_of(one): one for one in found.collections}
    here = {f"default_tenant/default_database/{key}" for key in ("by-cosine", "by-ip", "by-l2", "fresh")}
    assert set(by) == here | ({"acme/prod/by-cosine"} if found.databases else set())
    for one in found.collections:
        assert one.problems == one.hnsw.problems == ()
        assert {segment.scope for segment in one.segments} == {"METADATA", "VECTOR"}
    text = by["default_tenant/default_database/by-cosine"]
    assert text.metadata["kind"] == "text"
    assert (text.hnsw.space, text.hnsw.ef_search, text.hnsw.m, text.hnsw.ef_construction) == ("cosine", 40, 8, 60)
    # Chroma 1.0 stores no batch size.
    assert (text.hnsw.batch_size, text.hnsw.sync_threshold) == (100 if first(name) == "1.0.21" else 20, 40)
    assert text.dimension == 8
    assert text.hnsw.state == "persisted"
    assert text.hnsw.tombstones
    assert text.hnsw.orphan_labels == 0
    assert text.hnsw.wal_gap is not None
    assert all(segment.max_seq_id for segment in text.segments)
    authority = "segment_metadata" if old(name) else "config_json_str" if first(name) == "1.0.21" else "schema_str"
    assert text.hnsw.authority == authority
    fresh = by["default_tenant/default_database/fresh"]
    assert (fresh.hnsw.state, fresh.records) == ("empty", 12)


@pytest.mark.parametrize("name", NAMES)
def test_rebuilt_and_undone(store: Path, name: str, running: dict[str, Release]) -> None:
    own, newest = release(running, last(name)), release(running, NEWEST)
    original, there = everything(store), persisted(store)
    before = {chroma.name: look(chroma, store) for chroma in (own, newest)}
    teller = newest if own.name in ANSWERS_WRONGLY else own
    for key, then in before[teller.name].items():
        check_records(before[NEWEST][key], then, 3e-7 if "cosine" in key else 0.0)
    assert {key.rpartition("/")[2] for key in there} == {"by-cosine", "by-l2", "by-ip"}
    # Here and there in the same space, all three in another one below.
    some = {key: there[key] for key in (next(iter(sorted(there))), "default_tenant/default_database/by-l2")}

    # Each release is compared with itself: 0.4 and 0.5 list records by id, later ones by row, and where Chroma migrates
    # a store of before 0.4.6 it breaks the full-text index.
    first_run = rebuild(store, *(found.id for found in some.values()), m=12, ef_construction=80, ef_search=77)
    check_id_maps(store, some, name)
    for chroma in (own, newest):
        seen = look(chroma, store)
        assert seen.keys() == before[chroma.name].keys()
        for key, then in before[chroma.name].items():
            check_records(seen[key], then, 0.0)
            assert (seen[key].ids, seen[key].texts) == (then.ids, then.texts)
            check_queries(chroma, seen[key], space_of(key))
            if old(name) and key in some:
                assert (seen[key].metadata["hnsw:M"], seen[key].metadata["hnsw:search_ef"]) == (12, 77)
    for key, found in persisted(store).items():
        if key not in some:
            continue
        assert (found.hnsw.m, found.hnsw.ef_construction, found.hnsw.ef_search) == (12, 80, 77)
        assert found.hnsw.authority == some[key].hnsw.authority

    run(store, RunUndo(run_id=first_run))
    assert everything(store) == original

    # Into another space, then written to by the release itself, and undone when that is a rebuild.
    runs = {}
    there = {key: found for key, found in there.items() if key.startswith("default_tenant/")}
    for key, found in there.items():
        runs[key] = rebuild(store, found.id, space=OTHER[space_of(key)], m=10, ef_search=90)
    spaces = {key: OTHER[space_of(key)] if key in there else space_of(key) for key in before[own.name]}
    for chroma in (own, newest):
        seen = look(chroma, store)
        for key, then in before[chroma.name].items():
            check_records(seen[key], then, 5e-7 if key in there else 0.0)
            assert seen[key].texts == then.texts
            check_queries(chroma, seen[key], spaces[key])
    order, seen = {key: one.ids for key, one in look(own, store).items()}, look(teller, store)
    own.write(store, places(store))
    written = look(teller, store)
    for key, then in seen.items():
        check_written(written[key], then, order[key])
        check_queries(teller, written[key], spaces[key])

    assert info(store).records == sum(found.count for found in written.values())
    key = "default_tenant/default_database/by-l2"
    run(store, RunUndo(run_id=runs[key]))
    back = look(teller, store)
    check_records(back[key], written[key], 5e-7)
    check_queries(teller, back[key], "l2")
    again = persisted(store)[key]
    assert (again.hnsw.space, again.hnsw.m, again.hnsw.authority) == ("l2", 16, there[key].hnsw.authority)
    assert again.metadata == there[key].metadata


def space_of(key: str) -> str:
    name = key.rpartition("/")[2]
    return "l2" if name == "fresh" else name.removeprefix("by-")


def check_id_maps(path: Path, there: dict[str, CollectionInfo], name: str) -> None:
    """A new id map has the form that every reader of the old one takes."""
    reader = IdMapReader()
    try:
        for key, found in persisted(path).items():
            if key not in there:
                continue
            assert found.hnsw.path
            with open(Path(found.hnsw.path) / FILE_NAME, "rb") as file:
                made = reader.read(file.fileno(), key)
            assert list(made.labels) == list(range(1, len(made.ids) + 1))
            if not last(name).startswith("0."):
                continue
            assert made.form == "class"
            assert made.dimensionality == found.dimension
            assert made.seq_ids is not None
            assert min(made.seq_ids) > 0
            assert made.max_seq_id == next(one.max_seq_id for one in there[key].segments if one.scope == "VECTOR")
    finally:
        reader.close()
