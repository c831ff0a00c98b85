"""The contract of the command line: exit status, one JSON object, confirmation, cancel."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.ops import stores

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"operation", "persist_dir", "run_id", "status", "plan", "result", "error", "duration_s", "effect_on_store"}


def ops(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ops", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False, **options,
    )  # fmt: skip


def answer(done):
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    found = json.loads(lines[0])
    assert set(found) == KEYS
    return found


def test_help_lists_every_operation_with_one_line_each():
    done = ops("--help")
    assert done.returncode == 0
    for words in ("db info", "hnsw rebuild", "run undo", "recover"):
        assert any(line.strip().startswith(words) for line in done.stdout.splitlines())


def test_help_of_an_operation_explains_each_option():
    done = ops("hnsw", "rebuild", "--help")
    assert done.returncode == 0
    for option in (
        "--space",
        "--m ",
        "--max-neighbors",
        "--construction-ef",
        "--search-ef",
        "-c",
        "-d",
        "-y",
        "--dry-run",
    ):
        assert option in done.stdout


def test_a_read_prints_one_object(small):
    done = ops("db", "info", small, "--json")
    found = answer(done)
    assert (done.returncode, found["operation"], found["status"]) == (0, "db_info", "succeeded")
    assert found["plan"] is None
    assert [entry["name"] for entry in found["result"]["collections"]] == ["alpha", "beta", "gamma"]


def test_the_old_one_word_command_is_an_alias(small):
    assert answer(ops("info", small, "--json"))["operation"] == "db_info"


def test_text_is_for_people(small):
    done = ops("db", "info", small)
    assert done.returncode == 0
    assert "alpha" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["db"], 2, "BAD_PARAMETERS"),
        (["db", "nothing", "x"], 2, "BAD_PARAMETERS"),
        (["db", "info"], 2, "BAD_PARAMETERS"),
        (["db", "info", "{store}", "--colour"], 2, "BAD_PARAMETERS"),
        (["db", "info", "{store}", "--params", "{"], 2, "BAD_PARAMETERS"),
        (["db", "info", "{store}", "--params", '{"colour": 1}'], 2, "BAD_PARAMETERS"),
        (["db", "info", "/nowhere/at/all"], 2, "MISSING"),
        (["db", "info", "{empty}"], 2, "NOT_CHROMA"),
        (["hnsw", "rebuild", "{store}", "-y"], 2, "BAD_PARAMETERS"),
        (["hnsw", "rebuild", "{store}", "-c", "nobody", "-y"], 2, "COLLECTION_NOT_FOUND"),
        (["hnsw", "rebuild", "{store}", "-c", "alpha", "--m", "one", "-y"], 2, "BAD_PARAMETERS"),
        (["hnsw", "rebuild", "{store}", "-c", "alpha", "--space", "euclid", "-y"], 2, "BAD_PARAMETERS"),
        (["hnsw", "rebuild", "{store}", "-c", "alpha", "--batch-size", "1", "-y"], 2, "BAD_PARAMETERS"),
        (["hnsw", "rebuild", "{store}", "-c", "alpha"], 3, "APPROVAL_REQUIRED"),
        (["hnsw", "rebuild", "{store}", "-c", "beta", "-y"], 3, "INDEX_NOT_PERSISTED"),
        (["hnsw", "rebuild", "{store}", "-c", "alpha", "-y", "--max-bytes", "10"], 3, "BOUNDS_EXCEEDED"),
        (["undo", "{store}", "--run", "nobody", "-y"], 3, "NOTHING_TO_UNDO"),
        (["recover", "/nowhere/at/all"], 2, "MISSING"),
    ],
)
def test_what_is_refused_changes_nothing_and_says_why(small, tmp_path, arguments, status, code):
    empty = tmp_path / "empty"
    empty.mkdir()
    before = {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name}
    done = ops(*(text.replace("{store}", str(small)).replace("{empty}", str(empty)) for text in arguments), "--json")
    found = answer(done)
    assert (done.returncode, found["error"]["code"], found["status"]) == (status, code, "refused")
    assert found["error"]["message"]
    assert found["error"]["hint"]
    assert "Traceback" not in done.stderr
    after = {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name}
    assert after == before


def test_a_refusal_without_json_goes_to_standard_error():
    done = ops("db", "info", "/nowhere/at/all")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("MISSING: There is nothing at /nowhere/at/all.\n")


def test_a_dry_run_shows_the_plan_and_changes_no_byte(small):
    before = stores.manifest(small)
    found = answer(ops("hnsw", "rebuild", small, "-c", "alpha", "--m", "24", "--dry-run", "--json"))
    assert found["status"] == "succeeded"
    assert {"what": "max_neighbors", "now": "16", "after": "24"} in found["plan"]["changes"]
    assert stores.manifest(small) == before


def test_an_approved_rebuild_succeeds_and_can_be_undone(small):
    expected = stores.reopen(small)
    done = ops("hnsw", "rebuild", small, "-c", "alpha", "--m", "24", "-y", "--json")
    found = answer(done)
    assert (done.returncode, found["status"], found["effect_on_store"]) == (0, "succeeded", "complete")
    assert all(Path(path).is_dir() for path in found["result"]["artifacts"])
    assert stores.reopen(small)["alpha"].embeddings == expected["alpha"].embeddings
    undone = answer(ops("undo", small, "--run", found["run_id"], "-y", "--json"))
    assert (undone["operation"], undone["status"]) == ("run_undo", "succeeded")
    assert stores.reopen(small) == expected


def test_parameters_at_once_and_by_option_are_the_same_request(small):
    by_option = answer(ops("hnsw", "rebuild", small, "-c", "alpha", "--max-neighbors", "24", "--dry-run", "--json"))
    at_once = answer(
        ops("hnsw", "rebuild", small, "--params", '{"collection": ["alpha"], "m": 24}', "--dry-run", "--json")
    )
    assert by_option["plan"]["scope"] == at_once["plan"]["scope"]


def test_a_name_in_several_databases_is_refused_with_the_list(tenants):
    done = ops("hnsw", "rebuild", tenants, "-c", "docs", "-y", "--json")
    found = answer(done)
    assert (done.returncode, found["error"]["code"]) == (2, "COLLECTION_AMBIGUOUS")
    for place in ("default_database", "prod", "stage"):
        assert place in found["error"]["message"]


@pytest.mark.parametrize(("typed", "status"), [("yes\n", 0), ("no\n", 3), ("\n", 3)])
def test_on_a_terminal_it_asks_first(small, typed, status):
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "hnsw", "rebuild", str(small), "-c", "gamma"],
        cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    end = time.monotonic() + 60
    answered = False
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
        if not answered and b"to go on:" in shown:
            answered = True
            os.write(master, typed.encode())
    os.close(master)
    assert process.wait(30) == status, shown.decode()
    assert answered
    assert b"No process of this host" in shown


def test_sigterm_while_building_leaves_the_old_state_and_no_stray_file(make_store):
    store = make_store(BIG)
    before = {name: entry[-1] for name, entry in stores.manifest(store).items()}
    slow = ["-c", "big", "--ef-construction", "800", "-y", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "hnsw", "rebuild", str(store), *slow],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 30
    while time.monotonic() < end and not list(store.glob(".chromaadmin/stage/*")):
        time.sleep(0.02)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - asked < 2
    found = json.loads(out)
    assert (process.returncode, found["status"], found["effect_on_store"]) == (4, "cancelled", "none")
    left = {name: entry[-1] for name, entry in stores.manifest(store).items() if ".chromaadmin" not in name}
    assert left == before
    assert not list(store.glob(".chromaadmin/stage/*")) + list(store.glob(".chromaadmin/intents/*"))


def test_a_bug_is_told_as_one(small, tmp_path):
    """An operation that raises what nobody expects, put beside the real ones in a copy of the package."""
    import shutil

    shutil.copytree(ROOT / "ops", tmp_path / "ops")
    (tmp_path / "ops/operations/db_burn.py").write_text(
        "from ops.operation import Effect, Operation, operation\n\n\n"
        "@operation(effect=Effect.READ)\nclass DbBurn(Operation[None]):\n"
        '    """Burn."""\n\n    def run(self, store, plan, progress):\n        raise ZeroDivisionError("by zero")\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "ops", "db", "burn", str(small), "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = answer(done)
    assert (done.returncode, found["status"], found["error"]["code"]) == (70, "errored", "BUG")
    assert "ZeroDivisionError" in done.stderr


BIG = """
big = client.create_collection("big", configuration=hnsw(space="l2", sync_threshold=6000, batch_size=1000))
for i in range(0, 6000, 1000):
    big.add(ids=[f"v{j}" for j in range(i, i + 1000)], embeddings=vectors(1000, 128))
"""


def test_sigterm_while_verifying_ends_the_verifying_process_too(make_store):
    """Verification is held up by stopping its process; the cancel must not wait for it."""
    store = make_store(BIG)
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "hnsw", "rebuild", str(store), "-c", "big", "-y", "--json"],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    verifier = None
    end = time.monotonic() + 60
    while verifier is None and time.monotonic() < end:
        for child in psutil.Process(process.pid).children():
            if child.cmdline()[-2:] == ["internal", "call"]:
                verifier = child
                verifier.suspend()
        time.sleep(0.005)
    assert verifier is not None
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - asked < 2
    assert json.loads(out)["status"] == "cancelled"
    assert not verifier.is_running()
    assert not list(store.glob(".chromaadmin/stage/*"))
