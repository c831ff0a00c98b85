"""The index of one collection together with its id map: opened, compared with each other, in label order."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import IndexMetadataMissing, IndexMissing, IndexNotPersisted, LabelCollisionRisk
from ops.store import id_map as id_maps
from ops.store.embeddings_queue import entries, segment_watermark, tail_state, watermarks
from ops.store.hnsw import IndexDirectory, IndexFiles, read_header
from ops.store.metadb import count_records
from ops.store.sysdb import metadata_segment
from ops.store.text import visible

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ops.store.persist_dir import PersistDir, SegmentDirectory
    from ops.store.sysdb import Collection


@dataclass(frozen=True, kw_only=True)
class LiveIndex:
    """Index and id map that agree: ``ids[i]`` is the id of the vector in ``slots[i]``, in the order of the labels.

    ``counter`` is the last label given out as the id map has it, ``id_map_bytes`` the size of its file. ``form``,
    ``dimensionality``, ``max_seq_id`` and ``seq_ids`` (in the order of ``ids``) are those of the id map.
    """

    files: IndexFiles
    slots: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    counter: int
    max_label: int
    id_map_bytes: int
    form: str
    dimensionality: int | None
    max_seq_id: int | None
    seq_ids: array[int] | None

    @property
    def tombstones(self) -> int:
        """Slots that hold no live vector."""
        return self.files.header.elements - len(self.slots)

    @property
    def counter_too_low(self) -> bool:
        """True when Chroma would give out a label that a live vector has."""
        return self.counter < self.max_label


def open_live_index(
    directory: IndexDirectory, reader: id_maps.IdMapReader, *, collection: str, dimension: int | None
) -> LiveIndex:
    """Open the files in ``directory`` and compare the live labels with those of the id map.

    Raises what opening either raises, and LABEL_COLLISION_RISK where they differ: a rebuild would then lose records or
    bring deleted ones back. A counter that is too low is no reason, it is mended by a rebuild.
    """
    import numpy as np

    files = IndexFiles.open(directory, collection=collection, dimension=dimension)
    found = id_maps.read(reader, directory, collection)
    if not found.inverse:
        raise LabelCollisionRisk(collection=collection, why="label_to_id is not the inverse of id_to_label")
    slots = files.live_slots()
    labels = files.labels()
    live = labels[slots]
    mapped = np.array(found.labels, dtype=np.int64)
    order = np.argsort(mapped, kind="stable")
    if len(live) != len(mapped) or (live != mapped[order].astype(np.uint64)).any():
        missing = np.setdiff1d(mapped.astype(np.uint64), live)
        extra = np.setdiff1d(live, mapped.astype(np.uint64))
        dead = len(np.intersect1d(missing, labels))
        why = (
            f"{len(missing)} of its {len(mapped)} labels have no live vector ({dead} are tombstones),"
            f" and {len(extra)} live vectors have no id"
        )
        raise LabelCollisionRisk(collection=collection, why=why, missing=len(missing), extra=len(extra))
    ids, seq_ids, places = found.ids, found.seq_ids, order.tolist()
    return LiveIndex(
        files=files,
        slots=slots,
        ids=tuple(ids[place] for place in places),
        counter=found.total_elements_added,
        max_label=int(labels.max()) if len(labels) else 0,
        id_map_bytes=_size_of(directory),
        form=found.form,
        dimensionality=found.dimensionality,
        max_seq_id=found.max_seq_id,
        seq_ids=None if seq_ids is None else array("q", (seq_ids[place] for place in places)),
    )


def persisted_directory(store: PersistDir, collection: Collection, segment_id: str) -> SegmentDirectory:
    """The directory of an index that was persisted.

    Raises INDEX_NOT_PERSISTED while all vectors are in the WAL, INDEX_MISSING and INDEX_METADATA_MISSING where a
    persisted index has lost its directory or its id map.
    """
    directory, name = store.segment_directory(segment_id), visible(collection.name)
    watermark = watermarks(store, collection).vector
    names = {file.name for file in directory.files()} if directory is not None else set()
    if directory is not None and id_maps.FILE_NAME in names:
        return directory
    if directory is None or not names:
        if watermark:
            raise IndexMissing(
                segment=segment_id, collection=visible(collection.name), watermark=f"watermark {watermark}"
            )
    elif watermark or read_header(directory, collection=name).elements:
        raise IndexMetadataMissing(collection=name)
    raise IndexNotPersisted(collection=name, entries=entries(store, collection.id).entries)


def position(store: PersistDir, segment_id: str) -> int | None:
    """The last WAL entry that an index has taken up: its row of ``max_seq_id``, else what its id map says.

    Chroma before 0.5.6 keeps it in the id map only, and later releases look there where there is no row. None while
    nothing was persisted.
    """
    watermark = segment_watermark(store, segment_id)
    directory = store.segment_directory(segment_id) if watermark is None else None
    if directory is None or not any(file.name == id_maps.FILE_NAME for file in directory.files()):
        return watermark
    return id_maps.read_summary(store.id_maps, directory, segment_id).max_seq_id


def coverage(store: PersistDir, collection: Collection, index: LiveIndex, taken_up: int | None) -> tuple[int, int]:
    """How many ids have a vector in the index or in the WAL above its position ``taken_up``, and how many records.

    They are equal in a sound collection whose METADATA segment has taken up the whole WAL.
    """
    effects = tail_state(store, collection.id, taken_up or 0)
    indexed = set(index.ids)
    written = sum(1 for entry, effect in effects.items() if effect == "written" and entry not in indexed)
    deleted = sum(1 for entry, effect in effects.items() if effect == "deleted" and entry in indexed)
    return len(indexed) + written - deleted, count_records(store, metadata_segment(store, collection).id)


def write_id_map(directory: Path, old: LiveIndex, taken_up: int | None) -> None:
    """The id map of a new index with labels 1..n in the order of ``old.ids``, for the readers of the old one.

    It keeps the form of the old one, which every release that can open the store reads. Releases that read the class
    form need ``dimensionality`` and a sequence number for every id, and look for their position, ``taken_up``, in
    ``max_seq_id`` where the watermark has no row.
    """
    count, dimensionality, max_seq_id, seq_ids = len(old.ids), old.dimensionality, old.max_seq_id, old.seq_ids
    if old.form == "class":
        dimensionality = old.files.header.dimension
        max_seq_id = max_seq_id if taken_up is None else taken_up
        seq_ids = array("q", [max_seq_id or 0]) * count if seq_ids is None else seq_ids
    made = id_maps.IdMap(
        form=old.form,
        total_elements_added=count,
        dimensionality=dimensionality,
        max_seq_id=max_seq_id,
        labels=array("q", range(1, count + 1)),
        ids=list(old.ids),
        seq_ids=seq_ids,
    )
    (directory / id_maps.FILE_NAME).write_bytes(id_maps.dump(made))


def _size_of(directory: IndexDirectory) -> int:
    fd = directory.open(id_maps.FILE_NAME)
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)
