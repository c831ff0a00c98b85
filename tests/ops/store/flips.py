"""A flip for tests: the new index is a copy of the old one, and ef_search becomes 123 with it."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ops.plan import Plan, Scope, StepScope
from ops.progress import Event, Progress
from ops.store.commit import Flipped, Writer
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import collection as find_collection
from ops.store.sysdb import collections, vector_segment


def nothing(*_: object) -> None:
    """Do nothing."""


@dataclass
class Flip:
    """What one run does; every part may be replaced. ``events`` are what it told."""

    path: Path
    names: tuple[str, ...] = ("alpha",)
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    undo: str = "keep"
    attest_unused: bool = False
    needs: str = "quiet"
    gate: Callable[[StepScope], str | None] = lambda _step: None
    build: Callable[[Path, Path], None] | None = None
    verify_staged: Callable[[Path], None] = nothing
    apply: Callable[[sqlite3.Connection], None] = nothing
    verify_committed: Callable[[Path], None] = nothing
    cancelled: Callable[[], bool] = lambda: False
    events: list[Event] = field(default_factory=list)
    writer: Writer | None = None

    def run(self) -> list[Flipped]:
        """All steps."""
        progress = Progress(self.events.append, self.cancelled)
        with (
            PersistDir.open(self.path) as store,
            Writer.open(
                store,
                run_id=self.run_id,
                operation="flip",
                undo=self.undo,
                attest_unused=self.attest_unused,
                gate=self.gate,
                progress=progress,
                needs=self.needs,
            ) as self.writer,
        ):
            found = {entry.name: entry for entry in collections(store)}
            steps = tuple(
                StepScope(subject=found[name].id, title=name, segment_id=vector_segment(store, found[name]).id)
                for name in self.names
            )
            plan = Plan(headline="", scope=Scope(operation="flip", parameters="{}", family="", steps=steps))
            return [self._flip(store, self.writer, step, progress) for step in self.writer.steps(plan, progress)]

    def _flip(self, store: PersistDir, writer: Writer, step: StepScope, progress: Progress) -> Flipped:
        entry = find_collection(store, step.subject)
        old = store.path / step.segment_id

        def build(stage: Path) -> None:
            if self.build is not None:
                self.build(old, stage)
                return
            for file in old.iterdir():
                shutil.copyfile(file, stage / file.name)
                progress.advance(0, None)

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE collections SET schema_str = replace(schema_str, ?, ?) WHERE id = ?",
                ('"ef_search":100', '"ef_search":123', step.subject),
            )
            self.apply(connection)

        return writer.flip(
            step,
            collection=entry,
            segment=vector_segment(store, entry),
            build=build,
            verify_staged=self.verify_staged,
            apply=apply,
            verify_committed=self.verify_committed,
            undo_facts={"ef_search": "100"},
        )


def rows(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """The answer of a plain connection."""
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def vector_segment_of(path: Path, name: str) -> str:
    """The id of the VECTOR segment of a collection."""
    statement = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection WHERE c.name = ? AND scope = ?"
    return str(rows(path, statement, name, "VECTOR")[0][0])


def contents(path: Path) -> dict[str, bytes]:
    """Every file, the locks and the database apart; of the database its rows are compared instead."""
    found = {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in ("lock", "intent-lock", "chroma.sqlite3")
    }
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    found["chroma.sqlite3"] = "\n".join(connection.iterdump()).encode("utf-8", "surrogateescape")
    connection.close()
    return found
