"""The operation ``wal commit``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.child import VERIFY_WITHIN_S, call
from ops.errors import NoSpace, PlanChanged
from ops.operation import FLIP_PHASES, Effect, Figure, Operation, Report, operation
from ops.plan import Change, Check, Estimate, Plan, Scope, StepScope
from ops.quantities import count, in_bytes
from ops.selection import SelectsCollections
from ops.store.undo import facts_of, facts_of_watermark
from ops.store.verify_wal import CommittedTakeUp, VerifiedTakeUp, verify_take_up_committed, verify_taken_up
from ops.store.wal_commit import Outstanding
from ops.store.wal_replay import Applied, require_proved

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir

SPARE_BYTES = 16 << 20  # for the database, its journal and the records of the run
_UNDO = (
    "The old index waits in the trash for 7 days. While Chroma has not written since and the WAL holds these entries,"
    " an undo swaps it back with its watermark; afterwards the undo is a rebuild from the vectors of that time."
)


@dataclass(frozen=True, kw_only=True)
class CommittedCollection:
    """One collection: how many entries each segment took up, and what was read back.

    ``records_*`` count what the METADATA segment did; a lag of 0 is the rule there.
    """

    id: str
    name: str
    entries_vector: int
    entries_metadata: int
    records_added: int
    records_updated: int
    records_deleted: int
    up_to_seq: int
    old_segment_id: str
    segment_id: str
    verified: VerifiedTakeUp
    read_back: CommittedTakeUp
    trash_path: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class WalCommitResult:
    """All collections that had something to take up, and the directories that were made."""

    collections: tuple[CommittedCollection, ...]
    artifacts: tuple[str, ...]


@operation(effect=Effect.WRITE)
class WalCommit(SelectsCollections, Operation[WalCommitResult]):
    """Commit the WAL to the index.

    Takes up the entries of the WAL that a collection's index, or its records, have not taken up yet.

    It does what Chroma would do when it persists the index: adds of ids that exist are ignored, so are updates and
    deletes of ids that do not. The new index is built as a copy beside the old one, checked, and swapped in one step
    together with records and watermarks. Every record reads as before; the entries stay in the WAL. Without a name it
    works on all collections that have something to take up.
    """

    phases = FLIP_PHASES

    def plan(self, store: PersistDir) -> Plan:
        """Counts entries and reads headers, labels and id maps; no vectors."""
        require_proved(store, "wal commit")
        waiting = [found for entry in self.selected(store) if (found := Outstanding.of(store, entry.id)) is not None]
        free = store.file_system().free_bytes
        needed = sum(item.size_bytes for item in waiting) + (SPARE_BYTES if waiting else 0)
        several = len(waiting) > 1
        return Plan(
            headline=_headline(waiting),
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=tuple(item.step for item in waiting),
            ),
            estimate=Estimate(
                rows=sum(item.metadata_gap + 4 for item in waiting),
                written_bytes=needed,
                needed_bytes=needed,
                free_bytes=free,
                freed_now_bytes=0,
                shortest_s=sum(item.seconds[0] for item in waiting),
                longest_s=sum(item.seconds[1] for item in waiting),
            ),
            changes=tuple(row for item in waiting for row in item.rows_of_change(several)),
            checks=(_space(store, free, needed), *(item.agreement for item in waiting)),
            undo=_UNDO,
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> WalCommitResult:
        """One flip per collection."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        done = tuple(_commit(store, step, progress) for step in store.writer.steps(plan, progress))
        return WalCommitResult(collections=done, artifacts=tuple(str(store.path / item.segment_id) for item in done))

    def report(self, result: WalCommitResult) -> Report:
        """Entries, and who compared what."""
        if not result.collections:
            return Report(headline="Every index and all records had taken up the whole WAL; nothing was changed.")
        several = len(result.collections) > 1
        vector = sum(item.entries_vector for item in result.collections)
        return Report(
            headline=f"{count(vector, 'WAL entry', 'WAL entries')} taken up; the entries are still in the WAL.",
            figures=tuple(figure for item in result.collections for figure in _figures(item, several)),
            changes=tuple(
                Change(what=f"{item.name}: segment", now=item.old_segment_id, after=item.segment_id)
                for item in result.collections
            ),
            verified=" ".join(_verified(item) for item in result.collections),
            undo=_UNDO,
            undo_path=", ".join(item.trash_path for item in result.collections if item.trash_path),
        )


def _commit(store: PersistDir, step: StepScope, progress: Progress) -> CommittedCollection:
    item = Outstanding.of(store, step.subject)
    if item is None or item.up_to_seq != step.up_to_seq:
        raise PlanChanged(what=f"{step.title}: its WAL is another now")
    if (free := store.file_system().free_bytes) < (needed := item.size_bytes + SPARE_BYTES):
        raise NoSpace(path=store.path, free_bytes=free, needed_bytes=needed)
    verified: list[VerifiedTakeUp] = []
    read_back: list[CommittedTakeUp] = []
    applied: list[Applied] = []

    def check_staged(stage: Path) -> None:
        verified.append(
            call(
                verify_taken_up,
                VERIFY_WITHIN_S,
                progress.check,
                path=str(store.path),
                collection_id=step.subject,
                stage_directory=str(stage),
                up_to_seq=item.up_to_seq,
            )
        )

    def check_committed(directory: Path) -> None:
        read_back.append(
            call(
                verify_take_up_committed,
                path=str(store.path),
                collection_id=step.subject,
                segment_id=directory.name,
                up_to_seq=item.up_to_seq,
            )
        )

    flipped = store.writer.flip(
        step,
        collection=item.collection,
        segment=item.vector,
        build=lambda stage: item.build(store, stage, progress),
        verify_staged=check_staged,
        apply=lambda connection: applied.append(item.apply(connection)),
        verify_committed=check_committed,
        undo_facts=facts_of(item.found) | facts_of_watermark(item.vector_watermark, item.vector_gap),
        leaves_watermark=item.up_to_seq,
    )
    return CommittedCollection(
        id=item.collection.id,
        name=item.name,
        entries_vector=item.vector_gap,
        entries_metadata=item.metadata_gap,
        records_added=applied[0].added,
        records_updated=applied[0].updated,
        records_deleted=applied[0].deleted,
        up_to_seq=item.up_to_seq,
        old_segment_id=flipped.old_segment,
        segment_id=flipped.new_segment,
        verified=verified[0],
        read_back=read_back[0],
        trash_path=flipped.trash_path,
        expires_at=flipped.expires_at,
    )


def _headline(waiting: list[Outstanding]) -> str:
    if not waiting:
        return "Every index and all records have taken up the whole WAL; there is nothing to do."
    of = waiting[0].name if len(waiting) == 1 else count(len(waiting), "collection")
    lag = sum(item.metadata_gap for item in waiting)
    records = f", {count(lag, 'entry', 'entries')} by the records" if lag else ""
    entries = count(sum(item.vector_gap for item in waiting), "WAL entry", "WAL entries")
    return f"{entries} of {of} are taken up by the index{records}; they stay in the WAL, and no record changes."


def _space(store: PersistDir, free: int, needed: int) -> Check:
    sentence = f"{in_bytes(free)} free on {store.file_system().mount_point}, {in_bytes(needed)} needed."
    enough = free >= needed
    return Check(state="passed" if enough else "refused", sentence=sentence, code="" if enough else NoSpace.code)


def _figures(item: CommittedCollection, several: bool) -> tuple[Figure, ...]:
    prefix = f"{item.name}: " if several else ""
    return (
        Figure(label=prefix + "Entries the index lacks", value="0", before=count(item.entries_vector)),
        Figure(label=prefix + "Entries the records lack", value="0", before=count(item.entries_metadata)),
        Figure(label=prefix + "Vectors in the index", value=count(item.read_back.labels)),
    )


def _verified(item: CommittedCollection) -> str:
    verified, back = item.verified, item.read_back
    return (
        f"{item.name}: {count(verified.kept, 'vector')} equal the old index bit by bit,"
        f" {count(verified.written)} equal the WAL, and a search leads to {verified.self_hit_after:.1%} of"
        f" {count(verified.sample, 'sampled vector')} (process {verified.pid}); read back after the commit:"
        f" {count(back.labels, 'label')} for {count(back.records, 'record')} (process {back.pid})."
    )
