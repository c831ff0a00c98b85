"""The step of rows: one transaction, its record, and what being stopped at each place leaves."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.codec import DecodeError, from_json, to_json
from ops.errors import CommittedButUnverified, GateClosed, IoFailed, OpsError, PlanChanged, VerificationFailed
from ops.store import recovery
from ops.store.conditions import _STATEMENTS, Condition
from ops.store.persist_dir import PersistDir
from ops.store.recovery import recover
from ops.store.staging import Intent
from tests.ops import stores
from tests.ops.store.changes import OFF, SETTING, Change
from tests.ops.store.flips import contents, rows
from tests.ops.store.test_commit import done, raising, staging

ROOT = Path(__file__).resolve().parents[3]
RUN = "11111111-2222-4333-8444-555555555555"


def test_a_change(small: Path) -> None:
    before = stores.reopen(small)
    change = Change(small)
    changed = change.run()
    assert rows(small, SETTING) == [(OFF,)]
    assert rows(small, "SELECT operation FROM maintenance_log") == [(f"chromaadmin:{change.run_id}/1",)]
    assert (done(small, change.run_id)["state"], done(small, change.run_id)["effect_on_store"]) == (
        "succeeded",
        "complete",
    )
    kept = Path(changed.kept_path)
    record = json.loads((kept / "undo-1.json").read_text())
    assert (record["kind"], record["facts"], record["old_segment"]) == ("rows", {"text": "before"}, "")
    assert (kept / "kept-1" / "rows").read_text() == "kept"
    assert [event.key for event in change.events if event.kind == "phase"] == ["check", "lock", "commit", "readback"]
    assert stores.reopen(small) == before


FAILURES: dict[str, tuple[dict[str, object], type[BaseException]]] = {
    "keep": ({"keep": raising(OSError(28, "No space left on device"))}, IoFailed),
    "bug in keep": ({"keep": raising(ZeroDivisionError())}, ZeroDivisionError),
    "gate": ({"gate": lambda _step: "the right was withdrawn"}, GateClosed),
    "apply": ({"apply": raising(PlanChanged(what="x"))}, PlanChanged),
    "sql in apply": ({"apply": lambda c: c.execute("DELETE FROM not_there")}, OpsError),
    "interrupt in apply": ({"apply": raising(KeyboardInterrupt())}, KeyboardInterrupt),
    "what it does is not what it says": ({"text": "{}"}, VerificationFailed),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_failure_before_the_commit_leaves_the_store_as_it_was(small: Path, where: str) -> None:
    changes, error = FAILURES[where]
    before = contents(small)
    change = Change(small, **changes)  # type: ignore[arg-type]
    with pytest.raises(error):
        change.run()
    assert staging(small) == []
    assert change.writer is not None
    assert change.writer.committed == []
    assert {name: data for name, data in contents(small).items() if ".chromaadmin" not in name} == before


def test_a_failed_check_after_the_commit(small: Path) -> None:
    change = Change(small, verify=raising(VerificationFailed(why="x")))
    with pytest.raises(CommittedButUnverified):
        change.run()
    assert rows(small, SETTING) == [(OFF,)]
    assert (done(small, change.run_id)["state"], done(small, change.run_id)["effect_on_store"]) == (
        "needs_operator",
        "complete",
    )
    assert f"trash/{change.run_id}/undo-1.json" in staging(small)


def test_what_is_done_already_is_refused(small: Path) -> None:
    Change(small).run()
    with pytest.raises(PlanChanged, match="done already"):
        Change(small).run()


def interrupted(path: Path, where: str) -> None:
    """A change in a process of its own that is killed there."""
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.ops.store.changes import Change\n"
        "def die(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Change(Path(sys.argv[1]), run_id=sys.argv[3], **{sys.argv[2]: die}).run()"
    )
    command = [sys.executable, "-c", script, str(path), where, RUN]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "state", "effect"),
    [
        ("keep", "failed", "none"),
        ("gate", "failed", "none"),
        ("apply", "failed", "none"),
        ("verify", "succeeded", "complete"),
    ],
)
def test_a_killed_change_is_settled(small: Path, where: str, state: str, effect: str) -> None:
    before = contents(small)
    interrupted(small, where)
    (run,) = recover(str(small)).runs
    assert (run.run_id, run.state, run.effect_on_store) == (RUN, state, effect)
    again = recover(str(small))
    assert (again.runs, [kept.state for kept in again.kept]) == ((), [state])
    left = [name for name in staging(small) if not name.startswith("done/")]
    if effect == "none":
        assert left == []
        assert {name: data for name, data in contents(small).items() if ".chromaadmin" not in name} == before
    else:
        assert rows(small, SETTING) == [(OFF,)]
        assert left == [f"trash/{RUN}", f"trash/{RUN}/kept-1", f"trash/{RUN}/kept-1/rows", f"trash/{RUN}/undo-1.json"]


@pytest.mark.parametrize("where", ["apply", "verify"])
def test_without_a_log_the_condition_decides(small: Path, where: str) -> None:
    """As in 0.4 and early 0.5, where there is no ``maintenance_log``."""
    interrupted(small, where)
    (file,) = (small / ".chromaadmin" / "intents").glob("*.json")
    intent = from_json(Intent, json.loads(file.read_text()))
    with PersistDir.open(small) as store:
        recovery.settle_journal(store)
    connection = sqlite3.connect(small / "chroma.sqlite3")
    connection.execute("DROP TABLE maintenance_log")
    assert recovery.is_committed(connection, intent) == (where == "verify")
    connection.close()


@pytest.mark.parametrize("name", _STATEMENTS)
def test_every_condition_can_be_asked(small: Path, name: str) -> None:
    count = max(n for n in range(1, 10) if f"?{n}" in _STATEMENTS[name])
    condition = Condition(name=name, values=("9",) * count)
    assert from_json(Condition, to_json(condition)) == condition
    with PersistDir.open(small) as store:
        assert condition.holds(store.db) == (name in ("segment_key_is_absent", "queue_is_clean_up_to"))
    with pytest.raises(DecodeError):
        Condition(name=name, values=("9",) * (count + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda intent: intent.update(kind="shell"),
        lambda intent: intent.update(new_segment="../../victim"),
        lambda intent: intent.update(source_run=RUN),
        lambda intent: intent.update(condition=[]),
        lambda intent: intent["condition"][0].update(name="SELECT 1"),
        lambda intent: intent["condition"][0].update(values=[]),
    ],
)
def test_a_forged_intent_is_not_followed(small: Path, change: Callable[[dict[str, object]], None]) -> None:
    interrupted(small, "gate")
    (file,) = (small / ".chromaadmin" / "intents").glob("*.json")
    intent = json.loads(file.read_text())
    change(intent)
    file.write_text(json.dumps(intent))
    with pytest.raises(OpsError) as raised:
        recover(str(small))
    assert raised.value.code == "RECOVERY_NEEDS_OPERATOR"
    assert os.listdir(small / ".chromaadmin" / "intents") == [file.name]
