"""The writer of a run: staging root, lock, recovery, preflight, and two kinds of step, each with one commit point."""

from __future__ import annotations

import os
import sqlite3
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ops.errors import (
    BadParameters,
    CommittedButUnverified,
    Corrupt,
    GateClosed,
    InUse,
    InUseUnknown,
    IoFailed,
    NeedsRecovery,
    NotOwner,
    OpsError,
    Outcome,
    PlanChanged,
    RecoveryNeedsOperator,
    RefBroken,
    VerificationFailed,
)
from ops.plan import Plan, StepScope
from ops.progress import Progress
from ops.store import recovery, sqlite, trash
from ops.store.conditions import Condition
from ops.store.live_index import position
from ops.store.persist_dir import PersistDir, SegmentDirectory, Users
from ops.store.staging import (
    ROWS,
    Intent,
    StagingRoot,
    copy_attributes,
    exists,
    move,
    ops_error,
    os_errors,
    shared_lock,
    sync_tree,
)
from ops.store.text import encoded

if TYPE_CHECKING:
    from ops.store.sysdb import Collection, Segment

__all__ = ["Changed", "Condition", "Flipped", "Gate", "Writer", "shared_lock"]

Gate = Callable[[StepScope], str | None]
T = TypeVar("T")
INDEX_FILES = ("data_level0.bin", "header.bin", "index_metadata.pickle", "length.bin", "link_lists.bin")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_QUICK_CHECK_BYTES_PER_S = 10_000_000  # a slow disk; 54 MB took 0.3 s on a fast one
_UNDO_WORDS = ("keep", "none")
# An operation whose very purpose is to free the space may do without an undo.
_MAY_DO_WITHOUT_UNDO = frozenset({"wal_clean", "db_clean", "trash_purge"})


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """A committed flip. ``trash_path`` is where the old directory waits; empty when it was left in place."""

    old_segment: str
    new_segment: str
    trash_path: str
    retired: bool
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Committed rows. ``kept_path`` is where the record that takes them back lies, until ``expires_at``."""

    subject: str
    kept_path: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What must still be so at the commit: read when the step began.

    ``watermark`` is the row of the segment, ``taken_up`` that or, where there is none, what the id map says; that file
    is among ``files``.
    """

    watermark: int | None
    taken_up: int | None
    newest_seq: int | None
    files: tuple[tuple[str, int, int, int], ...]  # name, inode, size in bytes, mtime in ns


class Writer:
    """What a writing run has: made by ``execute()``, used by operations for their commit. A context manager."""

    def __init__(
        self,
        store: PersistDir,
        root: StagingRoot,
        *,
        run_id: str,
        operation: str,
        needs: str,
        undo: str,
        attest_unused: bool,
        gate: Gate,
        progress: Progress,
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.operation = operation
        self.undo = undo
        self.committed: list[str] = []
        self.unsettled = False  # a COMMIT failed and the store could not be asked whether it took place
        self._attempted = False
        self._root = root
        self._quiet = needs == "quiet"
        self._attested = attest_unused
        self._gate = gate
        self._progress = progress
        self._step = 0
        self._total = 1

    @classmethod
    def open(
        cls,
        store: PersistDir,
        *,
        run_id: str,
        operation: str,
        undo: str,
        attest_unused: bool,
        gate: Gate,
        progress: Progress,
        needs: str = "quiet",
    ) -> Writer:
        """Lock the store alone, settle what earlier runs left, and check that it may be written now.

        Raises BAD_PARAMETERS, READ_ONLY, NOT_OWNER, FILE_SYSTEM_UNFIT, SYMLINK, LOCKED, RECOVERY_NEEDS_OPERATOR,
        NEEDS_RECOVERY, IN_USE, IN_USE_UNKNOWN, CORRUPT, SCHEMA_HOSTILE, SCHEMA_UNKNOWN, UNSUPPORTED_VERSION.
        """
        _check_undo(undo, operation)
        progress.phase("check", "Checking again")
        store.check_identity()
        store.require_fit()
        root = StagingRoot.make(store)
        try:
            writer = cls(
                store,
                root,
                run_id=run_id,
                operation=operation,
                needs=needs,
                undo=undo,
                attest_unused=attest_unused,
                gate=gate,
                progress=progress,
            )
            with os_errors(root.path):
                root.scratch_check(store.fd)
                progress.phase("lock", "Locking the store")
                root.lock_alone(run_id, operation, progress.check)
                root.probe()
                writer._recover()
                writer._preflight()
        except BaseException:
            root.close()
            raise
        return writer

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._root.fd >= 0 and self.committed:
                with os_errors(self._root.path):
                    recovery.finish(self._root, self.run_id, failed_as=_failed_as(value), why=_why(value))
        finally:
            self.store.close_database()
            self._root.close()

    def steps(self, plan: Plan, progress: Progress) -> Iterator[StepScope]:
        """The steps of the plan, one after the other; a step that was committed is told to ``progress``."""
        self._total = len(plan.scope.steps)
        for number, step in enumerate(plan.scope.steps, start=1):
            progress.unshield()
            progress.check()
            self._step = number
            yield step
            if step.subject in self.committed:
                progress.step(step.subject, len(self.committed), self._total)

    def flip(
        self,
        step: StepScope,
        *,
        collection: Collection,
        segment: Segment,
        build: Callable[[Path], None],
        verify_staged: Callable[[Path], None],
        apply: Callable[[sqlite3.Connection], None],
        verify_committed: Callable[[Path], None],
        undo_facts: Mapping[str, str],
        leaves_watermark: int | None = None,
    ) -> Flipped:
        """Replace the index of a collection by a new one, in one SQLite transaction with its configuration.

        ``build(stage)`` fills an empty directory that is named like the new segment; ``verify_staged(stage)`` looks at
        it in a fresh child; ``apply(connection)`` changes the configuration inside the transaction, in which the rows
        of the segment already carry the new id (``stage.name``); ``verify_committed(directory)`` looks at the visible
        directory afterwards. Each raises to refuse. Until the COMMIT any failure leaves the store as it was;
        afterwards a failure raises COMMITTED_UNVERIFIED. ``leaves_watermark`` is the VECTOR watermark that ``apply``
        leaves, None when it leaves it as it is. A collection whose entries no Chroma has taken up yet may have no
        directory to replace.
        """

        def prepare(intent: Intent, old: SegmentDirectory | None) -> None:
            self._stage(intent, old, build, verify_staged)

        def place(intent: Intent) -> None:
            move(intent.new_segment, self._root.part("stage"), self.store.fd)

        new_segment = str(uuid.uuid4())
        return self._flip(
            step,
            collection,
            segment,
            new_segment,
            "",
            prepare,
            place,
            apply,
            verify_committed,
            undo_facts,
            leaves_watermark,
        )

    def flip_back(
        self,
        step: StepScope,
        *,
        collection: Collection,
        segment: Segment,
        record: trash.UndoRecord,
        verify_staged: Callable[[Path], None],
        apply: Callable[[sqlite3.Connection], None],
        verify_committed: Callable[[Path], None],
        undo_facts: Mapping[str, str],
        leaves_watermark: int | None = None,
    ) -> Flipped:
        """Make the index that ``record`` names current again: its directory comes back out of the trash.

        The current one goes to the trash of this run, so that an undo of the undo is the same again. Raises
        PLAN_CHANGED when the watermark or the newest queue number is not what the run left.
        """
        returning = record.old_segment

        def prepare(_intent: Intent, _old: SegmentDirectory | None) -> None:
            before = self._before(segment.id)
            if (before.taken_up, before.newest_seq) != (record.watermark, record.newest_seq):
                raise PlanChanged(what=f"Chroma has written to {collection.name} since run {record.run_id}")
            if exists(self.store.fd, returning):
                # It was left in place when the run ended because somebody had the store open: retire it late.
                with self._root.trash_of(record.run_id, make=True) as source:
                    move(returning, self.store.fd, _there(source))
            self._progress.phase("verify", "Verifying the index in the trash")
            verify_staged(self._root.path / "trash" / record.run_id / returning)

        def place(intent: Intent) -> None:
            with self._root.trash_of(intent.source_run) as source:
                move(returning, _there(source), self.store.fd)

        return self._flip(
            step,
            collection,
            segment,
            returning,
            record.run_id,
            prepare,
            place,
            apply,
            verify_committed,
            undo_facts,
            leaves_watermark,
        )

    def change(
        self,
        step: StepScope,
        *,
        collection: Collection | None,
        apply: Callable[[sqlite3.Connection], None],
        condition: tuple[Condition, ...],
        undo_facts: Mapping[str, str],
        verify: Callable[[], None],
        keep: Callable[[Path], None] | None = None,
    ) -> Changed:
        """Change rows in one SQLite transaction; no file of an index is touched.

        ``apply(connection)`` changes them under the write lock, where it also looks again at whatever it relies on, and
        raises to refuse. All of ``condition`` must be false for a store on which there is something to do and true
        after ``apply``: it is how a recovery sees the commit where Chroma keeps no log. ``keep(directory)`` writes what
        the undo needs and is too large for ``undo_facts`` into an empty directory of the trash and reads it back; it
        runs before the lock is taken. ``verify()`` looks at the store in a fresh child after the COMMIT. Until the
        COMMIT any failure leaves the store as it was; afterwards a failure raises COMMITTED_UNVERIFIED.
        """
        intent = self._intent(step, kind=ROWS, collection_id=collection.id if collection else "", condition=condition)
        self.store.close_database()
        with sqlite.sqlite_errors(self.store.database_path):
            if all(part.holds(self.store.db) for part in condition):
                raise PlanChanged(what=f"{step.title}: what it would do is done already")
            newest = _positions(self.store.db, "")[1]
        record = _record(intent, _Before(watermark=None, taken_up=None, newest_seq=newest, files=()), undo_facts)

        def prepare() -> None:
            if keep is not None:
                self._keep(intent, keep)
            trash.keep(self._root, record)

        def change(connection: sqlite3.Connection) -> None:
            self._check_collection(connection, step, collection)
            apply(connection)
            if not all(part.holds(connection) for part in condition):
                raise VerificationFailed(why=f"{step.title} does not hold what it should")

        self._perform(step, intent, prepare, change)
        self._progress.phase("readback", "Reading back")
        self._conclude(intent, verify)
        return Changed(
            subject=step.subject,
            kept_path=str(self._root.path / "trash" / intent.run_id),
            expires_at=record.expires_at,
        )

    # --- opening -----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        recovered = recovery.recover_locked(self.store, self._root)
        for run in recovered.runs:
            self._progress.log(run.sentence)
        stuck = [run.sentence for run in recovered.runs if run.state == "needs_operator"]
        if stuck:
            raise RecoveryNeedsOperator(why=" ".join(stuck))

    def _preflight(self) -> None:
        if self._quiet:
            self._require_unused()
        if recovery.is_hot(self.store):
            raise NeedsRecovery(path=self.store.database_path)
        self.store.close_database()
        size_bytes = self.store.disk_usage().sqlite_bytes
        _quick_check(self.store.database_path, 60.0 + size_bytes / _QUICK_CHECK_BYTES_PER_S)
        self.store.require_writable(self.operation)

    def _require_unused(self) -> None:
        users = self.store.users()
        if users.state == "used":
            raise InUse(count=len(users.processes), processes=_named(users))
        if users.state == "unknown" and not self._attested:
            raise InUseUnknown(why=users.why)

    # --- every step ---------------------------------------------------------------------------------------------------

    def _intent(self, step: StepScope, **parts: Any) -> Intent:
        self._step = self._step or 1
        return Intent(
            run_id=self.run_id,
            step=self._step,
            total=self._total,
            operation=self.operation,
            subject=step.subject,
            title=step.title,
            started_at=datetime.now(UTC),
            **parts,
        )

    def _perform(
        self,
        step: StepScope,
        intent: Intent,
        prepare: Callable[[], None],
        change: Callable[[sqlite3.Connection], None],
    ) -> None:
        """Intent, preparation, gate, COMMIT: what is the same for each kind of step. A failure rolls all of it back."""
        progress = self._progress
        self._attempted = False
        try:
            with os_errors(self._root.path):
                self._root.write_intent(intent)
                prepare()
            progress.phase("commit", "Waiting for the write lock")
            if reason := self._gate(step):
                raise GateClosed(why=reason)
            progress.check()
            _Commit(self, intent, change).run()
        except BaseException as error:
            if not self._settle_failed(intent, error):
                raise
        self.committed.append(step.subject)
        progress.shield()

    def _conclude(self, intent: Intent, look: Callable[[], T]) -> T:
        """After the commit: ``look`` reads back, then the outcome is recorded."""
        root = self._root
        try:
            found = look()
            recovery.add_outcome(root, intent, "committed")
            root.remove_intent(intent)
        except OSError as error:
            raise CommittedButUnverified(why=str(ops_error(error, root.path))) from error
        except CommittedButUnverified:
            raise
        except OpsError as error:
            # It is committed whatever the check says; the outcome is kept, the evidence stands in the run's trash.
            self._keep_unverified(intent)
            raise CommittedButUnverified(why=str(error)) from error
        return found

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _keep(self, intent: Intent, keep: Callable[[Path], None]) -> None:
        name = trash.kept_name(intent.step)
        with self._root.trash_of(intent.run_id, make=True) as target:
            os.mkdir(name, 0o700, dir_fd=_there(target))
            keep(self._root.path / "trash" / intent.run_id / name)
            with _opened(name, _there(target)) as kept:
                sync_tree(kept)
            os.fsync(_there(target))

    @staticmethod
    def _check_collection(connection: sqlite3.Connection, step: StepScope, collection: Collection | None) -> None:
        if collection is None:
            return
        rows = connection.execute(
            "SELECT id FROM segments WHERE collection = CAST(? AS TEXT) AND scope = 'VECTOR'", (encoded(collection.id),)
        ).fetchall()
        if step.segment_id and (step.segment_id,) not in rows:
            raise PlanChanged(what=f"{step.title}: its segment is another now")
        found = connection.execute("SELECT 1 FROM collections WHERE id = CAST(? AS TEXT)", (encoded(collection.id),))
        if found.fetchone() is None:
            raise PlanChanged(what=f"{step.title} is gone")

    # --- the flip ----------------------------------------------------------------------------------------------------

    def _flip(
        self,
        step: StepScope,
        collection: Collection,
        segment: Segment,
        new_segment: str,
        source_run: str,
        prepare: Callable[[Intent, SegmentDirectory | None], None],
        place: Callable[[Intent], None],
        apply: Callable[[sqlite3.Connection], None],
        verify_committed: Callable[[Path], None],
        undo_facts: Mapping[str, str],
        leaves_watermark: int | None,
    ) -> Flipped:
        old = self.store.segment_directory(segment.id)
        before = self._before(segment.id)
        if old is None and before.watermark is not None:
            raise RefBroken(what=f"The segment {segment.id} of {collection.name} has no directory.")
        if step.segment_id and step.segment_id != segment.id:
            raise PlanChanged(what=f"{step.title}: its segment is another now")
        if old is not None:
            self._check_owner(old)
        intent = self._intent(
            step,
            collection_id=collection.id,
            old_segment=segment.id,
            new_segment=new_segment,
            source_run=source_run,
        )
        left = before if leaves_watermark is None else replace(before, taken_up=leaves_watermark)
        record = _record(intent, left, undo_facts)

        def prepare_all() -> None:
            prepare(intent, old)
            trash.keep(self._root, record)
            place(intent)

        def change(connection: sqlite3.Connection) -> None:
            self._check_unchanged(connection, intent, before)
            _point_to_new(connection, intent)
            apply(connection)

        self._perform(step, intent, prepare_all, change)
        return self._finish(intent, record, verify_committed)

    def _check_owner(self, old: SegmentDirectory) -> None:
        with os_errors(self._root.path), _opened(old.name, self.store.fd) as directory:
            self._root.scratch_check(directory)

    def _before(self, segment_id: str) -> _Before:
        """Read anew by a connection of its own, because the store's may stand in an old snapshot."""
        self.store.close_database()
        with sqlite.sqlite_errors(self.store.database_path):
            watermark, newest = _positions(self.store.db, segment_id)
        taken_up = position(self.store, segment_id)
        directory = self.store.segment_directory(segment_id)
        return _Before(
            watermark=watermark,
            taken_up=taken_up,
            newest_seq=newest,
            files=() if directory is None else _stat_files(directory, self.store.fd),
        )

    def _stage(
        self,
        intent: Intent,
        old: SegmentDirectory | None,
        build: Callable[[Path], None],
        verify_staged: Callable[[Path], None],
    ) -> None:
        progress, root = self._progress, self._root
        stage = root.part("stage")
        os.mkdir(intent.new_segment, 0o700, dir_fd=stage)
        path = root.path / "stage" / intent.new_segment
        progress.phase("build", "Building the new index")
        build(path)
        with _opened(intent.new_segment, stage) as new:
            _require_plain(new, path)
            if old is None:
                _dress_alone(new, self.store.fd, path)
            else:
                with _opened(old.name, self.store.fd) as like:
                    _dress(new, like, path)
            sync_tree(new)
        os.fsync(stage)
        progress.phase("verify", "Verifying the new index")
        verify_staged(path)
        progress.check()

    def _settle_failed(self, intent: Intent, error: BaseException) -> bool:
        """Roll the step back; True when the store says that it was committed after all (COMMIT failed at its very end).

        What can not be rolled back now is left with its intent for the next recovery.
        """
        committed = False
        try:
            if self._attempted:
                self.unsettled = True
                self.store.close_database()
                recovery.settle_journal(self.store)
                with sqlite.sqlite_errors(self.store.database_path):
                    committed = recovery.is_committed(self.store.db, intent)
                self.unsettled = False
            if not committed:
                recovery.roll_back(self.store, self._root, intent)
                self._root.remove_intent(intent)
        except (OSError, OpsError) as second:
            self._progress.log(f"Settling the step is left to the next recovery: {second}")
        finally:
            self.store.close_database()
        if committed and not isinstance(error, _CommitUncertain):
            self.committed.append(intent.subject)  # interrupted just after it: the next recovery rolls it forward
            return False
        if not committed and isinstance(error, _CommitUncertain):
            raise error.cause
        return committed

    def _check_unchanged(self, connection: sqlite3.Connection, intent: Intent, before: _Before) -> None:
        row = connection.execute(
            "SELECT collection, scope FROM segments WHERE id = ?", (intent.old_segment,)
        ).fetchone()
        if row is None or tuple(row) != (intent.collection_id, "VECTOR"):
            raise PlanChanged(what=f"{intent.title}: its segment is another now")
        watermark, newest = _positions(connection, intent.old_segment)
        if watermark != before.watermark:
            raise PlanChanged(what=f"{intent.title}: its watermark moved while the index was built")
        if intent.source_run and newest != before.newest_seq:
            raise PlanChanged(what=f"{intent.title}: something was written meanwhile")
        directory = self.store.segment_directory(intent.old_segment)
        if (() if directory is None else _stat_files(directory, self.store.fd)) != before.files:
            raise PlanChanged(what=f"{intent.title}: its index files changed while the new index was built")

    def _finish(self, intent: Intent, record: trash.UndoRecord, verify_committed: Callable[[Path], None]) -> Flipped:
        """After the commit: retire the old directory, read the new one back, record the outcome."""
        root, store = self._root, self.store

        def look() -> bool:
            retired = recovery.retire(store, root, intent)
            self._progress.phase("readback", "Reading the new index back")
            if why := recovery.structure_of(store, intent.new_segment):
                raise VerificationFailed(why=why)
            verify_committed(store.path / intent.new_segment)
            return retired

        retired = self._conclude(intent, look)
        in_trash = retired and trash.has_directory(store, intent.run_id, intent.old_segment)
        if not retired:
            self._progress.log(f"The old index {intent.old_segment} was left in place: somebody opened the store.")
        return Flipped(
            old_segment=intent.old_segment,
            new_segment=intent.new_segment,
            trash_path=str(root.path / "trash" / intent.run_id / intent.old_segment) if in_trash else "",
            retired=retired,
            expires_at=record.expires_at,
        )

    def _keep_unverified(self, intent: Intent) -> None:
        try:
            recovery.add_outcome(self._root, intent, "committed")
            self._root.remove_intent(intent)
        except OSError as error:
            self._progress.log(f"The outcome could not be kept, the next recovery finds it: {error}")


class _CommitUncertain(Exception):
    """COMMIT itself failed; only the store knows whether it took place."""

    def __init__(self, cause: OpsError) -> None:
        self.cause = cause
        super().__init__(str(cause))


class _Commit:
    """The one transaction of a step."""

    def __init__(self, writer: Writer, intent: Intent, change: Callable[[sqlite3.Connection], None]) -> None:
        self._writer = writer
        self._intent = intent
        self._change = change

    def run(self) -> None:
        """Check again under the write lock, change the rows, commit. Whatever raises before COMMIT changes nothing."""
        store = self._writer.store
        store.close_database()  # a reader of this process would keep the commit waiting for ever
        path = store.database_path
        connection = sqlite.open_writable(path)
        try:
            with sqlite.sqlite_errors(path):
                connection.execute("BEGIN IMMEDIATE")
                if self._writer._quiet:
                    self._writer._require_unused()
                self._change(connection)
                self._mark(connection)
            self._writer._attempted = True
            try:
                with sqlite.sqlite_errors(path):
                    connection.execute("COMMIT")
            except OpsError as error:
                raise _CommitUncertain(error) from error
        finally:
            # Closing rolls back what is not committed; where that fails the journal is hot and the next opener does it.
            connection.close()

    def _mark(self, connection: sqlite3.Connection) -> None:
        if recovery.has_log(connection):
            connection.execute(
                "INSERT INTO maintenance_log (id, timestamp, operation) "
                "SELECT coalesce(max(id), 0) + 1, strftime('%s', 'now'), ? FROM maintenance_log",
                (self._intent.marker,),
            )


def _point_to_new(connection: sqlite3.Connection, intent: Intent) -> None:
    ids = (intent.new_segment, intent.old_segment)
    changed = connection.execute("UPDATE segments SET id = ? WHERE id = ?", ids).rowcount
    if changed != 1:
        raise RefBroken(what=f"{changed} segment rows have the id {intent.old_segment}.")
    connection.execute("UPDATE max_seq_id SET segment_id = ? WHERE segment_id = ?", ids)
    connection.execute("UPDATE segment_metadata SET segment_id = ? WHERE segment_id = ?", ids)


def _positions(connection: sqlite3.Connection, segment_id: str) -> tuple[int | None, int | None]:
    """Watermark of the segment and newest queue number. Before 1.0 the watermark is an 8-byte big-endian blob."""
    row = connection.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment_id,)).fetchone()
    watermark = None if row is None else row[0]
    if isinstance(watermark, bytes):
        watermark = int.from_bytes(watermark, "big")
    newest = connection.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0]
    return watermark, newest


def _record(intent: Intent, before: _Before, facts: Mapping[str, str]) -> trash.UndoRecord:
    now = datetime.now(UTC)
    return trash.UndoRecord(
        run_id=intent.run_id,
        step=intent.step,
        operation=intent.operation,
        subject=intent.subject,
        title=intent.title,
        collection_id=intent.collection_id,
        kind=intent.kind,
        old_segment=intent.old_segment,
        new_segment=intent.new_segment,
        watermark=before.taken_up,
        newest_seq=before.newest_seq,
        made_at=now,
        expires_at=now + trash.KEPT_FOR,
        facts=dict(facts),
    )


def _failed_as(error: BaseException | None) -> str:
    if error is None:
        return ""
    return "needs_operator" if isinstance(error, OpsError) and error.outcome is Outcome.NEEDS_OPERATOR else "failed"


def _why(error: BaseException | None) -> str:
    return str(error) if isinstance(error, OpsError) else ""


def _check_undo(undo: str, operation: str) -> None:
    if undo not in _UNDO_WORDS:
        raise BadParameters({"undo": f"{undo!r} is not offered yet; choose keep."})
    if undo == "none" and operation not in _MAY_DO_WITHOUT_UNDO:
        raise BadParameters({"undo": f"{operation} always keeps what it replaces in the trash; choose keep."})


def _quick_check(path: Path, deadline_s: float) -> None:
    connection = sqlite.open_readonly(path, deadline_s=deadline_s)
    try:
        with sqlite.sqlite_errors(path):
            lines = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    finally:
        connection.close()
    if lines != ["ok"]:
        raise Corrupt(path=path, why="; ".join(lines)[:500])


def _named(users: Users) -> str:
    return ", ".join(f"{process.command} (pid {process.pid})" for process in users.processes)


class _opened:  # noqa: N801 - used like a function
    """A directory by name below a descriptor, never through a link."""

    def __init__(self, name: str, parent: int) -> None:
        self._descriptor = os.open(name, _DIRECTORY, dir_fd=parent)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _stat_files(directory: SegmentDirectory, store: int) -> tuple[tuple[str, int, int, int], ...]:
    found = []
    with _opened(directory.name, store) as descriptor:
        for name in sorted(os.listdir(descriptor)):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            found.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _require_plain(directory: int, path: Path) -> None:
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if name not in INDEX_FILES or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise VerificationFailed(why=f"{path / name} does not belong into an index directory")


def _dress(new: int, like: int, path: Path) -> None:
    """Owner, mode, access lists and label of the old directory and of its files, each of the file of its name."""
    copy_attributes(like, new, path)
    present = sorted(os.listdir(like))
    for name in os.listdir(new):
        model = name if name in present else next((file for file in present if file in INDEX_FILES), "")
        if not model:
            raise NotOwner(path=path, owner=os.fstat(like).st_uid, group=os.fstat(like).st_gid, uid=os.geteuid())
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        source, target = os.open(model, flags, dir_fd=like), os.open(name, flags, dir_fd=new)
        try:
            copy_attributes(source, target, path / name, labels=False)
        finally:
            os.close(source)
            os.close(target)


def _dress_alone(new: int, parent: int, path: Path) -> None:
    """For a collection that has no directory yet: owner, mode and label of the persist directory, files without x."""
    copy_attributes(parent, new, path)
    model = os.fstat(parent)
    for name in os.listdir(new):
        with _opened_file(name, new) as target:
            copy_attributes(parent, target, path / name, labels=False)
            os.fchmod(target, stat.S_IMODE(model.st_mode) & 0o666)


@contextmanager
def _opened_file(name: str, parent: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _there(descriptor: int | None) -> int:
    if descriptor is None:
        raise IoFailed(what="Opening the trash of a run", why="it is gone")
    return descriptor
