"""The few figures of a store that are sampled regularly, and what tells it from another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ops.errors import DeadlineExceeded
from ops.store import embeddings_queue, metadb, sysdb
from ops.store.persist_dir import PersistDir

T = TypeVar("T")
MOST_ORPHANS = 10_000


@dataclass(frozen=True, kw_only=True)
class StoreSample:
    """Counts and bytes of a whole store; None for a figure that could not be told within the deadline.

    ``records`` counts the rows of ``embeddings`` of all segments, ``wal_entries`` those of ``embeddings_queue``,
    ``orphans`` the directories that no segment row names. ``collections_digest`` is ``collections_digest()``.
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
        collections_digest=digest,
    )


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
