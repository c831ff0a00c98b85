"""Settle what an interrupted writing run left: the store itself says whether a step was committed."""

from __future__ import annotations

import errno
import os
import sqlite3
import uuid
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ops.errors import Busy, NeedsRecovery, OpsError
from ops.store import sqlite, trash
from ops.store.persist_dir import DATABASE, PersistDir
from ops.store.staging import (
    FLIP,
    ROWS,
    Done,
    Intent,
    StagingRoot,
    StepOutcome,
    exists,
    move,
    os_errors,
    remove_tree,
    require_run_id,
)

RUNNING = "running"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RecoveredRun:
    """How a run that did not end by itself ended.

    ``state`` is succeeded, failed or needs_operator; ``effect_on_store`` none, complete, partial or unknown.
    """

    run_id: str
    operation: str
    state: str
    effect_on_store: str
    steps: tuple[StepOutcome, ...]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What one recovery settled, and the outcomes of earlier ones that no application has read yet."""

    runs: tuple[RecoveredRun, ...] = ()
    kept: tuple[RecoveredRun, ...] = ()


def recover(path: str, *, by_person: bool = False) -> Recovered:
    """Roll every interrupted step forward or back. Idempotent, and may itself be killed anywhere.

    A hot journal beside an intent is ours and SQLite rolls it back. Without an intent it is not: NEEDS_RECOVERY, unless
    a person asked, in which case database and journal are copied to the trash first. Raises LOCKED while a run works.
    """
    with PersistDir.open(path) as store:
        root = StagingRoot.open(store)
        if root is None:
            if not is_hot(store):
                return Recovered()
            if not by_person:
                raise NeedsRecovery(path=store.database_path)
        else:
            root.close()
        with closing(StagingRoot.make(store)) as root:
            root.lock_alone("recover", "recover")
            return recover_locked(store, root, by_person=by_person)


def recover_locked(store: PersistDir, root: StagingRoot, *, by_person: bool = False) -> Recovered:
    """The same for the holder of the lock."""
    store.close_database()
    with os_errors(root.path):
        earlier = {done.run_id for done in root.all_done() if done.state != RUNNING}
        settled = [*_settle_journal(store, root, by_person)]
        root.remove_torn()
        intents = root.intents()
        runs = dict.fromkeys(intent.run_id for intent in intents)
        runs |= dict.fromkeys(done.run_id for done in root.all_done() if done.state == RUNNING)
        for run_id in runs:
            settled.append(_settle_run(store, root, run_id, [i for i in intents if i.run_id == run_id]))
        _clean(root)
        kept = (run_of(done) for done in root.all_done() if done.run_id in earlier and done.run_id not in runs)
        return Recovered(runs=tuple(settled), kept=tuple(kept))


def outcome_of(path: str, run_id: str) -> RecoveredRun:
    """What became of one run, for the application that lost sight of it; recovers first. See ``recover``."""
    recovered = recover(path)
    for run in (*recovered.runs, *recovered.kept):
        if run.run_id == run_id:
            return run
    with PersistDir.open(path) as store:
        markers = _markers(store.db, f"chromaadmin:{require_run_id(run_id)}/")
        if markers or trash.undo_records(store, run_id):
            return RecoveredRun(
                run_id=run_id,
                operation="",
                state="succeeded",
                effect_on_store="complete",
                steps=(),
                sentence=f"Run {run_id} was committed: the store holds {markers or 'the undo record of'} its step(s).",
            )
    return RecoveredRun(
        run_id=run_id,
        operation="",
        state="failed",
        effect_on_store="none",
        steps=(),
        sentence=f"Run {run_id} ended before it changed anything.",
    )


def acknowledge(path: str, run_id: str) -> None:
    """The application has recorded the outcome of its run; the store forgets it. Harmless the second time."""
    with PersistDir.open(path) as store:
        root = StagingRoot.open(store)
        if root is None:
            return
        with closing(root), os_errors(root.path):
            root.remove_done(run_id)


def is_hot(store: PersistDir) -> bool:
    """True when a journal lies beside the database that SQLite would roll back."""
    if sqlite.journal_state(store.database_path) != "filled":
        return False
    try:
        sqlite.open_readonly(store.database_path).close()
    except NeedsRecovery:
        return True
    return False


def settle_journal(store: PersistDir) -> None:
    """For a journal that is ours: SQLite rolls a hot one back; one that was begun and never filled is removed.

    The second kind is left by a commit that was killed before its first sync. It is removed under SQLite's exclusive
    lock, so that it can be nobody's; while another program holds that lock it is left to it.
    """
    path = store.database_path
    if sqlite.journal_state(path) == "absent":
        return
    connection = sqlite.open_writable(path)
    try:
        with sqlite.sqlite_errors(path):
            connection.execute("BEGIN EXCLUSIVE")
        if sqlite.journal_state(path) == "idle":
            os.unlink(f"{DATABASE}-journal", dir_fd=store.fd)
            os.fsync(store.fd)
    except Busy:
        return
    finally:
        connection.close()


def is_committed(db: sqlite3.Connection, intent: Intent) -> bool:
    """The marker decides.

    Of a flip: the new segment is current, or Chroma deleted the collection after the step was logged. Of rows: the step
    is logged, or, where Chroma keeps no log, what it was to do is done.
    """
    if intent.kind == ROWS:
        if has_log(db):
            return bool(_markers(db, intent.marker, exact=True))
        return all(condition.holds(db) for condition in intent.condition)
    rows = db.execute("SELECT id FROM segments WHERE id IN (?, ?)", (intent.new_segment, intent.old_segment))
    current = {row[0] for row in rows}
    if intent.new_segment in current:
        return True
    return not current and bool(_markers(db, intent.marker, exact=True))


def roll_back(store: PersistDir, root: StagingRoot, intent: Intent) -> None:
    """Remove what an uncommitted step made, in an order in which being killed leaves the rest for the next time."""
    if intent.kind == FLIP:
        _remove_new(store, root, intent)
    trash.forget(root, intent.run_id, intent.step)


def _remove_new(store: PersistDir, root: StagingRoot, intent: Intent) -> None:
    remove_tree(intent.new_segment, root.part("stage"))
    if intent.source_run:
        if exists(store.fd, intent.new_segment):
            with root.trash_of(intent.source_run, make=True) as source:
                assert source is not None  # noqa: S101 - made on the line before
                move(intent.new_segment, store.fd, source)
    else:
        remove_tree(intent.new_segment, store.fd)


def retire(store: PersistDir, root: StagingRoot, intent: Intent) -> bool:
    """Move the old directory into the trash.

    False (left in place) while somebody has the store open for writing, and on an overlay, where a directory of a lower
    layer can not be renamed.
    """
    if intent.kind == ROWS:
        return True
    if not exists(store.fd, intent.old_segment):
        return True
    if store.users().state == "used":
        return False
    with root.trash_of(intent.run_id, make=True) as target:
        assert target is not None  # noqa: S101 - made on the line before
        try:
            move(intent.old_segment, store.fd, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
    return True


def finish(root: StagingRoot, run_id: str, *, failed_as: str = "", why: str = "") -> Done | None:
    """Make the outcome of a run that is over final; None when it committed nothing.

    ``failed_as`` is failed or needs_operator for a run that raised although steps of it, or all, were committed.
    """
    done = root.read_done(run_id)
    if done is None or done.state != RUNNING:
        return done
    final = _judged(done, recovered=False)
    if failed_as:
        final = replace(final, state=failed_as)
    if why:
        final = replace(final, sentence=f"{final.sentence} {why}")
    root.write_done(final)
    return final


def add_outcome(root: StagingRoot, intent: Intent, state: str) -> None:
    """Record that a step of a run that still works was committed (or rolled back)."""
    done = root.read_done(intent.run_id) or _begun(intent)
    steps = [step for step in done.steps if step.step != intent.step]
    steps.append(StepOutcome(step=intent.step, subject=intent.subject, title=intent.title, state=state))
    root.write_done(replace(done, steps=tuple(steps), at=datetime.now(UTC)))


def run_of(done: Done) -> RecoveredRun:
    """An outcome as the application reads it."""
    return RecoveredRun(
        run_id=done.run_id,
        operation=done.operation,
        state=done.state,
        effect_on_store=done.effect_on_store,
        steps=done.steps,
        sentence=done.sentence,
    )


def _settle_journal(store: PersistDir, root: StagingRoot, by_person: bool) -> Iterable[RecoveredRun]:
    if root.intents():
        settle_journal(store)
        return
    if not is_hot(store):
        return
    if not by_person:
        raise NeedsRecovery(path=store.database_path)
    run_id = f"recover-{uuid.uuid4()}"
    with root.trash_of(run_id, make=True) as target:
        assert target is not None  # noqa: S101 - made on the line before
        for name in (DATABASE, f"{DATABASE}-journal"):
            _copy(name, store.fd, target)
        os.fsync(target)
    settle_journal(store)
    yield RecoveredRun(
        run_id=run_id,
        operation="recover",
        state="succeeded",
        effect_on_store="complete",
        steps=(),
        sentence=f"An interrupted change of another program was rolled back; before it, database and journal were "
        f"copied to {root.path / 'trash' / run_id}.",
    )


def _settle_run(store: PersistDir, root: StagingRoot, run_id: str, intents: list[Intent]) -> RecoveredRun:
    done = root.read_done(run_id)
    problems: list[str] = []
    for intent in intents:
        done = done or _begun(intent)
        if any(step.step == intent.step for step in done.steps):
            continue  # settled by a recovery that was killed before it removed the intent
        committed = is_committed(store.db, intent)
        store.close_database()
        if committed:
            if not retire(store, root, intent):
                problems.append(f"The old index {intent.old_segment} was left in place, because the store is in use.")
        else:
            roll_back(store, root, intent)
        state = "committed" if committed else "rolled_back"
        outcome = StepOutcome(step=intent.step, subject=intent.subject, title=intent.title, state=state)
        done = replace(done, steps=(*done.steps, outcome))
    assert done is not None  # noqa: S101 - a run is here because it has an intent or an outcome
    if done.state == RUNNING:
        done = _judged(done, recovered=True)
        wrong = [why for intent in intents if (why := _structure(store, intent, done))]
        if wrong:
            done = replace(done, state="needs_operator", sentence=f"{done.sentence} But {'; '.join(wrong)}.")
        if problems:
            done = replace(done, sentence=" ".join([done.sentence, *problems]))
        root.write_done(done)
    for intent in intents:
        root.remove_intent(intent)
    return run_of(done)


def _judged(done: Done, *, recovered: bool) -> Done:
    committed = [step for step in done.steps if step.state == "committed"]
    after = " after recovery" if recovered else ""
    name = f"Run {done.run_id} ({done.operation})"
    if not committed:
        state, effect, sentence = "failed", "none", f"{name} was rolled back{after}: nothing of it remains."
    elif len(committed) >= done.total:
        state, effect, sentence = "succeeded", "complete", f"{name} is complete{after}."
    else:
        state, effect = "failed", "partial"
        titles = ", ".join(step.title for step in committed)
        sentence = f"{name} did {len(committed)} of {done.total} steps{after}, and they stay done: {titles}."
    now = datetime.now(UTC)
    return replace(done, state=state, effect_on_store=effect, sentence=sentence, at=now, recovered=recovered)


def _begun(intent: Intent) -> Done:
    return Done(
        run_id=intent.run_id,
        operation=intent.operation,
        state=RUNNING,
        effect_on_store="unknown",
        total=intent.total,
        steps=(),
        sentence="",
        at=datetime.now(UTC),
    )


def _structure(store: PersistDir, intent: Intent, done: Done) -> str:
    """What is wrong with the index that is current now; empty when nothing is. A check of shape, not of content."""
    if intent.kind == ROWS:
        return ""  # it touched no file of an index, and SQLite's journal answers for the rows
    committed = any(step.step == intent.step and step.state == "committed" for step in done.steps)
    segment = intent.new_segment if committed else intent.old_segment
    try:
        if store.db.execute("SELECT 1 FROM segments WHERE id = ?", (segment,)).fetchone() is None:
            return ""  # Chroma has deleted the collection since
        return structure_of(store, segment)
    except OpsError as error:
        return f"the index {segment} of {intent.title} failed its check: {error}"
    finally:
        store.close_database()


def structure_of(store: PersistDir, segment: str) -> str:
    """A sentence when a current, persisted index has no directory or lacks files; empty when it is whole."""
    with sqlite.sqlite_errors(store.database_path):
        persisted = store.db.execute("SELECT 1 FROM max_seq_id WHERE segment_id = ?", (segment,)).fetchone()
    directory = store.segment_directory(segment)
    if directory is None:
        return f"the directory of the index {segment} is missing" if persisted else ""
    present = {file.name for file in directory.files() if file.kind == "file"}
    needed = {"header.bin", "data_level0.bin", "length.bin", "link_lists.bin"}
    if persisted:
        needed.add("index_metadata.pickle")
    missing = ", ".join(sorted(needed - present))
    return f"the index {segment} lacks {missing}" if missing else ""


def has_log(db: sqlite3.Connection) -> bool:
    """Whether Chroma keeps a ``maintenance_log`` here (not in 0.4 and early 0.5)."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'maintenance_log'"
    return db.execute(query).fetchone() is not None


def _markers(db: sqlite3.Connection, marker: str, *, exact: bool = False) -> int:
    """How many rows of ``maintenance_log`` are, or begin with, ``marker``; 0 where there is no such table (0.4)."""
    if not has_log(db):
        return 0
    length = -1 if exact else len(marker)
    row = db.execute(
        "SELECT count(*) FROM maintenance_log WHERE operation = ?2 OR substr(operation, 1, ?1) = ?2", (length, marker)
    ).fetchone()
    return int(row[0])


def _clean(root: StagingRoot) -> None:
    """Under the lock, with every intent settled, whatever is staged belongs to nobody."""
    for name in os.listdir(root.part("stage")):
        remove_tree(name, root.part("stage"))
    for name in os.listdir(root.fd):
        if name.startswith(".scratch-"):
            remove_tree(name, root.fd)
    for run_id in trash.run_ids(root):
        root.drop_empty_trash(run_id)


def _copy(name: str, source: int, target: int) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(reader, "rb") as old, open(os.open(name, flags, 0o600, dir_fd=target), "wb") as new:
        while chunk := old.read(_CHUNK_BYTES):
            new.write(chunk)
        new.flush()
        os.fsync(new.fileno())
