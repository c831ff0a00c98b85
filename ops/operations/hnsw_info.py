"""The operation ``hnsw info``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.errors import OpsError
from ops.operation import Effect, Figure, Needs, Operation, Report, operation, told
from ops.params import param
from ops.quantities import count, scaled_bytes
from ops.selection import SelectsCollections
from ops.store import hnsw, vector_segment
from ops.store.configuration import effective
from ops.store.vector_segment import Verdict

if TYPE_CHECKING:
    from ops.plan import Plan
    from ops.progress import Progress
    from ops.store.configuration import Effective
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import Collection
    from ops.store.vector_segment import VectorSegment


@dataclass(frozen=True, kw_only=True)
class LinkInfo:
    """The links of a graph, counted."""

    level0: int = told("Links on level 0, where every element is.")
    upper: int = told("Links on all upper levels.")
    per_element: float = told("Links on level 0 per element, of at most 2 × M; 0 for an empty index.")
    levels: int = told("Levels of the graph, level 0 among them; 0 for an empty index.")
    unlinked: int = told("Live elements without a link of their own on level 0.")


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """The HNSW index of one collection."""

    id: str = told("UUID of the collection.")
    collection: str = told("Its name, unique within its database.")
    tenant: str = told("Tenant it belongs to.")
    database: str = told("Database it belongs to.")
    segment: str | None = told("UUID of the VECTOR segment; null when there is no single one.")
    path: str | None = told("Directory of the index files.")
    state: str = told("persisted, empty (nothing persisted yet), absent (never written) or damaged.")
    dimension: int | None = told("Components of a vector; null before the first one is added.")
    space: str | None = told("Distance: l2, cosine or ip; fixed when the index is built.")
    m: int | None = told("Neighbours per element (M, max_neighbors); fixed when the index is built.")
    ef_construction: int | None = told("Candidates looked at while building; fixed when the index is built.")
    ef_search: int | None = told("Candidates looked at by a query; can change at any time.")
    num_threads: int | None = told("Threads of a query or build; null means as many as the machine has.")
    resize_factor: float | None = told("Growth of the allocation when it is full.")
    batch_size: int | None = told("Vectors kept outside the graph before they are added to it.")
    sync_threshold: int | None = told("WAL entries after which Chroma persists the index.")
    authority: str | None = told(
        "Where this release reads the configuration: schema_str, config_json_str, segment_metadata."
    )
    elements: int | None = told("Slots in use, tombstones among them (cur_element_count).")
    tombstones: int | None = told("Slots whose deletion flag is set, counted; null when the slots can not be read.")
    labels: int | None = told("Ids in the id map: the vectors a query can find.")
    allocated: int | None = told("Slots the index has room for (max_elements).")
    total_elements_added: int | None = told("The last label that was given out.")
    fragmentation: float | None = told("tombstones / elements by the flags of the slots, 0 to 1; 0 for an empty index.")
    size_bytes: int = told("Apparent size of the index files (st_size).")
    allocated_bytes: int = told("What they take on disk (st_blocks × 512).")
    memory_bytes: int | None = told("Estimate of what Chroma takes to hold the loaded index in memory.")
    watermark: int | None = told("The last WAL entry the index has consumed; null when there is none.")
    links: LinkInfo | None = told("Links of the graph; null without --verbose, which looks at each.")  # noqa: RUF009
    problems: tuple[Verdict, ...] = told("What is wrong with the index, with codes.")


@dataclass(frozen=True, kw_only=True)
class HnswInfoResult:
    """The indexes asked for."""

    collections: tuple[IndexInfo, ...] = told("One entry per collection, by name and id.")


@operation(effect=Effect.READ, needs=Needs.LIVE)
class HnswInfo(SelectsCollections, Operation[HnswInfoResult]):
    """Show HNSW indexes.

    Per collection the configuration in force and where this release reads it, the files, and how much of the index is
    tombstones, counted from the deletion flags of the slots. With verbose every link is looked at too. A damaged index
    is described, not an error.
    """

    verbose: bool = param(False, help="Look at every link of each graph too.", short="v")

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> HnswInfoResult:
        """One pass over the flags of the slots; with verbose over the links."""
        progress.phase("read", "Reading indexes")
        chosen = progress.track(self.selected(store), "Reading indexes", unit="collections")
        return HnswInfoResult(collections=tuple(self._index(store, found) for found in chosen))

    def report(self, result: HnswInfoResult) -> Report:
        """All indexes in one sentence and four figures."""
        found = result.collections
        elements = sum(index.elements or 0 for index in found)
        tombstones = sum(index.tombstones or 0 for index in found)
        size, unit = scaled_bytes(sum(index.size_bytes for index in found))
        memory, memory_unit = scaled_bytes(sum(index.memory_bytes or 0 for index in found))
        damaged = sum(bool(index.problems) for index in found)
        return Report(
            headline=f"{count(len(found), 'index', 'indexes')} with {count(elements, 'element')}.",
            figures=(
                Figure(label="Elements", value=count(elements)),
                Figure(label="Tombstones", value=count(tombstones)),
                Figure(label="Size", value=size, unit=unit),
                Figure(label="Memory when loaded", value=memory, unit=memory_unit),
            ),
            notes=(f"{count(damaged, 'index', 'indexes')} with problems.",) if damaged else (),
        )

    def _index(self, store: PersistDir, found: Collection) -> IndexInfo:
        index = vector_segment.inspect(store, found)
        verdicts = list(index.verdicts)
        configured: Effective | None = None
        try:
            configured = effective(store, found, index.header)
        except OpsError as error:
            verdicts.append(Verdict.of(error))
        tombstones, links = self._slots(store, found, index, verdicts)
        settings = configured.configuration if configured else None
        return IndexInfo(
            id=found.id,
            collection=found.name,
            tenant=found.tenant,
            database=found.database,
            segment=index.segment.id if index.segment else None,
            path=index.path,
            state="damaged" if verdicts else index.state,
            dimension=found.dimension,
            space=settings.space if settings else None,
            m=settings.max_neighbors if settings else None,
            ef_construction=settings.ef_construction if settings else None,
            ef_search=settings.ef_search if settings else None,
            num_threads=settings.num_threads if settings else None,
            resize_factor=settings.resize_factor if settings else None,
            batch_size=settings.batch_size if settings else None,
            sync_threshold=settings.sync_threshold if settings else None,
            authority=configured.authority if configured else None,
            elements=index.elements,
            tombstones=tombstones,
            labels=index.labels,
            allocated=index.header.capacity if index.header else None,
            total_elements_added=index.id_map.total_elements_added if index.id_map else None,
            fragmentation=None if tombstones is None else tombstones / index.elements if index.elements else 0.0,
            size_bytes=index.size_bytes,
            allocated_bytes=index.allocated_bytes,
            memory_bytes=_memory(index),
            watermark=index.watermark,
            links=links,
            problems=tuple(verdicts),
        )

    def _slots(
        self, store: PersistDir, found: Collection, index: VectorSegment, verdicts: list[Verdict]
    ) -> tuple[int | None, LinkInfo | None]:
        """Tombstones and links by the files themselves; what can not be read becomes a verdict."""
        if index.segment is None or index.header is None:
            return (0 if index.state == "absent" else None), None
        known = {verdict.code for verdict in verdicts}
        tombstones = None
        try:
            directory = store.segment_directory(index.segment.id)
            if directory is None:
                return None, None
            with hnsw.IndexFiles.open(directory, collection=found.name, dimension=found.dimension) as files:
                tombstones = int(files.deleted().sum())
                return tombstones, _links(files) if self.verbose else None
        except OpsError as error:
            if error.code not in known:
                verdicts.append(Verdict.of(error))
        return tombstones, None


def _links(files: hnsw.IndexFiles) -> LinkInfo:
    """Count the links of a graph whose every link was checked."""
    levels = files.check_graph()
    counts, _ = files.neighbours()
    level0, elements = int(counts.sum(dtype="u8")), files.header.elements
    words = files.link_words()
    return LinkInfo(
        level0=level0,
        upper=sum(int(words[place]) & 0xFFFF for place in levels.places),
        per_element=level0 / elements if elements else 0.0,
        levels=max(files.header.max_level, 0) + 1 if elements else 0,
        unlinked=int(((counts == 0) & ~files.deleted()).sum()),
    )


def _memory(index: VectorSegment) -> int | None:
    if index.header is None:
        return 0 if index.state == "absent" else None
    sizes = {entry.name: entry.size_bytes for entry in index.files}
    return hnsw.memory_bytes(
        index.header.capacity,
        index.header.elements,
        index.header.slot_bytes,
        sizes.get(hnsw.LINK_LISTS, 0),
        sizes.get(vector_segment.ID_MAP, 0),
    )
