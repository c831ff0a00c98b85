"""The WAL entries that the segments of one collection have not taken up, and the index that has taken them up."""

from __future__ import annotations

import os
import sqlite3
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import FieldInvalid, IndexNotPersisted, WalAnomaly, WalUnsafe
from ops.plan import Change, Check, StepScope
from ops.quantities import count
from ops.store import configuration as configurations
from ops.store import hnsw, hnsw_build
from ops.store import id_map as id_maps
from ops.store.configuration import Effective, effective
from ops.store.embeddings_queue import anomaly, entries, gap, newest_seq, tail, tail_in, watermarks
from ops.store.live_index import LiveIndex, coverage, open_live_index, persisted_directory
from ops.store.metadb import live_ids
from ops.store.schema import Family
from ops.store.sysdb import Collection, Segment, metadata_segment, vector_segment
from ops.store.sysdb import collection as find_collection
from ops.store.text import visible
from ops.store.wal_replay import (
    Applied,
    VectorEffects,
    apply_metadata,
    entries_between,
    records_after,
    set_watermark,
    vector_effects,
)

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir, SegmentDirectory

_COPY_BYTES = 1 << 20
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """What the two segments of a collection have not taken up.

    ``vector_gap`` and ``metadata_gap`` count the entries above each watermark, ``up_to_seq`` is the newest of them.
    ``index`` and ``directory`` are None while nothing was persisted.
    """

    collection: Collection
    vector: Segment
    metadata: Segment
    family: Family
    found: Effective
    dimension: int
    vector_watermark: int | None
    metadata_watermark: int | None
    vector_gap: int
    metadata_gap: int
    up_to_seq: int
    directory: SegmentDirectory | None
    index: LiveIndex | None
    reachable: int
    records: int

    @classmethod
    def of(cls, store: PersistDir, collection_id: str) -> Outstanding | None:
        """None when both segments have taken up everything.

        Raises WAL_UNSAFE, WAL_ANOMALY, FIELD_INVALID and what stands in the way of opening the index.
        """
        collection = find_collection(store, collection_id)
        name = visible(collection.name)
        vector, metadata = vector_segment(store, collection), metadata_segment(store, collection)
        positions = watermarks(store, collection)
        newest = newest_seq(store) or 0
        if positions.problems:
            raise WalUnsafe(what=" ".join(positions.problems))
        for scope, position in (("VECTOR", positions.vector), ("METADATA", positions.metadata)):
            if position is not None and position > newest:
                what = f"The {scope} watermark of {name} is {position}, above the newest entry of the WAL, {newest}."
                raise WalUnsafe(what=what)
        waiting = entries(store, collection.id)
        gaps = [gap(store, waiting, position or 0) or 0 for position in (positions.vector, positions.metadata)]
        if not any(gaps):
            return None
        if collection.dimension is None:
            raise FieldInvalid(where=f"dimension of {name}", value="nothing", expected="that of the vectors in its WAL")
        above = min(positions.vector or 0, positions.metadata or 0)
        if wrong := anomaly(store, collection.id, above, collection.dimension):
            raise WalAnomaly(seq_id=wrong[0], why=wrong[1])
        directory, index = _index(store, collection, vector)
        reachable, records = (0, 0) if index is None else coverage(store, collection, index, positions.vector)
        return cls(
            collection=collection,
            vector=vector,
            metadata=metadata,
            family=store.schema.shape,
            found=effective(store, collection, None if index is None else index.files.header),
            dimension=collection.dimension,
            vector_watermark=positions.vector,
            metadata_watermark=positions.metadata,
            vector_gap=gaps[0],
            metadata_gap=gaps[1],
            up_to_seq=waiting.newest_seq or 0,
            directory=directory,
            index=index,
            reachable=reachable,
            records=records,
        )

    @property
    def name(self) -> str:
        """The collection's name for people."""
        return visible(self.collection.name)

    @property
    def step(self) -> StepScope:
        """Its commit point."""
        return StepScope(
            subject=self.collection.id, title=self.name, segment_id=self.vector.id, up_to_seq=self.up_to_seq
        )

    @property
    def size_bytes(self) -> int:
        """The five files of the new index at most."""
        old = 0 if self.index is None else self.index.files.size_bytes + self.index.id_map_bytes
        m = self.found.configuration.max_neighbors
        return old + hnsw.index_bytes(self.vector_gap, self.dimension, m) + 64 * self.vector_gap

    @property
    def seconds(self) -> tuple[float, float]:
        """Shortest and longest expected time."""
        configuration = self.found.configuration
        shortest, longest = hnsw_build.build_seconds(
            self.vector_gap, self.dimension, configuration.max_neighbors, configuration.ef_construction, self.threads
        )
        return shortest + 0.5, longest * 2 + 3

    @property
    def threads(self) -> int:
        """Threads of the index: what the configuration says, at most one per core this process may use."""
        cores = len(os.sched_getaffinity(0))
        return min(self.found.configuration.num_threads or cores, cores)

    @property
    def agreement(self) -> Check:
        """The check that every record has its vector in the index or in the WAL, before anything is built."""
        if self.index is None or self.metadata_gap or self.reachable == self.records:
            return Check(
                state="passed",
                sentence=f"{self.name}: {count(self.vector_gap, 'entry', 'entries')} for the index and"
                f" {self.metadata_gap} for the records can be applied.",
            )
        return Check(
            state="refused",
            code=WalUnsafe.code,
            sentence=f"{self.name} has {count(self.records, 'record')} and {count(self.reachable, 'vector')} in index"
            " and WAL together; find out why before the WAL is taken up.",
        )

    @property
    def indexed(self) -> frozenset[str]:
        """The ids of the index of today."""
        return frozenset() if self.index is None else frozenset(self.index.ids)

    def rows_of_change(self, with_name: bool) -> tuple[Change, ...]:
        """What will change, as rows of a table; ``with_name`` puts the collection's name before each."""
        prefix = f"{self.name}: " if with_name else ""
        now = "not persisted" if self.index is None else count(len(self.index.ids))
        rows = (
            ("Entries the index lacks", count(self.vector_gap), "0"),
            ("Entries the records lack", count(self.metadata_gap), "0"),
            ("Vectors in the index", now, "as many as records"),
            ("WAL entries", "kept", "kept"),
            ("Watermark VECTOR", _text(self.vector_watermark), str(self.up_to_seq)),
            ("Watermark METADATA", _text(self.metadata_watermark), str(self.up_to_seq)),
            ("Segment id", f"{self.vector.id[:8]}…", "new"),
        )
        return tuple(Change(what=prefix + what, now=now, after=after) for what, now, after in rows)

    def effects(self, store: PersistDir) -> VectorEffects:
        """What the entries do to the index."""
        return vector_effects(store, self.collection.id, self.indexed, self.vector_watermark or 0, self.up_to_seq)

    def records_after(self, store: PersistDir) -> set[str]:
        """The ids of the records once the METADATA segment has taken up its entries."""
        recorded = live_ids(store, self.metadata.id)
        return records_after(store, self.collection.id, recorded, self.metadata_watermark or 0, self.up_to_seq)

    def build(self, store: PersistDir, stage: Path, progress: Progress) -> None:
        """Write the five files of the index that has taken up the entries to an empty directory."""
        old = None if self.directory is None else id_maps.read(store.id_maps, self.directory, self.name)
        store.id_maps.close()  # its child is not needed while the index is built, and takes memory
        effects = self.effects(store)
        label_of = {} if old is None else dict(zip(old.ids, old.labels.tolist(), strict=True))
        # A counter below a label that was given out (a known damage) would give it out again.
        counter = 0 if self.index is None or old is None else max(old.total_elements_added, self.index.max_label)
        gone = [label_of.pop(identifier) for identifier in sorted(effects.deleted)]
        for identifier in effects.written:
            if identifier not in label_of:
                counter += 1
                label_of[identifier] = counter
        if self.directory is not None:
            _copy(self.directory, stage)
        self._extend(store, stage, effects, label_of, gone, progress)
        empty = id_maps.IdMap(
            form="dict", total_elements_added=0, dimensionality=None, max_seq_id=None, labels=array("q"), ids=[]
        )
        made = replace(
            old or empty, total_elements_added=counter, labels=array("q", label_of.values()), ids=list(label_of)
        )
        (stage / id_maps.FILE_NAME).write_bytes(id_maps.dump(made))

    def apply(self, connection: sqlite3.Connection) -> Applied:
        """Apply the entries to the records and move both watermarks, inside the transaction of the flip."""
        row = connection.execute(
            "SELECT id FROM segments WHERE collection = ? AND scope = 'VECTOR'", (self.collection.id,)
        ).fetchone()
        waiting = entries_between(tail_in(connection, self.collection.id, self.metadata_watermark or 0), self.up_to_seq)
        applied = apply_metadata(connection, self.family, self.metadata.id, waiting)
        if self.family.schema_str and applied.keys:
            configurations.add_keys(connection, self.collection.id, applied.keys)
        set_watermark(connection, self.family, str(row[0]), self.up_to_seq)
        set_watermark(connection, self.family, self.metadata.id, max(self.up_to_seq, self.metadata_watermark or 0))
        return applied

    def _extend(
        self,
        store: PersistDir,
        stage: Path,
        effects: VectorEffects,
        label_of: dict[str, int],
        gone: list[int],
        progress: Progress,
    ) -> None:
        import hnswlib
        import numpy as np

        configuration = self.found.configuration
        library = hnswlib.Index(space=configuration.space, dim=self.dimension)
        elements = 0 if self.index is None else self.index.files.header.elements
        fresh = len(effects.written.keys() - self.indexed)
        if self.index is None:
            library.init_index(
                max_elements=max(fresh, hnsw.INITIAL_SLOTS[0]),
                M=configuration.max_neighbors,
                ef_construction=max(configuration.ef_construction, configuration.max_neighbors),
                random_seed=hnsw_build.RANDOM_SEED,
                is_persistent_index=True,
                persistence_location=str(stage),
            )
        else:
            capacity = max(self.index.files.header.capacity, elements + fresh)
            library.load_index(str(stage), is_persistent_index=True, max_elements=capacity)
        try:
            for label in gone:
                library.mark_deleted(label)
            done, total = 0, len(effects.written)
            ids: list[str] = []
            vectors: list[bytes] = []
            for entry in tail(store, self.collection.id, self.vector_watermark or 0):
                if effects.written.get(entry.id) == entry.seq_id and entry.vector is not None:
                    ids.append(entry.id)
                    vectors.append(entry.vector)
                    if not np.isfinite(np.frombuffer(entry.vector, "<f4")).all():
                        raise WalAnomaly(seq_id=entry.seq_id, why="its vector holds no finite number")
                if ids and (len(ids) == _BATCH or done + len(ids) == total):
                    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), -1).astype(np.float32)
                    labels = np.array([label_of[identifier] for identifier in ids], np.uint64)
                    library.add_items(rows, labels, num_threads=self.threads)
                    done += len(ids)
                    ids, vectors = [], []
                    progress.advance(done, total, "vectors")
                if entry.seq_id >= self.up_to_seq:
                    break
            library.persist_dirty()
        finally:
            library.close_file_handles()
        del library
        if configuration.space != "cosine":
            _clear_norms(stage, elements)


def _index(
    store: PersistDir, collection: Collection, vector: Segment
) -> tuple[SegmentDirectory | None, LiveIndex | None]:
    try:
        directory = persisted_directory(store, collection, vector.id)
    except IndexNotPersisted:
        return None, None
    name = visible(collection.name)
    return directory, open_live_index(directory, store.id_maps, collection=name, dimension=collection.dimension)


def _copy(directory: SegmentDirectory, stage: Path) -> None:
    """A copy of its own of each of the four files of the index; a link would let the library change the old one."""
    for name in (hnsw.HEADER, hnsw.LEVEL0, hnsw.LENGTH, hnsw.LINK_LISTS):
        with open(directory.open(name), "rb") as source, open(stage / name, "xb") as target:
            while chunk := source.read(_COPY_BYTES):
                target.write(chunk)


def _clear_norms(stage: Path, elements: int) -> None:
    """Where norms mean nothing the library leaves in ``length.bin`` what its memory held."""
    file = stage / hnsw.LENGTH
    size_bytes = file.stat().st_size
    if size_bytes > 4 * elements:
        with open(file, "r+b") as writable:
            writable.seek(4 * elements)
            writable.write(bytes(size_bytes - 4 * elements))


def _text(value: int | None) -> str:
    return "none" if value is None else str(value)
