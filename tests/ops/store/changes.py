"""A step of rows for tests: the purge setting of the WAL becomes off."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ops.plan import Plan, Scope, StepScope
from ops.progress import Event, Progress
from ops.store.commit import Changed, Condition, Writer
from ops.store.persist_dir import PersistDir

OFF = '{"automatically_purge":false}'
SETTING = "SELECT config_json_str FROM embeddings_queue_config"


def nothing(*_: object) -> None:
    """Do nothing."""


@dataclass
class Change:
    """What one run does; every part may be replaced."""

    path: Path
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    text: str = OFF
    gate: Callable[[StepScope], str | None] = lambda _step: None
    apply: Callable[[sqlite3.Connection], None] = nothing
    keep: Callable[[Path], None] | None = lambda directory: (directory / "rows").write_text("kept") and None
    verify: Callable[[], None] = nothing
    cancelled: Callable[[], bool] = lambda: False
    events: list[Event] = field(default_factory=list)
    writer: Writer | None = None

    def run(self) -> Changed:
        """The one step."""
        progress = Progress(self.events.append, self.cancelled)
        step = StepScope(subject="purge", title="the purge setting")
        with (
            PersistDir.open(self.path) as store,
            Writer.open(
                store,
                run_id=self.run_id,
                operation="change",
                undo="keep",
                attest_unused=False,
                gate=self.gate,
                progress=progress,
                needs="live",
            ) as self.writer,
        ):
            plan = Plan(headline="", scope=Scope(operation="change", parameters="{}", family="", steps=(step,)))
            (changed,) = [self._change(self.writer, found) for found in self.writer.steps(plan, progress)]
            return changed

    def _change(self, writer: Writer, step: StepScope) -> Changed:
        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE embeddings_queue_config SET config_json_str = ?", (self.text,))
            self.apply(connection)

        return writer.change(
            step,
            collection=None,
            apply=apply,
            condition=(Condition(name="queue_config_is", values=("1", OFF)),),
            undo_facts={"text": "before"},
            verify=self.verify,
            keep=self.keep,
        )
