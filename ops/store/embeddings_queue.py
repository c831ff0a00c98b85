"""The WAL: entries of ``embeddings_queue`` by collection, watermarks of ``max_seq_id``, and the purge setting.

An entry belongs to the collection whose id ends its topic (``persistent://default/default/<collection id>`` in every
release and for every tenant). A segment has consumed all entries up to its watermark.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ops.store.persist_dir import is_uuid
from ops.store.sqlite import sqlite_errors
from ops.store.sysdb import METADATA, VECTOR, Collection
from ops.store.text import encoded, visible

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir

ADD, UPDATE, UPSERT, DELETE = range(4)
OPERATIONS: Mapping[int, str] = {ADD: "add", UPDATE: "update", UPSERT: "upsert", DELETE: "delete"}
LARGEST_SEQ = 2**53  # larger numbers are no sequence but damage (doctor.md W-02)
_CHUNK = 500
_MOST_TOPICS = 100_000


_HEAD_BYTES = 32  # eight components


@dataclass(frozen=True, kw_only=True)
class Watermarks:
    """The last sequence number each segment has consumed; None where there is no row, or none that can be read.

    Before 0.5.6 the VECTOR watermark stands in the id map and ``vector`` is None. ``problems`` are sentences.
    """

    vector: int | None
    metadata: int | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The WAL entries of one topic. ``size_bytes`` counts vectors, metadata and ids; numbers are None without entries.

    ``collection_id`` is the end of the topic, None when that is no UUID.
    """

    topic: str
    collection_id: str | None
    entries: int
    size_bytes: int
    oldest_seq: int | None
    newest_seq: int | None
    oldest_at: datetime | None
    newest_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class WalEntry:
    """One WAL entry as stored. ``vector`` is little-endian float32 in the encoding FLOAT32; None for deletes and for
    updates of metadata only. ``metadata`` is JSON text with the document under ``chroma:document``.

    ``problem`` is empty, or says which value is not of the type that Chroma writes.
    """

    seq_id: int
    operation: int
    id: str
    vector: bytes | None
    encoding: str | None
    metadata: str | None
    created_at: datetime | None
    problem: str = ""


def watermarks(store: PersistDir, collection: Collection) -> Watermarks:
    """The watermarks of both segments of a collection; one whose segment is missing or doubled is None."""
    problems: list[str] = []
    found = {}
    for scope in (VECTOR, METADATA):
        of_scope = collection.of_scope(scope)
        found[scope] = segment_watermark(store, of_scope[0].id, problems) if len(of_scope) == 1 else None
    return Watermarks(vector=found[VECTOR], metadata=found[METADATA], problems=tuple(problems))


def segment_watermark(store: PersistDir, segment_id: str, problems: list[str] | None = None) -> int | None:
    """The ``max_seq_id`` of a segment; None without a row. Blobs of 8 bytes (before 1.0) are big endian."""
    if not store.schema.has("max_seq_id"):
        return None
    rows = _rows(
        store,
        "SELECT CASE WHEN length(seq_id) <= 64 THEN seq_id END FROM max_seq_id WHERE segment_id = CAST(? AS TEXT)",
        (encoded(segment_id),),
    )
    if not rows:
        return None
    value = number(rows[0][0])
    if value is None and problems is not None:
        problems.append(f"FIELD_INVALID: max_seq_id of segment {visible(segment_id, limit=60)} is no sequence number.")
    elif value is not None and value > LARGEST_SEQ and problems is not None:
        problems.append(f"WAL_UNSAFE: max_seq_id of segment {visible(segment_id, limit=60)} is {value}.")
    return value


def number(value: object) -> int | None:
    """A sequence number in either form: an integer, or a blob of 8 bytes big endian; None for anything else."""
    if isinstance(value, int) and value >= 0:
        return value
    if isinstance(value, bytes) and len(value) == 8:
        return int.from_bytes(value, "big")
    return None


def newest_seq(store: PersistDir) -> int | None:
    """The highest sequence number in the WAL; None when it is empty."""
    store.schema.require("embeddings_queue")
    value = _rows(store, "SELECT max(seq_id) FROM embeddings_queue", ())[0][0]
    return value if isinstance(value, int) else None


def totals(store: PersistDir) -> tuple[int, int]:
    """Entries and bytes of the whole WAL."""
    store.schema.require("embeddings_queue")
    row = _rows(
        store,
        "SELECT count(*), coalesce(sum(coalesce(length(vector), 0) + coalesce(length(metadata), 0) + length(id)), 0) "
        "FROM embeddings_queue",
        (),
    )[0]
    return _count(row[0]), _count(row[1])


def all_entries(store: PersistDir) -> tuple[Entries, ...]:
    """The entries of every topic in one pass, by topic, those of collections that no longer exist among them."""
    store.schema.require("embeddings_queue")
    rows = _rows(
        store,
        f"SELECT substr(topic, 1, 4096), {_AGGREGATES} FROM embeddings_queue GROUP BY topic LIMIT ?",  # noqa: S608
        (_MOST_TOPICS,),
    )
    return tuple(_entries(_text(topic), columns) for topic, *columns in rows)


def entries(store: PersistDir, collection_id: str) -> Entries:
    """The entries of one collection; a pass over the queue, which has no index by topic."""
    store.schema.require("embeddings_queue")
    row = _rows(
        store,
        f"SELECT {_AGGREGATES} FROM embeddings_queue WHERE {_OF_COLLECTION}",  # noqa: S608
        (f"/{collection_id}".encode("utf-8", "surrogateescape"),),
    )[0]
    return _entries(f"/{collection_id}", list(row))


def gap(store: PersistDir, found: Entries, watermark: int | None) -> int | None:
    """How many of ``found`` lie above a watermark: what its segment has not consumed. None without a watermark."""
    if watermark is None:
        return None
    if found.newest_seq is None or found.newest_seq <= watermark:
        return 0
    if found.oldest_seq is not None and found.oldest_seq > watermark:
        return found.entries
    return _above(store, f"/{found.collection_id}" if found.collection_id else found.topic, watermark)


def count_above(store: PersistDir, collection_id: str, watermark: int) -> int:
    """How many entries of a collection, of all its topics, lie above a watermark; a pass over the queue."""
    return _above(store, f"/{collection_id}", watermark)


def count_up_to(store: PersistDir, up_to_seq: int) -> dict[str, int]:
    """How many entries each collection id has up to a number, those of collections that no longer exist too."""
    store.schema.require("embeddings_queue")
    rows = _rows(
        store,
        "SELECT substr(topic, 1, 4096), count(*) FROM embeddings_queue WHERE seq_id <= ? GROUP BY topic LIMIT ?",
        (up_to_seq, _MOST_TOPICS),
    )
    found: dict[str, int] = {}
    for topic, number_of in rows:
        owner = _text(topic).rpartition("/")[2]
        found[owner] = found.get(owner, 0) + _count(number_of)
    return found


def stream(store: PersistDir, up_to_seq: int) -> Iterator[tuple[str, WalEntry]]:
    """Every entry up to a number in the order of the numbers, with the id its topic ends in; some hundred at a time."""
    store.schema.require("embeddings_queue")
    above = -(2**63)
    while True:
        rows = _rows(
            store,
            "SELECT substr(topic, 1, 4096), seq_id, operation, id, vector, encoding, metadata, created_at "
            "FROM embeddings_queue WHERE seq_id > ? AND seq_id <= ? ORDER BY seq_id LIMIT ?",
            (above, up_to_seq, _CHUNK),
        )
        for topic, *columns in rows:
            yield _text(topic).rpartition("/")[2], _wal_entry(tuple(columns))
        if len(rows) < _CHUNK:
            return
        above = _count(rows[-1][1])


def topic_of(collection_id: str) -> str:
    """The topic under which every release files the entries of a collection, whatever its tenant and database."""
    return f"persistent://default/default/{collection_id}"


def kinds(store: PersistDir) -> dict[str, dict[str, int]]:
    """For each topic how many entries of each kind it has; ``unknown`` counts operations that Chroma does not write."""
    store.schema.require("embeddings_queue")
    rows = _rows(
        store,
        "SELECT substr(topic, 1, 4096), operation, count(*) FROM embeddings_queue GROUP BY topic, operation LIMIT ?",
        (len(OPERATIONS) * _MOST_TOPICS,),
    )
    found: dict[str, dict[str, int]] = {}
    for topic, operation, number_of in rows:
        kind = OPERATIONS.get(operation, "unknown") if isinstance(operation, int) else "unknown"
        of_topic = found.setdefault(_text(topic), {})
        of_topic[kind] = of_topic.get(kind, 0) + _count(number_of)
    return found


def tail(store: PersistDir, collection_id: str, above_seq: int) -> Iterator[WalEntry]:
    """The entries of a collection above ``above_seq`` in their order, some hundred at a time."""
    store.schema.require("embeddings_queue")
    above = min(above_seq, 2**63 - 1)
    while True:
        rows = _rows(store, _TAIL, (encoded(f"/{collection_id}"), above, _CHUNK))
        for row in rows:
            yield _wal_entry(row)
        if len(rows) < _CHUNK:
            return
        above = _count(rows[-1][0])


def tail_in(connection: sqlite3.Connection, collection_id: str, above_seq: int) -> Iterator[WalEntry]:
    """The same as ``tail`` by a connection of the caller's, inside its transaction."""
    above = min(above_seq, 2**63 - 1)
    while True:
        rows = connection.execute(_TAIL, (encoded(f"/{collection_id}"), above, _CHUNK)).fetchall()
        for row in rows:
            yield _wal_entry(row)
        if len(rows) < _CHUNK:
            return
        above = _count(rows[-1][0])


def tail_state(store: PersistDir, collection_id: str, above_seq: int) -> dict[str, str]:
    """For every id in the tail above ``above_seq`` what its last entry did: "written" or "deleted"."""
    store.schema.require("embeddings_queue")
    state: dict[str, str] = {}
    above = min(above_seq, 2**63 - 1)
    while True:
        rows = _rows(
            store,
            f"SELECT seq_id, id, operation FROM embeddings_queue WHERE {_OF_COLLECTION} AND seq_id > ?2 "  # noqa: S608
            "ORDER BY seq_id LIMIT ?3",
            (encoded(f"/{collection_id}"), above, 20 * _CHUNK),
        )
        for _, identifier, operation in rows:
            state[_text(identifier)] = "deleted" if operation == DELETE else "written"
        if len(rows) < 20 * _CHUNK:
            return state
        above = _count(rows[-1][0])


def operations(
    store: PersistDir, collection_id: str, above_seq: int, up_to_seq: int
) -> Iterator[tuple[int, int, str, bool]]:
    """Of every entry above ``above_seq``, up to ``up_to_seq``: number, operation, id, and whether it has a vector."""
    store.schema.require("embeddings_queue")
    above = min(above_seq, 2**63 - 1)
    while True:
        rows = _rows(
            store,
            "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue "  # noqa: S608
            f"WHERE {_OF_COLLECTION} AND seq_id > ?2 AND seq_id <= ?4 ORDER BY seq_id LIMIT ?3",
            (encoded(f"/{collection_id}"), above, 20 * _CHUNK, up_to_seq),
        )
        for seq_id, operation, identifier, has_vector in rows:
            yield _count(seq_id), _count(operation), _text(identifier), bool(has_vector)
        if len(rows) < 20 * _CHUNK:
            return
        above = _count(rows[-1][0])


def anomaly(store: PersistDir, collection_id: str, above_seq: int, dimension: int) -> tuple[int, str] | None:
    """The first entry above ``above_seq`` that no release writes, and what is wrong with it; None without one.

    Whether vectors hold finite numbers is not looked at.
    """
    store.schema.require("embeddings_queue")
    rows = _rows(
        store,
        f"SELECT seq_id, {_ANOMALY} FROM embeddings_queue WHERE {_OF_COLLECTION} AND seq_id > ?2 "  # noqa: S608
        f"AND {_ANOMALY} <> '' ORDER BY seq_id LIMIT 1",
        (encoded(f"/{collection_id}"), min(above_seq, 2**63 - 1), dimension),
    )
    return (_count(rows[0][0]), _text(rows[0][1])) if rows else None


_ANOMALY = (
    "CASE WHEN typeof(operation) <> 'integer' OR operation NOT IN (0, 1, 2, 3) THEN 'its operation is unknown' "
    "WHEN typeof(id) <> 'text' THEN 'its id is not text' "
    "WHEN typeof(metadata) NOT IN ('text', 'null') THEN 'its metadata is not text' "
    "WHEN vector IS NULL THEN CASE WHEN operation IN (0, 2) THEN 'it has no vector' ELSE '' END "
    "WHEN typeof(vector) <> 'blob' OR coalesce(encoding, '') <> 'FLOAT32' THEN 'its vector is not in FLOAT32' "
    "WHEN length(vector) <> 4 * ?3 THEN 'its vector has another dimension' ELSE '' END"
)


@dataclass(frozen=True, kw_only=True)
class EntryOfRecord:
    """A WAL entry of one record; of its vector the length and the first bytes (little-endian float32)."""

    seq_id: int
    operation: int
    created_at: datetime | None
    vector_bytes: int
    vector_head: bytes = b""


def of_record(store: PersistDir, collection_id: str, record_id: str, limit: int) -> tuple[EntryOfRecord, ...]:
    """The newest ``limit`` entries of a record, oldest first; a pass over the queue, which has no index by id."""
    store.schema.require("embeddings_queue")
    rows = _rows(
        store,
        "SELECT seq_id, operation, created_at, coalesce(length(vector), 0), substr(vector, 1, ?4) "  # noqa: S608
        f"FROM embeddings_queue WHERE {_OF_COLLECTION} AND id = CAST(?2 AS TEXT) ORDER BY seq_id DESC LIMIT ?3",
        (encoded(f"/{collection_id}"), encoded(record_id), limit, _HEAD_BYTES),
    )
    return tuple(
        EntryOfRecord(
            seq_id=_count(seq_id),
            operation=operation if isinstance(operation, int) else -1,
            created_at=time_of(created_at),
            vector_bytes=_count(vector_bytes),
            vector_head=head if isinstance(head, bytes) else b"",
        )
        for seq_id, operation, created_at, vector_bytes, head in reversed(rows)
    )


def automatically_purge(store: PersistDir) -> bool | None:
    """Whether Chroma deletes consumed entries; None where the setting is missing (before 0.5.6) or can not be read."""
    if not store.schema.has("embeddings_queue_config"):
        return None
    rows = _rows(store, "SELECT substr(config_json_str, 1, 65536) FROM embeddings_queue_config ORDER BY id LIMIT 1", ())
    try:
        setting = json.loads(_text(rows[0][0])) if rows else None
    except (ValueError, RecursionError):
        return None
    purge = setting.get("automatically_purge") if isinstance(setting, dict) else None
    return purge if isinstance(purge, bool) else None


_AGGREGATES = (
    "count(*), coalesce(sum(coalesce(length(vector), 0) + coalesce(length(metadata), 0) + length(id)), 0), "
    "min(seq_id), max(seq_id), min(created_at), max(created_at)"
)
_OF_COLLECTION = "substr(topic, -length(CAST(?1 AS TEXT))) = CAST(?1 AS TEXT)"
_TAIL = (
    "SELECT seq_id, operation, id, vector, encoding, metadata, created_at FROM embeddings_queue "  # noqa: S608
    f"WHERE {_OF_COLLECTION} AND seq_id > ?2 ORDER BY seq_id LIMIT ?3"
)


def _above(store: PersistDir, suffix: str, watermark: int) -> int:
    row = _rows(
        store,
        f"SELECT count(*) FROM embeddings_queue WHERE {_OF_COLLECTION} AND seq_id > ?2",  # noqa: S608
        (encoded(suffix), min(watermark, 2**63 - 1)),
    )[0]
    return _count(row[0])


def _entries(topic: str, columns: list[object]) -> Entries:
    owner = topic.rpartition("/")[2]
    return Entries(
        topic=topic,
        collection_id=owner if is_uuid(owner) else None,
        entries=_count(columns[0]),
        size_bytes=_count(columns[1]),
        oldest_seq=number(columns[2]),
        newest_seq=number(columns[3]),
        oldest_at=time_of(columns[4]),
        newest_at=time_of(columns[5]),
    )


def _wal_entry(row: tuple[object, ...]) -> WalEntry:
    seq_id, operation, identifier, vector, encoding, metadata, created_at = row
    problem = ""
    if operation not in OPERATIONS:
        problem = f"its operation is {visible(_text(operation), limit=40)}"
    elif not isinstance(identifier, str):
        problem = "its id is not text"
    elif not (vector is None or isinstance(vector, bytes)):
        problem = "its vector is not a blob"
    elif not (metadata is None or isinstance(metadata, str)):
        problem = "its metadata is not text"
    return WalEntry(
        seq_id=_count(seq_id),
        operation=operation if isinstance(operation, int) else -1,
        id=_text(identifier),
        vector=vector if isinstance(vector, bytes) else None,
        encoding=encoding if isinstance(encoding, str) else None,
        metadata=metadata if isinstance(metadata, str) else None,
        created_at=time_of(created_at),
        problem=problem,
    )


def time_of(value: object) -> datetime | None:
    """A CURRENT_TIMESTAMP of SQLite (``2026-11-21 01:05:51``, UTC) as an aware time; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.strptime(value[:19].replace("T", " "), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else "" if value is None else str(value)


def _rows(store: PersistDir, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    with sqlite_errors(store.database_path):
        return store.db.execute(statement, values).fetchall()
