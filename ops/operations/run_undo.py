"""The operation ``run undo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops.child import VERIFY_WITHIN_S, call
from ops.errors import NothingToUndo
from ops.operation import FLIP_PHASES, Effect, Operation, Report, operation
from ops.params import param
from ops.plan import Estimate, Plan, Scope, StepScope
from ops.quantities import count
from ops.store import trash
from ops.store.setting import Edit, TextUndo, verify_setting
from ops.store.staging import FLIP
from ops.store.undo import UndoStep
from ops.store.verify import verify_committed, verify_staged
from ops.store.verify_undo import verify_returned, verify_returning

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.commit import Flipped
    from ops.store.persist_dir import PersistDir


@dataclass(frozen=True, kw_only=True)
class UndoneStep:
    """One step that was taken back: ``how`` is swapped, rebuilt or put back; ``trash_path`` is where the other waits.

    A configuration that was put back has no segments and no ids.
    """

    id: str
    name: str
    how: str
    old_segment_id: str
    segment_id: str
    ids: int | None
    trash_path: str


@dataclass(frozen=True, kw_only=True)
class RunUndoResult:
    """All steps of the run."""

    run_id: str
    steps: tuple[UndoneStep, ...]
    artifacts: tuple[str, ...]


@operation(effect=Effect.WRITE, repeatable=NothingToUndo.code)
class RunUndo(Operation[RunUndoResult]):
    """Undo a run.

    While Chroma has not written since, the old index comes back out of the trash with its configuration. When it has,
    swapping back would lose records, so the index is rebuilt from the vectors of today with the old parameters. What is
    taken back waits in the trash of this run, so an undo can be undone the same way. A configuration that a run changed
    is put back in place, unless it was changed again since.
    """

    phases = FLIP_PHASES

    run_id: str = param(
        help="The run to take back, as its answer and the trash name it.", aliases=("run",), label="run"
    )

    def check(self) -> dict[str, str]:
        """A run id names files."""
        return {} if trash.is_run_id(self.run_id) else {"run_id": "This is no run id."}

    def plan(self, store: PersistDir) -> Plan:
        """Reads the records of the trash, watermarks and headers; where a rebuild is needed, labels and id maps too."""
        steps = self._steps(store)
        return Plan(
            headline=" ".join(step.sentence for step in steps),
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=tuple(step.scope for step in steps),
            ),
            estimate=Estimate(
                written_bytes=sum(step.written_bytes(store) for step in steps),
                free_bytes=store.file_system().free_bytes,
                freed_now_bytes=0,
            ),
            changes=tuple(change for step in steps for change in step.changes),
            undo="What is taken back waits in the trash for 7 days: this undo can be undone.",
            warnings=tuple(step.warning for step in steps if step.warning),
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> RunUndoResult:
        """One flip per step of the run."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        done = []
        for scope in store.writer.steps(plan, progress):
            step = next(_step(store, record) for record in self._records(store) if record.subject == scope.subject)
            if isinstance(step, TextUndo):
                done.append(_put_back(store, scope, step))
            else:
                done.append((_swap if step.swaps else _rebuild)(store, scope, step, progress))
        artifacts = tuple(str(store.path / step.segment_id) for step in done if step.segment_id)
        return RunUndoResult(run_id=self.run_id, steps=tuple(done), artifacts=artifacts)

    def report(self, result: RunUndoResult) -> Report:
        """What came back and how."""
        return Report(
            headline=f"Run {result.run_id} is undone: "
            + ", ".join(
                f"the {'configuration' if step.ids is None else 'index'} of {step.name} was {step.how}"
                for step in result.steps
            )
            + ".",
            verified=" ".join(
                f"{'The configuration' if step.ids is None else count(step.ids, 'id')} of {step.name} read back."
                for step in result.steps
            ),
            undo="An undo of this run brings the other state back.",
            undo_path=", ".join(step.trash_path for step in result.steps if step.trash_path),
        )

    def _steps(self, store: PersistDir) -> tuple[UndoStep | TextUndo, ...]:
        """What is still to be taken back; raises NOTHING_TO_UNDO where that is nothing."""
        return tuple(_step(store, record) for record in self._records(store))

    def _records(self, store: PersistDir) -> tuple[trash.UndoRecord, ...]:
        records = trash.undo_records(store, self.run_id)
        if not records:
            raise NothingToUndo(run_id=self.run_id, why="the trash of this store knows nothing of it")
        return records


def _step(store: PersistDir, record: trash.UndoRecord) -> UndoStep | TextUndo:
    return UndoStep.of(store, record) if record.kind == FLIP else TextUndo.of(store, record)


def _put_back(store: PersistDir, scope: StepScope, step: TextUndo) -> UndoneStep:
    """One transaction; the text that is taken back is the undo of this undo."""
    edit = step.edit
    changed = store.writer.change(
        scope,
        collection=None,
        apply=edit.apply,
        condition=edit.condition,
        undo_facts=edit.facts,
        verify=lambda: _verify_back(store, edit),
    )
    return UndoneStep(
        id=scope.subject,
        name=step.name,
        how="put back",
        old_segment_id="",
        segment_id="",
        ids=None,
        trash_path=changed.kept_path,
    )


def _verify_back(store: PersistDir, edit: Edit) -> None:
    """Read back by a fresh process."""
    setting = edit.setting
    call(verify_setting, path=str(store.path), kind=setting.kind, key=setting.key, members=edit.new)


def _swap(store: PersistDir, scope: StepScope, step: UndoStep, progress: Progress) -> UndoneStep:
    returned: list[int] = []

    def check_returning(directory: Path) -> None:
        call(
            verify_returning,
            VERIFY_WITHIN_S,
            progress.check,
            path=str(store.path),
            collection_id=scope.subject,
            directory=str(directory),
            watermark=step.returns_watermark,
        )

    def check_returned(directory: Path) -> None:
        found = call(
            verify_returned,
            path=str(store.path),
            collection_id=scope.subject,
            segment_id=directory.name,
            expected=step.old,
        )
        returned.append(found.ids)

    flipped = store.writer.flip_back(
        scope,
        collection=step.collection,
        segment=step.segment,
        record=step.record,
        verify_staged=check_returning,
        apply=lambda connection: step.restore(connection, step.record.old_segment),
        verify_committed=check_returned,
        undo_facts=step.facts,
        leaves_watermark=step.returns_watermark,
    )
    return _undone(step, "swapped back", flipped, returned[0])


def _rebuild(store: PersistDir, scope: StepScope, step: UndoStep, progress: Progress) -> UndoneStep:
    item = step.rebuild(store)
    new = item.wanted
    returned: list[int] = []
    segment_id: list[str] = []

    def build(stage: Path) -> None:
        segment_id.append(stage.name)
        item.build(stage, progress)

    def check_staged(stage: Path) -> None:
        call(
            verify_staged,
            VERIFY_WITHIN_S,
            progress.check,
            path=str(store.path),
            collection_id=scope.subject,
            staged=item.staged(stage),
        )

    def check_committed(directory: Path) -> None:
        found = call(
            verify_committed,
            path=str(store.path),
            collection_id=scope.subject,
            segment_id=directory.name,
            expected=new,
        )
        returned.append(found.labels)

    flipped = store.writer.flip(
        scope,
        collection=item.collection,
        segment=item.segment,
        build=build,
        verify_staged=check_staged,
        apply=lambda connection: step.restore(connection, segment_id[0]),
        verify_committed=check_committed,
        undo_facts=step.facts,
    )
    return _undone(step, "rebuilt with the old parameters", flipped, returned[0])


def _undone(step: UndoStep, how: str, flipped: Flipped, ids: int) -> UndoneStep:
    return UndoneStep(
        id=step.collection.id,
        name=step.name,
        how=how,
        old_segment_id=flipped.old_segment,
        segment_id=flipped.new_segment,
        ids=ids,
        trash_path=flipped.trash_path,
    )
