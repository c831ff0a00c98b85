"""Checks of an index that has taken up WAL entries, by a process that did not write it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ops.errors import IndexTorn, IndexUnreadable, VerificationFailed
from ops.store.embeddings_queue import entries, gap, newest_seq, number, tail, watermarks
from ops.store.hnsw import PlainDirectory
from ops.store.hnsw_search import GraphSearch
from ops.store.live_index import LiveIndex, open_live_index
from ops.store.metadb import live_ids
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import collection as find_collection
from ops.store.sysdb import metadata_segment, vector_segment
from ops.store.text import encoded, visible
from ops.store.wal_commit import Outstanding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ops.store.hnsw import Floats

SAMPLE = 1000
SELF_HIT_LOSS = 0.01
_COSINE_ERROR = 1e-6  # of a component and of the norm; single precision carries 6e-8
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class VerifiedTakeUp:
    """What a process other than the writer found in the staged index.

    ``kept`` vectors equal those of the old index bit by bit, ``written`` equal those of the WAL; ``self_hit_*`` are
    shares of ``sample``, the one before None without an old index whose graph can be walked.
    """

    kept: int
    written: int
    sample: int
    self_hit_before: float | None
    self_hit_after: float
    pid: int


@dataclass(frozen=True, kw_only=True)
class CommittedTakeUp:
    """What the committed rows point to, read back."""

    records: int
    labels: int
    slots: int
    documents: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class CleanedQueue:
    """The newest WAL entry and the highest watermark after a clean, as another process read them."""

    newest_seq: int
    highest_watermark: int
    pid: int


def verify_taken_up(*, path: str, collection_id: str, stage_directory: str, up_to_seq: int) -> VerifiedTakeUp:
    """Compare a staged index with the old one and the WAL; raises VERIFICATION_FAILED with what is wrong.

    Its ids are those that the records will have; a vector that no entry wrote is bit-equal to the old one under its old
    label, one that an entry wrote is that of the last such entry (unit length and norm in a cosine index).
    """
    with PersistDir.open(path) as store:
        found = Outstanding.of(store, collection_id)
        if found is None or found.up_to_seq != up_to_seq:
            _fail("the WAL is another now")
        stage = PlainDirectory(Path(stage_directory))
        new = open_live_index(stage, store.id_maps, collection=found.name, dimension=found.dimension)
        levels = new.files.check_graph()
        header, configuration = new.files.header, found.found.configuration
        efc = max(configuration.ef_construction, configuration.max_neighbors)
        if (header.m, header.ef_construction) != (configuration.max_neighbors, efc):
            _fail(f"it has M {header.m} and ef_construction {header.ef_construction}")
        if new.counter_too_low:
            _fail(f"its label counter is {new.counter} below the label {new.max_label}")
        effects = found.effects(store)
        ids = set(new.ids)
        if differing := effects.ids(found.indexed) ^ ids:
            _fail(f"{len(differing)} ids of index and WAL are missing in it, or more than these")
        if differing := found.records_after(store) ^ ids:
            _fail(f"{len(differing)} ids have a record without a vector, or a vector without a record")
        slot_of = dict(zip(new.ids, new.slots.tolist(), strict=True))
        kept = _equal_old(found.index, new, slot_of, set(effects.written))
        written = 0
        batch: list[tuple[str, bytes]] = []
        for entry in tail(store, collection_id, found.vector_watermark or 0):
            if entry.seq_id > up_to_seq:
                break
            if effects.written.get(entry.id) == entry.seq_id and entry.vector is not None:
                batch.append((entry.id, entry.vector))
            if len(batch) == _ROWS:
                written += _equal_wal(new, slot_of, batch, configuration.space)
                batch = []
        written += _equal_wal(new, slot_of, batch, configuration.space)
        if kept + written != len(ids):
            _fail(f"{len(ids) - kept - written} of {len(ids)} vectors are not those of the old index and the WAL")
        before = _self_hits(found.index, configuration.space, configuration.ef_search)
        search = GraphSearch(new.files, levels, configuration.space)
        sample = _sample(new.slots)
        hits = [search.finds_itself(int(slot), configuration.ef_search) for slot in sample]
        after = sum(hits) / len(hits) if hits else 1.0
        if before is not None and after < before - SELF_HIT_LOSS:
            _fail(f"a search for a vector would find it in {after:.1%} of {len(hits)} samples, now in {before:.1%}")
        return VerifiedTakeUp(
            kept=kept,
            written=written,
            sample=len(hits),
            self_hit_before=before,
            self_hit_after=after,
            pid=os.getpid(),
        )


def verify_take_up_committed(*, path: str, collection_id: str, segment_id: str, up_to_seq: int) -> CommittedTakeUp:
    """Read back from the rows on: watermarks, labels against the ids of the records, full-text rows of documents."""
    with PersistDir.open(path) as store:
        collection = find_collection(store, collection_id)
        segment, metadata = vector_segment(store, collection), metadata_segment(store, collection)
        directory = store.segment_directory(segment_id)
        if segment.id != segment_id or directory is None:
            _fail(f"the collection points to segment {segment.id}, or {segment_id} has no directory")
        positions = watermarks(store, collection)
        waiting = entries(store, collection_id)
        if positions.vector != up_to_seq or (positions.metadata or 0) < up_to_seq:
            _fail(f"the watermarks are {positions.vector} and {positions.metadata} instead of {up_to_seq}")
        index = open_live_index(
            directory, store.id_maps, collection=visible(collection.name), dimension=collection.dimension
        )
        index.files.check_graph()
        recorded = set(live_ids(store, metadata.id))
        if not gap(store, waiting, up_to_seq) and (differing := recorded ^ set(index.ids)):
            _fail(f"{len(differing)} ids have a record without a vector, or a vector without a record")
        rows = store.db.execute(
            "SELECT count(*), count(d.id) FROM embeddings e JOIN embedding_metadata m ON m.id = e.id AND m.key = ?"
            " LEFT JOIN embedding_fulltext_search_docsize d ON d.id = e.id WHERE e.segment_id = ?",
            ("chroma:document", metadata.id),
        ).fetchone()
        if rows[0] != rows[1]:
            _fail(f"{rows[0] - rows[1]} documents have no row in the full-text index")
        return CommittedTakeUp(
            records=len(recorded),
            labels=len(index.ids),
            slots=index.files.header.elements,
            documents=int(rows[0]),
            pid=os.getpid(),
        )


def _equal_old(old: LiveIndex | None, new: LiveIndex, slot_of: dict[str, int], written: set[str]) -> int:
    """How many vectors that no entry wrote stand under their old label with their old bits and norm."""
    import numpy as np

    if old is None:
        return 0
    places = [place for place, key in enumerate(old.ids) if key in slot_of and key not in written]
    old_slots = old.slots[np.array(places, np.int64)]
    new_slots = np.array([slot_of[old.ids[place]] for place in places], np.int64)
    equal = 0
    for start in range(0, len(places), _ROWS):
        before, after = old_slots[start : start + _ROWS], new_slots[start : start + _ROWS]
        same = (old.files.vectors(before).view(np.uint32) == new.files.vectors(after).view(np.uint32)).all(axis=1)
        same &= old.files.norms()[before].view(np.uint32) == new.files.norms()[after].view(np.uint32)
        same &= old.files.labels()[before] == new.files.labels()[after]
        equal += int(same.sum())
    return equal


def _equal_wal(new: LiveIndex, slot_of: dict[str, int], batch: list[tuple[str, bytes]], space: str) -> int:
    import numpy as np

    if not batch:
        return 0
    slots = np.array([slot_of[identifier] for identifier, _ in batch], np.int64)
    wanted = np.frombuffer(b"".join(vector for _, vector in batch), "<f4").reshape(len(batch), -1)
    stored = new.files.vectors(slots)
    if space != "cosine":
        return int((stored.view(np.uint32) == wanted.view(np.uint32)).all(axis=1).sum())
    return int(_is_unit_of(stored, new.files.norms()[slots], wanted).sum())


def _is_unit_of(stored: Floats, norms: Floats, wanted: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    import numpy as np

    exact = wanted.astype(np.float64)
    lengths = np.sqrt((exact**2).sum(axis=1))
    unit = exact / np.maximum(lengths, 1e-30)[:, None]
    close: npt.NDArray[np.bool_] = (np.abs(stored - unit) <= _COSINE_ERROR).all(axis=1)
    close &= np.abs(norms - lengths) <= _COSINE_ERROR * np.maximum(lengths, 1e-30)
    return close


def _self_hits(index: LiveIndex | None, space: str, ef: int) -> float | None:
    if index is None or not len(index.slots):
        return None
    try:
        levels = index.files.check_graph()
    except (IndexTorn, IndexUnreadable):
        return None
    search = GraphSearch(index.files, levels, space)
    sample = _sample(index.slots)
    return sum(search.finds_itself(int(slot), ef) for slot in sample) / len(sample)


def _sample(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    import numpy as np

    generator = np.random.default_rng(len(slots))
    return generator.choice(slots, min(len(slots), SAMPLE), replace=False)


def _fail(why: str) -> NoReturn:
    raise VerificationFailed(why=why)


def verify_cleaned(*, path: str, topic: str, up_to_seq: int, kept_seq: int) -> CleanedQueue:
    """The entries are gone, and no watermark lies above the newest entry; raises VERIFICATION_FAILED."""
    with PersistDir.open(path) as store:
        left = store.db.execute(
            "SELECT count(*) FROM embeddings_queue WHERE topic = CAST(? AS TEXT) AND seq_id <= ? AND seq_id <> ?",
            (encoded(topic), up_to_seq, kept_seq),
        ).fetchone()[0]
        if left:
            _fail(f"{left} entries up to {up_to_seq} are still there")
        newest = newest_seq(store) or 0
        highest = max((number(row[0]) or 0 for row in store.db.execute("SELECT seq_id FROM max_seq_id")), default=0)
        if newest < highest:
            _fail(f"the newest WAL entry is {newest}, below the watermark {highest}")
        return CleanedQueue(newest_seq=newest, highest_watermark=highest, pid=os.getpid())
