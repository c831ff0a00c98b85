"""The WAL: entries by collection, watermarks, gaps, tail, purge setting."""

# ruff: noqa: S608 - the statements are made of constants of this file

import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.store import embeddings_queue as queue
from ops.store import sysdb
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores


def of(store: PersistDir, name: str) -> sysdb.Collection:
    return sysdb.select_collections(store, names=(name,))[0]


def test_watermarks(opened: PersistDir) -> None:
    assert queue.watermarks(opened, of(opened, "alpha")) == queue.Watermarks(vector=2000, metadata=2500)
    assert queue.watermarks(opened, of(opened, "beta")) == queue.Watermarks(vector=None, metadata=2800)
    assert queue.watermarks(opened, of(opened, "gamma")) == queue.Watermarks(vector=4000, metadata=4400)
    assert queue.newest_seq(opened) == 4400


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("x'00000000000007d0'", 2000),
        ("x'0007d0'", None),
        ("x''", None),
        ("'2000'", 2000),  # the column turns it into a number
        ("'abc'", None),
        ("-5", None),
        ("1.5", None),
        (f"x'{'00' * 500}'", None),
    ],
)
def test_watermarks_of_other_forms(small: Path, value: str, number: int | None) -> None:
    with PersistDir.open(corpus._changed(f"UPDATE max_seq_id SET seq_id = {value}")(small, small)) as store:
        found = queue.watermarks(store, of(store, "alpha"))
        assert found.vector == found.metadata == number
        assert len(found.problems) == (0 if number is not None else 2)


def test_an_absurd_watermark_is_a_problem(small: Path) -> None:
    with PersistDir.open(corpus._changed("UPDATE max_seq_id SET seq_id = 9223372036854775807")(small, small)) as store:
        found = queue.watermarks(store, of(store, "alpha"))
        assert found.vector == 2**63 - 1
        assert all(problem.startswith("WAL_UNSAFE") for problem in found.problems)
        assert queue.gap(store, queue.entries(store, of(store, "alpha").id), found.vector) == 0
        assert list(queue.tail(store, of(store, "alpha").id, 2**64)) == []


def test_entries_gaps_and_totals(opened: PersistDir) -> None:
    everything = {found.collection_id: found for found in queue.all_entries(opened)}
    count, size = 0, 0
    for name, entries, gap in (("alpha", 501, 500), ("beta", 300, None), ("gamma", 401, 400)):
        collection = of(opened, name)
        found = queue.entries(opened, collection.id)
        assert found.entries == everything[collection.id].entries == entries
        assert found.size_bytes == everything[collection.id].size_bytes
        assert found.topic in everything[collection.id].topic
        marks = queue.watermarks(opened, collection)
        assert queue.gap(opened, found, marks.vector) == gap
        assert queue.gap(opened, found, marks.metadata) == 0
        assert queue.gap(opened, found, 0) == entries
        count, size = count + found.entries, size + found.size_bytes
    assert queue.totals(opened) == (count, size)
    found = queue.entries(opened, of(opened, "alpha").id)
    assert found.newest_at is not None
    assert datetime.now(UTC) - timedelta(days=365) < found.newest_at <= datetime.now(UTC) + timedelta(hours=1)
    none = queue.entries(opened, "00000000-0000-4000-8000-000000000000")
    assert (none.entries, none.size_bytes, none.oldest_seq, none.newest_at) == (0, 0, None, None)


def test_topics_without_a_collection(small: Path) -> None:
    spoiled = corpus._changed(
        "INSERT INTO embeddings_queue (operation, topic, id) VALUES (0, 'persistent://default/default/gone', 'x')",
        "INSERT INTO embeddings_queue (operation, topic, id) VALUES (0, '', 'x')",
    )(small, small)
    with PersistDir.open(spoiled) as store:
        assert {found.topic for found in queue.all_entries(store) if found.collection_id is None} == {
            "",
            "persistent://default/default/gone",
        }


def test_tail(opened: PersistDir, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = of(opened, "alpha").id
    monkeypatch.setattr(queue, "_CHUNK", 7)
    tail = list(queue.tail(opened, alpha, 2000))
    assert [entry.seq_id for entry in tail] == list(range(2001, 2501))
    assert [entry.id for entry in tail] == [f"a{number}" for number in range(2000, 2500)]
    assert {(entry.operation, entry.encoding, entry.problem) for entry in tail} == {(queue.ADD, "FLOAT32", "")}
    observed = stores.reopen(opened.path)["alpha"]
    for entry in tail[:5]:
        assert entry.vector is not None
        vector = struct.unpack("<8f", entry.vector)
        norm = sum(value * value for value in vector) ** 0.5
        told = struct.unpack("<8f", observed.embeddings[entry.id])
        assert any(
            told == pytest.approx(candidate, rel=1e-5) for candidate in (vector, [value / norm for value in vector])
        )


def test_what_the_tail_did(small: Path) -> None:
    stores.write_through_client(
        small,
        "alpha = client.get_collection('alpha')\n"
        "alpha.delete(ids=['a1', 'a2'])\n"
        "alpha.add(ids=['a2'], embeddings=vectors(1))\n"
        "alpha.update(ids=['a3'], metadatas=[{'n': 9}])\n"
        "alpha.upsert(ids=['new'], embeddings=vectors(1))\n"
        "alpha.delete(ids=['new'])\n",
    )
    with PersistDir.open(small) as store:
        state = queue.tail_state(store, of(store, "alpha").id, 4400)
        entries = queue.of_record(store, of(store, "alpha").id, "a2", 10)
    assert state == {"a1": "deleted", "a2": "written", "a3": "written", "new": "deleted"}
    assert [(entry.operation, entry.vector_bytes) for entry in entries] == [(queue.DELETE, 0), (queue.ADD, 32)]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("operation = 99", "its operation is 99"),
        ("operation = 'x'", "its operation is x"),
        ("id = x'ff'", "its id is not text"),
        ("vector = 'text'", "its vector is not a blob"),
        ("metadata = x'00'", "its metadata is not text"),
        ("created_at = 'yesterday'", ""),
    ],
)
def test_entries_of_wrong_types(small: Path, columns: str, problem: str) -> None:
    with PersistDir.open(corpus._changed(f"UPDATE embeddings_queue SET {columns}")(small, small)) as store:
        for name in ("alpha", "gamma"):
            entries = list(queue.tail(store, of(store, name).id, 0))
            assert {entry.problem for entry in entries} == {problem}
        queue.all_entries(store)


@pytest.mark.parametrize(
    ("statement", "purge"),
    [
        ("SELECT 1", True),
        ("UPDATE embeddings_queue_config SET config_json_str = '{\"automatically_purge\": false}'", False),
        ("UPDATE embeddings_queue_config SET config_json_str = '{broken'", None),
        ("UPDATE embeddings_queue_config SET config_json_str = '[]'", None),
        ("UPDATE embeddings_queue_config SET config_json_str = '{\"automatically_purge\": 1}'", None),
        ("UPDATE embeddings_queue_config SET config_json_str = x'ff'", None),
        ("UPDATE embeddings_queue_config SET config_json_str = NULL", None),
        (f"UPDATE embeddings_queue_config SET config_json_str = '{'[' * 50_000}'", None),
        ("DELETE FROM embeddings_queue_config", None),
        ("DROP TABLE embeddings_queue_config", None),
    ],
)
def test_purge_setting(small: Path, statement: str, purge: bool | None) -> None:
    with PersistDir.open(corpus._changed(statement)(small, small)) as store:
        assert queue.automatically_purge(store) is purge


def test_an_empty_wal(small: Path) -> None:
    with PersistDir.open(corpus._changed("DELETE FROM embeddings_queue")(small, small)) as store:
        assert queue.newest_seq(store) is None
        assert queue.totals(store) == (0, 0)
        assert queue.all_entries(store) == ()
