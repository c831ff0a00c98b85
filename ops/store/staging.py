"""The staging root ``<persist>/.chromaadmin``: locks, intents, stage, outcomes, and file calls that survive a crash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ops.codec import DecodeError, from_json, to_json
from ops.errors import (
    FileSystemUnfit,
    IoFailed,
    Locked,
    NotOwner,
    OpsError,
    ReadOnly,
    RecoveryNeedsOperator,
    Symlink,
)
from ops.store.conditions import Condition
from ops.store.persist_dir import STAGING_ROOT, PersistDir, is_uuid

READER_WAIT_S = 30.0  # how long a writer waits for readers that hold the lock
_LOCK_RETRY_S = 1.0  # a reader holds the intent lock for an instant only
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS = ("intents", "stage", "trash", "done")
FLIP, ROWS = "flip", "rows"
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_COPIED_ATTRIBUTES = ("system.posix_acl_access", "system.posix_acl_default", "security.selinux")
T = TypeVar("T")

if not shutil.rmtree.avoids_symlink_attacks:  # pragma: no cover - true on every supported system
    raise ImportError("this system's rmtree follows links; nothing may be removed here")


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a step is about to do, on disk before it does anything.

    ``kind`` is flip or rows. The marker of a flip is ``new_segment``. A step that changes rows only has no segments;
    its marker is the row in ``maintenance_log``, or, where Chroma has no such table, ``condition``: all of it holds
    when the step was committed. ``source_run`` names the run whose trash holds the new segment's directory when an
    undo returns it; empty when the directory is built.
    """

    run_id: str
    step: int
    total: int
    operation: str
    subject: str
    title: str
    collection_id: str
    started_at: datetime
    kind: str = FLIP
    old_segment: str = ""
    new_segment: str = ""
    source_run: str = ""
    condition: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        """Names of files are made of these: anything but a UUID or a run id is refused."""
        require_run_id(self.run_id)
        if self.source_run:
            require_run_id(self.source_run)
        if self.step < 1 or self.kind not in (FLIP, ROWS):
            raise DecodeError("an intent is of no known kind")
        segments = (self.old_segment, self.new_segment)
        if self.kind == FLIP and not all(is_uuid(segment) for segment in segments):
            raise DecodeError("an intent names what is no segment")
        if self.kind == ROWS and (any(segments) or self.source_run or not self.condition):
            raise DecodeError("an intent to change rows names segments, or no condition")

    @property
    def name(self) -> str:
        """The file in ``intents``."""
        return f"{self.run_id}-{self.step}.json"

    @property
    def marker(self) -> str:
        """The ``operation`` of the row in Chroma's ``maintenance_log``."""
        return f"chromaadmin:{self.run_id}/{self.step}"


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """How one step ended: ``state`` is committed or rolled_back."""

    step: int
    subject: str
    title: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """The outcome of a run, kept until its application has read it. ``state`` is running while it works."""

    run_id: str
    operation: str
    state: str
    effect_on_store: str
    total: int
    steps: tuple[StepOutcome, ...]
    sentence: str
    at: datetime
    recovered: bool = False


class StagingRoot:
    """The staging root, opened by descriptors. Made only by writing runs."""

    def __init__(self, store: PersistDir, descriptor: int) -> None:
        self.store = store
        self.path = store.path / STAGING_ROOT
        self.fd = descriptor
        self._parts: dict[str, int] = {}
        self._locks: list[int] = []

    @classmethod
    def open(cls, store: PersistDir) -> StagingRoot | None:
        """The staging root, or None where no writing run has made one. Raises SYMLINK."""
        try:
            descriptor = os.open(STAGING_ROOT, _DIRECTORY, dir_fd=store.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unfit_root(store, error) from error
        return cls(store, descriptor)

    @classmethod
    def make(cls, store: PersistDir) -> StagingRoot:
        """The staging root, made where it is missing, with the persist directory's owner and mode 0700.

        Raises READ_ONLY, NOT_OWNER, FILE_SYSTEM_UNFIT (another device), SYMLINK.
        """
        owner = os.fstat(store.fd)
        with os_errors(store.path):
            _make_directory(store.fd, STAGING_ROOT, owner)
        root = cls.open(store)
        if root is None:
            raise IoFailed(what=f"Making {store.path / STAGING_ROOT}", why="it vanished")
        try:
            if os.fstat(root.fd).st_dev != owner.st_dev:
                raise FileSystemUnfit(path=root.path, kind="another device", why="a rename out of it would copy")
            with os_errors(root.path):
                for part in _PARTS:
                    _make_directory(root.fd, part, owner)
                for name in ("lock", "intent-lock"):
                    os.close(_lock_file(root.fd, name, owner))
                os.fsync(root.fd)
                os.fsync(store.fd)
        except BaseException:
            root.close()
            raise
        return root

    def part(self, name: str) -> int:
        """The descriptor of intents, stage, trash or done."""
        if name not in self._parts:
            try:
                self._parts[name] = os.open(name, _DIRECTORY, dir_fd=self.fd)
            except OSError as error:
                raise RecoveryNeedsOperator(why=f"{self.path / name} can not be opened: {error.strerror}") from error
        return self._parts[name]

    def close(self) -> None:
        """Release the locks and close everything; harmless the second time."""
        for descriptor in (*self._locks, *self._parts.values(), self.fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._locks.clear()
        self._parts.clear()
        self.fd = -1

    # --- locks ------------------------------------------------------------------------------------------------------

    def lock_alone(self, run_id: str, operation: str, check: Callable[[], None] = lambda: None) -> None:
        """Take the lock for a writing run. Raises LOCKED with the holder; waits up to 30 s for readers only."""
        owner = os.fstat(self.fd)
        intent = _lock_file(self.fd, "intent-lock", owner)
        self._locks.append(intent)
        if not _flock(intent, fcntl.LOCK_EX, _LOCK_RETRY_S, check):
            raise Locked(holder=_holder(self.fd))
        lock = _lock_file(self.fd, "lock", owner)
        self._locks.append(lock)
        if not _flock(lock, fcntl.LOCK_EX, READER_WAIT_S, check):
            raise Locked(holder=f": it has been read for more than {READER_WAIT_S:.0f} s")
        holder = {
            "run_id": run_id,
            "operation": operation,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": to_json(datetime.now(UTC)),
        }
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(holder).encode(), 0)

    # --- intents and outcomes ----------------------------------------------------------------------------------------

    def write_intent(self, intent: Intent) -> None:
        """Write and sync an intent."""
        write_json(self.part("intents"), intent.name, intent)

    def remove_intent(self, intent: Intent) -> None:
        """The step is settled; harmless when it is gone already."""
        _unlink(self.part("intents"), intent.name)

    def intents(self) -> tuple[Intent, ...]:
        """All intents, ordered by run and step. Raises RECOVERY_NEEDS_OPERATOR for one that can not be read."""
        found = [_read(self.part("intents"), name, Intent) for name in _json_names(self.part("intents"))]
        return tuple(sorted(found, key=lambda intent: (intent.run_id, intent.step)))

    def write_done(self, done: Done) -> None:
        """Write and sync the outcome of a run."""
        write_json(self.part("done"), f"{require_run_id(done.run_id)}.json", done)

    def read_done(self, run_id: str) -> Done | None:
        """The outcome of a run, or None."""
        name = f"{require_run_id(run_id)}.json"
        try:
            return _read(self.part("done"), name, Done)
        except FileNotFoundError:
            return None

    def all_done(self) -> tuple[Done, ...]:
        """All outcomes that are kept."""
        return tuple(_read(self.part("done"), name, Done) for name in _json_names(self.part("done")))

    def remove_done(self, run_id: str) -> None:
        """The outcome was read; harmless when it is gone already."""
        _unlink(self.part("done"), f"{require_run_id(run_id)}.json")

    def remove_torn(self) -> None:
        """Remove half-written files that a killed process left; only for the holder of the lock."""
        for part in ("intents", "done"):
            _remove_torn(self.part(part))

    # --- the trash of a run ------------------------------------------------------------------------------------------

    @contextmanager
    def trash_of(self, run_id: str, *, make: bool = False) -> Iterator[int | None]:
        """The descriptor of ``trash/<run>``; None when there is none and it is not to be made."""
        trash = self.part("trash")
        if make:
            _make_directory(trash, require_run_id(run_id), os.fstat(self.fd))
            os.fsync(trash)
        try:
            descriptor = os.open(require_run_id(run_id), _DIRECTORY, dir_fd=trash)
        except FileNotFoundError:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def drop_empty_trash(self, run_id: str) -> None:
        """Remove ``trash/<run>`` when nothing is in it."""
        with self.trash_of(run_id) as trash:
            if trash is None:
                return
            _remove_torn(trash)
        try:
            os.rmdir(run_id, dir_fd=self.part("trash"))
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return
        os.fsync(self.part("trash"))

    def probe(self) -> None:
        """See that locks exclude, directories can be renamed and synced here. Raises FILE_SYSTEM_UNFIT."""
        name = f".scratch-{os.getpid()}"
        kind = self.store.file_system().kind
        remove_tree(name, self.fd)
        os.mkdir(name, 0o700, dir_fd=self.fd)
        descriptor = os.open(name, _DIRECTORY, dir_fd=self.fd)
        try:
            first = _lock_file(descriptor, "lock", os.fstat(self.fd))
            second = _lock_file(descriptor, "lock", os.fstat(self.fd))
            try:
                fcntl.flock(first, fcntl.LOCK_EX)
                if _flock(second, fcntl.LOCK_EX, 0, lambda: None):
                    raise FileSystemUnfit(path=self.path, kind=kind, why="a lock does not keep others out")
            finally:
                os.close(first)
                os.close(second)
            os.rename(name, name, src_dir_fd=self.fd, dst_dir_fd=self.part("stage"))
            os.fsync(descriptor)
        except OSError as error:
            why = f"a directory can not be locked, renamed and synced ({error.strerror})"
            raise FileSystemUnfit(path=self.path, kind=kind, why=why) from error
        finally:
            os.close(descriptor)
            remove_tree(name, self.fd)
            remove_tree(name, self.part("stage"))

    def scratch_check(self, like: int) -> None:
        """See on a scratch file that new files can have owner, mode and labels of ``like``. Raises NOT_OWNER."""
        name = f".scratch-{os.getpid()}"
        with os_errors(self.path):
            _unlink(self.fd, name)
            descriptor = os.open(
                name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd
            )
            try:
                copy_attributes(like, descriptor, self.path, labels=not stat.S_ISDIR(os.fstat(like).st_mode))
                os.rename(name, f"{name}-renamed", src_dir_fd=self.fd, dst_dir_fd=self.fd)
            finally:
                os.close(descriptor)
                _unlink(self.fd, name)
                _unlink(self.fd, f"{name}-renamed")


def require_run_id(run_id: str) -> str:
    """A run id names files, so it may hold letters, digits, dashes and underscores only."""
    if not _RUN_ID.fullmatch(run_id):
        raise DecodeError(f"{run_id[:64]!r} is no run id")
    return run_id


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Raise the ``OpsError`` that an ``OSError`` of the body means: READ_ONLY or IO_FAILED."""
    try:
        yield
    except OSError as error:
        raise ops_error(error, path) from error


def ops_error(error: OSError, path: Path) -> OpsError:
    """The expected failure that an ``OSError`` below ``path`` means."""
    why = error.strerror or str(error)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnly(path=path, why=why)
    return IoFailed(what=f"Writing below {path}", why=why)


def write_json(directory: int, name: str, value: object) -> None:
    """Write a file so that it is there completely or not at all, synced with its directory."""
    torn = f".{name}.torn"
    _unlink(directory, torn)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(torn, flags, 0o600, dir_fd=directory)
    try:
        try:
            _own_like(descriptor, os.fstat(directory))
            data = json.dumps(to_json(value), indent=1, ensure_ascii=True).encode()
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(torn, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except OSError:
        with contextlib.suppress(OSError):
            _unlink(directory, torn)
        raise


def read_json(directory: int, name: str) -> object:
    """The JSON of a regular file of at most 16 MiB. Raises FileNotFoundError, ValueError."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DecodeError(f"{name} is no regular file")
        return json.loads(file.read(16 * 1024 * 1024))


def copy_attributes(source: int, target: int, path: Path, *, labels: bool = True) -> None:
    """Give ``target`` owner, mode, access lists and label of ``source``; raises NOT_OWNER where that is not allowed.

    ``labels`` False leaves out what only directories have (the default access list).
    """
    wanted = os.fstat(source)
    try:
        _own_like(target, wanted)
        for name in _COPIED_ATTRIBUTES:
            if name != "system.posix_acl_default" or labels:
                _copy_attribute(source, target, name)
        os.fchmod(target, stat.S_IMODE(wanted.st_mode))  # last: an access list and its removal change the mode
    except PermissionError as error:
        raise NotOwner(path=path, owner=wanted.st_uid, group=wanted.st_gid, uid=os.geteuid()) from error


def sync_tree(directory: int) -> None:
    """Sync every file of a flat directory, then the directory."""
    for name in sorted(os.listdir(directory)):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    os.fsync(directory)


def move(name: str, source: int, target: int) -> None:
    """Rename a directory entry from one directory to another and sync both. The name must be free there."""
    if exists(target, name):
        raise IoFailed(what=f"Renaming {name}", why="something of that name is there already")
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
    os.fsync(source)


def exists(directory: int, name: str) -> bool:
    """True when the directory has an entry of that name, of whatever kind."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_tree(name: str, directory: int) -> None:
    """Remove what is called ``name`` there, without following a link; harmless when it is gone already."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)
    os.fsync(directory)


def _make_directory(parent: int, name: str, owner: os.stat_result) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _own_like(descriptor, owner)
        os.fsync(descriptor)
    except BaseException:
        os.rmdir(name, dir_fd=parent)
        raise
    finally:
        os.close(descriptor)


def _own_like(descriptor: int, owner: os.stat_result) -> None:
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (owner.st_uid, owner.st_gid):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except PermissionError as error:
            raise NotOwner(path="The directory", owner=owner.st_uid, group=owner.st_gid, uid=os.geteuid()) from error


def _copy_attribute(source: int, target: int, name: str) -> None:
    try:
        value = os.getxattr(source, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        with contextlib.suppress(OSError):  # nothing to copy; what the parent's default gave goes
            os.removexattr(target, name)
        return
    try:
        if os.getxattr(target, name) == value:
            return
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
    os.setxattr(target, name, value)


def _lock_file(root: int, name: str, owner: os.stat_result) -> int:
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
    try:
        _own_like(descriptor, owner)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _flock(descriptor: int, kind: int, wait_s: float, check: Callable[[], None]) -> bool:
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        check()
        time.sleep(0.02)


def _holder(root: int) -> str:
    """Who holds the lock, for people; empty when the file does not say."""
    try:
        data = read_json(root, "lock")
    except (OSError, ValueError):
        return ""
    if not isinstance(data, dict):
        return ""
    return f": {data.get('operation')} (run {data.get('run_id')}, pid {data.get('pid')} on {data.get('host')})"


@contextmanager
def shared_lock(store: PersistDir, *, wait_s: float = 5.0) -> Iterator[Callable[[], bool]]:
    """Share the lock while a READ works; without a staging root there is none, and none is made.

    Yields a function that says whether a writing run has made the lock meanwhile, in which case the READ has to be done
    again. Raises LOCKED while a writing run holds the lock or waits for it.
    """
    root = StagingRoot.open(store)
    descriptor = -1
    try:
        if root is not None:
            descriptor = _share(root.fd, wait_s)
        yield lambda: descriptor < 0 and exists(store.fd, STAGING_ROOT)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if root is not None:
            root.close()


def _share(root: int, wait_s: float) -> int:
    try:
        intent = os.open("intent-lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return -1
    try:
        if not _flock(intent, fcntl.LOCK_SH, wait_s, lambda: None):
            raise Locked(holder=_holder(root))
        descriptor = os.open("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        if not _flock(descriptor, fcntl.LOCK_SH, wait_s, lambda: None):
            os.close(descriptor)
            raise Locked(holder=_holder(root))
        return descriptor
    except FileNotFoundError:
        return -1
    finally:
        os.close(intent)


def _json_names(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(".json") and not name.startswith("."))


def _remove_torn(directory: int) -> None:
    for name in os.listdir(directory):
        if name.startswith(".") and name.endswith(".torn"):
            _unlink(directory, name)


def _read(directory: int, name: str, kind: type[T]) -> T:
    try:
        return from_json(kind, read_json(directory, name), name)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RecoveryNeedsOperator(why=f"{name} in {STAGING_ROOT} can not be read ({error})") from error


def _unlink(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    os.fsync(directory)


def _unfit_root(store: PersistDir, error: OSError) -> OpsError:
    path = store.path / STAGING_ROOT
    if path.is_symlink():
        return Symlink(path=path)
    return ReadOnly(path=path, why=error.strerror)
