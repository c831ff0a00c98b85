"""The operation ``wal clean``."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.child import call
from ops.errors import PlanChanged
from ops.operation import Effect, Figure, Needs, Operation, Phase, Report, operation
from ops.params import param
from ops.plan import Change, Estimate, Plan, Scope, StepScope
from ops.quantities import count, in_bytes
from ops.selection import SelectsCollections
from ops.store.verify_wal import verify_cleaned
from ops.store.wal_clean import Cleanable, cleanable
from ops.store.wal_replay import require_proved

if TYPE_CHECKING:
    from pathlib import Path

    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir

_UNDO = (
    "The deleted entries are copied to undo.sqlite3 in the trash for 7 days, unless the run is told to keep no undo."
    " No record needs them."
)


@dataclass(frozen=True, kw_only=True)
class CleanedTopic:
    """What went of one topic; ``id`` is empty for one whose collection is gone. ``reason`` says why nothing went."""

    id: str
    name: str
    topic: str
    deleted_rows: int
    freed_bytes: int
    up_to_seq: int | None
    kept_path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WalCleanResult:
    """Sums over all topics, and each of them. ``freed_bytes`` are reused by SQLite; the file stays as long as it is."""

    deleted_rows: int
    freed_bytes: int
    collections: tuple[CleanedTopic, ...]


@operation(effect=Effect.DESTRUCTIVE, needs=Needs.LIVE)
class WalClean(SelectsCollections, Operation[WalCleanResult]):
    """Clean the WAL.

    Deletes entries of the WAL that both segments of their collection have taken up, by Chroma's own rule.

    The newest entry of the whole WAL always stays, because Chroma numbers the next one from it. Nothing is deleted for
    a collection whose index is damaged or was never persisted; the result says why. Without a name it works on all
    collections, and on entries whose collection is gone. It may run while Chroma is at work.
    """

    phases = (
        Phase(key="check", label="Checked again"),
        Phase(key="lock", label="Locked"),
        Phase(key="commit", label="Deleted", commit=True),
        Phase(key="readback", label="Read back"),
    )

    keep_last: int = param(0, help="Newest entries of each collection to keep.", minimum=0, maximum=1_000_000_000)

    def plan(self, store: PersistDir) -> Plan:
        """Counts entries, and looks at every index whose entries may go."""
        require_proved(store, "wal clean")
        found = self._found(store)
        going = [item for item in found if item.rows]
        size_bytes = sum(item.size_bytes for item in going)
        return Plan(
            headline=f"{count(sum(item.rows for item in going), 'WAL entry', 'WAL entries')} of"
            f" {count(len(going), 'topic')} with {in_bytes(size_bytes)} are deleted; no record needs them.",
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=tuple(item.step for item in going),
            ),
            estimate=Estimate(
                rows=sum(item.rows for item in going),
                written_bytes=2 * size_bytes,
                needed_bytes=2 * size_bytes,
                free_bytes=store.file_system().free_bytes,
                freed_now_bytes=0,
                freed_at_expiry_bytes=size_bytes,
            ),
            changes=tuple(
                Change(what=f"{item.name}: entries up to {item.up_to_seq}", now=count(item.rows), after="0")
                for item in going
            ),
            undo=_UNDO,
            warnings=tuple(f"Nothing of {item.name} is deleted: {item.reason}" for item in found if item.reason),
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> WalCleanResult:
        """One transaction per topic."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        left = {item.step.subject: _result(item, 0, "") for item in self._found(store) if not item.rows}
        done = [self._clean(store, step) for step in store.writer.steps(plan, progress)]
        collections = (*done, *left.values())
        return WalCleanResult(
            deleted_rows=sum(item.deleted_rows for item in collections),
            freed_bytes=sum(item.freed_bytes for item in collections),
            collections=collections,
        )

    def report(self, result: WalCleanResult) -> Report:
        """What went, and where its copy lies."""
        return Report(
            headline=f"{count(result.deleted_rows, 'WAL entry', 'WAL entries')} deleted, {in_bytes(result.freed_bytes)}"
            " can be used again inside the database.",
            figures=tuple(
                Figure(label=item.name, value=count(item.deleted_rows))
                for item in result.collections
                if not item.reason
            ),
            # No undo is offered: `run undo` does not put entries back yet; whoever needs them reads the copy.
            notes=(
                *(f"Nothing of {item.name}: {item.reason}" for item in result.collections if item.reason),
                *(
                    f"The deleted entries of {item.name} are kept in {item.kept_path}."
                    for item in result.collections
                    if item.kept_path
                ),
            ),
        )

    def _found(self, store: PersistDir) -> tuple[Cleanable, ...]:
        orphans = not (self.collection or self.collection_id or self.tenant or self.database)
        return cleanable(store, self.selected(store), orphans=orphans, keep_last=self.keep_last)

    def _clean(self, store: PersistDir, step: StepScope) -> CleanedTopic:
        item = next((found for found in self._found(store) if found.step.subject == step.subject), None)
        if item is None or item.step != step:
            raise PlanChanged(what=f"{step.title}: its WAL is another now")
        store.id_maps.close()
        deleted: list[int] = []

        def apply(connection: sqlite3.Connection) -> None:
            deleted.append(item.delete(connection))

        def keep(directory: Path) -> None:
            item.keep(store, directory)

        def verify() -> None:
            call(
                verify_cleaned, path=str(store.path), topic=item.topic, up_to_seq=item.up_to_seq, kept_seq=item.kept_seq
            )

        keeps = store.writer.undo != "none"
        changed = store.writer.change(
            step,
            collection=item.collection,
            apply=apply,
            condition=item.condition,
            undo_facts={"topic": item.topic, "up_to_seq": str(item.up_to_seq), "kept": "yes" if keeps else "no"},
            verify=verify,
            keep=keep if keeps else None,
        )
        return _result(item, deleted[0], changed.kept_path if keeps else "")


def _result(item: Cleanable, deleted: int, kept_path: str) -> CleanedTopic:
    return CleanedTopic(
        id="" if item.collection is None else item.collection.id,
        name=item.name,
        topic=item.topic,
        deleted_rows=deleted,
        freed_bytes=item.size_bytes if deleted else 0,
        up_to_seq=item.up_to_seq if deleted else None,
        kept_path=kept_path,
        reason=item.reason,
    )
