"""Checks of an index that an undo makes current again, by a process that moves nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ops.errors import VerificationFailed
from ops.store.configuration import HnswConfiguration, effective
from ops.store.embeddings_queue import newest_seq, watermarks
from ops.store.hnsw import PlainDirectory
from ops.store.live_index import open_live_index
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import collection as find_collection
from ops.store.sysdb import vector_segment
from ops.store.text import visible
from ops.store.wal_replay import vector_effects


@dataclass(frozen=True, kw_only=True)
class ReturnedIndex:
    """What was found in an index that comes back: its live ids, and the process that looked."""

    ids: int
    pid: int


def verify_returning(*, path: str, collection_id: str, directory: str, watermark: int | None = None) -> ReturnedIndex:
    """Look at an index in the trash: whole, its graph sound, and exactly the ids of the index that is current now.

    One with another ``watermark`` than today's has exactly these ids once both have taken up the WAL.

    Raises VERIFICATION_FAILED, INDEX_TORN, INDEX_HEADER_INVALID, INDEX_UNREADABLE, LABEL_COLLISION_RISK.
    """
    with PersistDir.open(path) as store:
        collection = find_collection(store, collection_id)
        name, dimension = visible(collection.name), collection.dimension
        current = store.segment_directory(vector_segment(store, collection).id)
        if current is None:
            raise VerificationFailed(why=f"the current index of {name} has no directory")
        now = open_live_index(current, store.id_maps, collection=name, dimension=dimension)
        plain = PlainDirectory(Path(directory))
        returning = open_live_index(plain, store.id_maps, collection=name, dimension=dimension)
        returning.files.check_graph()
        ids, wanted = set(returning.ids), set(now.ids)
        if watermark is not None:
            newest, today = newest_seq(store) or 0, watermarks(store, collection).vector or 0
            ids = vector_effects(store, collection.id, ids, watermark, newest).ids(ids)
            wanted = vector_effects(store, collection.id, wanted, today, newest).ids(wanted)
        if differing := ids ^ wanted:
            raise VerificationFailed(why=f"{len(differing)} ids are in one of both indexes only")
        return ReturnedIndex(ids=len(returning.ids), pid=os.getpid())


def verify_returned(*, path: str, collection_id: str, segment_id: str, expected: HnswConfiguration) -> ReturnedIndex:
    """Read back from the rows on; raises VERIFICATION_FAILED when it is not the index and configuration asked for."""
    with PersistDir.open(path) as store:
        collection = find_collection(store, collection_id)
        name = visible(collection.name)
        segment = vector_segment(store, collection)
        directory = store.segment_directory(segment.id)
        if segment.id != segment_id or directory is None:
            raise VerificationFailed(why=f"{name} points to segment {segment.id}, or it has no directory")
        index = open_live_index(directory, store.id_maps, collection=name, dimension=collection.dimension)
        index.files.check_graph()
        found = effective(store, collection, index.files.header)
        if differing := found.configuration.changes(expected):
            raise VerificationFailed(why=f"{', '.join(sorted(differing))} of {name} is not what it was")
        return ReturnedIndex(ids=len(index.ids), pid=os.getpid())
