"""The WAL entries that every segment of their collection has taken up: which they are, their copy, their deletion."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import IoFailed, OpsError, PlanChanged, WalAnomaly, WalUnsafe
from ops.plan import StepScope
from ops.store.conditions import Condition
from ops.store.embeddings_queue import Entries, all_entries, anomaly, newest_seq, number, watermarks
from ops.store.live_index import open_live_index, persisted_directory
from ops.store.metadb import live_ids
from ops.store.sqlite import sqlite_errors
from ops.store.sysdb import Collection, metadata_segment, vector_segment
from ops.store.sysdb import collections as all_collections
from ops.store.text import encoded, visible
from ops.store.wal_replay import records_after, vector_effects

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir

UNDO_FILE = "undo.sqlite3"
_COLUMNS = "seq_id, created_at, operation, topic, id, vector, encoding, metadata"
_WHICH = "topic = CAST(?1 AS TEXT) AND seq_id <= ?2 AND seq_id <> ?3"
_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Cleanable:
    """The entries of one topic that may go: those up to ``up_to_seq`` but ``kept_seq`` (0 for none).

    ``collection`` is None for a topic whose collection is gone. ``reason`` says why nothing may go; empty when it may.
    """

    topic: str
    collection: Collection | None
    segment_id: str
    up_to_seq: int
    kept_seq: int
    rows: int
    size_bytes: int
    reason: str

    @property
    def name(self) -> str:
        """The collection's name for people, or the topic."""
        return visible(self.topic if self.collection is None else self.collection.name)

    @property
    def step(self) -> StepScope:
        """Its commit point."""
        return StepScope(
            subject=self.topic if self.collection is None else self.collection.id,
            title=self.name,
            segment_id=self.segment_id,
            up_to_seq=self.up_to_seq,
            max_rows=self.rows,
        )

    @property
    def condition(self) -> tuple[Condition, ...]:
        """What holds once they are gone."""
        values = (self.topic, str(self.up_to_seq), str(self.kept_seq))
        return (Condition(name="queue_is_clean_up_to", values=values),)

    @property
    def _values(self) -> tuple[bytes, int, int]:
        return encoded(self.topic), self.up_to_seq, self.kept_seq

    def keep(self, store: PersistDir, directory: Path) -> None:
        """Copy the entries to ``undo.sqlite3`` in the directory and read them back; raises IO_FAILED."""
        file = directory / UNDO_FILE
        digest = hashlib.sha256()
        with closing(sqlite3.connect(file, isolation_level=None)) as copy, sqlite_errors(file):
            copy.execute("PRAGMA synchronous=FULL")
            copy.execute("BEGIN")
            copy.execute(
                "CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, created_at, operation, topic, id, vector,"
                " encoding, metadata)"
            )
            for rows in self._chunks(store.db):
                digest.update(repr(rows).encode("utf-8", "surrogateescape"))
                copy.executemany(
                    "INSERT INTO embeddings_queue VALUES (?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)",
                    [(*row[:3], encoded(str(row[3])), encoded(str(row[4])), *row[5:]) for row in rows],
                )
            copy.execute("COMMIT")
        store.close_database()
        found = hashlib.sha256()
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as again, sqlite_errors(file):
            again.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            for rows in self._chunks(again):
                found.update(repr(rows).encode("utf-8", "surrogateescape"))
        if found.digest() != digest.digest():
            raise IoFailed(what=f"Reading back {file}", why="it does not hold the entries that were copied")

    def delete(self, connection: sqlite3.Connection) -> int:
        """Delete the entries inside the caller's transaction, after looking at the watermarks again; how many went.

        Raises PLAN_CHANGED, and WAL_UNSAFE where the newest entry would lie below a watermark: Chroma numbers its next
        entry from it, and ignores what it numbers below one.
        """
        if self.collection is not None:
            rows = connection.execute(
                "SELECT m.seq_id FROM segments s LEFT JOIN max_seq_id m ON m.segment_id = s.id"
                " WHERE s.collection = CAST(? AS TEXT) AND s.scope IN ('VECTOR', 'METADATA')",
                (encoded(self.collection.id),),
            ).fetchall()
            taken_up = [number(row[0]) or 0 for row in rows]
            if len(taken_up) != 2 or self.up_to_seq >= min(taken_up):
                raise PlanChanged(what=f"{self.name}: its watermarks are others now")
        deleted = connection.execute(f"DELETE FROM embeddings_queue WHERE {_WHICH}", self._values).rowcount  # noqa: S608
        if deleted > self.rows:
            raise PlanChanged(what=f"{self.name}: {deleted} entries would go instead of {self.rows}")
        newest = connection.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0] or 0
        highest = max((number(row[0]) or 0 for row in connection.execute("SELECT seq_id FROM max_seq_id")), default=0)
        if newest < highest:
            raise WalUnsafe(what=f"The newest WAL entry would be {newest}, below the watermark {highest}.")
        return deleted

    def _chunks(self, db: sqlite3.Connection) -> Iterable[list[tuple[object, ...]]]:
        above = -1
        while True:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM embeddings_queue WHERE {_WHICH} AND seq_id > ?4 ORDER BY seq_id LIMIT ?5",  # noqa: S608
                (*self._values, above, _CHUNK),
            ).fetchall()
            if not rows:
                return
            yield rows
            above = rows[-1][0]


def cleanable(
    store: PersistDir, selected: tuple[Collection, ...], *, orphans: bool, keep_last: int
) -> tuple[Cleanable, ...]:
    """What may go of each collection that has entries, and of topics whose collection is gone when ``orphans``."""
    newest = newest_seq(store) or 0
    by_id = {collection.id: collection for collection in selected}
    known = {collection.id for collection in all_collections(store)} if orphans else set()
    topics = all_entries(store)
    doubled = [entry.collection_id for entry in topics]
    found = []
    for entry in topics:
        collection = by_id.get(entry.collection_id or "")
        if collection is not None:
            one = doubled.count(entry.collection_id) == 1
            found.append(_of(store, collection, entry, newest, keep_last, one))
        elif orphans and entry.collection_id is not None and entry.collection_id not in known:
            kept = newest if entry.newest_seq == newest else 0
            found.append(_counted(store, entry, None, "", entry.newest_seq or 0, kept, ""))
    return tuple(found)


def _of(store: PersistDir, collection: Collection, entry: Entries, newest: int, keep_last: int, one: bool) -> Cleanable:
    segment_id, below = "", 0
    reason = "" if one else "two topics end with its id"
    try:
        segment_id = vector_segment(store, collection).id
        below = below if reason else _taken_up(store, collection, segment_id, newest)
    except OpsError as error:
        reason = f"{error.code}: {error}"
    if keep_last and not reason:
        rows = _rows(
            store,
            "SELECT seq_id FROM embeddings_queue WHERE topic = CAST(? AS TEXT) ORDER BY seq_id DESC LIMIT 1 OFFSET ?",
            (encoded(entry.topic), keep_last - 1),
        )
        below = min(below, int(str(rows[0][0]))) if rows else 0
    return _counted(store, entry, collection, segment_id, below - 1, 0, reason)


def _taken_up(store: PersistDir, collection: Collection, segment_id: str, newest: int) -> int:
    """Chroma's own rule: below both watermarks. Raises what makes the index no safe place for these entries."""
    name = visible(collection.name)
    directory = persisted_directory(store, collection, segment_id)
    positions = watermarks(store, collection)
    if positions.problems or positions.vector is None or positions.metadata is None:
        raise WalUnsafe(what=" ".join(positions.problems) or f"{name} has no watermark for each of its segments.")
    if max(positions.vector, positions.metadata) > newest:
        raise WalUnsafe(what=f"A watermark of {name} is above the newest entry of the WAL, {newest}.")
    if collection.dimension is None:
        raise WalUnsafe(what=f"{name} has no dimension.")
    if wrong := anomaly(store, collection.id, 0, collection.dimension):
        raise WalAnomaly(seq_id=wrong[0], why=wrong[1])
    index = open_live_index(directory, store.id_maps, collection=name, dimension=collection.dimension)
    index.files.check_graph()
    if index.counter_too_low:
        raise WalUnsafe(what=f"The label counter of {name} is too low.")
    indexed = frozenset(index.ids)
    vectors = vector_effects(store, collection.id, indexed, positions.vector, newest).ids(indexed)
    recorded = live_ids(store, metadata_segment(store, collection).id)
    if differing := vectors ^ records_after(store, collection.id, recorded, positions.metadata, newest):
        raise WalUnsafe(what=f"{len(differing)} ids of {name} have a record without a vector, or the other way round.")
    return min(positions.vector, positions.metadata)


def _counted(
    store: PersistDir,
    entry: Entries,
    collection: Collection | None,
    segment_id: str,
    up_to_seq: int,
    kept_seq: int,
    reason: str,
) -> Cleanable:
    rows: list[tuple[object, ...]] = [(0, 0)]
    if not reason:
        rows = _rows(
            store,
            "SELECT count(*), coalesce(sum(coalesce(length(vector), 0) + coalesce(length(metadata), 0) + "  # noqa: S608
            f"length(id)), 0) FROM embeddings_queue WHERE {_WHICH}",
            (encoded(entry.topic), up_to_seq, kept_seq),
        )
    return Cleanable(
        topic=entry.topic,
        collection=collection,
        segment_id=segment_id,
        up_to_seq=max(up_to_seq, 0),
        kept_seq=kept_seq,
        rows=int(str(rows[0][0])),
        size_bytes=int(str(rows[0][1])),
        reason=reason,
    )


def _rows(store: PersistDir, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    with sqlite_errors(store.database_path):
        return store.db.execute(statement, values).fetchall()
