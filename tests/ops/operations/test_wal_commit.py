"""``wal commit`` against Chroma's own replay of the same WAL, and what must survive it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ops.execute import Ended, execute, preview
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
