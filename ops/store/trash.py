"""The trash of a store: what a run put there, the record that its undo needs, and when it expires."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ops.codec import DecodeError, from_json, to_json
from ops.errors import IoFailed, RecoveryNeedsOperator
from ops.store.persist_dir import PersistDir
from ops.store.staging import FLIP, StagingRoot, exists, read_json, remove_tree, require_run_id, write_json

KEPT_FOR = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class UndoRecord:
    """What takes one step of a run back; on disk, synced and read back before the step's commit.

    ``kind`` is flip or rows; a step of rows has no segments and no watermark. ``watermark`` and ``newest_seq`` are what
    the run left: while they are the same nobody has written since. ``facts`` are the operation's own (old configuration
    text and its column, old header parameters); what is too large for them lies in the directory ``kept_name``.
    """

    run_id: str
    step: int
    operation: str
    subject: str
    title: str
    collection_id: str
    watermark: int | None
    newest_seq: int | None
    made_at: datetime
    expires_at: datetime
    kind: str = FLIP
    old_segment: str = ""
    new_segment: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file in ``trash/<run>``."""
        return f"undo-{self.step}.json"

    @property
    def kept_name(self) -> str:
        """The directory in ``trash/<run>`` with what a step of rows keeps beside its facts; mostly there is none."""
        return kept_name(self.step)


def kept_name(step: int) -> str:
    """The directory in ``trash/<run>`` with what the undo of a step of rows needs beside its record."""
    return f"kept-{step}"


@dataclass(frozen=True, kw_only=True)
class TrashItem:
    """One directory in the trash, with the record of the step that put it there (None for what has none)."""

    run_id: str
    name: str
    record: UndoRecord | None


def keep(root: StagingRoot, record: UndoRecord) -> None:
    """Write the record, sync it and read it back. Raises IO_FAILED when it does not read as it was written."""
    with root.trash_of(record.run_id, make=True) as trash:
        if trash is None:
            raise IoFailed(what=f"Making the trash of run {record.run_id}", why="it vanished")
        write_json(trash, record.name, record)
        if json.dumps(read_json(trash, record.name)) != json.dumps(to_json(record)):
            raise IoFailed(what=f"Reading back {record.name} of run {record.run_id}", why="it is not what was written")


def forget(root: StagingRoot, run_id: str, step: int) -> None:
    """Remove what a step that was rolled back kept for its undo, and the run's trash when it is empty then."""
    with root.trash_of(run_id) as trash:
        if trash is None:
            return
        remove_tree(kept_name(step), trash)
        name = f"undo-{step}.json"
        if exists(trash, name):
            os.unlink(name, dir_fd=trash)
            os.fsync(trash)
    root.drop_empty_trash(run_id)


def undo_records(store: PersistDir, run_id: str) -> tuple[UndoRecord, ...]:
    """The records of a run in the order of its steps; empty when the trash knows nothing of it."""
    root = StagingRoot.open(store)
    if root is None:
        return ()
    try:
        with root.trash_of(run_id) as trash:
            if trash is None:
                return ()
            return tuple(sorted(_records(trash), key=lambda record: record.step))
    finally:
        root.close()


def has_directory(store: PersistDir, run_id: str, segment_id: str) -> bool:
    """True when the trash of the run holds the directory of that segment."""
    root = StagingRoot.open(store)
    if root is None:
        return False
    try:
        with root.trash_of(run_id) as trash:
            return trash is not None and exists(trash, segment_id)
    finally:
        root.close()


def items(store: PersistDir) -> tuple[TrashItem, ...]:
    """Everything in the trash, by run and name."""
    root = StagingRoot.open(store)
    if root is None:
        return ()
    found: list[TrashItem] = []
    try:
        for run_id in run_ids(root):
            with root.trash_of(run_id) as trash:
                if trash is None:
                    continue
                records = {record.old_segment or record.kept_name: record for record in _records(trash)}
                found.extend(
                    TrashItem(run_id=run_id, name=name, record=records.get(name))
                    for name in sorted(os.listdir(trash))
                    if not name.endswith((".json", ".torn"))
                )
    finally:
        root.close()
    return tuple(found)


def is_run_id(text: str) -> bool:
    """True for what may name the trash of a run."""
    try:
        return bool(require_run_id(text))
    except DecodeError:
        return False


def run_ids(root: StagingRoot) -> tuple[str, ...]:
    """The runs that have something in the trash."""
    found = []
    for name in sorted(os.listdir(root.part("trash"))):
        if is_run_id(name):  # anything else is not ours
            found.append(name)
    return tuple(found)


def _records(trash: int) -> list[UndoRecord]:
    try:
        return [
            from_json(UndoRecord, read_json(trash, name), name)
            for name in os.listdir(trash)
            if name.startswith("undo-") and name.endswith(".json")
        ]
    except ValueError as error:
        raise RecoveryNeedsOperator(why=f"a record in the trash can not be read ({error})") from error
