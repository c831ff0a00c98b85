"""Persist directories: what is refused, what is listed, who has one open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.errors import (
    BadPath,
    IdentityChanged,
    Missing,
    MultiLink,
    NotChroma,
    OpsError,
    ReadOnly,
    RefBroken,
    Symlink,
    Unreadable,
)
from ops.store import persist_dir, sqlite
from ops.store.persist_dir import PersistDir, is_uuid

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def holding(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a file open in a mode."""
    script = "import sys; f = open(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    try:
        yield process
    finally:
        process.communicate(timeout=10)


def as_user(uid: int, function: Callable[[], object]) -> object:
    """What ``function`` returns, or the code of the OpsError it raises, in a child that is not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = function()
        except OpsError as error:
            answer = error.code
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as file:
        return json.loads(file.read())


def make_reachable(path: Path) -> None:
    """Let other users pass through the directories that pytest made for root alone."""
    for directory in path.parents:
        if directory.is_relative_to("/tmp") and directory.stat().st_uid == os.geteuid():
            os.chmod(directory, directory.stat().st_mode | 0o055)  # noqa: S103 - of this test's own temporary directory


def test_opening(small: Path) -> None:
    with PersistDir.open(small) as store:
        status = small.stat()
        assert (store.identity.device, store.identity.inode) == (status.st_dev, status.st_ino)
        assert store.db.execute("SELECT count(*) FROM collections").fetchone() == (3,)
        assert store.file_system().free_bytes > 0
        with pytest.raises(AttributeError):
            _ = store.writer
        descriptor = store.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "chroma.sqlite3").symlink_to("/etc/passwd")
    (tmp_path / "folder" / "chroma.sqlite3").mkdir(parents=True)
    for name, error in {
        "empty": NotChroma,
        "file": BadPath,
        "fifo": BadPath,
        "absent": Missing,
        "linked": Symlink,
        "folder": NotChroma,
        "with\0nul": BadPath,
    }.items():
        with pytest.raises(error):
            PersistDir.open(f"{tmp_path}/{name}")
    with pytest.raises(BadPath):
        PersistDir.open("")


def test_another_directory_at_the_same_path(small: Path) -> None:
    with PersistDir.open(small) as store:
        store.check_identity()
        small.rename(small.parent / "moved")
        shutil.copytree(small.parent / "moved", small)
        with pytest.raises(IdentityChanged):
            store.require_fit()


def test_a_path_through_a_link_is_the_real_one(small: Path) -> None:
    (small.parent / "link").symlink_to(small)
    with PersistDir.open(small.parent / "link") as store, PersistDir.open(small) as same:
        assert (store.path, store.identity) == (same.path, same.identity)


def test_segment_directories(small: Path) -> None:
    with PersistDir.open(small) as store:
        (segment,) = store.db.execute(
            "SELECT segment_id FROM max_seq_id JOIN segments s ON s.id = segment_id WHERE s.scope = 'VECTOR' LIMIT 1"
        ).fetchone()
        directory = store.segment_directory(segment)
        assert directory is not None
        assert [file.name for file in directory.files()] == sorted(os.listdir(small / segment))
        assert all(file.kind == "file" for file in directory.files())
        descriptor = directory.open("header.bin")
        assert os.fstat(descriptor).st_size == 100
        os.close(descriptor)
        (small / segment / "link").symlink_to("header.bin")
        os.link(small / segment / "length.bin", small / "second")
        os.mkfifo(small / segment / "fifo")
        for name, error in {
            "link": Symlink,
            "length.bin": MultiLink,
            "fifo": RefBroken,
            "../chroma.sqlite3": RefBroken,
            "..": RefBroken,
            "absent": FileNotFoundError,
        }.items():
            with pytest.raises(error):
                directory.open(name)
        (small / segment).rename(small / "elsewhere")
        shutil.copytree(small / "elsewhere", small / segment, symlinks=True, ignore=lambda *_: ["fifo"])
        with pytest.raises(OpsError):
            directory.files()


@pytest.mark.parametrize("name", ["../../etc", "", "x" * 36, "{0c628375-ff78-4bf6-b227-f3eaf9c5750b}", "A" * 8])
def test_a_segment_id_that_is_no_uuid_builds_no_path(small: Path, name: str) -> None:
    with PersistDir.open(small) as store, pytest.raises(RefBroken):
        store.segment_directory(name)


def test_links_and_files_at_the_place_of_a_segment(small: Path) -> None:
    linked, file, absent = (str(uuid.uuid4()) for _ in range(3))
    (small / linked).symlink_to("/etc")
    (small / file).write_text("x")
    with PersistDir.open(small) as store:
        with pytest.raises(Symlink):
            store.segment_directory(linked)
        with pytest.raises(RefBroken):
            store.segment_directory(file)
        assert store.segment_directory(absent) is None
        assert linked not in store.uuid_directories()


def test_orphans_are_directories_with_canonical_names_only(small: Path) -> None:
    orphan = str(uuid.uuid4())
    (small / orphan).mkdir()
    (small / orphan / "header.bin").write_bytes(b"x" * 100)
    linked = str(uuid.uuid4())
    (small / linked).symlink_to("/")
    (small / orphan.upper()).mkdir()
    (small / f"{orphan}_backup_20260101").mkdir()
    (small / ".chromaadmin" / "trash").mkdir(parents=True)
    os.mkdir(os.fsencode(small) + b"/\xff\xfe")
    with PersistDir.open(small) as store:
        known = frozenset(row[0] for row in store.db.execute("SELECT id FROM segments"))
        (found,) = store.orphan_directories(known, 10)
        assert (found.name, found.size_bytes) == (orphan, 100)
        assert len(store.orphan_directories(frozenset(), 2)) == 2


def test_disk_usage(small: Path) -> None:
    files = [file for file in small.rglob("*") if file.is_file()]
    (small / "link").symlink_to("/usr")
    with PersistDir.open(small) as store:
        usage = store.disk_usage()
    assert usage.sqlite_bytes == (small / "chroma.sqlite3").stat().st_size
    assert usage.index_bytes == sum(file.stat().st_size for file in files if is_uuid(file.parent.name))
    assert usage.size_bytes == sum(file.stat().st_size for file in files)
    assert usage.complete


def test_many_stray_files_are_capped(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist_dir, "_MAX_SCANNED_FILES", 3)
    with PersistDir.open(small) as store:
        assert not store.disk_usage().complete


def test_who_has_it_open(small: Path) -> None:
    with PersistDir.open(small) as store:
        assert store.users().state == "free"
        index = next(small.glob("*/header.bin"))
        for file in (small / "chroma.sqlite3", index):
            with holding(file, "rb"):
                assert store.users().state == "free", "readers do not count"
            with holding(file, "r+b") as process:
                users = store.users()
                assert (users.state, [user.pid for user in users.processes]) == ("used", [process.pid])
                assert "sys.argv" in users.processes[0].command
        with holding(small.parent / "unrelated", "wb"):
            assert store.users().state == "free"


def test_a_client_in_this_very_process_counts_and_our_writer_does_not(small: Path) -> None:
    with PersistDir.open(small) as store:
        connection = sqlite.open_writable(small / "chroma.sqlite3")
        assert store.users().state == "free"
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO maintenance_log VALUES (1, 1, 'x')")
        assert store.users().state == "free", "nor does our journal"
        connection.execute("ROLLBACK")
        connection.close()
        with open(next(small.glob("*/data_level0.bin")), "r+b"):
            assert store.users().state == "used"
        assert store.users().state == "free"


def test_processes_of_other_users_are_unknown_when_they_could_write(small: Path) -> None:
    def state() -> object:
        with PersistDir.open(small) as store:
            users = store.users()
            return [users.state, users.why]

    make_reachable(small)
    answer = as_user(12345, state)
    # This process is root, so another user may not look into it, and root may write everything.
    assert isinstance(answer, list)
    assert answer[0] == "unknown"
    assert "uid 12345" in answer[1]


def test_permissions(small: Path) -> None:
    make_reachable(small)

    def require() -> object:
        with PersistDir.open(small) as store:
            store.require_writable("x")
        return "writable"

    assert as_user(12345, require) == ReadOnly.code
    small.chmod(0o000)
    assert as_user(12345, require) == Unreadable.code
    small.chmod(0o755)
    assert require() == "writable"


def test_every_network_file_system_is_refused_by_name() -> None:
    assert {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs", "glusterfs"} <= set(persist_dir._UNFIT)
    assert not {"ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "unknown"} & set(persist_dir._UNFIT)


def test_the_deepest_mount_names_the_file_system(tmp_path: Path) -> None:
    assert persist_dir._mount_of(Path("/proc/self"))[:2] == ("proc", "/proc")
    assert persist_dir._mount_of(Path("/"))[1] == "/"
