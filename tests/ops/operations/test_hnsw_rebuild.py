"""`hnsw rebuild` on stores of the real chromadb, which opens them again afterwards and goes on writing."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import struct
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ops.codec import from_json, to_json
from ops.errors import BadParameters
from ops.execute import Ended, execute, preview
from ops.operations.hnsw_rebuild import HnswRebuild, HnswRebuildResult
from ops.params import parse
from ops.plan import Plan
from ops.progress import Event, Progress
from ops.store.hnsw import LEVEL0, IndexFiles, PlainDirectory
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import select_collections, vector_segment
from tests.ops import stores

SPACES = ("l2", "cosine", "ip")

# 600 persisted, then deletes, updates and re-adds, persisted again; then more of each that stay in the WAL.
WORKED = """
for space in ("l2", "cosine", "ip"):
    values = hnsw(space=space, sync_threshold=100, batch_size=50)
    worked = client.create_collection(f"by-{space}", configuration=values, metadata={"k": 1})
    def write(name, ids):
        getattr(worked, name)(ids=[f"w{j}" for j in ids], embeddings=vectors(len(ids), 16) * 3,
                              documents=[f"{name} {j}" for j in ids], metadatas=[{"n": j, "tags": ["x"]} for j in ids])
    for i in range(0, 600, 100):
        write("add", range(i, i + 100))
    worked.delete(ids=[f"w{j}" for j in range(0, 600, 3)])
    write("update", range(1, 151, 3))
    write("add", range(0, 90, 3))
    write("upsert", range(560, 680))
    worked.delete(ids=[f"w{j}" for j in (1, 4, 7, 650)])
    write("update", (10, 13))
    write("add", range(700, 730))
"""

# Three times the live count is added, some of the old are updated and deleted; prints what must be there then.
WRITE_ON = """
import base64, json
collection = client.get_collection(sys.argv[2])
got = collection.get(include=["embeddings"])
must = dict(zip(got["ids"], np.asarray(got["embeddings"], dtype="f4")))
old = list(got["ids"])
size = next(iter(must.values())).shape[0]
rng = np.random.default_rng(99)
fresh = [f"new{j}" for j in range(3 * len(old))]
for start in range(0, len(fresh), 500):
    ids, rows = fresh[start:start + 500], vectors(len(fresh[start:start + 500]), size)
    collection.add(ids=ids, embeddings=rows)
    must.update(zip(ids, rows))
rows = vectors(20, size)
collection.update(ids=old[:20], embeddings=rows)
must.update(zip(old[:20], rows))
collection.delete(ids=old[20:40] + fresh[:20])
for gone in old[20:40] + fresh[:20]:
    del must[gone]
print(json.dumps({key: base64.b64encode(row.tobytes()).decode() for key, row in must.items()}))
"""


def rebuild(path: Path, *, progress: Progress | None = None, **parameters: object) -> Ended:
    return execute(
        parse(HnswRebuild, parameters),  # type: ignore[arg-type]
        str(path),
        run_id=str(uuid.uuid4()),
        approved=None,
        allow_unplanned=True,
        progress=progress,
    )


def plan_of(path: Path, **parameters: object) -> Plan:
    return preview(parse(HnswRebuild, parameters), str(path))  # type: ignore[arg-type]


def done(ended: Ended) -> HnswRebuildResult:
    assert ended.error is None, ended.error
    assert ended.status == "succeeded"
    assert isinstance(ended.result, HnswRebuildResult)
    return ended.result


def index_of(path: Path, name: str) -> Path:
    with PersistDir.open(path) as store:
        (collection,) = select_collections(store, names=[name])
        return path / vector_segment(store, collection).id


def patch(file: Path, offset: int, data: bytes) -> None:
    with open(file, "r+b") as writable:
        writable.seek(offset)
        writable.write(data)


def visible_files(path: Path) -> dict[str, tuple[object, ...]]:
    """What browsing may not change, without our own directory and what making it does to the times of its parent."""
    found = stores.manifest(path)
    return {name: entry for name, entry in found.items() if ".chromaadmin" not in name and not name.endswith("/.")}


@pytest.fixture
def worked(make_store: Callable[[str], Path]) -> Path:
    return make_store(WORKED)


def recall(observed: stores.ObservedCollection, space: str) -> float:
    """The share of the ten nearest by plain comparison that the client's ten queries found."""
    ids = list(observed.embeddings)
    rows = np.array([np.frombuffer(observed.embeddings[key], "<f4") for key in ids], np.float64)
    if space == "cosine":
        rows /= np.linalg.norm(rows, axis=1)[:, None]
    hits = total = 0
    for key, answer in zip(observed.ids[:10], observed.queries, strict=True):
        query = rows[ids.index(key)]
        far = ((rows - query) ** 2).sum(axis=1) if space == "l2" else 1 - rows @ query
        exact = {ids[place] for place in np.argsort(far)[:10]}
        hits += len(exact & {found for found, _ in answer})
        total += 10
        for found, distance in answer:
            assert distance == pytest.approx(far[ids.index(found)], abs=1e-4)
    return hits / total


# --- what must stay and what must change


@pytest.mark.parametrize("space", SPACES)
def test_no_record_changes_and_chroma_goes_on_writing(worked: Path, space: str) -> None:
    before = stores.reopen(worked)[f"by-{space}"]
    result = done(rebuild(worked, collection=[f"by-{space}"], m=24, ef_construction=150))
    (rebuilt,) = result.collections
    assert rebuilt.before.tombstones > 0
    assert rebuilt.after.tombstones == 0
    assert rebuilt.after.slots == rebuilt.vectors == rebuilt.verified.vectors_equal == rebuilt.verified.ids_equal
    assert rebuilt.verified.pid not in (0, os.getpid(), rebuilt.read_back.pid)

    everything = stores.reopen(worked)
    after = everything[f"by-{space}"]
    assert (after.ids, after.documents, after.metadatas) == (before.ids, before.documents, before.metadatas)
    assert after.embeddings == before.embeddings, "bit by bit, those in the WAL too"
    assert recall(after, space) >= recall(before, space) - 0.01
    assert {entry[2] for entry in everything.collections} == {f"by-{name}" for name in SPACES}

    expected = write_on(worked, f"by-{space}")
    assert after.embeddings.keys() - expected.keys() == set(after.ids[20:40])
    final = stores.reopen(worked)[f"by-{space}"]
    assert final.embeddings.keys() == expected.keys()
    for key, row in expected.items():
        mine = np.frombuffer(final.embeddings[key], "<f4")
        if space != "cosine" or (key in before.embeddings and key not in after.ids[:20]):
            assert mine.tobytes() == row.tobytes(), key
        else:  # Chroma normalises what it adds, and multiplies when it is read
            assert np.allclose(mine, row, rtol=1e-6, atol=1e-6), key
    assert recall(final, space) >= 0.95


def write_on(path: Path, name: str) -> dict[str, np.ndarray]:
    code = WRITE_ON.replace("sys.argv[2]", repr(name))
    answer = json.loads(stores.write_through_client(path, code))
    return {key: np.frombuffer(base64.b64decode(row), "<f4") for key, row in answer.items()}


def test_later_adds_do_not_overwrite_the_survivors(make_store: Callable[[str], Path]) -> None:
    """200 added, 150 deleted, rebuilt, 150 added: with a counter below the labels 50 survivors lose their vectors."""
    path = make_store(
        'c = client.create_collection("one", configuration=hnsw(sync_threshold=50, batch_size=10))\n'
        'c.add(ids=[f"old{j}" for j in range(200)], embeddings=vectors(200))\n'
        'c.delete(ids=[f"old{j}" for j in range(150)])'
    )
    before = stores.reopen(path)["one"]
    assert len(before.ids) == 50
    (rebuilt,) = done(rebuild(path, collection=["one"])).collections
    assert (rebuilt.before.slots, rebuilt.after.slots) == (200, 50)
    stores.write_through_client(
        path, 'client.get_collection("one").add(ids=[f"new{j}" for j in range(150)], embeddings=vectors(150))'
    )
    after = stores.reopen(path)["one"]
    assert len(after.ids) == 200
    assert {key: after.embeddings[key] for key in before.ids} == before.embeddings


def test_a_counter_below_the_labels_is_mended(small: Path) -> None:
    before = stores.reopen(small)["alpha"]
    file = index_of(small, "alpha") / "index_metadata.pickle"
    data = pickle.loads(file.read_bytes())  # noqa: S301 - written by this test run
    data["total_elements_added"] = 40
    file.write_bytes(pickle.dumps(data, 3))
    plan = plan_of(small, collection=["alpha"])
    assert any("label counter of alpha is 40" in warning for warning in plan.warnings)
    done(rebuild(small, collection=["alpha"]))
    expected = write_on(small, "alpha")
    after = stores.reopen(small)["alpha"]
    assert after.embeddings.keys() == expected.keys()
    kept = before.ids[40:]
    assert {key: after.embeddings[key] for key in kept} == {key: before.embeddings[key] for key in kept}


@pytest.mark.parametrize(("old", "new"), [("l2", "cosine"), ("cosine", "l2"), ("cosine", "ip"), ("ip", "l2")])
def test_another_space_changes_the_distances_and_no_vector(worked: Path, old: str, new: str) -> None:
    before = stores.reopen(worked)[f"by-{old}"]
    ended = rebuild(worked, collection=[f"by-{old}"], space=new)
    (rebuilt,) = done(ended).collections
    assert rebuilt.verified.converted is ("cosine" in (old, new))
    after = stores.reopen(worked)[f"by-{old}"]
    assert (after.ids, after.documents, after.metadatas) == (before.ids, before.documents, before.metadatas)
    for key, data in before.embeddings.items():
        was, now = np.frombuffer(data, "<f4"), np.frombuffer(after.embeddings[key], "<f4")
        assert (
            np.allclose(now, was, rtol=2.4e-7, atol=1e-7) if "cosine" in (old, new) else data == after.embeddings[key]
        )
    assert recall(after, new) >= 0.95
    if "cosine" in (old, new):
        assert "2.4e-7" in " ".join(plan_of(worked, collection=[f"by-{old}"], space=old).warnings)


def test_every_parameter_reaches_chroma_and_nothing_else_changes(worked: Path) -> None:
    with PersistDir.open(worked) as store:
        (old,) = select_collections(store, names=["by-l2"])
    asked = {"space": "ip", "m": 9, "ef_construction": 33, "ef_search": 44, "num_threads": 1}
    asked |= {"resize_factor": 1.75, "batch_size": 20, "sync_threshold": 222}
    (rebuilt,) = done(rebuild(worked, collection=["by-l2"], **asked)).collections
    found = to_json(rebuilt.after.configuration)
    assert found == {("max_neighbors" if name == "m" else name): value for name, value in asked.items()}
    answer = stores.write_through_client(
        worked, 'import json; print(json.dumps(client.get_collection("by-l2").configuration["hnsw"]))'
    )
    assert (
        json.loads(answer).items()
        >= {
            "space": "ip",
            "max_neighbors": 9,
            "ef_construction": 33,
            "ef_search": 44,
            "resize_factor": 1.75,
            "sync_threshold": 222,
        }.items()
    )
    with PersistDir.open(worked) as store:
        (new,) = select_collections(store, names=["by-l2"])
    was, now = json.loads(old.schema_str or ""), json.loads(new.schema_str or "")
    config = was["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
    config["space"] = "ip"
    config["hnsw"] |= {
        ("max_neighbors" if name == "m" else name): value for name, value in asked.items() if name != "space"
    }
    assert now == was
    assert list(now["keys"]) == list(was["keys"])
    assert (old.metadata, old.config_json_str) == (new.metadata, new.config_json_str)


def test_what_is_not_given_stays(worked: Path) -> None:
    with PersistDir.open(worked) as store:
        (old,) = select_collections(store, names=["by-cosine"])
    (rebuilt,) = done(rebuild(worked, collection=["by-cosine"])).collections
    assert rebuilt.before.configuration == rebuilt.after.configuration
    with PersistDir.open(worked) as store:
        (new,) = select_collections(store, names=["by-cosine"])
    assert new.schema_str == old.schema_str


def test_a_second_rebuild_finds_what_the_first_left(worked: Path) -> None:
    done(rebuild(worked, collection=["by-l2"], m=8))
    (second,) = done(rebuild(worked, collection=["by-l2"], m=8)).collections
    assert second.before.configuration == second.after.configuration
    assert (second.before.slots, second.before.tombstones) == (second.after.slots, 0)


def test_a_collection_whose_vectors_were_all_deleted(make_store: Callable[[str], Path]) -> None:
    path = make_store(
        'c = client.create_collection("one", configuration=hnsw(sync_threshold=50, batch_size=10, space="cosine"))\n'
        'c.add(ids=[f"old{j}" for j in range(100)], embeddings=vectors(100))\n'
        'c.delete(ids=[f"old{j}" for j in range(100)])'
    )
    (rebuilt,) = done(rebuild(path, collection=["one"])).collections
    assert (rebuilt.before.tombstones, rebuilt.vectors, rebuilt.after.slots) == (100, 0, 0)
    assert stores.reopen(path)["one"].ids == ()
    stores.write_through_client(
        path, 'client.get_collection("one").add(ids=[f"new{j}" for j in range(120)], embeddings=vectors(120))'
    )
    after = stores.reopen(path)["one"]
    assert len(after.ids) == 120
    assert recall(after, "cosine") == 1


def test_several_collections_are_several_steps(worked: Path) -> None:
    events: list[Event] = []
    before = stores.reopen(worked)
    ended = rebuild(worked, collection=["by-l2", "by-ip"], m=12, progress=Progress(events.append))
    result = done(ended)
    assert [item.name for item in result.collections] == ["by-ip", "by-l2"]
    assert [(event.done, event.total) for event in events if event.kind == "step"] == [(1, 2), (2, 2)]
    assert len(set(result.artifacts)) == 2
    assert all(Path(path).is_dir() for path in result.artifacts)
    after = stores.reopen(worked)
    for name in SPACES:
        assert after[f"by-{name}"].embeddings == before[f"by-{name}"].embeddings
    assert ended.report is not None
    assert "by-ip: Slots" in [figure.label for figure in ended.report.figures]


def test_the_old_index_waits_in_the_trash_unchanged(worked: Path) -> None:
    old = index_of(worked, "by-l2")
    kept = {file.name: file.read_bytes() for file in old.iterdir()}
    (rebuilt,) = done(rebuild(worked, collection=["by-l2"])).collections
    assert not old.exists()
    assert {file.name: file.read_bytes() for file in Path(rebuilt.trash_path).iterdir()} == kept


def test_the_label_of_each_id_follows_the_order_of_the_old_ones(worked: Path) -> None:
    def by_label(path: Path) -> list[str]:
        data = pickle.loads((path / "index_metadata.pickle").read_bytes())  # noqa: S301 - written by this test run
        assert data["label_to_id"] == {label: key for key, label in data["id_to_label"].items()}
        return [data["label_to_id"][label] for label in sorted(data["label_to_id"])]

    before = by_label(index_of(worked, "by-ip"))
    done(rebuild(worked, collection=["by-ip"]))
    new = index_of(worked, "by-ip")
    assert by_label(new) == before
    data = pickle.loads((new / "index_metadata.pickle").read_bytes())  # noqa: S301 - written by this test run
    assert sorted(data["label_to_id"]) == list(range(1, len(before) + 1))
    assert data["total_elements_added"] == len(before)
    assert (data["dimensionality"], data["max_seq_id"], data["id_to_seq_id"]) == (None, None, {})


# --- plan and report


def test_a_plan_changes_no_byte_and_says_what_will_change(worked: Path) -> None:
    before = stores.manifest(worked)
    plan = plan_of(worked, collection=["by-cosine"], m=24, ef_search=200)
    assert stores.manifest(worked) == before
    with IndexFiles.open(PlainDirectory(index_of(worked, "by-cosine")), collection="cosine") as files:
        dead = int(files.deleted().sum())
        live = files.header.elements - dead
    assert plan.headline == (
        f"The index of by-cosine is rebuilt from {live:,} live vectors; {dead:,} tombstones go, and no record changes."
    )
    rows = {change.what: (change.now, change.after) for change in plan.changes}
    assert rows["max_neighbors"] == ("16", "24")
    assert rows["ef_construction"] == ("100", "unchanged")
    assert rows["Slots"] == (f"{live + dead:,}", f"{live:,}")
    assert rows["Configuration"] == ("schema_str", "2 values")
    assert not plan.refused
    assert any("index, id map and WAL agree" in check.sentence for check in plan.checks)
    assert plan.estimate.rows == 4
    assert from_json(Plan, json.loads(json.dumps(to_json(plan)))) == plan


def test_the_expected_bytes_are_those_that_come(worked: Path) -> None:
    plan = plan_of(worked, collection=["by-l2"], m=32)
    (rebuilt,) = done(rebuild(worked, collection=["by-l2"], m=32)).collections
    assert plan.estimate.written_bytes == pytest.approx(rebuilt.after.size_bytes, rel=0.05)
    on_disk = sum(file.stat().st_size for file in index_of(worked, "by-l2").iterdir())
    assert rebuilt.after.size_bytes == on_disk
    assert plan.estimate.freed_at_expiry_bytes == rebuilt.before.size_bytes


def test_the_report_says_who_checked_what(worked: Path) -> None:
    ended = rebuild(worked, collection=["by-l2"], m=20)
    (rebuilt,) = done(ended).collections
    report = ended.report
    assert report is not None
    assert report.headline.startswith(f"Rebuilt from {rebuilt.vectors:,} live vectors; ")
    assert f"{rebuilt.vectors:,} of {rebuilt.vectors:,} ids are the same" in report.verified
    assert f"process {rebuilt.verified.pid}" in report.verified
    assert report.undo_path == rebuilt.trash_path
    rows = {change.what: (change.now, change.after) for change in report.changes}
    assert rows["max_neighbors"] == ("16", "20")
    assert rows["Tombstones"] == (str(rebuilt.before.tombstones), "0")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "collection"),
        ({"space": "l1"}, "space"),
        ({"m": 1}, "m"),
        ({"m": 513}, "m"),
        ({"ef_construction": 0}, "ef_construction"),
        ({"ef_search": -1}, "ef_search"),
        ({"num_threads": 0}, "num_threads"),
        ({"resize_factor": 0}, "resize_factor"),
        ({"batch_size": 1}, "batch_size"),
        ({"sync_threshold": 1}, "sync_threshold"),
        ({"skip": ["by-l2"]}, "skip"),
    ],
)
def test_bad_parameters_are_named(given: Mapping[str, object], field: str) -> None:
    values = dict(given) | ({"collection": ["by-l2"]} if given else {})
    with pytest.raises(BadParameters) as refused:
        parse(HnswRebuild, values)
    assert list(refused.value.details["fields"]) == [field]  # type: ignore[call-overload]


# --- refusals and interruptions


def no_directory(index: Path) -> None:
    shutil.rmtree(index)


def no_id_map(index: Path) -> None:
    (index / "index_metadata.pickle").unlink()


def half_vectors(index: Path) -> None:
    os.truncate(index / LEVEL0, (index / LEVEL0).stat().st_size // 2)


def poisoned_header(index: Path) -> None:
    patch(index / "header.bin", 20, struct.pack("<Q", 2**40))


def foreign_pickle(index: Path) -> None:
    (index / "index_metadata.pickle").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")


def tombstoned_id(index: Path) -> None:
    with IndexFiles.open(PlainDirectory(index), collection="it") as files:
        place = int(files.live_slots()[0]) * files.header.slot_bytes
    patch(index / LEVEL0, place + 2, b"\x01")


def revived_tombstone(index: Path) -> None:
    with IndexFiles.open(PlainDirectory(index), collection="it") as files:
        slot = int(np.flatnonzero(files.deleted())[0])
        size = files.header.slot_bytes
    patch(index / LEVEL0, slot * size + 2, b"\x00")


def not_a_number(index: Path) -> None:
    with IndexFiles.open(PlainDirectory(index), collection="it") as files:
        place = int(files.live_slots()[0]) * files.header.slot_bytes + files.header.data_offset
    patch(index / LEVEL0, place, struct.pack("<f", float("nan")))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (no_directory, "INDEX_MISSING"),
        (no_id_map, "INDEX_METADATA_MISSING"),
        (half_vectors, "INDEX_TORN"),
        (poisoned_header, "INDEX_HEADER_INVALID"),
        (foreign_pickle, "PICKLE_FORBIDDEN"),
        (tombstoned_id, "LABEL_COLLISION_RISK"),
        (revived_tombstone, "LABEL_COLLISION_RISK"),
        (not_a_number, "VECTORS_UNFIT"),
    ],
)
def test_a_damaged_index_is_refused_and_left_as_it_is(worked: Path, damage: Callable[[Path], None], code: str) -> None:
    index = index_of(worked, "by-l2")
    damage(index)
    before = visible_files(worked)
    ended = rebuild(worked, collection=["by-l2"])
    assert ended.error is not None
    assert (ended.status, ended.effect_on_store, ended.error.code) == ("refused", "none", code)
    assert visible_files(worked) == before


def test_an_index_that_was_never_persisted_is_refused(small: Path) -> None:
    ended = rebuild(small, collection=["beta"])
    assert ended.error is not None
    assert ended.error.code == "INDEX_NOT_PERSISTED"
    assert "300 vectors" in ended.error.message


def test_a_graph_that_leads_nowhere_is_mended_from_its_vectors(worked: Path) -> None:
    index = index_of(worked, "by-l2")
    before = stores.reopen(worked)["by-l2"]
    with IndexFiles.open(PlainDirectory(index), collection="it") as files:
        places = [slot * files.header.slot_bytes + 4 for slot in range(files.header.elements)]
    for place in places:
        patch(index / LEVEL0, place, struct.pack("<I", 2**31))
    (rebuilt,) = done(rebuild(worked, collection=["by-l2"])).collections
    assert rebuilt.verified.self_hit_before is None
    assert stores.reopen(worked)["by-l2"].embeddings == before.embeddings


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6])
def test_cancelled_anywhere_before_the_commit_nothing_visible_has_changed(worked: Path, after: int) -> None:
    before = visible_files(worked)
    heard: list[Event] = []
    progress = Progress(heard.append, lambda: len(heard) >= after)
    ended = rebuild(worked, collection=["by-l2"], progress=progress)
    assert ended.error is not None, heard
    assert (ended.status, ended.effect_on_store, ended.error.code) == ("cancelled", "none", "CANCELLED")
    assert visible_files(worked) == before
    assert not any((worked / ".chromaadmin" / "stage").iterdir())
    done(rebuild(worked, collection=["by-l2"]))
