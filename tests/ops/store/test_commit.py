"""The writer and the segment flip: what changes, what is kept, and what a failure at each place leaves."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.errors import (
    BadParameters,
    Cancelled,
    CommittedButUnverified,
    Corrupt,
    GateClosed,
    InUse,
    IoFailed,
    Locked,
    NotOwner,
    OpsError,
    PlanChanged,
    SchemaHostile,
    Symlink,
    VerificationFailed,
)
from ops.store import recovery
from ops.store.commit import shared_lock
from ops.store.persist_dir import PersistDir
from tests.ops import stores
from tests.ops.store.flips import Flip, contents, rows, vector_segment_of
from tests.ops.store.test_persist_dir import as_user, holding, make_reachable

ROOT = Path(__file__).resolve().parents[3]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def done(path: Path, run_id: str) -> dict[str, object]:
    return json.loads((path / ".chromaadmin" / "done" / f"{run_id}.json").read_text())  # type: ignore[no-any-return]


def staging(path: Path) -> list[str]:
    """Everything below the staging root but the directories that stay and the locks."""
    root = path / ".chromaadmin"
    found = sorted(str(entry.relative_to(root)) for entry in root.rglob("*"))
    return [name for name in found if name not in ("lock", "intent-lock", "intents", "stage", "trash", "done")]


def test_a_flip(small: Path) -> None:
    before, old = stores.reopen(small), vector_segment_of(small, "alpha")
    watermark = rows(small, "SELECT seq_id FROM max_seq_id WHERE segment_id = ?", old)
    flip = Flip(small)
    (flipped,) = flip.run()
    new = vector_segment_of(small, "alpha")
    assert (flipped.old_segment, flipped.new_segment, flipped.retired) == (old, new, True)
    assert new != old
    assert sorted(os.listdir(small / new)) == sorted(os.listdir(flipped.trash_path))
    assert not (small / old).exists()
    assert rows(small, "SELECT seq_id FROM max_seq_id WHERE segment_id = ?", new) == watermark
    assert rows(small, "SELECT id, operation FROM maintenance_log") == [(1, f"chromaadmin:{flip.run_id}/1")]
    assert rows(small, "SELECT typeof(timestamp) FROM maintenance_log") == [("integer",)]
    assert '"ef_search":123' in str(rows(small, "SELECT schema_str FROM collections WHERE name = 'alpha'"))
    assert (done(small, flip.run_id)["state"], done(small, flip.run_id)["effect_on_store"]) == ("succeeded", "complete")
    keys = [event.key for event in flip.events if event.kind == "phase"]
    assert keys == ["check", "lock", "build", "verify", "commit", "readback"]
    assert [event.kind for event in flip.events][-1] == "step"
    assert stores.reopen(small) == before


def test_the_undo_record_is_there_before_the_commit(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    seen: list[dict[str, object]] = []
    flip = Flip(small)
    record = small / ".chromaadmin" / "trash" / flip.run_id / "undo-1.json"
    flip.apply = lambda _connection: seen.append(json.loads(record.read_text()))
    flip.run()
    assert (seen[0]["old_segment"], seen[0]["new_segment"]) == (old, vector_segment_of(small, "alpha"))
    assert seen[0]["facts"] == {"ef_search": "100"}
    assert seen[0]["watermark"] == 2000
    assert seen[0]["newest_seq"] == rows(small, "SELECT max(seq_id) FROM embeddings_queue")[0][0]


def test_two_steps_and_a_second_run(small: Path) -> None:
    flip = Flip(small, names=("alpha", "gamma"))
    assert len(flip.run()) == 2
    assert [event.done for event in flip.events if event.kind == "step"] == [1, 2]
    second = Flip(small, names=("gamma",))
    second.run()
    log = [row[0] for row in rows(small, "SELECT operation FROM maintenance_log ORDER BY id")]
    assert log == [
        f"chromaadmin:{flip.run_id}/1",
        f"chromaadmin:{flip.run_id}/2",
        f"chromaadmin:{second.run_id}/1",
    ]


FAILURES: dict[str, tuple[dict[str, object], type[BaseException]]] = {
    "build": ({"build": raising(VerificationFailed(why="x"))}, VerificationFailed),
    "disk full in build": ({"build": raising(OSError(28, "No space left on device"))}, IoFailed),
    "interrupt in build": ({"build": raising(KeyboardInterrupt())}, KeyboardInterrupt),
    "bug in build": ({"build": raising(ZeroDivisionError())}, ZeroDivisionError),
    "verify": ({"verify_staged": raising(VerificationFailed(why="x"))}, VerificationFailed),
    "gate": ({"gate": lambda _step: "the right was withdrawn"}, GateClosed),
    "apply": ({"apply": raising(PlanChanged(what="x"))}, PlanChanged),
    "sql in apply": ({"apply": lambda c: c.execute("DELETE FROM not_there")}, OpsError),
    "interrupt in apply": ({"apply": raising(KeyboardInterrupt())}, KeyboardInterrupt),
    "stray file": ({"build": lambda _old, stage: (stage / "core").write_text("x")}, VerificationFailed),
    "link": ({"build": lambda _old, stage: (stage / "header.bin").symlink_to("/etc/passwd")}, VerificationFailed),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_failure_before_the_commit_leaves_the_store_as_it_was(small: Path, where: str) -> None:
    changes, error = FAILURES[where]
    before = contents(small)
    flip = Flip(small, **changes)  # type: ignore[arg-type]
    with pytest.raises(error):
        flip.run()
    assert staging(small) == []
    assert contents(small) == before
    assert flip.writer is not None
    assert flip.writer.committed == []
    Flip(small).run()


def test_cancelled_at_every_event(small: Path) -> None:
    counting = Flip(small)
    calls: list[int] = []
    counting.cancelled = lambda: bool(calls.append(1))
    counting.run()
    before = contents(small)
    stopped = 0
    for number in range(1, len(calls) + 1):
        seen: list[int] = []
        flip = Flip(small)

        def cancelled(seen: list[int] = seen, number: int = number) -> bool:
            seen.append(1)
            return len(seen) >= number

        flip.cancelled = cancelled
        with pytest.raises(Cancelled):
            flip.run()
        stopped += 1
        assert contents(small) == before, f"cancelled at event {number}"
    assert stopped > 8


def test_cancelling_after_the_commit_changes_nothing(small: Path) -> None:
    flip = Flip(small)
    asked: list[bool] = []
    flip.verify_committed = lambda _directory: asked.append(True)
    flip.cancelled = lambda: bool(asked)
    flip.run()
    assert done(small, flip.run_id)["state"] == "succeeded"


def test_a_failure_in_the_second_step_keeps_the_first(small: Path) -> None:
    flip = Flip(small, names=("alpha", "gamma"))
    flip.gate = lambda step: "no" if step.title == "gamma" else None
    gamma = vector_segment_of(small, "gamma")
    with pytest.raises(GateClosed):
        flip.run()
    outcome = done(small, flip.run_id)
    assert (outcome["state"], outcome["effect_on_store"]) == ("failed", "partial")
    assert vector_segment_of(small, "gamma") == gamma
    assert sorted(os.listdir(small / ".chromaadmin" / "trash" / flip.run_id))[-1] == "undo-1.json"


def test_a_failure_after_the_commit_says_so(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    flip = Flip(small, verify_committed=raising(VerificationFailed(why="the read back differs")))
    with pytest.raises(CommittedButUnverified, match="the read back differs"):
        flip.run()
    assert vector_segment_of(small, "alpha") != old
    assert flip.writer is not None
    assert len(flip.writer.committed) == 1
    outcome = done(small, flip.run_id)
    assert (outcome["state"], outcome["effect_on_store"]) == ("needs_operator", "complete")
    assert os.listdir(small / ".chromaadmin" / "intents") == []
    assert (small / ".chromaadmin" / "trash" / flip.run_id / old).exists()


def test_a_commit_that_fails_although_it_took_place_is_seen(small: Path) -> None:
    """The rows say what happened, not the error: here a second commit is tried after the first one went through."""
    flip = Flip(small)

    def commit_early(connection: sqlite3.Connection) -> None:
        marker = f"chromaadmin:{flip.run_id}/1"
        connection.execute("INSERT INTO maintenance_log VALUES (77, 1, ?)", (marker,))
        connection.execute("COMMIT")  # so that the COMMIT of the flip finds no transaction
        connection.execute("CREATE TEMP TABLE x (y)")

    old = vector_segment_of(small, "alpha")
    flip.apply = commit_early
    with pytest.raises(sqlite3.OperationalError):
        flip.run()
    assert vector_segment_of(small, "alpha") != old
    assert flip.writer is not None
    assert len(flip.writer.committed) == 1, "whatever went wrong: the store says that it was committed"
    recovered = recovery.recover(str(small))
    assert not (small / old).exists()
    assert [run.effect_on_store for run in recovered.runs] == ["complete"]


def test_a_watermark_that_moved_stops_it(small: Path) -> None:
    before = vector_segment_of(small, "alpha")

    def move(_stage: Path) -> None:
        connection = sqlite3.connect(small / "chroma.sqlite3")
        connection.execute("UPDATE max_seq_id SET seq_id = seq_id + 1 WHERE segment_id = ?", (before,))
        connection.commit()
        connection.close()

    with pytest.raises(PlanChanged, match="watermark"):
        Flip(small, verify_staged=move).run()
    assert vector_segment_of(small, "alpha") == before
    assert staging(small) == []


def test_index_files_that_changed_stop_it(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    with pytest.raises(PlanChanged, match="index files changed"):
        Flip(small, verify_staged=lambda _stage: os.utime(small / old / "header.bin")).run()
    assert staging(small) == []


def test_in_use(small: Path) -> None:
    before = contents(small)
    with holding(small / "chroma.sqlite3", "r+b") as process:
        with pytest.raises(InUse, match=str(process.pid)):
            Flip(small).run()
        with pytest.raises(InUse):
            Flip(small, attest_unused=True).run()
    assert contents(small) == before


@pytest.mark.parametrize("undo", ["none", "/tmp/elsewhere", ""])
def test_undo_options_that_are_not_offered_are_said(small: Path, undo: str) -> None:
    with pytest.raises(BadParameters):
        Flip(small, undo=undo).run()
    assert not (small / ".chromaadmin").exists()


def test_a_damaged_database_is_not_written(small: Path) -> None:
    (page,) = rows(small, "SELECT rootpage FROM sqlite_master WHERE name = 'embeddings'")[0]
    assert isinstance(page, int)
    with open(small / "chroma.sqlite3", "r+b") as file:
        file.seek((page - 1) * 4096 + 8)
        file.write(b"\xff" * 64)
    with pytest.raises(Corrupt):
        Flip(small).run()


def test_a_trigger_is_not_run(small: Path) -> None:
    connection = sqlite3.connect(small / "chroma.sqlite3")
    connection.execute("CREATE TRIGGER x AFTER UPDATE ON segments BEGIN DELETE FROM embeddings; END")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaHostile):
        Flip(small).run()
    assert rows(small, "SELECT count(*) FROM embeddings")[0][0]


def test_a_planted_link_is_not_followed(small: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (small / ".chromaadmin").symlink_to(tmp_path / "victim")
    with pytest.raises(Symlink):
        Flip(small).run()
    assert os.listdir(tmp_path / "victim") == []
    (small / ".chromaadmin").unlink()
    Flip(small).run()
    shutil.rmtree(small / ".chromaadmin" / "stage")
    (small / ".chromaadmin" / "stage").symlink_to(tmp_path / "victim")
    with pytest.raises(OpsError):
        Flip(small).run()
    assert os.listdir(tmp_path / "victim") == []


# --- owner, mode, access lists ---------------------------------------------------------------------------------------


def test_new_files_belong_to_whom_the_old_ones_belonged(small: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for file in [small, *small.rglob("*")]:
        os.chown(file, 12345, 54321)
    old = small / vector_segment_of(small, "alpha")
    old.chmod(0o750)
    (old / "header.bin").chmod(0o640)
    stores.reopen(small)
    Flip(small).run()
    new = small / vector_segment_of(small, "alpha")
    for entry in [small, *small.rglob("*")]:
        status = entry.lstat()
        assert (status.st_uid, status.st_gid) == (12345, 54321), entry
    assert stat.S_IMODE(new.stat().st_mode) == 0o750
    assert stat.S_IMODE((new / "header.bin").stat().st_mode) == 0o640
    assert stat.S_IMODE((new / "length.bin").stat().st_mode) == 0o644


def test_access_lists_are_carried_over(small: Path) -> None:
    # version 2: user::rwx, user:12345:rw-, group::r--, mask::rw-, other::---
    entry = b"\x02\x00\x00\x00" + b"".join(
        tag.to_bytes(2, "little") + permission.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, permission, who in (
            (0x01, 7, 0xFFFFFFFF),
            (0x02, 6, 12345),
            (0x04, 4, 0xFFFFFFFF),
            (0x10, 6, 0xFFFFFFFF),
            (0x20, 0, 0xFFFFFFFF),
        )
    )
    old = small / vector_segment_of(small, "alpha")
    try:
        os.setxattr(old / "header.bin", "system.posix_acl_access", entry)
        os.setxattr(old, "system.posix_acl_default", entry)
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error}")
    os.setxattr(small, "system.posix_acl_default", entry)
    Flip(small).run()
    new = small / vector_segment_of(small, "alpha")
    assert os.getxattr(new / "header.bin", "system.posix_acl_access") == entry
    assert os.getxattr(new, "system.posix_acl_default") == entry
    assert "system.posix_acl_access" not in os.listxattr(new / "length.bin"), "the old file had none"
    assert stat.S_IMODE((new / "length.bin").stat().st_mode) == 0o644


def test_who_is_not_the_owner_is_told_who_is(small: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    make_reachable(small)
    for file in [small, *small.rglob("*")]:
        os.chown(file, 12345, 12345)
        file.chmod(0o777)
    before = sorted(os.listdir(small))

    def attempt() -> str:
        Flip(small, attest_unused=True).run()
        return "ran"

    assert as_user(23456, attempt) == NotOwner.code
    assert sorted(os.listdir(small)) == before
    assert as_user(12345, attempt) == "ran", "the owner may, without being root"


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_persist_directory_that_is_a_mount_point(small: Path, tmp_path: Path) -> None:
    point = tmp_path / "mounted"
    point.mkdir()
    with mounted(point, "-t", "tmpfs", "tmpfs"):
        shutil.copytree(small, point, dirs_exist_ok=True)
        with PersistDir.open(point) as store:
            assert (store.file_system().kind, store.file_system().mount_point) == ("tmpfs", str(point))
        (flipped,) = Flip(point).run()
        assert flipped.retired
        assert stores.reopen(point) == stores.reopen(small)


def test_an_overlay(small: Path, tmp_path: Path) -> None:
    lower, point, spare = small, tmp_path / "merged", tmp_path / "spare"
    for directory in (point, spare):
        directory.mkdir()
    with mounted(spare, "-t", "tmpfs", "tmpfs"):
        for name in ("upper", "work"):
            (spare / name).mkdir()
        options = f"lowerdir={lower},upperdir={spare}/upper,workdir={spare}/work"
        with mounted(point, "-t", "overlay", "-o", options, "overlay"):
            before = stores.reopen(point)
            old = vector_segment_of(point, "alpha")
            (flipped,) = Flip(point).run()
            assert vector_segment_of(point, "alpha") != old
            # A directory of the lower layer can not be renamed: it is left in place and said so.
            assert flipped.retired is not (point / old).exists()
            assert stores.reopen(point) == before


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_reader_without_a_staging_root_makes_none(small: Path) -> None:
    with PersistDir.open(small) as store:
        with shared_lock(store) as must_read_again:
            assert not must_read_again()
            assert not (small / ".chromaadmin").exists()
            Flip(small).run()
            assert must_read_again()
        with shared_lock(store) as must_read_again:
            assert not must_read_again()


def test_readers_share_and_writers_do_not(small: Path) -> None:
    Flip(small).run()
    script = (
        "import sys; from ops.store.persist_dir import PersistDir; from ops.store.staging import shared_lock\n"
        "with PersistDir.open(sys.argv[1]) as s, shared_lock(s): print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(small)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    with PersistDir.open(small) as store, shared_lock(store):
        pass
    asked: list[int] = []

    def impatient() -> bool:
        asked.append(1)
        return len(asked) > 5

    flip = Flip(small, cancelled=impatient)
    with pytest.raises(Cancelled):
        flip.run()  # waits for the reader until somebody cancels
    process.communicate(timeout=10)
    Flip(small).run()


def test_a_reader_is_told_of_the_writer(small: Path) -> None:
    flip = Flip(small)

    def read(_stage: Path) -> None:
        with PersistDir.open(small) as store, shared_lock(store, wait_s=0.1):
            raise AssertionError("it was shared")

    flip.verify_staged = read
    with pytest.raises(Locked, match=flip.run_id):
        flip.run()
