"""The two doors: what they do around an operation."""

import json
import subprocess
import sys
import uuid

from ops.execute import execute
from ops.operation import Effect, Operation, operation
from ops.params import parse
from ops.registry import operation_class
from ops.store.persist_dir import DATABASE
from tests.ops import stores


@operation(effect=Effect.READ)
class Peek(Operation[int]):
    """Look, and let a writing run make the lock while looking for the first time."""

    looks = 0

    def run(self, store, plan, progress):
        type(self).looks += 1
        if type(self).looks == 1:
            made = subprocess.run(
                [sys.executable, "-m", "ops", "hnsw", "rebuild", str(store.path), "-c", "gamma", "-y"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
        return store.db.execute("SELECT count(*) FROM maintenance_log").fetchone()[0]


def test_a_read_beside_the_first_writing_run_reads_once_more(small):
    ended = execute(Peek(), str(small), run_id="", approved=None)
    assert (ended.status, ended.result, Peek.looks) == ("succeeded", 1, 2)


def rebuild(store):
    value = parse(operation_class("hnsw_rebuild"), {"collection": ["gamma"]})
    return execute(value, str(store), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)


def hot_journal(path):
    """Leave what a writer leaves that is killed inside a transaction."""
    code = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1'); db.execute('PRAGMA cache_spill=1'); db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM embeddings'); db.execute('DELETE FROM embedding_metadata')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path / DATABASE)], check=False)
    assert (path / f"{DATABASE}-journal").stat().st_size > 512


def test_a_hot_journal_of_somebody_else_is_refused_and_kept(small):
    hot_journal(small)
    journal = (small / f"{DATABASE}-journal").read_bytes()
    ended = rebuild(small)
    assert (ended.status, ended.error.code) == ("refused", "NEEDS_RECOVERY")
    assert (small / f"{DATABASE}-journal").read_bytes() == journal


def test_a_hot_journal_of_our_own_is_rolled_back_first(small):
    """The intent of an interrupted run lies there, so the journal is ours."""
    expected = stores.reopen(small)
    assert rebuild(small).status == "succeeded"
    (done,) = small.glob(".chromaadmin/trash/*/undo-1.json")
    facts = json.loads(done.read_text())
    intent = {
        "run_id": "dead", "step": 1, "total": 1, "operation": "hnsw_rebuild", "subject": facts["subject"],
        "title": "gamma", "collection_id": facts["collection_id"], "old_segment": facts["new_segment"],
        "new_segment": str(uuid.uuid4()), "started_at": facts["made_at"], "source_run": "",
    }  # fmt: skip
    (small / ".chromaadmin/intents/dead-1.json").write_text(json.dumps(intent))
    hot_journal(small)
    assert rebuild(small).status == "succeeded"
    assert stores.reopen(small)["alpha"] == expected["alpha"]
    assert not list(small.glob(".chromaadmin/intents/*"))
