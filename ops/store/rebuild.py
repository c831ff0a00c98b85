"""The rebuild of one collection's index: what it is made of, what it costs, and the building of its files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ops.plan import Change, Check, StepScope
from ops.quantities import count, in_bytes
from ops.store import hnsw, hnsw_build
from ops.store.configuration import Effective, HnswConfiguration, Value, effective, rows_of
from ops.store.live_index import (
    LiveIndex,
    coverage,
    open_live_index,
    persisted_directory,
    position,
    write_id_map,
)
from ops.store.sysdb import Collection, Segment, vector_segment
from ops.store.sysdb import collection as find_collection
from ops.store.text import visible
from ops.store.verify import StagedIndex

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir

UNCHANGED = "unchanged"


@dataclass(frozen=True, kw_only=True)
class IndexFigures:
    """An index before or after: bytes of its five files, bytes when loaded (estimated), slots, parameters."""

    size_bytes: int
    memory_bytes: int
    slots: int
    tombstones: int
    configuration: HnswConfiguration


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """The old index of a collection, opened and agreed with its id map, and the configuration the new one gets.

    ``found`` is what Chroma uses now, ``wanted`` what it will use. ``taken_up`` is the last WAL entry in the index,
    ``initial_slots`` what Chroma allocates for an index without elements.
    """

    collection: Collection
    segment: Segment
    index: LiveIndex
    found: Effective
    wanted: HnswConfiguration
    reachable: int
    records: int
    taken_up: int | None
    initial_slots: int

    @classmethod
    def of(
        cls, store: PersistDir, collection_id: str, change: Callable[[HnswConfiguration], HnswConfiguration]
    ) -> Rebuild:
        """Open the index of a collection; raises what stands in the way of rebuilding it from its vectors."""
        collection = find_collection(store, collection_id)
        segment = vector_segment(store, collection)
        directory = persisted_directory(store, collection, segment.id)
        index = open_live_index(
            directory, store.id_maps, collection=visible(collection.name), dimension=collection.dimension
        )
        found = effective(store, collection, index.files.header)
        taken_up = position(store, segment.id)
        reachable, records = coverage(store, collection, index, taken_up)
        wanted = change(found.configuration)
        return cls(
            collection=collection,
            segment=segment,
            index=index,
            found=found,
            # hnswlib never builds with an ef_construction below M
            wanted=replace(wanted, ef_construction=max(wanted.ef_construction, wanted.max_neighbors)),
            reachable=reachable,
            records=records,
            taken_up=taken_up,
            initial_slots=store.schema.shape.initial_slots,
        )

    @property
    def name(self) -> str:
        """The collection's name for people."""
        return visible(self.collection.name)

    @property
    def vectors(self) -> int:
        """Live vectors: what the new index is made of."""
        return len(self.index.slots)

    @property
    def changes(self) -> dict[str, Value]:
        """The values that change in the authority.

        M and ef_construction of an index stand in its header: where the authority says something else, it is made to
        agree.
        """
        return self.found.stored.changes(self.wanted)

    @property
    def step(self) -> StepScope:
        """Its commit point."""
        return StepScope(subject=self.collection.id, title=self.name, segment_id=self.segment.id)

    @property
    def rows(self) -> int:
        """Rows the commit changes: segment, watermark, maintenance log, and those of the configuration."""
        return 3 + rows_of(self.found.authority, self.changes)

    @property
    def threads(self) -> int:
        """Threads of the build: what the configuration says, at most one per core this process may use."""
        cores = len(os.sched_getaffinity(0))
        return min(self.wanted.num_threads or cores, cores)

    @property
    def before(self) -> IndexFigures:
        """The old index."""
        return figures(self.index, self.found.configuration)

    @property
    def after(self) -> IndexFigures:
        """The new index as it is expected."""
        header = self.index.files.header
        slot = hnsw.slot_bytes(header.dimension, self.wanted.max_neighbors)
        size_bytes = hnsw.index_bytes(self.vectors, header.dimension, self.wanted.max_neighbors)
        links = size_bytes - hnsw.HEADER_BYTES - self.vectors * (slot + 4)
        return IndexFigures(
            size_bytes=size_bytes + self.index.id_map_bytes,
            memory_bytes=hnsw.memory_bytes(self.vectors, self.vectors, slot, links, self.index.id_map_bytes),
            slots=self.vectors,
            tombstones=0,
            configuration=self.wanted,
        )

    @property
    def seconds(self) -> tuple[float, float]:
        """Shortest and longest expected time, with checks and syncs."""
        header = self.index.files.header
        shortest, longest = hnsw_build.build_seconds(
            self.vectors, header.dimension, self.wanted.max_neighbors, self.wanted.ef_construction, self.threads
        )
        return shortest + 0.5, longest * 1.2 + 3

    @property
    def agreement(self) -> Check:
        """The check that index, id map and WAL hold every record."""
        if self.reachable == self.records:
            return Check(
                state="passed",
                sentence=f"No live id of {self.name} would be lost: index, id map and WAL agree on"
                f" {count(self.records)}.",
            )
        return Check(
            state="passed", sentence=f"Index and id map of {self.name} agree on {count(self.vectors, 'live vector')}."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the rebuild finds and does not change, or changes for good."""
        found = []
        if self.reachable != self.records:
            found.append(
                f"{self.name} has {count(self.records, 'record')} and {count(self.reachable, 'vector')} in index and"
                " WAL together; the rebuild carries over what there is and does not change that."
            )
        if self.index.counter_too_low:
            found.append(
                f"The label counter of {self.name} is {self.index.counter} and the highest label"
                f" {self.index.max_label}: Chroma would overwrite live vectors. The rebuild mends that."
            )
        old, new = self.found.configuration.space, self.wanted.space
        if old != new and old == "cosine":
            found.append(
                "A cosine index holds vectors of unit length. They are multiplied with their stored norms, which gives"
                " each component back to within 2.4e-7 of itself, not bit by bit."
            )
        elif old != new and new == "cosine":
            found.append(
                "A cosine index holds vectors of unit length and their norms: read back, a component differs from the"
                " one of today by at most 2.4e-7 of itself."
            )
        return tuple(found)

    def rows_of_change(self, with_name: bool) -> tuple[Change, ...]:
        """What will change, as rows of a table; ``with_name`` puts the collection's name before each."""
        before, after = self.before, self.after
        old, new = before.configuration, after.configuration
        rows = [
            ("Index on disk", in_bytes(before.size_bytes), in_bytes(after.size_bytes)),
            ("Slots", count(before.slots), count(after.slots)),
            ("Tombstones", count(before.tombstones), "0"),
            *(
                (name, str(getattr(old, name)), _after(getattr(old, name), getattr(new, name)))
                for name in ("space", "max_neighbors", "ef_construction", "ef_search")
            ),
            *(
                (name, _text(getattr(old, name)), _text(getattr(new, name)))
                for name in ("num_threads", "batch_size", "sync_threshold", "resize_factor")
                if name in self.changes
            ),
            ("Records", count(self.records), UNCHANGED),
            ("Label counter", count(self.index.counter), count(self.vectors)),
            ("Configuration", self.found.authority, count(len(self.changes), "value") if self.changes else UNCHANGED),
            ("Memory, loaded", in_bytes(before.memory_bytes), in_bytes(after.memory_bytes)),
            ("Segment id", f"{self.segment.id[:8]}…", "new"),
            ("Old index", "in place", "in the trash"),
        ]
        prefix = f"{self.name}: " if with_name else ""
        return tuple(Change(what=prefix + what, now=now, after=then) for what, now, then in rows)

    def source(self) -> hnsw_build.Source:
        """The vectors the new index is made of."""
        return hnsw_build.Source(
            files=self.index.files,
            slots=self.index.slots,
            old_space=self.found.configuration.space,
            space=self.wanted.space,
        )

    def staged(self, directory: Path) -> StagedIndex:
        """What the process that verifies ``directory`` must find there."""
        old, new = self.found.configuration, self.wanted
        return StagedIndex(
            old_segment_id=self.segment.id,
            stage_directory=str(directory),
            old_space=old.space,
            space=new.space,
            m=new.max_neighbors,
            ef_construction=new.ef_construction,
            ef=max(old.ef_search, new.ef_search),
        )

    def build(self, directory: Path, progress: Progress) -> None:
        """Write the five files of the new index to an empty directory."""
        hnsw_build.build(
            directory,
            self.source(),
            m=self.wanted.max_neighbors,
            ef_construction=self.wanted.ef_construction,
            threads=self.threads,
            progress=progress,
            initial_slots=self.initial_slots,
        )
        write_id_map(directory, self.index, self.taken_up)


def figures(index: LiveIndex, configuration: HnswConfiguration) -> IndexFigures:
    """The figures of an index that is there."""
    files = index.files
    header = files.header
    return IndexFigures(
        size_bytes=files.size_bytes + index.id_map_bytes,
        memory_bytes=hnsw.memory_bytes(
            header.capacity,
            header.elements,
            header.slot_bytes,
            files.sizes[hnsw.LINK_LISTS].size_bytes,
            index.id_map_bytes,
        ),
        slots=header.elements,
        tombstones=index.tombstones,
        configuration=configuration,
    )


def _after(old: Value, new: Value) -> str:
    return UNCHANGED if old == new else str(new)


def _text(value: Value | None) -> str:
    return "as many as cores" if value is None else str(value)
