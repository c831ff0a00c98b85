"""A writing run as its own process, for tests that kill it: ``python -m tests.torture.driver DO PATH [COLLECTION …]``.

``flip`` makes a copy of each index current and changes ef_search with it; a copy, so that a run has few system calls
beside those of the commit. ``recover`` settles what is left. Prints one JSON line; exit status 0, 3 or 1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ops.codec import to_json
from ops.errors import OpsError, VerificationFailed
from ops.plan import Plan, Scope, StepScope
from ops.progress import Progress
from ops.store.commit import Writer
from ops.store.persist_dir import PersistDir
from ops.store.recovery import recover

RUN_ID = "11111111-2222-4333-8444-555555555555"
NEW_EF = 123


def flip(path: str, names: list[str], run_id: str = RUN_ID, pause: str = "") -> dict[str, Any]:
    """Flip each collection named. ``pause`` names the moment at which to say "here" and wait for a line."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    progress = Progress(lambda event: _event(event.key, pause), stop.is_set)
    with (
        PersistDir.open(path) as store,
        Writer.open(
            store,
            run_id=run_id,
            operation="flip",
            undo="keep",
            attest_unused=False,
            gate=lambda _step: _wait("gate", pause),
            progress=progress,
        ) as writer,
    ):
        steps = _steps(store, names)
        scope = Scope(operation="flip", parameters="{}", family="", steps=steps)
        for step in writer.steps(Plan(headline="", scope=scope), progress):
            _flip_one(store, writer, step, progress, pause)
        return {"committed": len(writer.committed)}


def _steps(store: PersistDir, names: list[str]) -> tuple[StepScope, ...]:
    rows = store.db.execute(
        "SELECT c.name, c.id, s.id FROM collections c JOIN segments s ON s.collection = c.id WHERE s.scope = 'VECTOR'"
    )
    found = {name: StepScope(subject=collection, title=name, segment_id=segment) for name, collection, segment in rows}
    return tuple(found[name] for name in names)


def _flip_one(store: PersistDir, writer: Writer, step: StepScope, progress: Progress, pause: str) -> None:
    old = store.path / step.segment_id

    def build(stage: Path) -> None:
        for number, name in enumerate(sorted(os.listdir(old))):
            shutil.copyfile(old / name, stage / name)
            progress.advance(number, None)
            if number == 2:
                _wait("build", pause)

    def apply(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE collections SET schema_str = replace(schema_str, ?, ?) WHERE id = ?",
            ('"ef_search":100', f'"ef_search":{NEW_EF}', step.subject),
        )
        _wait("transaction", pause)

    writer.flip(
        step,
        collection=SimpleNamespace(id=step.subject, name=step.title),  # type: ignore[arg-type]
        segment=SimpleNamespace(id=step.segment_id),  # type: ignore[arg-type]
        build=build,
        verify_staged=lambda stage: _same(old, stage),
        apply=apply,
        verify_committed=lambda directory: _wait("committed", pause) and None,
        undo_facts={"ef_search": "100"},
    )


def _same(old: Path, new: Path) -> None:
    for name in os.listdir(old):
        if (old / name).read_bytes() != (new / name).read_bytes():
            raise VerificationFailed(why=f"{name} differs")


def _event(key: str, pause: str) -> None:
    if pause == f"phase:{key}":
        _wait(pause, pause)


def _wait(moment: str, pause: str) -> str | None:
    if pause == moment:
        sys.stdout.write("here\n")
        sys.stdout.flush()
        sys.stdin.readline()
        time.sleep(0.05)
    return None


def main() -> int:
    """One line of JSON, then the exit status."""
    do, path, *rest = sys.argv[1:]
    try:
        if do == "flip":
            answer = flip(path, rest, pause=os.environ.get("TORTURE_PAUSE", ""))
        else:
            answer = {"recovered": to_json(recover(path, by_person=do == "recover-by-person"))}
    except OpsError as error:
        sys.stdout.write(json.dumps({"code": error.code, "message": str(error)}) + "\n")
        return error.outcome.exit_status
    except OSError as error:
        sys.stdout.write(json.dumps({"code": "OS_ERROR", "message": str(error)}) + "\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
