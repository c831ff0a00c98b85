"""Recovery: what is settled, what is left to a person, and that three times are once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from ops.errors import NeedsRecovery, RecoveryNeedsOperator
from ops.store.recovery import acknowledge, outcome_of, recover
from tests.ops import stores
from tests.ops.store.flips import Flip, contents, rows, vector_segment_of

ROOT = Path(__file__).resolve().parents[3]


def interrupted(path: Path, where: str, run_id: str, *names: str) -> None:
    """A flip in a process of its own that is killed inside ``apply``, ``verify_staged`` or ``verify_committed``."""
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.ops.store.flips import Flip\n"
        "def die(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Flip(Path(sys.argv[1]), run_id=sys.argv[3], names=tuple(sys.argv[4:]), **{sys.argv[2]: die}).run()"
    )
    command = [sys.executable, "-c", script, str(path), where, run_id, *(names or ("alpha",))]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def make_hot_journal(path: Path) -> None:
    """Another program dies inside a transaction that has reached the file."""
    script = (
        "import sqlite3, os, signal, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE embedding_metadata SET string_value = ?', ('y' * 300,))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path / "chroma.sqlite3")], check=False)
    assert (path / "chroma.sqlite3-journal").exists()


def test_nothing_to_recover_makes_nothing(small: Path) -> None:
    before = stores.manifest(small)
    assert recover(str(small)) == recover(str(small), by_person=True)
    assert recover(str(small)).runs == ()
    assert stores.manifest(small) == before


@pytest.mark.parametrize(
    ("where", "state", "effect"),
    [
        ("verify_staged", "failed", "none"),
        ("apply", "failed", "none"),
        ("verify_committed", "succeeded", "complete"),
    ],
)
def test_an_interrupted_run(small: Path, where: str, state: str, effect: str) -> None:
    before, old, run_id = stores.reopen(small), vector_segment_of(small, "alpha"), str(uuid.uuid4())
    interrupted(small, where, run_id)
    recovered = recover(str(small))
    (run,) = recovered.runs
    assert (run.run_id, run.operation, run.state, run.effect_on_store) == (run_id, "flip", state, effect)
    assert run_id in run.sentence
    assert (vector_segment_of(small, "alpha") == old) is (effect == "none")
    once = contents(small)
    for _ in range(2):
        again = recover(str(small))
        assert (again.runs, again.kept) == ((), (run,))
    assert contents(small) == once
    assert stores.reopen(small) == before
    assert outcome_of(str(small), run_id) == run
    acknowledge(str(small), run_id)
    acknowledge(str(small), run_id)
    assert recover(str(small)).kept == ()


def test_the_next_run_recovers_first(small: Path) -> None:
    run_id = str(uuid.uuid4())
    interrupted(small, "verify_staged", run_id)
    assert os.listdir(small / ".chromaadmin" / "stage")
    flip = Flip(small)
    flip.run()
    assert any(run_id in event.text for event in flip.events if event.kind == "log")
    assert os.listdir(small / ".chromaadmin" / "stage") == []
    outcome = json.loads((small / ".chromaadmin" / "done" / f"{run_id}.json").read_text())
    assert outcome["effect_on_store"] == "none"


def test_some_steps_done_and_some_not(small: Path) -> None:
    run_id = str(uuid.uuid4())
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.ops.store.flips import Flip\n"
        "def gate(step):\n    step.title == 'gamma' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "Flip(Path(sys.argv[1]), run_id=sys.argv[2], names=('alpha', 'gamma'), gate=gate).run()"
    )
    subprocess.run([sys.executable, "-c", script, str(small), run_id], cwd=ROOT, check=False)
    (run,) = recover(str(small)).runs
    assert (run.state, run.effect_on_store) == ("failed", "partial")
    assert [(step.title, step.state) for step in run.steps] == [("alpha", "committed"), ("gamma", "rolled_back")]
    assert "1 of 2" in run.sentence
    assert "alpha" in run.sentence


def test_what_is_known_of_a_run_that_left_nothing(small: Path) -> None:
    run = outcome_of(str(small), str(uuid.uuid4()))
    assert (run.state, run.effect_on_store) == ("failed", "none")
    flip = Flip(small)
    flip.run()
    acknowledge(str(small), flip.run_id)
    run = outcome_of(str(small), flip.run_id)
    assert (run.state, run.effect_on_store) == ("succeeded", "complete")


def test_a_hot_journal_that_is_not_ours_is_left_to_a_person(small: Path) -> None:
    before = contents(small)
    make_hot_journal(small)
    hot = {name: (small / name).read_bytes() for name in ("chroma.sqlite3", "chroma.sqlite3-journal")}
    with pytest.raises(NeedsRecovery):
        recover(str(small))
    with pytest.raises(NeedsRecovery):
        Flip(small).run()
    assert {name: (small / name).read_bytes() for name in hot} == hot
    (run,) = recover(str(small), by_person=True).runs
    evidence = small / ".chromaadmin" / "trash" / run.run_id
    assert {name: (evidence / name).read_bytes() for name in hot} == hot
    assert not (small / "chroma.sqlite3-journal").exists()
    shutil.rmtree(small / ".chromaadmin")
    assert contents(small) == before


def test_a_hot_journal_beside_an_intent_is_rolled_back(small: Path) -> None:
    run_id = str(uuid.uuid4())
    interrupted(small, "verify_staged", run_id)
    make_hot_journal(small)
    (run,) = recover(str(small)).runs
    assert run.effect_on_store == "none"
    assert not (small / "chroma.sqlite3-journal").exists()
    assert rows(small, "PRAGMA integrity_check") == [("ok",)]


def test_an_index_that_is_not_whole_needs_a_person(small: Path) -> None:
    run_id = str(uuid.uuid4())
    interrupted(small, "verify_committed", run_id)
    (small / vector_segment_of(small, "alpha") / "index_metadata.pickle").unlink()
    (run,) = recover(str(small)).runs
    assert (run.state, run.effect_on_store) == ("needs_operator", "complete")
    assert "index_metadata.pickle" in run.sentence


def test_an_intent_that_can_not_be_read_needs_a_person(small: Path) -> None:
    Flip(small).run()
    intents = small / ".chromaadmin" / "intents"
    for text in ("", "{", '{"run_id": "../../x"}', "[]"):
        (intents / "x-1.json").write_text(text)
        with pytest.raises(RecoveryNeedsOperator):
            recover(str(small))
    (intents / "x-1.json").unlink()
    assert recover(str(small)).runs == ()


def test_an_intent_that_names_what_is_no_segment_moves_nothing(small: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    run_id = str(uuid.uuid4())
    interrupted(small, "verify_staged", run_id)
    intent = small / ".chromaadmin" / "intents" / f"{run_id}-1.json"
    given = json.loads(intent.read_text())
    for name, value in (("new_segment", "../../victim"), ("old_segment", ".."), ("run_id", "../../victim")):
        intent.write_text(json.dumps(given | {name: value}))
        with pytest.raises(RecoveryNeedsOperator):
            recover(str(small))
    assert victim.exists()
    intent.write_text(json.dumps(given))
    assert recover(str(small)).runs[0].effect_on_store == "none"


def test_a_journal_that_was_begun_and_never_filled_goes(small: Path) -> None:
    interrupted(small, "verify_staged", str(uuid.uuid4()))
    (small / "chroma.sqlite3-journal").write_bytes(b"\0" * 512)
    recover(str(small))
    assert not (small / "chroma.sqlite3-journal").exists()


def test_a_writer_that_is_at_work_keeps_its_journal(small: Path) -> None:
    interrupted(small, "verify_staged", str(uuid.uuid4()))
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE tenants SET id = id')\n"
        "print('open', flush=True); sys.stdin.readline(); c.execute('COMMIT')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(small / "chroma.sqlite3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    journal = small / "chroma.sqlite3-journal"
    assert journal.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ops.store.sqlite.BUSY_TIMEOUT_S", 0.2)
        recover(str(small))
    assert journal.exists()
    process.communicate("\n", timeout=10)
    assert process.returncode == 0
    assert sqlite3.connect(small / "chroma.sqlite3").execute("PRAGMA integrity_check").fetchone() == ("ok",)
