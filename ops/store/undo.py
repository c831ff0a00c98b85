"""What it takes to undo one step of a run: whether its old index can come back, and the configuration that was."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields

from ops.errors import CollectionNotFound, NothingToUndo
from ops.plan import Change, StepScope
from ops.store import configuration as configurations
from ops.store import trash
from ops.store.configuration import Effective, HnswConfiguration, effective
from ops.store.embeddings_queue import entries, gap, newest_seq
from ops.store.hnsw import read_header
from ops.store.live_index import position
from ops.store.persist_dir import PersistDir
from ops.store.rebuild import Rebuild
from ops.store.schema import Family
from ops.store.sysdb import Collection, Segment, vector_segment
from ops.store.sysdb import collection as find_collection
from ops.store.text import visible
from ops.store.trash import UndoRecord
from ops.store.wal_replay import set_watermark

_WATERMARK, _ABOVE = "vector_watermark", "entries_above"


@dataclass(frozen=True, kw_only=True)
class UndoStep:
    """One step to take back.

    ``swaps`` says that the old index comes back as it was; otherwise the index is rebuilt from the vectors of today
    with the old parameters, because of ``why``. ``found`` is the configuration of today, ``old`` the one before the
    run. ``exact`` says that nothing but the run changed the text of the configuration since, so that the old text can
    be put back byte for byte.
    """

    record: UndoRecord
    collection: Collection
    segment: Segment
    found: Effective
    old: HnswConfiguration
    swaps: bool
    why: str
    exact: bool
    family: Family

    @classmethod
    def of(cls, store: PersistDir, record: UndoRecord) -> UndoStep:
        """Look at a record and the store; raises NOTHING_TO_UNDO where the index was replaced again or is gone."""
        try:
            collection = find_collection(store, record.collection_id)
        except CollectionNotFound:
            raise NothingToUndo(run_id=record.run_id, why=f"the collection {record.title} is gone") from None
        segment = vector_segment(store, collection)
        directory = store.segment_directory(segment.id)
        if segment.id != record.new_segment or directory is None:
            why = f"the index of {visible(collection.name)} was replaced again since"
            raise NothingToUndo(run_id=record.run_id, why=why)
        header = read_header(directory, collection=visible(collection.name), dimension=collection.dimension)
        why = _written_since(store, segment, record)
        if not why:
            why = _not_behind(store, collection, record)
        if not why and not _at_hand(store, record):
            why = "the old index is no longer in the trash"
        found = effective(store, collection, header)
        return cls(
            record=record,
            collection=collection,
            segment=segment,
            found=found,
            old=old_configuration(record),
            swaps=not why,
            why=why,
            exact=_text_is_the_runs(store, collection, record, found),
            family=store.schema.shape,
        )

    @property
    def name(self) -> str:
        """The collection's name for people."""
        return visible(self.collection.name)

    @property
    def scope(self) -> StepScope:
        """The step of an undo."""
        return StepScope(
            subject=self.collection.id,
            title=self.name,
            segment_id=self.segment.id,
            digest="swap" if self.swaps else "rebuild",
        )

    @property
    def sentence(self) -> str:
        """What happens."""
        if self.swaps:
            return f"The old index of {self.name} comes back out of the trash with its configuration."
        return f"The index of {self.name} is rebuilt from the vectors of today with the old parameters: {self.why}."

    @property
    def warning(self) -> str:
        """Why it is no swap; empty when it is one."""
        if self.swaps:
            return ""
        return f"{self.name} is not swapped back, because {self.why}; the old files would lack what was written."

    @property
    def changes(self) -> tuple[Change, ...]:
        """The segment."""
        after = f"{self.record.old_segment[:8]}…" if self.swaps else "new"
        return (Change(what=f"{self.name}: segment id", now=f"{self.segment.id[:8]}…", after=after),)

    def written_bytes(self, store: PersistDir) -> int:
        """Of a new index; a swap writes none."""
        return 0 if self.swaps else self.rebuild(store).after.size_bytes

    @property
    def returns_watermark(self) -> int | None:
        """The VECTOR watermark of the index that is swapped back; None where it is that of today."""
        text = self.record.facts.get(_WATERMARK, "") if self.swaps else ""
        return int(text) if text else None

    @property
    def facts(self) -> dict[str, str]:
        """What the undo of this undo needs."""
        if self.returns_watermark is None:
            return facts_of(self.found)
        return facts_of(self.found) | facts_of_watermark(self.record.watermark, 0)

    def rebuild(self, store: PersistDir) -> Rebuild:
        """The rebuild with the old parameters."""
        return Rebuild.of(store, self.collection.id, lambda _now: self.old)

    def restore(self, connection: sqlite3.Connection, segment_id: str) -> None:
        """Put the old configuration back, byte for byte where nothing but the run changed its text since."""
        if self.returns_watermark is not None:
            set_watermark(connection, self.family, segment_id, self.returns_watermark)
        if self.exact:
            configurations.put(connection, self.collection, segment_id, self.found, self.record.facts["text"])
            return
        changes = self.found.stored.changes(self.old)
        configurations.write(connection, self.collection, segment_id, self.found, changes)


def facts_of(found: Effective) -> dict[str, str]:
    """What an undo needs to put a configuration back: its authority, the text there, each value."""
    values = {field.name: str(getattr(found.configuration, field.name)) for field in fields(HnswConfiguration)}
    return {"authority": found.authority, "text": found.raw} | values


def facts_of_watermark(watermark: int | None, entries_above: int) -> dict[str, str]:
    """What an undo needs where the watermark moved: that of the old index, and how many WAL entries lie above it."""
    return {_WATERMARK: "" if watermark is None else str(watermark), _ABOVE: str(entries_above)}


def old_configuration(record: UndoRecord) -> HnswConfiguration:
    """The configuration before the run. Raises NOTHING_TO_UNDO where the record does not hold it."""
    facts = record.facts
    try:
        threads = facts["num_threads"]
        return HnswConfiguration(
            space=facts["space"],
            max_neighbors=int(facts["max_neighbors"]),
            ef_construction=int(facts["ef_construction"]),
            ef_search=int(facts["ef_search"]),
            num_threads=None if threads == "None" else int(threads),
            batch_size=int(facts["batch_size"]),
            sync_threshold=int(facts["sync_threshold"]),
            resize_factor=float(facts["resize_factor"]),
        )
    except (KeyError, ValueError) as error:
        raise NothingToUndo(run_id=record.run_id, why=f"its record does not say what was before ({error})") from error


def _text_is_the_runs(store: PersistDir, collection: Collection, record: UndoRecord, found: Effective) -> bool:
    """True when the old text with today's values in it is today's text."""
    authority, before = found.authority, record.facts.get("text", "")
    if record.facts.get("authority") != authority or not before:
        return False
    stored = configurations.stored_in(store, collection, authority, before)
    then = Effective(configuration=stored, stored=stored, authority=authority, raw=before)
    return configurations.after(collection, then, stored.changes(found.stored)) == found.raw


def _written_since(store: PersistDir, segment: Segment, record: UndoRecord) -> str:
    if position(store, segment.id) != record.watermark or newest_seq(store) != record.newest_seq:
        return "Chroma has written since the run"
    return ""


def _not_behind(store: PersistDir, collection: Collection, record: UndoRecord) -> str:
    """Why an index with another watermark can not come back: empty when the WAL holds all that it lacks."""
    if _WATERMARK not in record.facts:
        return ""
    try:
        watermark, above = int(record.facts[_WATERMARK] or -1), int(record.facts[_ABOVE])
    except (KeyError, ValueError) as error:
        raise NothingToUndo(run_id=record.run_id, why=f"its record does not say what was before ({error})") from error
    if watermark < 0:
        return "the old index had not been persisted"
    if (gap(store, entries(store, collection.id), watermark) or 0) != above:
        return "the WAL no longer holds the entries that the old index lacks"
    return ""


def _at_hand(store: PersistDir, record: UndoRecord) -> bool:
    left_in_place = store.segment_directory(record.old_segment) is not None
    return left_in_place or trash.has_directory(store, record.run_id, record.old_segment)
