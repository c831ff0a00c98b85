"""The operation ``db info``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.errors import OpsError
from ops.operation import Effect, Figure, Needs, Operation, Report, operation, told
from ops.params import param
from ops.quantities import count, scaled_bytes
from ops.selection import SelectsCollections
from ops.store import embeddings_queue, metadb, sysdb, vector_segment
from ops.store.configuration import Effective, effective
from ops.store.persist_dir import is_uuid
from ops.store.sysdb import Collection, Value
from ops.store.vector_segment import VectorSegment, Verdict

if TYPE_CHECKING:
    from ops.plan import Plan
    from ops.progress import Progress
    from ops.store.embeddings_queue import Entries
    from ops.store.persist_dir import PersistDir

MOST_ORPHANS = 1000
HIDDEN = "hidden"


@dataclass(frozen=True, kw_only=True)
class ChromaInfo:
    """Which Chroma releases write tables like these."""

    releases: str = told("Range of Chroma releases whose migrations are exactly those of this store.")
    migrations: Mapping[str, int] = told("Highest migration of each of Chroma's three sets.")
    writable: bool = told("Whether operations that change something accept this store.")
    fts_tokenizer: str = told("Tokenizer of the full-text index; empty when there is no such index.")
    foreign_objects: tuple[str, ...] = told("Tables, indexes, views and triggers that no Chroma release makes.")
    differences: tuple[str, ...] = told("What is missing or other than the release makes it.")


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """One row of ``segments``."""

    id: str = told("UUID of the segment; of a VECTOR segment also the name of its directory.")
    scope: str = told("VECTOR (the HNSW index) or METADATA (rows in SQLite).")
    type: str = told("Chroma's name of the implementation.")
    max_seq_id: int | None = told("Watermark: the last WAL entry this segment has consumed; null when there is none.")


@dataclass(frozen=True, kw_only=True)
class HnswInfo:
    """The HNSW index of a collection, by its header, its id map and the sizes of its files."""

    state: str = told("persisted, empty (nothing persisted yet), absent (never written) or damaged.")
    path: str | None = told("Directory of the index files.")
    space: str | None = told("Distance: l2, cosine or ip; fixed when the index is built.")
    m: int | None = told("Neighbours per element (M, max_neighbors); fixed when the index is built.")
    ef_construction: int | None = told("Candidates looked at while building; fixed when the index is built.")
    ef_search: int | None = told("Candidates looked at by a query; can change at any time.")
    num_threads: int | None = told("Threads of a query or build; null means as many as the machine has.")
    batch_size: int | None = told("Vectors kept outside the graph before they are added to it.")
    sync_threshold: int | None = told("WAL entries after which Chroma persists the index.")
    resize_factor: float | None = told("Growth of the allocation when it is full.")
    authority: str | None = told(
        "Where this release reads the configuration: schema_str, config_json_str, segment_metadata."
    )
    elements: int | None = told("Slots in use, tombstones among them (cur_element_count).")
    tombstones: int | None = told("Deleted slots that still take room: elements − labels.")
    labels: int | None = told("Ids in the id map: the vectors a query can find.")
    allocated: int | None = told("Slots the index has room for (max_elements).")
    total_elements_added: int | None = told("The last label that was given out.")
    wal_gap: int | None = told("WAL entries of this collection above the VECTOR watermark; null without a watermark.")
    orphan_labels: int | None = told(
        "Live slots whose label no id has; null without --verbose, which looks at each slot."
    )
    fragmentation: float | None = told("tombstones / elements, 0 to 1; 0 for an empty index.")
    size_bytes: int = told("Apparent size of the index files (st_size).")
    allocated_bytes: int = told("What they take on disk (st_blocks × 512).")
    has_metadata: bool = told("Whether the id map (index_metadata.pickle) is there.")
    problems: tuple[Verdict, ...] = told("What is wrong with the index, with codes.")


@dataclass(frozen=True, kw_only=True)
class CollectionInfo:
    """One collection of any tenant and database."""

    id: str = told("UUID of the collection.")
    name: str = told("Its name, unique within its database.")
    tenant: str = told("Tenant it belongs to; empty when its database does not exist.")
    database: str = told("Database it belongs to; empty when that does not exist.")
    dimension: int | None = told("Components of its vectors; null before the first one is added.")
    records: int | None = told("Rows of embeddings of its METADATA segment; null when it has no single one.")
    wal_entries: int = told("Entries of this collection in the WAL, consumed ones that Chroma keeps among them.")
    wal_size_bytes: int = told("Bytes of these entries: vectors, metadata and ids.")
    metadata: Mapping[str, Value] = told("Metadata of the collection as stored.")
    segments: tuple[SegmentInfo, ...] = told("Its segments, one of each scope in a sound store.")
    hnsw: HnswInfo = told("Its HNSW index.")  # noqa: RUF009 - a field, not a default
    problems: tuple[str, ...] = told("Values of the catalogue that are not as Chroma writes them.")


@dataclass(frozen=True, kw_only=True)
class OrphanInfo:
    """A directory that looks like a segment and belongs to none."""

    path: str = told("The directory.")
    size_bytes: int = told("Apparent size of its files.")
    allocated_bytes: int = told("What they take on disk.")


@dataclass(frozen=True, kw_only=True)
class DbInfoResult:
    """Everything ``db info`` knows of a store."""

    path: str = told("The persist directory.")
    chroma: ChromaInfo = told("The Chroma releases that write such a store.")  # noqa: RUF009
    size_bytes: int = told("Apparent size of all files of the directory.")
    allocated_bytes: int = told("What they take on disk.")
    sqlite_bytes: int = told("Size of chroma.sqlite3 with its journal.")
    index_bytes: int = told("Apparent size of all index directories, orphans among them.")
    tenants: int = told("Tenants of the store.")
    databases: int = told("Databases of all tenants.")
    collections: tuple[CollectionInfo, ...] = told("The collections asked for, by name and id.")
    records: int = told("Records of these collections.")
    wal_entries: int = told("Entries in the whole WAL.")
    wal_size_bytes: int = told("Bytes of these entries: vectors, metadata and ids.")
    automatically_purge: bool | None = told(
        "Whether Chroma deletes consumed WAL entries; null where no setting is stored."
    )
    newest_seq: int | None = told("Sequence number of the newest WAL entry.")
    orphans: tuple[OrphanInfo, ...] = told("Directories with a UUID for a name that no segment has; at most 1000.")


@operation(effect=Effect.READ, needs=Needs.LIVE)
class DbInfo(SelectsCollections, Operation[DbInfoResult]):
    """Show what a store holds: release, sizes, collections, segments, indexes, WAL, orphans.

    Reads the header and the id map of each index, never the whole index; with verbose also every slot. Tenants and
    databases that Chroma's API can not list are included.
    """

    privacy: bool = param(
        False,
        help="Hide paths, names and metadata of users; ids and hnsw: settings stay.",
        short="p",
        aliases=("privacy_mode",),
    )
    verbose: bool = param(False, help="Look at every slot of each index too: orphan labels.", short="v")

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> DbInfoResult:
        """Read everything; a damaged index or row is described, not raised."""
        progress.phase("read", "Reading the store")
        schema = store.schema
        chosen = self.selected(store)
        waiting = {found.collection_id: found for found in embeddings_queue.all_entries(store)}
        collections = tuple(
            self._collection(store, found, waiting.get(found.id))
            for found in progress.track(chosen, "Reading collections", unit="collections")
        )
        usage = store.disk_usage()
        rows = sysdb.counts(store)
        entries, wal_bytes = embeddings_queue.totals(store)
        orphans = store.orphan_directories(sysdb.segment_ids(store), MOST_ORPHANS)
        result = DbInfoResult(
            path=str(store.path),
            chroma=ChromaInfo(
                releases=schema.releases,
                migrations=dict(schema.migrations),
                writable=schema.family is not None and schema.family.writable,
                fts_tokenizer=schema.fts_tokenizer,
                foreign_objects=schema.foreign_objects,
                differences=schema.differences,
            ),
            size_bytes=usage.size_bytes,
            allocated_bytes=usage.allocated_bytes,
            sqlite_bytes=usage.sqlite_bytes,
            index_bytes=usage.index_bytes,
            tenants=rows.tenants,
            databases=rows.databases,
            collections=collections,
            records=sum(found.records or 0 for found in collections),
            wal_entries=entries,
            wal_size_bytes=wal_bytes,
            automatically_purge=embeddings_queue.automatically_purge(store),
            newest_seq=embeddings_queue.newest_seq(store),
            orphans=tuple(
                OrphanInfo(path=found.path, size_bytes=found.size_bytes, allocated_bytes=found.allocated_bytes)
                for found in orphans
            ),
        )
        return _private(result) if self.privacy else result

    def report(self, result: DbInfoResult) -> Report:
        """The store in one sentence and four figures."""
        size, unit = scaled_bytes(result.size_bytes)
        damaged = sum(bool(found.hnsw.problems or found.problems) for found in result.collections)
        notes = [f"{count(damaged, 'collection')} with problems."] if damaged else []
        if result.orphans:
            notes.append(f"{count(len(result.orphans), 'orphan directory', 'orphan directories')}.")
        return Report(
            headline=f"A store of Chroma {result.chroma.releases} with {count(len(result.collections), 'collection')}.",
            figures=(
                Figure(label="Records", value=count(result.records)),
                Figure(label="Size", value=size, unit=unit),
                Figure(label="WAL entries", value=count(result.wal_entries)),
                Figure(label="Orphan directories", value=count(len(result.orphans))),
            ),
            notes=tuple(notes),
        )

    def _collection(self, store: PersistDir, found: Collection, waiting: Entries | None) -> CollectionInfo:
        index = vector_segment.inspect(store, found)
        metadata_segments = found.of_scope(sysdb.METADATA)
        problems: list[str] = list(found.problems)
        watermarks = {
            segment.id: embeddings_queue.segment_watermark(store, segment.id, problems) for segment in found.segments
        }
        return CollectionInfo(
            id=found.id,
            name=found.name,
            tenant=found.tenant,
            database=found.database,
            dimension=found.dimension,
            records=metadb.count_records(store, metadata_segments[0].id) if len(metadata_segments) == 1 else None,
            wal_entries=waiting.entries if waiting else 0,
            wal_size_bytes=waiting.size_bytes if waiting else 0,
            metadata=found.metadata,
            segments=tuple(
                SegmentInfo(id=segment.id, scope=segment.scope, type=segment.type, max_seq_id=watermarks[segment.id])
                for segment in found.segments
            ),
            hnsw=self._hnsw(store, found, index, waiting),
            problems=tuple(problems),
        )

    def _hnsw(self, store: PersistDir, found: Collection, index: VectorSegment, waiting: Entries | None) -> HnswInfo:
        verdicts = list(index.verdicts)
        configured: Effective | None = None
        try:
            configured = effective(store, found, index.header)
        except OpsError as error:
            verdicts.append(Verdict.of(error))
        gap = None
        if index.watermark is not None:
            gap = embeddings_queue.gap(store, waiting, index.watermark) if waiting else 0
        settings = configured.configuration if configured else None
        return HnswInfo(
            state=index.state,
            path=index.path,
            space=settings.space if settings else None,
            m=settings.max_neighbors if settings else None,
            ef_construction=settings.ef_construction if settings else None,
            ef_search=settings.ef_search if settings else None,
            num_threads=settings.num_threads if settings else None,
            batch_size=settings.batch_size if settings else None,
            sync_threshold=settings.sync_threshold if settings else None,
            resize_factor=settings.resize_factor if settings else None,
            authority=configured.authority if configured else None,
            elements=index.elements,
            tombstones=index.tombstones,
            labels=index.labels,
            allocated=index.header.capacity if index.header else None,
            total_elements_added=index.id_map.total_elements_added if index.id_map else None,
            wal_gap=gap,
            orphan_labels=_orphan_labels(store, found, index, verdicts) if self.verbose else None,
            fragmentation=index.fragmentation,
            size_bytes=index.size_bytes,
            allocated_bytes=index.allocated_bytes,
            has_metadata=any(entry.name == vector_segment.ID_MAP for entry in index.files),
            problems=tuple(verdicts),
        )


def _orphan_labels(store: PersistDir, found: Collection, index: VectorSegment, verdicts: list[Verdict]) -> int | None:
    """Live slots whose label is not in the id map; a pass over the slots, and the only place that needs numpy."""
    if index.segment is None or index.header is None or index.id_map is None:
        return 0 if index.state in ("empty", "absent") else None
    import numpy as np

    from ops.store import id_map
    from ops.store.hnsw import IndexFiles

    directory = store.segment_directory(index.segment.id)
    if directory is None:
        return None
    try:
        entries = id_map.read(store.id_maps, directory, found.name)
        with IndexFiles.open(directory, collection=found.name, dimension=found.dimension) as files:
            files.levels()  # a torn link_lists.bin shows in the walk of its records only
            live = files.labels()[files.live_slots()]
            known = np.frombuffer(entries.labels, dtype=np.int64).astype(np.uint64)
            return int(np.setdiff1d(live, known).size)
    except OpsError as error:
        verdicts.append(Verdict.of(error))
        return None


# --- privacy --------------------------------------------------------------------------------------------------------


def _private(result: DbInfoResult) -> DbInfoResult:
    """The result without paths, names and metadata of users. Sentences may quote names, so they go too."""
    from dataclasses import replace

    tenants: dict[str, str] = {}
    databases: dict[tuple[str, str], str] = {}
    collections = []
    for number, found in enumerate(result.collections, 1):
        tenant = tenants.setdefault(found.tenant, f"tenant-{len(tenants) + 1}")
        place = (found.tenant, found.database)
        collections.append(
            replace(
                found,
                id=_uuid(found.id),
                name=f"collection-{number}",
                tenant=tenant,
                database=databases.setdefault(place, f"database-{len(databases) + 1}"),
                metadata={key: value for key, value in found.metadata.items() if key.startswith("hnsw:")},
                segments=tuple(
                    replace(segment, id=_uuid(segment.id), scope=_known(segment.scope), type=_known(segment.type))
                    for segment in found.segments
                ),
                hnsw=replace(
                    found.hnsw,
                    path=None,
                    problems=tuple(Verdict(code=problem.code, sentence=HIDDEN) for problem in found.hnsw.problems),
                ),
                problems=tuple(f"{problem.partition(':')[0]}: {HIDDEN}" for problem in found.problems),
            )
        )
    return replace(
        result,
        path=HIDDEN,
        chroma=replace(result.chroma, foreign_objects=tuple(HIDDEN for _ in result.chroma.foreign_objects)),
        collections=tuple(collections),
        orphans=tuple(replace(found, path=found.path.rpartition("/")[2]) for found in result.orphans),
    )


def _uuid(text: str) -> str:
    return text if is_uuid(text) else HIDDEN


def _known(text: str) -> str:
    known = (sysdb.VECTOR, sysdb.METADATA, sysdb.HNSW_TYPE, sysdb.SQLITE_TYPE)
    return text if text in known else HIDDEN
