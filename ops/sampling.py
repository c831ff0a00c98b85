"""The few figures of a store that are sampled regularly, and what tells it from another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ops.errors import DeadlineExceeded
from ops.reads import problems
from ops.store import embeddings_queue, metadb, sysdb, vector_segment
from ops.store.persist_dir import PersistDir
from ops.store.vector_segment import Verdict

T = TypeVar("T")
MOST_ORPHANS = 10_000
MOST_PROBLEMS = 20
LARGEST_ID_MAP_BYTES = 4 << 20  # about 100,000 ids in 0.1 s; a page of the collection reads larger ones


@dataclass(frozen=True, kw_only=True)
class StoreSample:
    """Counts and bytes of a whole store; None for a figure that could not be told within the deadline.

    ``records`` counts the rows of ``embeddings`` of all segments, ``wal_entries`` those of ``embeddings_queue``,
    ``orphans`` the directories that no segment row names. ``collections_digest`` is ``collections_digest()``.
    ``problems`` are the first ones of the store and of its indexes (files, sizes, headers, small id maps);
    ``judged`` counts the collections whose index was looked at before the deadline.
    """

    size_bytes: int | None
    allocated_bytes: int | None
    sqlite_bytes: int | None
    index_bytes: int | None
    free_bytes: int
    tenants: int
    databases: int
    collections: int
    records: int | None
    wal_entries: int | None
    orphans: int | None
    release: str
    problems: tuple[Verdict, ...]
    judged: int
    collections_digest: str


def sample(store: PersistDir) -> StoreSample:
    """The figures of a store, the cheap ones first; raises the ``OpsError`` of a store that can not be read at all."""
    release = store.schema.releases
    counts = sysdb.counts(store)
    digest = collections_digest(store)
    known = sysdb.segment_ids(store)
    usage = store.disk_usage()
    wal_entries = _in_time(lambda: embeddings_queue.totals(store)[0])
    records = _in_time(lambda: sum(metadb.count_all(store).values()))
    orphans = len(store.orphan_directories(known, MOST_ORPHANS))
    found, judged = _judged(store)
    return StoreSample(
        # A directory with more files than are looked at has sizes that are too small to be shown.
        size_bytes=usage.size_bytes if usage.complete else None,
        allocated_bytes=usage.allocated_bytes if usage.complete else None,
        sqlite_bytes=usage.sqlite_bytes if usage.complete else None,
        index_bytes=usage.index_bytes if usage.complete else None,
        free_bytes=store.file_system().free_bytes,
        tenants=counts.tenants,
        databases=counts.databases,
        collections=counts.collections,
        records=records,
        wal_entries=wal_entries,
        orphans=orphans,
        release=release,
        problems=found,
        judged=judged,
        collections_digest=digest,
    )


def _judged(store: PersistDir) -> tuple[tuple[Verdict, ...], int]:
    """Problems of the store, then of its indexes until the deadline, and how many indexes that were."""
    found = list(problems(store))
    judged = 0
    try:
        for collection in sysdb.collections(store):
            index = vector_segment.inspect(store, collection, largest_id_map_bytes=LARGEST_ID_MAP_BYTES)
            found += index.verdicts
            judged += 1
    except DeadlineExceeded:
        pass  # the rest is unknown, and the count says so
    return tuple(found[:MOST_PROBLEMS]), judged


def collections_digest(store: PersistDir) -> str:
    """SHA-256 over the sorted ids of all collections, as hex."""
    digest = hashlib.sha256()
    for collection_id in sorted(collection.id for collection in sysdb.collections(store)):
        digest.update(collection_id.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _in_time(count: Callable[[], T]) -> T | None:
    try:
        return count()
    except DeadlineExceeded:
        return None
