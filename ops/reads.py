"""What pages read of a store: one bounded function per page, run in a reader child.

Every function takes an open store first and only JSON-like values besides, and returns a frozen dataclass. Lists go by
key, never by offset; large values are cut at SQL level; a count that would outlast the deadline is None, which a page
shows as unknown. Damage is a ``Verdict`` in the answer: only an unreadable catalogue raises.

Text of the store is returned as it is where it is a key (``id``, ``collection_id``), and with visible escapes where it
is only shown (``shown``, ``document``, sentences). A ``cursor`` or ``key`` is one ASCII word that fits into an address.
"""

from __future__ import annotations

import math
import os
import pwd
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ops.errors import DeadlineExceeded, OpsError, RefBroken
from ops.store import embeddings_queue, hnsw, metadb, sysdb, vector_segment
from ops.store.configuration import HnswConfiguration, effective
from ops.store.metadb import MetadataValue
from ops.store.persist_dir import FileSystem, OrphanDirectory, PersistDir, Users
from ops.store.sqlite import sqlite_errors
from ops.store.sysdb import Value
from ops.store.text import encoded, keys_of, visible
from ops.store.vector_segment import Verdict

if TYPE_CHECKING:
    from ops.store.sysdb import Collection
    from ops.store.vector_segment import VectorSegment

MOST_CHOICES = 1000
MOST_ROWS = 200
MOST_ORPHANS = 50
MOST_TENANTS = 500
SLOT_BLOCKS = 240
LARGEST_ID_MAP_OF_A_LIST_BYTES = 4 << 20
LARGEST_SLOT_PASS_BYTES = 256 << 20
LARGEST_ID_MAP_OF_A_RECORD_BYTES = 8 << 20
WAL_ENTRIES_OF_A_RECORD = 50
VECTOR_HEAD = 8
_NAME_CHARS = 512
_TEXT_CHARS = 1 << 16
T = TypeVar("T")


# --- the store ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Release:
    """Which Chroma wrote the store, and whether it may be written. Objects and differences are sentences."""

    releases: str
    family: str
    writable: bool
    migrations: Mapping[str, int]
    fts_tokenizer: str
    foreign_objects: tuple[str, ...]
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The instance page. ``free_pages_bytes`` is what VACUUM would give back; None is unknown (over the deadline)."""

    path: str
    release: Release
    size_bytes: int
    allocated_bytes: int
    sqlite_bytes: int
    index_bytes: int
    sizes_complete: bool
    free_pages_bytes: int
    file_system: FileSystem
    tenants: int
    databases: int
    collections: int
    records: int | None
    wal_entries: int | None
    wal_bytes: int | None
    automatically_purge: bool | None
    newest_seq: int | None
    highest_watermark: int | None
    orphans: tuple[OrphanDirectory, ...]
    more_orphans: bool
    problems: tuple[Verdict, ...]


def overview(store: PersistDir) -> Overview:
    """The whole store in one look."""
    rows = sysdb.counts(store)
    usage = store.disk_usage()
    orphans = store.orphan_directories(sysdb.segment_ids(store), MOST_ORPHANS + 1)
    highest = _highest_watermark(store)
    newest = _newest_seq(store)
    purge = embeddings_queue.automatically_purge(store)
    free_pages = _pragma(store, "PRAGMA freelist_count") * _pragma(store, "PRAGMA page_size")
    records = _unless_late(lambda: _all_records(store))
    waiting = _unless_late(lambda: embeddings_queue.totals(store))
    return Overview(
        path=str(store.path),
        release=_release(store),
        size_bytes=usage.size_bytes,
        allocated_bytes=usage.allocated_bytes,
        sqlite_bytes=usage.sqlite_bytes,
        index_bytes=usage.index_bytes,
        sizes_complete=usage.complete,
        free_pages_bytes=free_pages,
        file_system=store.file_system(),
        tenants=rows.tenants,
        databases=rows.databases,
        collections=rows.collections,
        records=records,
        wal_entries=waiting[0] if waiting else None,
        wal_bytes=waiting[1] if waiting else None,
        automatically_purge=purge,
        newest_seq=newest,
        highest_watermark=highest,
        orphans=orphans[:MOST_ORPHANS],
        more_orphans=len(orphans) > MOST_ORPHANS,
        problems=problems(store),
    )


def problems(store: PersistDir) -> tuple[Verdict, ...]:
    """What is wrong with the store as a whole: foreign objects, differing tables, a watermark ahead of the WAL."""
    schema, highest, newest = store.schema, _highest_watermark(store), _newest_seq(store)
    found = [
        Verdict(code="SCHEMA_HOSTILE", sentence=f"The database holds {visible(text)}, which no Chroma release makes.")
        for text in schema.foreign_objects[:20]
    ]
    found += [
        Verdict(code="SCHEMA_UNKNOWN", sentence=f"{text[:1].upper()}{text[1:]}.") for text in schema.differences[:20]
    ]
    if highest is not None and highest > (newest or 0):
        sentence = (
            f"A watermark is {highest} and the newest WAL entry is {newest or 'missing'}: "
            "Chroma will silently discard new writes until the numbers have caught up."
        )
        found.append(Verdict(code="WAL_UNSAFE", sentence=sentence))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What registering a directory shows before anything is stored. ``mode`` is octal text (``0700``)."""

    path: str
    device: int
    inode: int
    release: Release
    size_bytes: int
    sqlite_bytes: int
    index_bytes: int
    tenants: int
    databases: int
    collections: int
    records: int | None
    readable: bool
    can_be_written: bool
    owner_uid: int
    owner_gid: int
    owner: str
    mode: str
    reader_uid: int
    file_system: FileSystem
    users: Users
    problems: tuple[Verdict, ...]


def probe(store: PersistDir) -> Probe:
    """Release, sizes, counts, rights, file system, and who has the directory open; changes no byte of it."""
    problems: list[Verdict] = []
    try:
        store.require_writable("writing")
    except OpsError as error:
        problems.append(Verdict.of(error))
    status = os.fstat(store.fd)
    rows = sysdb.counts(store)
    usage = store.disk_usage()
    return Probe(
        path=str(store.path),
        device=store.identity.device,
        inode=store.identity.inode,
        release=_release(store),
        size_bytes=usage.size_bytes,
        sqlite_bytes=usage.sqlite_bytes,
        index_bytes=usage.index_bytes,
        tenants=rows.tenants,
        databases=rows.databases,
        collections=rows.collections,
        records=_unless_late(lambda: _all_records(store)),
        readable=True,
        can_be_written=not problems,
        owner_uid=status.st_uid,
        owner_gid=status.st_gid,
        owner=_user_name(status.st_uid),
        mode=f"{stat.S_IMODE(status.st_mode):04o}",
        reader_uid=os.geteuid(),
        file_system=store.file_system(),
        users=store.users(),
        problems=tuple(problems),
    )


@dataclass(frozen=True, kw_only=True)
class DatabaseRow:
    """A database and how many collections it holds."""

    id: str
    name: str
    shown: str
    tenant: str
    collections: int


@dataclass(frozen=True, kw_only=True)
class TenantRow:
    """A tenant with its databases. ``exists`` is False for one that only rows of ``databases`` name."""

    id: str
    shown: str
    exists: bool
    databases: tuple[DatabaseRow, ...]


@dataclass(frozen=True, kw_only=True)
class TenantsPage:
    """Tenants and databases, those without a database and those without a tenant row among them."""

    tenants: tuple[TenantRow, ...]
    more: bool
    collections_without_database: int


def tenants_and_databases(store: PersistDir) -> TenantsPage:
    """At most 500 tenants and as many databases, with the collections of each."""
    found = sysdb.tenants(store, limit=MOST_TENANTS + 1)
    databases = sysdb.databases(store, limit=MOST_TENANTS + 1)
    counts = sysdb.collections_by_database(store)
    owned: dict[str, list[DatabaseRow]] = {entry.id: [] for entry in found[:MOST_TENANTS]}
    known = set(owned)
    for entry in databases[:MOST_TENANTS]:
        owned.setdefault(entry.tenant, []).append(
            DatabaseRow(
                id=entry.id,
                name=entry.name,
                shown=visible(entry.name, limit=_NAME_CHARS),
                tenant=entry.tenant,
                collections=counts.pop(entry.id, 0),
            )
        )
    more = len(found) > MOST_TENANTS or len(databases) > MOST_TENANTS
    return TenantsPage(
        tenants=tuple(
            TenantRow(
                id=tenant,
                shown=visible(tenant, limit=_NAME_CHARS),
                exists=tenant in known,
                databases=tuple(sorted(rows, key=lambda row: row.name)),
            )
            for tenant, rows in owned.items()
        ),
        more=more,
        collections_without_database=0 if more else sum(counts.values()),
    )


# --- collections ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CollectionRow:
    """One collection in the list. None is unknown: over the deadline, too large for a list, or damaged."""

    id: str
    name: str
    shown: str
    tenant: str
    database: str
    dimension: int | None
    space: str | None
    records: int | None
    wal_entries: int | None
    wal_gap: int | None
    index_state: str
    index_bytes: int
    elements: int | None
    labels: int | None
    tombstones: int | None
    fragmentation: float | None
    problems: tuple[Verdict, ...]


@dataclass(frozen=True, kw_only=True)
class CollectionsPage:
    """Some collections by name; ``after`` is the cursor of the next page, None at the end; ``total`` without search."""

    collections: tuple[CollectionRow, ...]
    after: str | None
    total: int


def collections(
    store: PersistDir,
    *,
    after: str | None = None,
    limit: int = 50,
    search: str = "",
    tenant: str | None = None,
    database: str | None = None,
) -> CollectionsPage:
    """A page of collections of every tenant and database, unless narrowed; ``search`` is a part of the name."""
    limit = max(1, min(limit, MOST_ROWS))
    found = sysdb.collections(
        store, after=after, limit=limit + 1, name_contains=search, tenant=tenant, database=database
    )
    total = sysdb.counts(store).collections
    page = found[:limit]
    indexes = [
        vector_segment.inspect(store, entry, largest_id_map_bytes=LARGEST_ID_MAP_OF_A_LIST_BYTES) for entry in page
    ]
    records = [_unless_late(partial(_records_of, store, entry)) for entry in page]
    waiting = _unless_late(lambda: {entry.collection_id: entry for entry in embeddings_queue.all_entries(store)})
    return CollectionsPage(
        collections=tuple(
            _collection_row(store, entry, index, count, waiting)
            for entry, index, count in zip(page, indexes, records, strict=True)
        ),
        after=page[-1].cursor if len(found) > limit else None,
        total=total,
    )


@dataclass(frozen=True, kw_only=True)
class CollectionChoice:
    """One collection as a form offers it."""

    id: str
    name: str
    tenant: str
    database: str


def collection_choices(store: PersistDir, *, limit: int = 1000) -> tuple[CollectionChoice, ...]:
    """The collections of all tenants and databases by name, from the catalogue alone; at most ``limit``."""
    return tuple(
        CollectionChoice(id=found.id, name=found.name, tenant=found.tenant, database=found.database)
        for found in sysdb.collections(store, limit=max(1, min(limit, MOST_CHOICES)))
    )


@dataclass(frozen=True, kw_only=True)
class SegmentRow:
    """One segment row with its watermark; ``gap`` is how many WAL entries it has not consumed."""

    id: str
    scope: str
    type: str
    watermark: int | None
    gap: int | None
    metadata: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class CollectionPage:
    """All about one collection. Texts of the configuration are cut after 64 KiB."""

    row: CollectionRow
    metadata: Mapping[str, Value]
    segments: tuple[SegmentRow, ...]
    configuration: HnswConfiguration | None
    authority: str
    config_json_str: str | None
    schema_str: str | None
    wal_bytes: int | None
    wal_oldest_at: datetime | None
    wal_newest_at: datetime | None
    wal_oldest_seq: int | None
    wal_newest_seq: int | None


def collection(store: PersistDir, *, collection_id: str) -> CollectionPage:
    """One collection; raises COLLECTION_NOT_FOUND."""
    found = sysdb.collection(store, collection_id)
    index = vector_segment.inspect(store, found, largest_id_map_bytes=16 * LARGEST_ID_MAP_OF_A_LIST_BYTES)
    records = _unless_late(lambda: _records_of(store, found))
    configured, _ = _configuration(store, found, index)
    marks = {segment.id: embeddings_queue.segment_watermark(store, segment.id) for segment in found.segments}
    waiting = _unless_late(lambda: embeddings_queue.entries(store, found.id))
    gaps = {
        segment: _unless_late(partial(embeddings_queue.gap, store, waiting, mark)) if waiting else None
        for segment, mark in marks.items()
    }
    return CollectionPage(
        row=_collection_row(store, found, index, records, {found.id: waiting} if waiting else None),
        metadata=found.metadata,
        segments=tuple(
            SegmentRow(
                id=segment.id,
                scope=segment.scope,
                type=segment.type,
                watermark=marks[segment.id],
                gap=gaps[segment.id],
                metadata=segment.metadata,
            )
            for segment in found.segments
        ),
        configuration=configured[0] if configured else None,
        authority=configured[1] if configured else "",
        config_json_str=_cut(found.config_json_str),
        schema_str=_cut(found.schema_str),
        wal_bytes=waiting.size_bytes if waiting else None,
        wal_oldest_at=waiting.oldest_at if waiting else None,
        wal_newest_at=waiting.newest_at if waiting else None,
        wal_oldest_seq=waiting.oldest_seq if waiting else None,
        wal_newest_seq=waiting.newest_seq if waiting else None,
    )


# --- records --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RecordRow:
    """One record in the list. ``where`` is "indexed" or "in WAL".

    It compares the number of the record's last change with the VECTOR watermark: a record of which only the metadata
    changed lately counts as "in WAL" too, and a vector that the index lost is not noticed: that takes the id map
    (``record``, ``db check``). "unknown" stands where there is no number to compare.
    """

    id: str
    shown: str
    key: str
    seq_id: int | None
    created_at: datetime | None
    document: str | None
    document_chars: int | None
    metadata: Mapping[str, MetadataValue]
    more_keys: bool
    where: str
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RecordsPage:
    """Records by id, with the cursors of the neighbouring pages; ``total`` counts all records of the collection."""

    collection_id: str
    name: str
    shown: str
    total: int | None
    watermark: int | None
    records: tuple[RecordRow, ...]
    after: str | None
    before: str | None


def records(
    store: PersistDir,
    *,
    collection_id: str,
    after: str | None = None,
    before: str | None = None,
    limit: int = 50,
    search_id: str = "",
) -> RecordsPage:
    """A page of records; ``search_id`` keeps those whose id begins so.

    Raises COLLECTION_NOT_FOUND, REF_BROKEN (no single METADATA segment), BAD_PARAMETERS (no cursor).
    """
    limit = max(1, min(limit, MOST_ROWS))
    found = sysdb.collection(store, collection_id)
    segment = sysdb.metadata_segment(store, found)
    page = metadb.records(store, segment.id, after=after, before=before, limit=limit, id_from=search_id or None)
    rows = [row for row in page.records if row.id.startswith(search_id)]
    cut = len(rows) < len(page.records)
    watermark = _vector_watermark(store, found)
    return RecordsPage(
        collection_id=found.id,
        name=found.name,
        shown=visible(found.name, limit=_NAME_CHARS),
        total=_unless_late(lambda: metadb.count_records(store, segment.id)),
        watermark=watermark,
        records=tuple(_record_row(row, watermark) for row in rows),
        after=None if cut and before is None else page.after,
        before=None
        if (cut and before is not None) or (search_id and after is None and before is None)
        else page.before,
    )


@dataclass(frozen=True, kw_only=True)
class RecordEntry:
    """A WAL entry of one record."""

    seq_id: int
    operation: str
    created_at: datetime | None
    vector_bytes: int
    consumed: bool


@dataclass(frozen=True, kw_only=True)
class RecordPageOf:
    """One record with everything stored under its id; the document has at most a mebibyte.

    ``label`` is its label in the id map; ``label_known`` is False when the map is too large for a page or damaged.
    ``where`` is "indexed", "in WAL", "missing" (neither the index nor the WAL has its vector) or "unknown".
    ``vector_head`` are the first components as Chroma returns them, empty where they were not read; ``norm`` is that of
    the whole vector, None where only the WAL has it.
    """

    row: RecordRow
    collection_id: str
    collection_shown: str
    tenant: str
    database: str
    dimension: int | None
    label: int | None
    label_known: bool
    vector_head: tuple[float, ...]
    norm: float | None
    where: str
    wal: tuple[RecordEntry, ...]
    problems: tuple[Verdict, ...]


def record(store: PersistDir, *, collection_id: str, record_id: str = "", key: str = "") -> RecordPageOf | None:
    """One record by its id, or by the ``key`` of a list; None when the collection has no such record."""
    found = sysdb.collection(store, collection_id)
    segment = sysdb.metadata_segment(store, found)
    identifier = keys_of(key, 1, "key")[0] if key else record_id
    whole = metadb.record(store, segment.id, identifier)
    if whole is None:
        return None
    watermark = _vector_watermark(store, found)
    label, known, problems = _label(store, found, whole.id)
    wal = _unless_late(lambda: embeddings_queue.of_record(store, found.id, whole.id, WAL_ENTRIES_OF_A_RECORD)) or ()
    in_wal = any(entry.vector_bytes and (watermark is None or entry.seq_id > watermark) for entry in wal)
    where = "in WAL" if in_wal else "unknown" if not known else "indexed" if label is not None else "missing"
    head, norm = _head_in_wal(wal), None
    if not in_wal and label is not None:
        head, norm = _head_in_index(store, found, label, problems)
    return RecordPageOf(
        row=_record_row(whole, watermark, lines=True),
        collection_id=found.id,
        collection_shown=visible(found.name, limit=_NAME_CHARS),
        tenant=visible(found.tenant),
        database=visible(found.database),
        dimension=found.dimension,
        label=label,
        label_known=known,
        vector_head=head,
        norm=norm,
        where=where,
        wal=tuple(
            RecordEntry(
                seq_id=entry.seq_id,
                operation=embeddings_queue.OPERATIONS.get(entry.operation, str(entry.operation)),
                created_at=entry.created_at,
                vector_bytes=entry.vector_bytes,
                consumed=watermark is not None and entry.seq_id <= watermark,
            )
            for entry in wal
        ),
        problems=tuple(problems),
    )


# --- the vector segment ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One entry of the segment's directory; ``holds`` is empty for a file that Chroma does not make."""

    name: str
    kind: str
    holds: str
    size_bytes: int
    allocated_bytes: int
    modified_at: datetime


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of the index: its value, Chroma's default, when it can change, and what it does."""

    name: str
    value: Value
    default: Value
    changes: str
    help: str


@dataclass(frozen=True, kw_only=True)
class SlotBlock:
    """One piece of the slot map, in the order of insertion."""

    live: int
    tombstones: int


@dataclass(frozen=True, kw_only=True)
class SegmentPage:
    """The page of a vector segment. None is unknown; ``verdicts`` say what is wrong, sound segments have none.

    ``fragmentation`` is tombstones / elements; ``slot_map`` is empty when the index is damaged or above 256 MiB;
    ``counted`` says that live slots and tombstones were counted slot by slot, else they come from arithmetic.
    """

    collection_id: str
    collection_shown: str
    tenant: str
    database: str
    segment_id: str | None
    path: str | None
    state: str
    dimension: int | None
    files: tuple[FileRow, ...]
    size_bytes: int
    allocated_bytes: int
    elements: int | None
    live: int | None
    tombstones: int | None
    free: int | None
    allocated: int | None
    counted: bool
    labels: int | None
    total_elements_added: int | None
    max_level: int | None
    id_map_form: str | None
    fragmentation: float | None
    memory_bytes: int | None
    reclaimable_bytes: int | None
    watermark: int | None
    wal_gap: int | None
    parameters: tuple[Parameter, ...]
    authority: str
    slot_map: tuple[SlotBlock, ...]
    verdicts: tuple[Verdict, ...]


def segment(store: PersistDir, *, collection_id: str) -> SegmentPage:
    """The vector segment of a collection. Damaged files give verdicts, never an exception."""
    found = sysdb.collection(store, collection_id)
    index = vector_segment.inspect(store, found)
    configured, verdicts = _configuration(store, found, index)
    verdicts = [*index.verdicts, *verdicts]
    blocks = _slot_map(store, found, index, verdicts)
    tombstones = sum(block.tombstones for block in blocks) if blocks else index.tombstones
    elements = index.elements
    live = None if elements is None or tombstones is None else elements - tombstones
    if blocks and index.labels is not None and live != index.labels:
        sentence = f"The index has {live} live slots and the id map {index.labels} ids."
        verdicts.append(Verdict(code="LABEL_COLLISION_RISK", sentence=sentence))
    allocated = index.header.capacity if index.header else None
    waiting = _unless_late(lambda: embeddings_queue.entries(store, found.id))
    link_lists = next((entry.size_bytes for entry in index.files if entry.name == hnsw.LINK_LISTS), 0)
    id_map_bytes = next((entry.size_bytes for entry in index.files if entry.name == vector_segment.ID_MAP), 0)
    memory = None
    if index.header is not None:
        header = index.header
        memory = hnsw.memory_bytes(header.capacity, header.elements, header.slot_bytes, link_lists, id_map_bytes)
    return SegmentPage(
        collection_id=found.id,
        collection_shown=visible(found.name, limit=_NAME_CHARS),
        tenant=visible(found.tenant),
        database=visible(found.database),
        segment_id=index.segment.id if index.segment else None,
        path=index.path,
        state="damaged" if verdicts else index.state,
        dimension=found.dimension,
        files=tuple(
            FileRow(
                name=visible(entry.name),
                kind=entry.kind,
                holds=vector_segment.FILES.get(entry.name, ""),
                size_bytes=entry.size_bytes,
                allocated_bytes=entry.allocated_bytes,
                modified_at=entry.modified_at,
            )
            for entry in index.files[:MOST_ROWS]
        ),
        size_bytes=index.size_bytes,
        allocated_bytes=index.allocated_bytes,
        elements=elements,
        live=live,
        tombstones=tombstones,
        free=None if allocated is None or elements is None else max(0, allocated - elements),
        allocated=allocated,
        counted=bool(blocks),
        labels=index.labels,
        total_elements_added=index.id_map.total_elements_added if index.id_map else None,
        max_level=index.header.max_level if index.header else None,
        id_map_form=index.id_map.form if index.id_map else None,
        fragmentation=_share(tombstones, elements),
        memory_bytes=memory,
        reclaimable_bytes=tombstones * index.header.slot_bytes if index.header and tombstones is not None else None,
        watermark=index.watermark,
        wal_gap=_unless_late(lambda: embeddings_queue.gap(store, waiting, index.watermark)) if waiting else None,
        parameters=_parameters(configured[0]) if configured else (),
        authority=configured[1] if configured else "",
        slot_map=blocks,
        verdicts=tuple(verdicts),
    )


_HELP: tuple[tuple[str, str, str], ...] = (
    ("space", "by a rebuild", "The distance: l2 (squared Euclidean), cosine, or ip (inner product)."),
    (
        "max_neighbors",
        "by a rebuild",
        "M, the neighbours each vector is linked to: more finds more and takes more memory.",
    ),
    (
        "ef_construction",
        "by a rebuild",
        "Candidates looked at while a vector is linked in: more builds a better graph, slower.",
    ),
    (
        "ef_search",
        "at any time",
        "Candidates looked at by a query: more finds more, slower. It should not be below the results asked for.",
    ),
    ("num_threads", "at any time", "Threads of a query or build; empty means as many as the machine has."),
    ("batch_size", "at any time", "Vectors kept outside the graph before they are linked in together."),
    ("sync_threshold", "at any time", "WAL entries after which Chroma writes the index to disk."),
    ("resize_factor", "at any time", "By how much the room for vectors grows when it is full."),
)


def _parameters(configuration: HnswConfiguration) -> tuple[Parameter, ...]:
    default = HnswConfiguration()
    return tuple(
        Parameter(
            name=name, value=getattr(configuration, name), default=getattr(default, name), changes=changes, help=text
        )
        for name, changes, text in _HELP
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _unless_late(call: Callable[[], T]) -> T | None:
    """None when the deadline of the store is over: what a page shows as unknown."""
    try:
        return call()
    except DeadlineExceeded:
        return None


def _release(store: PersistDir) -> Release:
    schema = store.schema
    return Release(
        releases=schema.releases,
        family=schema.shape.name,
        writable=schema.family is not None and schema.family.writable,
        migrations=dict(schema.migrations),
        fts_tokenizer=schema.fts_tokenizer,
        foreign_objects=schema.foreign_objects[:MOST_ROWS],
        differences=schema.differences[:MOST_ROWS],
    )


def _all_records(store: PersistDir) -> int:
    owned = sysdb.segment_ids(store)
    return sum(count for segment_id, count in metadb.count_all(store).items() if segment_id in owned)


def _records_of(store: PersistDir, found: Collection) -> int | None:
    owned = found.of_scope(sysdb.METADATA)
    return metadb.count_records(store, owned[0].id) if len(owned) == 1 else None


def _newest_seq(store: PersistDir) -> int | None:
    return embeddings_queue.newest_seq(store) if store.schema.has("embeddings_queue") else None


def _highest_watermark(store: PersistDir) -> int | None:
    if not store.schema.has("max_seq_id"):
        return None
    with sqlite_errors(store.database_path):
        rows = store.db.execute(
            "SELECT CASE WHEN length(seq_id) <= 64 THEN seq_id END FROM max_seq_id ORDER BY seq_id DESC LIMIT 1000"
        ).fetchall()
    return max(
        (value for value in (embeddings_queue.number(row[0]) for row in rows) if value is not None), default=None
    )


def _pragma(store: PersistDir, statement: str) -> int:
    with sqlite_errors(store.database_path):
        return int(store.db.execute(statement).fetchone()[0])


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _collection_row(
    store: PersistDir,
    found: Collection,
    index: VectorSegment,
    records_: int | None,
    waiting: Mapping[str | None, embeddings_queue.Entries] | Mapping[str, embeddings_queue.Entries] | None,
) -> CollectionRow:
    configured, verdicts = _configuration(store, found, index)
    mine = {str(key): value for key, value in waiting.items()}.get(found.id) if waiting is not None else None
    gap: int | None = None
    if waiting is not None and index.watermark is not None:
        gap = _unless_late(lambda: embeddings_queue.gap(store, mine, index.watermark)) if mine else 0
    problems = [
        Verdict(code=problem.partition(":")[0], sentence=problem.partition(": ")[2]) for problem in found.problems
    ]
    # What the index says of the segments the catalogue has said already.
    codes = {problem.code for problem in problems}
    problems += [
        verdict
        for verdict in (*index.verdicts, *verdicts)
        if verdict.code != RefBroken.code or verdict.code not in codes
    ]
    return CollectionRow(
        id=found.id,
        name=found.name,
        shown=visible(found.name, limit=_NAME_CHARS),
        tenant=visible(found.tenant),
        database=visible(found.database),
        dimension=found.dimension,
        space=configured[0].space if configured else None,
        records=records_,
        wal_entries=None if waiting is None else mine.entries if mine else 0,
        wal_gap=gap,
        index_state=index.state,
        index_bytes=index.size_bytes,
        elements=index.elements,
        labels=index.labels,
        tombstones=index.tombstones,
        fragmentation=index.fragmentation,
        problems=tuple(problems),
    )


def _configuration(
    store: PersistDir, found: Collection, index: VectorSegment
) -> tuple[tuple[HnswConfiguration, str] | None, list[Verdict]]:
    try:
        configured = effective(store, found, index.header)
    except OpsError as error:
        return None, [Verdict.of(error)]
    return (configured.configuration, configured.authority), []


def _record_row(row: metadb.Record, watermark: int | None, *, lines: bool = False) -> RecordRow:
    if row.seq_id is None:
        where = "unknown"
    else:
        where = "indexed" if watermark is not None and row.seq_id <= watermark else "in WAL"
    return RecordRow(
        id=row.id,
        shown=visible(row.id, limit=_NAME_CHARS),
        key=row.key,
        seq_id=row.seq_id,
        created_at=row.created_at,
        document=None if row.document is None else visible(row.document, limit=1 << 20, lines=True),
        document_chars=row.document_chars,
        metadata={visible(key): _shown(value, lines) for key, value in row.metadata.items()},
        more_keys=row.more_keys,
        where=where,
        problems=row.problems,
    )


def _shown(value: MetadataValue, lines: bool) -> MetadataValue:
    if isinstance(value, str):
        return visible(value, limit=_TEXT_CHARS, lines=lines)
    if isinstance(value, tuple):
        return tuple(visible(item, limit=_TEXT_CHARS) if isinstance(item, str) else item for item in value)
    return value


def _vector_watermark(store: PersistDir, found: Collection) -> int | None:
    segments = found.of_scope(sysdb.VECTOR)
    watermark = embeddings_queue.segment_watermark(store, segments[0].id) if len(segments) == 1 else None
    if watermark is None and store.schema.shape.watermark_in_id_map:
        return vector_segment.inspect(store, found, largest_id_map_bytes=LARGEST_ID_MAP_OF_A_RECORD_BYTES).watermark
    return watermark


def _label(store: PersistDir, found: Collection, record_id: str) -> tuple[int | None, bool, list[Verdict]]:
    from ops.store import id_map

    index = vector_segment.inspect(store, found, largest_id_map_bytes=LARGEST_ID_MAP_OF_A_RECORD_BYTES)
    if index.state == "damaged" or index.segment is None:
        return None, False, list(index.verdicts)
    if index.state in ("empty", "absent"):
        return None, True, []
    directory = store.segment_directory(index.segment.id)
    if directory is None or index.id_map is None:
        return None, False, []
    try:
        entries = id_map.read(store.id_maps, directory, found.name)
    except OpsError as error:
        return None, False, [Verdict.of(error)]
    wanted = encoded(record_id)
    for label, identifier in zip(entries.labels, entries.ids, strict=True):
        if identifier == record_id or identifier.encode("utf-8", "surrogatepass") == wanted:
            return label, True, []
    return None, True, []


def _head_in_wal(wal: tuple[embeddings_queue.EntryOfRecord, ...]) -> tuple[float, ...]:
    head = next((entry.vector_head for entry in reversed(wal) if entry.vector_head), b"")
    return struct.unpack(f"<{len(head) // 4}f", head[: len(head) // 4 * 4])


def _head_in_index(
    store: PersistDir, found: Collection, label: int, problems: list[Verdict]
) -> tuple[tuple[float, ...], float | None]:
    """The first components of the vector with ``label``, and its norm; of cosine the unit vector times its norm."""
    segment = sysdb.vector_segment(store, found)
    directory = store.segment_directory(segment.id)
    if directory is None:
        return (), None
    try:
        with hnsw.IndexFiles.open(directory, collection=visible(found.name), dimension=found.dimension) as files:
            if files.header.elements * files.header.slot_bytes > LARGEST_SLOT_PASS_BYTES:
                return (), None
            stored = files.vector_of(label)
            if stored is None:
                return (), None
            vector, length = stored
            if effective(store, found, files.header).configuration.space == "cosine":
                vector = [component * length for component in vector]
            return tuple(vector[:VECTOR_HEAD]), math.hypot(*vector)
    except OpsError as error:
        problems.append(Verdict.of(error))
    return (), None


def _slot_map(
    store: PersistDir, found: Collection, index: VectorSegment, verdicts: list[Verdict]
) -> tuple[SlotBlock, ...]:
    if index.segment is None or index.header is None or verdicts or not index.header.elements:
        return ()
    if index.header.elements * index.header.slot_bytes > LARGEST_SLOT_PASS_BYTES:
        return ()
    try:
        directory = store.segment_directory(index.segment.id)
        if directory is None:
            return ()
        with hnsw.IndexFiles.open(directory, collection=visible(found.name), dimension=found.dimension) as files:
            files.levels()  # a torn link_lists.bin shows in the walk of its records only
            return tuple(
                SlotBlock(live=block.live, tombstones=block.tombstones) for block in files.slot_map(SLOT_BLOCKS)
            )
    except OpsError as error:
        verdicts.append(Verdict.of(error))
    except OSError as error:
        verdicts.append(Verdict(code="IO_FAILED", sentence=f"Reading the index failed: {error.strerror}."))
    return ()


def _share(part: int | None, whole: int | None) -> float | None:
    if part is None or whole is None:
        return None
    return part / whole if whole else 0.0


def _cut(text: str | None) -> str | None:
    return None if text is None else visible(text, limit=_TEXT_CHARS, lines=True)
