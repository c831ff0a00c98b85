"""The operation ``wal info``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ops.operation import Effect, Figure, Needs, Operation, Report, operation, told
from ops.quantities import count, scaled_bytes
from ops.selection import SelectsCollections
from ops.store import embeddings_queue, sysdb, vector_segment

if TYPE_CHECKING:
    from ops.plan import Plan
    from ops.progress import Progress
    from ops.store.embeddings_queue import Entries
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import Collection

MOST_ORPHANS = 1000


@dataclass(frozen=True, kw_only=True)
class EntryPlace:
    """Where and when an entry stands."""

    seq_id: int = told("Its sequence number.")
    at: datetime | None = told("When Chroma wrote it; null where that can not be read.")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class GapInfo:
    """How many entries the segments of a collection have not consumed."""

    metadata: int | None = told("Entries above the watermark of the METADATA segment; null without a watermark.")
    vector: int | None = told("Entries above the watermark of the VECTOR segment; null without a watermark.")


@dataclass(frozen=True, kw_only=True)
class CollectionWal:
    """The WAL of one collection."""

    id: str = told("UUID of the collection.")
    name: str = told("Its name, unique within its database.")
    tenant: str = told("Tenant it belongs to; empty when its database does not exist.")
    database: str = told("Database it belongs to; empty when that does not exist.")
    topic: str = told("What its entries are filed under.")
    entries: int = told("Entries, consumed ones that Chroma keeps among them.")
    size_bytes: int = told("Bytes of these entries: vectors, metadata and ids.")
    gap: GapInfo = told("What its segments have not consumed.")  # noqa: RUF009 - a field, not a default
    kinds: Mapping[str, int] = told("Entries of each kind: add, update, upsert, delete; unknown for anything else.")
    oldest: EntryPlace | None = told("The entry with the lowest number; null without entries.")  # noqa: RUF009
    newest: EntryPlace | None = told("The entry with the highest number; null without entries.")  # noqa: RUF009
    problems: tuple[str, ...] = told("Watermarks that are not as Chroma writes them.")


@dataclass(frozen=True, kw_only=True)
class OrphanTopic:
    """Entries of a collection that does not exist."""

    topic: str = told("What they are filed under.")
    collection_id: str | None = told("The collection they were written for; null when the topic names none.")
    entries: int = told("Entries.")
    size_bytes: int = told("Their bytes.")
    newest_seq: int | None = told("The highest number among them.")


@dataclass(frozen=True, kw_only=True)
class WalInfoResult:
    """The WAL of a store."""

    collections: tuple[CollectionWal, ...] = told("The collections asked for, by name and id.")
    entries: int = told("Entries in the whole WAL.")
    size_bytes: int = told("Bytes of these entries: vectors, metadata and ids.")
    newest_seq: int | None = told("Number of the newest entry; null when the WAL is empty.")
    automatically_purge: bool | None = told("Whether Chroma deletes consumed entries; null where no setting is stored.")
    orphan_topics: tuple[OrphanTopic, ...] = told("Topics of collections that do not exist; at most 1000.")


@operation(effect=Effect.READ, needs=Needs.LIVE)
class WalInfo(SelectsCollections, Operation[WalInfoResult]):
    """Show the WAL.

    Per collection: entries of each kind, bytes, oldest and newest, and how many entries each segment has not consumed.
    Beside that the purge setting, and topics of collections that do not exist. Entries are counted, never changed.
    """

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> WalInfoResult:
        """Two passes over the queue, whatever the number of collections."""
        progress.phase("read", "Reading the WAL")
        chosen = self.selected(store)
        known = sysdb.collection_ids(store)
        by_collection: dict[str | None, list[Entries]] = defaultdict(list)
        for found in embeddings_queue.all_entries(store):
            by_collection[found.collection_id].append(found)
        progress.check()
        kinds = embeddings_queue.kinds(store)
        entries, size_bytes = embeddings_queue.totals(store)
        orphans = [found for owner, several in by_collection.items() if owner not in known for found in several]
        return WalInfoResult(
            collections=tuple(
                _collection(store, found, by_collection.get(found.id, []), kinds)
                for found in progress.track(chosen, "Reading watermarks", unit="collections")
            ),
            entries=entries,
            size_bytes=size_bytes,
            newest_seq=embeddings_queue.newest_seq(store),
            automatically_purge=embeddings_queue.automatically_purge(store),
            orphan_topics=tuple(
                OrphanTopic(
                    topic=found.topic,
                    collection_id=found.collection_id,
                    entries=found.entries,
                    size_bytes=found.size_bytes,
                    newest_seq=found.newest_seq,
                )
                for found in orphans[:MOST_ORPHANS]
            ),
        )

    def report(self, result: WalInfoResult) -> Report:
        """The WAL in one sentence and four figures."""
        size, unit = scaled_bytes(result.size_bytes)
        purge = {True: "on", False: "off", None: "not stored"}[result.automatically_purge]
        waiting = sum(found.gap.vector or 0 for found in result.collections)
        return Report(
            headline=f"{count(result.entries, 'WAL entry', 'WAL entries')}; automatic purge is {purge}.",
            figures=(
                Figure(label="WAL entries", value=count(result.entries)),
                Figure(label="Size", value=size, unit=unit),
                Figure(label="Not yet in an index", value=count(waiting)),
                Figure(label="Orphan topics", value=count(len(result.orphan_topics))),
            ),
        )


def _collection(
    store: PersistDir, found: Collection, topics: list[Entries], kinds: Mapping[str, Mapping[str, int]]
) -> CollectionWal:
    watermarks = embeddings_queue.watermarks(store, found)
    vector = vector_segment.inspect(store, found).watermark if watermarks.vector is None else watermarks.vector
    of_kind: dict[str, int] = dict.fromkeys(embeddings_queue.OPERATIONS.values(), 0)
    for topic in topics:
        for kind, number in kinds.get(topic.topic, {}).items():
            of_kind[kind] = of_kind.get(kind, 0) + number
    return CollectionWal(
        id=found.id,
        name=found.name,
        tenant=found.tenant,
        database=found.database,
        topic=topics[0].topic if topics else embeddings_queue.topic_of(found.id),
        entries=sum(topic.entries for topic in topics),
        size_bytes=sum(topic.size_bytes for topic in topics),
        gap=GapInfo(metadata=_gap(store, topics, watermarks.metadata), vector=_gap(store, topics, vector)),
        kinds=of_kind,
        oldest=min((_place(t.oldest_seq, t.oldest_at) for t in topics), key=_number, default=None),
        newest=max((_place(t.newest_seq, t.newest_at) for t in topics), key=_number, default=None),
        problems=watermarks.problems,
    )


def _gap(store: PersistDir, topics: list[Entries], watermark: int | None) -> int | None:
    """All topics of a collection are counted by the first: the pass goes by the collection's id."""
    if watermark is None:
        return None
    if len(topics) > 1:
        return embeddings_queue.count_above(store, topics[0].collection_id or "", watermark)
    return embeddings_queue.gap(store, topics[0], watermark) if topics else 0


def _place(seq_id: int | None, at: datetime | None) -> EntryPlace | None:
    return None if seq_id is None else EntryPlace(seq_id=seq_id, at=at)


def _number(place: EntryPlace | None) -> int:
    return -1 if place is None else place.seq_id
