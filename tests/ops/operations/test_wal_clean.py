"""``wal clean``: what goes, what may never go, and that nothing written afterwards is lost."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.execute import Ended, RunOptions, execute, preview
from ops.operations.wal_clean import WalClean, WalCleanResult
from ops.operations.wal_commit import WalCommit
from ops.params import parse
from tests.ops import stores

# Whole in index and WAL, so that a clean could empty the WAL.
ONE = """
made = client.create_collection("one", configuration=hnsw(sync_threshold=50, batch_size=10))
made.add(ids=[f"o{j}" for j in range(120)], embeddings=vectors(120, 4), documents=[f"text {j}" for j in range(120)])
made.delete(ids=["o3"])
"""
LATER = """
import json
lost = {}
for made in client.list_collections():
    size = len(made.get(limit=1, include=["embeddings"])["embeddings"][0])
    ids = [f"later{j}" for j in range(60)]
    rows = vectors(60, size)
    made.add(ids=ids, embeddings=rows, documents=[f"later {j}" for j in range(60)])
    first = made.get(limit=1)["ids"][0]
    made.update(ids=[first], metadatas=[{"changed": True}])
    made.delete(ids=["later9"])
    got = made.get(ids=ids + [first], include=["metadatas", "embeddings", "documents"])
    lost[made.name] = [first, sorted(set(ids) - set(got["ids"]))]
print(json.dumps(lost))
"""


def run(cls: type, path: Path, undo: str = "keep", **parameters: object) -> Ended:
    return execute(
        parse(cls, parameters),
        str(path),
        run_id=str(uuid.uuid4()),
        approved=None,
        allow_unplanned=True,
        options=RunOptions(undo=undo),
    )


def clean(path: Path, undo: str = "keep", **parameters: object) -> WalCleanResult:
    ended = run(WalClean, path, undo, **parameters)
    assert ended.error is None, ended.error
    assert isinstance(ended.result, WalCleanResult)
    return ended.result


def commit(path: Path) -> None:
    ended = run(WalCommit, path)
    assert ended.error is None, ended.error


def query(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path / "chroma.sqlite3")
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def numbers(path: Path) -> list[object]:
    return [row[0] for row in query(path, "SELECT seq_id FROM embeddings_queue ORDER BY seq_id")]


def assert_numbering_goes_on(path: Path) -> None:
    ((newest, highest),) = query(
        path, "SELECT (SELECT max(seq_id) FROM embeddings_queue), (SELECT max(seq_id) FROM max_seq_id)"
    )
    assert newest >= highest  # type: ignore[operator]


@pytest.mark.parametrize("script", [stores.SMALL, ONE], ids=["small", "one"])
def test_a_committed_wal_is_cleaned_and_nothing_written_later_is_lost(
    make_store: Callable[[str], Path], script: str
) -> None:
    path = make_store(script)
    commit(path)
    before = stores.reopen(path)
    was = len(numbers(path))
    result = clean(path)
    assert result.deleted_rows == was - len(numbers(path)) > 0
    assert result.freed_bytes > 0
    assert_numbering_goes_on(path)
    assert len(numbers(path)) == len(before.collections), "one entry of each collection, at its watermark"
    assert stores.reopen(path).collections == before.collections
    answer = json.loads(stores.write_through_client(path, LATER))
    after = stores.reopen(path)
    for (*_, name), collection in before.collections.items():
        first, lost = answer[name]
        assert lost == ["later9"]
        assert set(after[name].ids) == set(collection.ids) | {f"later{j}" for j in range(60)} - {"later9"}
        assert after[name].metadatas[first]["changed"] is True
        assert {key: after[name].embeddings[key] for key in collection.ids} == collection.embeddings


def test_what_an_index_has_not_taken_up_stays(small: Path) -> None:
    before = numbers(small)
    result = clean(small)
    reasons = {item.name: item.reason for item in result.collections}
    assert result.deleted_rows == 0
    assert reasons["beta"].startswith("INDEX_NOT_PERSISTED")
    assert reasons["alpha"] == reasons["gamma"] == ""
    assert numbers(small) == before


@pytest.mark.parametrize("name", ["index_metadata.pickle", "link_lists.bin", "header.bin", "data_level0.bin"])
@pytest.mark.parametrize("how", ["missing", "half"])
def test_nothing_goes_while_the_index_is_damaged(make_store: Callable[[str], Path], name: str, how: str) -> None:
    path = make_store(ONE)
    commit(path)
    ((segment,),) = query(path, "SELECT id FROM segments WHERE scope = 'VECTOR'")
    file = path / str(segment) / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = numbers(path)
    result = clean(path)
    assert result.deleted_rows == 0
    assert result.collections[0].reason
    assert numbers(path) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE max_seq_id SET seq_id = 100000", "WAL_UNSAFE"),
        ("DELETE FROM embeddings WHERE embedding_id = 'o7'", "WAL_UNSAFE"),
        ("UPDATE embeddings_queue SET operation = 99 WHERE seq_id = (SELECT min(seq_id) FROM embeddings_queue)",
         "WAL_ANOMALY"),
    ],
)  # fmt: skip
def test_nothing_goes_while_wal_and_records_contradict(
    make_store: Callable[[str], Path], change: str, code: str
) -> None:
    path = make_store(ONE)
    commit(path)
    query(path, change)
    before = numbers(path)
    result = clean(path)
    assert result.collections[0].reason.startswith(code)
    assert numbers(path) == before


def test_orphan_topics_go_but_never_the_newest_entry(make_store: Callable[[str], Path]) -> None:
    path = make_store(ONE)
    commit(path)
    topic = f"persistent://default/default/{uuid.uuid4()}"
    for _ in range(3):
        query(path, "INSERT INTO embeddings_queue (operation, topic, id, metadata) VALUES (3, ?, 'x', '{}')", topic)
    newest = numbers(path)[-1]
    result = clean(path)
    assert {item.topic: item.deleted_rows for item in result.collections}[topic] == 2
    assert numbers(path)[-1] == newest
    assert clean(path).deleted_rows == 0
    query(path, "UPDATE embeddings_queue SET topic = 'elsewhere' WHERE topic LIKE '%default%'")
    before = numbers(path)
    assert clean(path).deleted_rows == 0, "a topic that names no collection is not ours to judge"
    assert numbers(path) == before


def test_the_deleted_entries_lie_in_the_trash(small: Path) -> None:
    commit(small)
    every = (
        "SELECT seq_id, created_at, operation, topic, id, vector, encoding, metadata FROM embeddings_queue "
        "WHERE seq_id BETWEEN 2000 AND 2500"
    )
    before = query(small, every)
    result = clean(small, collection=["alpha"], keep_last=7)
    left = query(small, every)
    assert (len(before), len(left), result.deleted_rows) == (501, 7, 494)
    (file,) = Path(result.collections[0].kept_path).rglob("undo.sqlite3")
    connection = sqlite3.connect(file)
    kept = connection.execute(every).fetchall()
    connection.close()
    assert sorted(kept + left) == sorted(before)


def test_without_an_undo_nothing_is_copied(make_store: Callable[[str], Path]) -> None:
    path = make_store(ONE)
    commit(path)
    plan = preview(WalClean(), str(path))
    assert clean(path, undo="none").deleted_rows == plan.scope.steps[0].max_rows
    assert not list(path.rglob("undo.sqlite3"))
