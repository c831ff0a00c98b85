"""``wal commit`` against Chroma's own replay of the same WAL, and what must survive it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ops.execute import Ended, execute, preview
from ops.operations.run_undo import RunUndo
from ops.operations.wal_commit import WalCommit, WalCommitResult
from ops.params import parse
from ops.store.live_index import open_live_index
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import select_collections, vector_segment
from tests.ops import stores

DIMENSION = 4
ADD, UPDATE, UPSERT, DELETE = range(4)
# persisted, with tombstones, in two spaces; only in the WAL; created and never written
BASE = """
def fill(name, **values):
    made = client.create_collection(name, configuration=hnsw(**values))
    made.add(ids=[f"e{j}" for j in range(8)], embeddings=vectors(8, 4) * 2, documents=[f"text {j}" for j in range(8)],
             metadatas=[{"a": j, "b": "old", "c": ["x", "y"]} for j in range(8)])
    return made
for name, values in (("cosine", {"space": "cosine"}), ("euclid", {"space": "l2"})):
    made = fill(name, sync_threshold=5, batch_size=2, **values)
    made.delete(ids=["e6", "e7"])
    made.add(ids=[f"k{j}" for j in range(12)], embeddings=vectors(12, 4))
    made.update(ids=["e0"], metadatas=[{"a": 5}])
fill("waiting")
client.create_collection("void")
"""
NAMES = ("cosine", "euclid", "waiting", "void")
IDS = ("e0", "e1", "e2", "e6", "k3", "n0", "n1", "日本")

scalars = st.one_of(
    st.booleans(),
    st.sampled_from([0, 1, -(2**62), 7]),
    st.sampled_from([0.5, 1.0, -1e300]),
    st.sampled_from(["", "old", "é😀", "it's"]),
)
arrays = st.one_of(
    st.lists(st.sampled_from(["p", "q"]), min_size=1, max_size=3),
    st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2),
    st.lists(st.sampled_from([0.5, 2.0]), min_size=1, max_size=2),
    st.lists(st.booleans(), min_size=1, max_size=2),
)
metadata = st.dictionaries(st.sampled_from(["a", "b", "c", "new"]), st.one_of(st.none(), scalars, arrays), max_size=3)
documents = st.one_of(st.none(), st.sampled_from(["", "fresh words", "text 1", "日本語のテキスト"]))


@st.composite
def entry(draw: st.DrawFn) -> tuple[int, str, dict[str, Any], bool]:
    """Operation, id, metadata, whether an update brings a vector."""
    operation = draw(st.sampled_from([ADD, UPDATE, UPSERT, DELETE]))
    if operation == DELETE:
        return DELETE, draw(st.sampled_from(IDS)), {}, False
    values: dict[str, Any] = dict(draw(metadata))
    document = draw(documents)
    if document is not None:
        values["chroma:document"] = document
    return operation, draw(st.sampled_from(IDS)), values, operation != UPDATE or draw(st.booleans())


histories = st.fixed_dictionaries({name: st.lists(entry(), min_size=6, max_size=20) for name in NAMES})


def append(path: Path, history: dict[str, list[tuple[int, str, dict[str, Any], bool]]]) -> None:
    """WAL entries as a crash of Chroma leaves them: in the log, and taken up by nobody."""
    generator = np.random.default_rng(5)
    connection = sqlite3.connect(path / "chroma.sqlite3")
    with connection:
        for name, entries in history.items():
            (identifier,) = connection.execute("SELECT id FROM collections WHERE name = ?", (name,)).fetchone()
            connection.execute("UPDATE collections SET dimension = ? WHERE id = ?", (DIMENSION, identifier))
            for operation, record, values, has_vector in entries:
                vector = (generator.normal(size=DIMENSION) * 3).astype("<f4").tobytes() if has_vector else None
                connection.execute(
                    "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        operation,
                        f"persistent://default/default/{identifier}",
                        record,
                        vector,
                        "FLOAT32" if vector else None,
                        json.dumps(values, ensure_ascii=False),
                    ),
                )
    connection.close()


def commit(path: Path, **parameters: object) -> Ended:
    return execute(
        parse(WalCommit, parameters),  # type: ignore[arg-type]
        str(path),
        run_id=str(uuid.uuid4()),
        approved=None,
        allow_unplanned=True,
    )


def done(ended: Ended) -> WalCommitResult:
    assert ended.error is None, ended.error
    assert ended.status == "succeeded"
    assert isinstance(ended.result, WalCommitResult)
    return ended.result


def metadata_rows(path: Path) -> dict[str, object]:
    """Everything of the METADATA segments as rows, by collection and id instead of row ids."""
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    owner = "FROM embeddings e JOIN segments s ON s.id = e.segment_id JOIN collections c ON c.id = s.collection "
    found: dict[str, object] = {
        "embeddings": sorted(connection.execute(f"SELECT c.name, e.embedding_id, e.seq_id {owner}")),
        "metadata": sorted(
            map(
                repr,
                connection.execute(
                    "SELECT c.name, e.embedding_id, m.key, m.string_value, m.int_value, m.float_value, m.bool_value "
                    f"{owner} JOIN embedding_metadata m ON m.id = e.id"
                ),
            )
        ),
        "arrays": [
            repr(row)
            for row in connection.execute(
                "SELECT c.name, e.embedding_id, m.key, m.string_value, m.int_value, m.float_value, m.bool_value "
                f"{owner} JOIN embedding_metadata_array m ON m.id = e.id ORDER BY 1, 2, 3, m.rowid"
            )
        ],
        "documents": sorted(
            map(
                repr,
                connection.execute(
                    f"SELECT c.name, e.embedding_id, f.string_value {owner} "
                    "JOIN embedding_fulltext_search f ON f.rowid = e.id"
                ),
            )
        ),
        "full-text rows": connection.execute("SELECT count(*) FROM embedding_fulltext_search").fetchone(),
        "watermarks": sorted(
            connection.execute(
                "SELECT c.name, m.seq_id FROM max_seq_id m JOIN segments s ON s.id = m.segment_id AND "
                "s.scope = 'METADATA' JOIN collections c ON c.id = s.collection"
            )
        ),
        "schemas": {
            name: json.loads(text) for name, text in connection.execute("SELECT name, schema_str FROM collections")
        },
    }
    connection.close()
    return found


# Not shrunk: each example starts four processes with the real client.
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
@given(history=histories)
def test_the_result_is_that_of_chromas_own_replay(history: dict[str, list[Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        stores.copy_of(BASE, ours)
        append(ours, history)
        shutil.copytree(ours, theirs)
        stores.write_through_client(theirs, "[c.get() for c in client.list_collections()]")
        done(commit(ours))
        assert metadata_rows(ours) == metadata_rows(theirs)
        assert_taken_up(ours)
        expected, found = stores.reopen(theirs), stores.reopen(ours)
        for name in NAMES:
            assert sorted(found[name].ids) == sorted(expected[name].ids)
            assert found[name].documents == expected[name].documents
            assert found[name].metadatas == expected[name].metadatas
            assert found[name].embeddings == expected[name].embeddings
            assert [[key for key, _ in answer] for answer in found[name].queries] == [
                [key for key, _ in answer] for answer in expected[name].queries
            ]


def assert_taken_up(path: Path) -> None:
    """No gap, and the labels are those of the records."""
    with PersistDir.open(path) as store:
        for collection in select_collections(store):
            segment = vector_segment(store, collection)
            directory = store.segment_directory(segment.id)
            assert directory is not None
            index = open_live_index(directory, store.id_maps, collection="", dimension=collection.dimension)
            recorded = {
                row[0]
                for row in store.db.execute(
                    "SELECT embedding_id FROM embeddings e JOIN segments s ON s.id = e.segment_id "
                    "WHERE s.collection = ?",
                    (collection.id,),
                )
            }
            assert set(index.ids) == recorded
            assert not index.counter_too_low
    assert not preview(WalCommit(), str(path)).scope.steps


# --- afterwards


def run_id_of(ended: Ended, path: Path) -> str:
    assert ended.error is None, ended.error
    (trash,) = (path / ".chromaadmin" / "trash").iterdir()
    return trash.name


def test_what_chroma_writes_afterwards_stays(make_store: Callable[[str], Path]) -> None:
    path = make_store(BASE)
    append(path, {"cosine": [(DELETE, "e1", {}, False), (ADD, "n0", {"a": 1}, True), (UPSERT, "k3", {"a": 2}, True)]})
    done(commit(path))
    before = stores.reopen(path)
    answer = stores.write_through_client(
        path,
        """
import base64, json
must = {}
for name in ("cosine", "euclid", "waiting"):
    made = client.get_collection(name)
    rows = vectors(90, 4)
    made.add(ids=[f"later{j}" for j in range(90)], embeddings=rows, documents=[f"later {j}" for j in range(90)])
    made.update(ids=["e0"], embeddings=rows[:1], metadatas=[{"a": "changed"}])
    made.delete(ids=["e2", "later5"])
    must[name] = {f"later{j}": rows[j].tolist() for j in range(90) if j != 5} | {"e0": rows[0].tolist()}
print(json.dumps(must))
""",
    )
    after = stores.reopen(path)
    for name, must in json.loads(answer).items():
        assert set(after[name].ids) == (set(before[name].ids) - {"e2"}) | set(must)
        for key, row in must.items():
            assert np.allclose(np.frombuffer(after[name].embeddings[key], "<f4"), row, rtol=1e-6, atol=1e-6)
        for key in set(before[name].ids) - {"e0", "e2"}:
            assert after[name].embeddings[key] == before[name].embeddings[key]
            assert after[name].metadatas[key] == before[name].metadatas[key]
        assert after[name].metadatas["e0"]["a"] == "changed"


def test_entries_are_kept_and_an_undo_brings_index_and_watermark_back(small: Path) -> None:
    records = stores.reopen(small)
    before = positions(small)
    ended = commit(small, collection=["alpha"])
    assert positions(small)["entries"] == before["entries"]
    assert positions(small)["alpha"] == (2500, 2500)
    undo = parse(RunUndo, {"run_id": run_id_of(ended, small)})
    undone = execute(undo, str(small), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)
    assert undone.error is None, undone.error
    assert undone.result.steps[0].how == "swapped back"  # type: ignore[attr-defined]
    assert positions(small) == before
    again = stores.reopen(small)["alpha"]
    assert again.embeddings == records["alpha"].embeddings
    assert again.metadatas == records["alpha"].metadatas


def test_an_undo_after_the_entries_are_gone_is_a_rebuild(small: Path) -> None:
    records = stores.reopen(small)["alpha"]
    run_id = run_id_of(commit(small, collection=["alpha"]), small)
    connection = sqlite3.connect(small / "chroma.sqlite3")
    with connection:
        connection.execute("DELETE FROM embeddings_queue WHERE seq_id < 2400")
    connection.close()
    undo = parse(RunUndo, {"run_id": run_id})
    undone = execute(undo, str(small), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)
    assert undone.error is None, undone.error
    assert undone.result.steps[0].how == "rebuilt with the old parameters"  # type: ignore[attr-defined]
    assert stores.reopen(small)["alpha"].embeddings == records.embeddings


def positions(path: Path) -> dict[str, object]:
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    found: dict[str, object] = {
        name: (vector, metadata)
        for name, vector, metadata in connection.execute(
            "SELECT c.name, max(CASE s.scope WHEN 'VECTOR' THEN m.seq_id END), "
            "max(CASE s.scope WHEN 'METADATA' THEN m.seq_id END) FROM collections c "
            "JOIN segments s ON s.collection = c.id LEFT JOIN max_seq_id m ON m.segment_id = s.id GROUP BY c.name"
        )
    }
    found["entries"] = connection.execute("SELECT count(*), min(seq_id), max(seq_id) FROM embeddings_queue").fetchone()
    connection.close()
    return found


# --- what is refused


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE embeddings_queue SET operation = 99 WHERE seq_id = 2500", "WAL_ANOMALY"),
        ("UPDATE embeddings_queue SET vector = x'0000' WHERE seq_id = 2500", "WAL_ANOMALY"),
        ("UPDATE embeddings_queue SET vector = x'0000C07F' || substr(vector, 5) WHERE seq_id = 2500", "WAL_ANOMALY"),
        ("UPDATE max_seq_id SET seq_id = 9999 WHERE seq_id = 2000", "WAL_UNSAFE"),
        ("DELETE FROM embeddings WHERE embedding_id = 'a7'", "VERIFICATION_FAILED"),
    ],
)
def test_a_damaged_wal_is_refused_and_nothing_changes(small: Path, change: str, code: str) -> None:
    connection = sqlite3.connect(small / "chroma.sqlite3")
    with connection:
        connection.execute(change)
    connection.close()
    before = positions(small)
    ended = commit(small, collection=["alpha"])
    assert ended.error is not None
    assert (ended.error.code, ended.effect_on_store) == (code, "none")
    assert positions(small) == before
