"""Checks of a new index by a process that did not write it: against the old one, and after the commit by its rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ops.errors import VerificationFailed
from ops.store.configuration import HnswConfiguration, effective
from ops.store.hnsw import CHUNK_BYTES, Levels, PlainDirectory
from ops.store.hnsw_build import Source
from ops.store.hnsw_search import GraphSearch
from ops.store.live_index import LiveIndex, open_live_index, position
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import collection as find_collection
from ops.store.sysdb import vector_segment

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SELF_HIT_LOSS = 0.01
LIBRARY_SAMPLE = 200


@dataclass(frozen=True, kw_only=True)
class StagedIndex:
    """What a staged index was made of and must be: directories, spaces, parameters.

    ``ef`` is the ef of the self-hit searches in both indexes, ``sample`` how many vectors are searched for.
    """

    old_segment_id: str
    stage_directory: str
    old_space: str
    space: str
    m: int
    ef_construction: int
    ef: int
    sample: int = 1000


@dataclass(frozen=True, kw_only=True)
class VerifiedIndex:
    """What a process other than the writer found. ``*_equal`` count, ``self_hit_*`` are shares of ``sample``.

    ``vectors_equal`` counts vectors that are equal bit by bit to the old ones (after the conversion where the space
    changed, which ``converted`` says); ``before`` is None for an old index whose graph can not be walked.
    """

    ids_equal: int
    vectors_equal: int
    converted: bool
    sample: int
    self_hit_before: float | None
    self_hit_after: float
    pid: int


@dataclass(frozen=True, kw_only=True)
class CommittedIndex:
    """What the committed rows point to, read back: live labels, directory, process id of the reader."""

    elements: int
    labels: int
    authority: str
    pid: int


def verify_staged(*, path: str, collection_id: str, staged: StagedIndex) -> VerifiedIndex:
    """Compare a staged index with the one it replaces; raises VERIFICATION_FAILED with what is wrong.

    Structure (sizes, header, every link, labels 1..n as in the id map), content (the same ids with the same vectors and
    norms), and use: a sample of vectors is searched for in both graphs and in the new one by hnswlib itself.
    """
    with PersistDir.open(path) as store:
        collection = find_collection(store, collection_id)
        old_directory = store.segment_directory(staged.old_segment_id)
        if old_directory is None:
            _fail(f"the old index {staged.old_segment_id} is gone")
        old = open_live_index(old_directory, store.id_maps, collection=collection.name, dimension=collection.dimension)
        stage = PlainDirectory(Path(staged.stage_directory))
        new = open_live_index(stage, store.id_maps, collection=collection.name, dimension=collection.dimension)
        store.id_maps.close()
        levels = _check_structure(new, staged)
        _check_id_map(new, old, position(store, staged.old_segment_id))
        if new.ids != old.ids:
            _fail(f"{len(set(old.ids) ^ set(new.ids))} ids are in one index only, or in another order")
        source = Source(files=old.files, slots=old.slots, old_space=staged.old_space, space=staged.space)
        equal = _equal_vectors(source, new)
        if equal != source.count:
            _fail(f"{source.count - equal} of {source.count} vectors or norms are not those of the old index")
        return _searched(old, new, levels, staged, equal, source.keeps_bytes)


def verify_committed(*, path: str, collection_id: str, segment_id: str, expected: HnswConfiguration) -> CommittedIndex:
    """Read back what was committed, from the rows on; raises VERIFICATION_FAILED when it is not what was asked for."""
    with PersistDir.open(path) as store:
        collection = find_collection(store, collection_id)
        segment = vector_segment(store, collection)
        if segment.id != segment_id:
            _fail(f"the collection points to segment {segment.id} instead of {segment_id}")
        directory = store.segment_directory(segment_id)
        if directory is None:
            _fail(f"the directory of segment {segment_id} is missing")
        index = open_live_index(directory, store.id_maps, collection=collection.name, dimension=collection.dimension)
        _check_labels(index)
        index.files.check_graph()
        found = effective(store, collection, index.files.header)
        if differing := found.configuration.changes(expected):
            _fail(f"{', '.join(sorted(differing))} in {found.authority} is not what was asked for")
        return CommittedIndex(
            elements=index.files.header.elements, labels=len(index.ids), authority=found.authority, pid=os.getpid()
        )


def _check_structure(new: LiveIndex, staged: StagedIndex) -> Levels:
    header = new.files.header
    if (header.m, header.ef_construction) != (staged.m, max(staged.ef_construction, staged.m)):
        _fail(f"it was built with M {header.m} and ef_construction {header.ef_construction}")
    _check_labels(new)
    return new.files.check_graph()


def _check_id_map(new: LiveIndex, old: LiveIndex, taken_up: int | None) -> None:
    """The readers of the old id map read the new one, and find the position where they found it."""
    if new.form != old.form or new.dimensionality not in (old.dimensionality, new.files.header.dimension):
        _fail(f"its id map has the form {new.form} instead of {old.form}, or another dimension")
    if new.max_seq_id != old.max_seq_id and new.max_seq_id != taken_up:
        _fail(f"its id map says that it has taken up the WAL to {new.max_seq_id} instead of {taken_up}")
    if old.seq_ids is not None and new.seq_ids != old.seq_ids:
        _fail("its id map names other WAL entries for its ids")
    if new.form == "class" and None in (new.dimensionality, new.seq_ids):
        _fail("its id map lacks what Chroma before 1.0 reads")


def _check_labels(index: LiveIndex) -> None:
    import numpy as np

    count = len(index.ids)
    labels = index.files.labels()[index.slots]
    if index.tombstones or (labels != np.arange(1, count + 1, dtype=np.uint64)).any():
        _fail(f"its labels are not 1 to {count}")
    if index.counter != count:
        _fail(f"its label counter is {index.counter} instead of {count}")


def _equal_vectors(source: Source, new: LiveIndex) -> int:
    """How many vectors (with their norms, where they mean something) the new index holds exactly as the source says."""
    import numpy as np

    equal = 0
    norms = new.files.norms()
    rows = max(1, CHUNK_BYTES // (4 * source.files.header.dimension))
    for start in range(0, source.count, rows):
        part = slice(start, min(start + rows, source.count))
        wanted, wanted_norms = source.read(part)
        slots = new.slots[part]
        same = (new.files.vectors(slots).view(np.uint32) == wanted.view(np.uint32)).all(axis=1)
        same &= norms[slots].view(np.uint32) == wanted_norms.view(np.uint32)
        equal += int(same.sum())
    return equal


def _searched(
    old: LiveIndex, new: LiveIndex, levels: Levels, staged: StagedIndex, equal: int, keeps_bytes: bool
) -> VerifiedIndex:
    import numpy as np

    sample = np.sort(np.random.default_rng(equal).choice(equal, min(equal, staged.sample), replace=False))
    hits = _self_hits(new, levels, staged.space, sample, staged.ef)
    after = float(hits.mean()) if len(sample) else 1.0
    before = _self_hit_before(old, staged, sample)
    if before is not None and after < before - SELF_HIT_LOSS:
        _fail(
            f"a search for a vector would find it in {after:.1%} of {len(sample)} samples, now in {before:.1%};"
            " a greater m or ef_construction builds a better graph"
        )
    if len(sample):
        few = slice(0, LIBRARY_SAMPLE)
        _ask_library(new, staged, sample[few], int(hits[few].sum()))
    return VerifiedIndex(
        ids_equal=len(new.ids),
        vectors_equal=equal,
        converted=not keeps_bytes,
        sample=len(sample),
        self_hit_before=before,
        self_hit_after=after,
        pid=os.getpid(),
    )


def _self_hits(
    index: LiveIndex, levels: Levels, space: str, sample: npt.NDArray[np.int64], ef: int
) -> npt.NDArray[np.bool_]:
    import numpy as np

    search = GraphSearch(index.files, levels, space)
    return np.array([search.finds_itself(int(slot), ef) for slot in index.slots[sample]], dtype=bool)


def _self_hit_before(old: LiveIndex, staged: StagedIndex, sample: npt.NDArray[np.int64]) -> float | None:
    """None for a damaged graph: a rebuild from its sound vectors is what mends it."""
    from ops.errors import IndexTorn, IndexUnreadable

    if not len(sample):
        return None
    try:
        levels = old.files.check_graph()
    except (IndexTorn, IndexUnreadable):
        return None
    return float(_self_hits(old, levels, staged.old_space, sample, staged.ef).mean())


def _ask_library(new: LiveIndex, staged: StagedIndex, sample: npt.NDArray[np.int64], expected: int) -> None:
    """Load the new files with hnswlib, whose format they are, and let it search."""
    import hnswlib
    import numpy as np

    index = hnswlib.Index(space="l2" if staged.space == "l2" else "ip", dim=new.files.header.dimension)
    index.load_index(staged.stage_directory, is_persistent_index=True, max_elements=new.files.header.elements)
    try:
        index.set_ef(max(staged.ef, 1))
        vectors = new.files.vectors(new.slots[sample])
        labels, distances = index.knn_query(vectors, k=1)
    finally:
        index.close_file_handles()
    own = np.zeros(len(sample)) if staged.space == "l2" else 1 - np.einsum("ij,ij->i", vectors, vectors)
    found = (labels[:, 0] == sample + 1) | (distances[:, 0] <= own + 1e-6 * np.maximum(1, np.abs(own)))
    if int(found.sum()) < expected - max(1, len(sample) // 100):
        _fail(f"hnswlib finds {int(found.sum())} of {len(sample)} vectors in it, the graph leads to {expected}")


def _fail(why: str) -> NoReturn:
    raise VerificationFailed(why=why)
