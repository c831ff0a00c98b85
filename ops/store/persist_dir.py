"""A persist directory, opened by descriptor: identity, segment directories, disk usage, who has it open."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ops.errors import (
    BadPath,
    FileSystemUnfit,
    IdentityChanged,
    IoFailed,
    Missing,
    MultiLink,
    NotChroma,
    ReadOnly,
    RefBroken,
    Symlink,
    Unreadable,
)
from ops.store import sqlite

if TYPE_CHECKING:
    from ops.store.commit import Writer
    from ops.store.id_map import IdMapReader
    from ops.store.schema import Schema

DATABASE = "chroma.sqlite3"
STAGING_ROOT = ".chromaadmin"
Inodes = dict[tuple[int, int], os.stat_result]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_SCANNED_FILES = 200_000
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_CAP_DAC_OVERRIDE = 1 << 1
# Network file systems. What only may be unfit (overlay, 9p, virtiofs) is tried out instead, by StagingRoot.probe().
_UNFIT = {
    "afs": "locks are not seen by other hosts",
    "ceph": "renames and locks depend on the server's configuration",
    "cifs": "locks and renames are those of another system",
    "fuse.s3fs": "a rename copies and deletes",
    "fuse.sshfs": "locks are not seen by other hosts",
    "gfs2": "locks depend on the cluster's configuration",
    "glusterfs": "locks depend on the cluster's configuration",
    "ncpfs": "locks and renames are those of another system",
    "nfs": "locks of other hosts can not be relied on",
    "nfs4": "locks of other hosts can not be relied on",
    "smb3": "locks and renames are those of another system",
    "smbfs": "locks and renames are those of another system",
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells a directory from another one that takes its place."""

    device: int
    inode: int

    def __str__(self) -> str:
        return f"device {self.device} inode {self.inode}"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One entry of a directory, not followed: ``kind`` is file, directory, symlink or other.

    ``size_bytes`` is st_size, ``allocated_bytes`` st_blocks × 512; names that are not UTF-8 carry surrogates.
    """

    name: str
    kind: str
    size_bytes: int
    allocated_bytes: int
    modified_at: datetime


@dataclass(frozen=True, kw_only=True)
class OrphanDirectory:
    """A directory with a UUID for a name that no segment row names."""

    path: str
    name: str
    size_bytes: int
    allocated_bytes: int
    modified_at: datetime


@dataclass(frozen=True, kw_only=True)
class DiskUsage:
    """Bytes of the whole directory, of the database (journal included) and of all directories with UUID names.

    ``complete`` is False when there were more entries than are looked at.
    """

    size_bytes: int
    allocated_bytes: int
    sqlite_bytes: int
    index_bytes: int
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """Where the directory lies: the kernel's name of the kind, free bytes for this user, mount point."""

    kind: str
    free_bytes: int
    mount_point: str


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that has a file of the store open for writing."""

    pid: int
    command: str


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who has the store open for writing: ``state`` is free, used or unknown; ``why`` says why it is unknown."""

    state: str
    processes: tuple[Process, ...] = ()
    why: str = ""


class SegmentDirectory:
    """The directory of one vector segment; every access goes by descriptor, never through a link."""

    def __init__(self, store: PersistDir, name: str, identity: Identity) -> None:
        self._store = store
        self._identity = identity
        self.name = name
        self.path = store.path / name

    def open(self, name: str) -> int:
        """A read-only descriptor of a regular file with one name; raises FileNotFoundError, SYMLINK, MULTI_LINK."""
        with self._directory() as directory:
            return _open_regular(directory, name, self.path / name)

    def files(self) -> tuple[FileEntry, ...]:
        """All entries, sorted by name."""
        with self._directory() as directory:
            return tuple(sorted(_entries(directory), key=lambda entry: entry.name))

    @contextmanager
    def _directory(self) -> Iterator[int]:
        descriptor = os.open(self.name, _DIRECTORY, dir_fd=self._store.fd)
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != (self._identity.device, self._identity.inode):
                raise IoFailed(what=f"Reading {self.path}", why="another directory took its place meanwhile")
            yield descriptor
        finally:
            os.close(descriptor)


class PersistDir:
    """An open persist directory. Use as a context manager; not for use by several threads."""

    def __init__(self, path: Path, descriptor: int, deadline_s: float | None) -> None:
        self.path = path
        self.fd = descriptor
        status = os.fstat(descriptor)
        self.identity = Identity(device=status.st_dev, inode=status.st_ino)
        self._deadline_s = deadline_s
        self._db: sqlite3.Connection | None = None
        self._schema: Schema | None = None
        self._id_maps: IdMapReader | None = None
        self._writer: Writer | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, deadline_s: float | None = None) -> PersistDir:
        """Open without reading the database. Raises MISSING, BAD_PATH, UNREADABLE, NOT_CHROMA, SYMLINK, …"""
        given = os.fspath(path)
        if not given or "\0" in given:
            raise BadPath(path=given or "An empty path", why="it is no path")
        real = Path(os.path.realpath(given))
        try:
            status = os.lstat(real)
            if not stat.S_ISDIR(status.st_mode):
                raise BadPath(path=given, why="it is not a directory")
            descriptor = os.open(real, _DIRECTORY | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise Missing(path=given) from error
        except PermissionError as error:
            raise Unreadable(path=given, why=error.strerror, uid=os.geteuid()) from error
        except OSError as error:
            raise BadPath(path=given, why=error.strerror) from error
        store = cls(real, descriptor, deadline_s)
        try:
            store.check_identity()
            store._require_database()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> PersistDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, the reader of id maps and the descriptor; harmless the second time."""
        self.close_database()
        if self._id_maps is not None:
            self._id_maps.close()
            self._id_maps = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close_database(self) -> None:
        """Close the read-only connection; the next use of ``db`` opens another and sees what was committed since."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self._schema = None

    @property
    def database_path(self) -> Path:
        """The path of ``chroma.sqlite3``."""
        return self.path / DATABASE

    @property
    def db(self) -> sqlite3.Connection:
        """The read-only connection, opened at first use."""
        if self._db is None:
            self._db = sqlite.open_readonly(self.database_path, deadline_s=self._deadline_s)
        return self._db

    @property
    def schema(self) -> Schema:
        """The family of the store, read at first use."""
        if self._schema is None:
            from ops.store.schema import read_schema

            self._schema = read_schema(self.db)
        return self._schema

    @property
    def id_maps(self) -> IdMapReader:
        """The reader of id maps, a child process that starts at first use."""
        if self._id_maps is None:
            from ops.store.id_map import IdMapReader

            self._id_maps = IdMapReader()
        return self._id_maps

    @property
    def writer(self) -> Writer:
        """The writer that ``execute()`` gave a writing operation."""
        if self._writer is None:
            raise AttributeError("this store was opened for reading; only execute() gives it a writer")
        return self._writer

    @writer.setter
    def writer(self, writer: Writer | None) -> None:
        self._writer = writer

    def check_identity(self) -> None:
        """Raise IDENTITY_CHANGED when another directory stands at the path than the one that was opened."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
            now = str(Identity(device=status.st_dev, inode=status.st_ino))
        except OSError as error:
            now = str(error.strerror)
        if now != str(self.identity):
            raise IdentityChanged(path=self.path, was=self.identity, now=now)

    def require_writable(self, operation: str) -> None:
        """Raise unless this store may be written by ``operation``.

        Raises IDENTITY_CHANGED, SYMLINK, MULTI_LINK, FILE_SYSTEM_UNFIT, READ_ONLY, SCHEMA_HOSTILE, SCHEMA_UNKNOWN,
        UNSUPPORTED_VERSION.
        """
        self.require_fit()
        self.schema.require_writable(operation)

    def require_fit(self) -> None:
        """The part of ``require_writable`` that does not read the database, for a store that recovery comes first for.

        Raises IDENTITY_CHANGED, SYMLINK, MULTI_LINK, FILE_SYSTEM_UNFIT, READ_ONLY.
        """
        self.check_identity()
        self._require_database()
        kind = self.file_system().kind
        if kind in _UNFIT:
            raise FileSystemUnfit(path=self.path, kind=kind, why=_UNFIT[kind])
        if os.fstatvfs(self.fd).f_flag & os.ST_RDONLY:
            raise ReadOnly(path=self.path, why="the file system is mounted read-only")
        for name in (".", DATABASE):
            if not os.access(name, os.W_OK, dir_fd=self.fd, effective_ids=True):
                raise ReadOnly(path=self.path / name, why=f"uid {os.geteuid()} has no right to write it")

    def segment_directory(self, segment_id: str) -> SegmentDirectory | None:
        """The directory of a segment; None when there is none. Raises SYMLINK, REF_BROKEN (no UUID, no directory)."""
        if not is_uuid(segment_id):
            raise RefBroken(what=f"A segment row has the id {segment_id[:60]!r}, which is not a UUID.")
        try:
            status = os.stat(segment_id, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise Unreadable(path=self.path / segment_id, why=error.strerror, uid=os.geteuid()) from error
        if stat.S_ISLNK(status.st_mode):
            raise Symlink(path=self.path / segment_id)
        if not stat.S_ISDIR(status.st_mode):
            raise RefBroken(what=f"{self.path / segment_id} is not a directory.")
        return SegmentDirectory(self, segment_id, Identity(device=status.st_dev, inode=status.st_ino))

    def orphan_directories(self, known_segment_ids: frozenset[str], limit: int) -> tuple[OrphanDirectory, ...]:
        """At most ``limit`` directories with canonical UUID names that are no known segment, sorted by name."""
        names = sorted(name for name in self.uuid_directories() if name not in known_segment_ids)
        found = []
        for name in names[:limit]:
            try:
                directory = os.open(name, _DIRECTORY, dir_fd=self.fd)
            except OSError:
                continue  # gone, replaced by a link, or not ours to read: not a candidate
            try:
                files = tuple(_entries(directory))
                modified = os.fstat(directory).st_mtime
            finally:
                os.close(directory)
            found.append(
                OrphanDirectory(
                    path=str(self.path / name),
                    name=name,
                    size_bytes=sum(file.size_bytes for file in files),
                    allocated_bytes=sum(file.allocated_bytes for file in files),
                    modified_at=datetime.fromtimestamp(modified, UTC),
                )
            )
        return tuple(found)

    def uuid_directories(self) -> tuple[str, ...]:
        """Names of all real directories (no links) whose name is a canonical UUID."""
        with _scan(self.fd, self.path) as entries:
            return tuple(entry.name for entry in entries if is_uuid(entry.name) and entry.is_dir(follow_symlinks=False))

    def disk_usage(self) -> DiskUsage:
        """Bytes by a walk that follows no link and leaves no file system; directories themselves are not counted."""
        size = allocated = database = index = seen = 0
        for root, _directories, files, directory in os.fwalk(".", dir_fd=self.fd, follow_symlinks=False):
            top = root.split("/")[1] if "/" in root else ""
            for name in files:
                seen += 1
                if seen > _MAX_SCANNED_FILES:
                    return DiskUsage(
                        size_bytes=size,
                        allocated_bytes=allocated,
                        sqlite_bytes=database,
                        index_bytes=index,
                        complete=False,
                    )
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except OSError:
                    continue  # vanished while we looked
                size += status.st_size
                allocated += status.st_blocks * 512
                if not top and name in (DATABASE, f"{DATABASE}-journal"):
                    database += status.st_size
                elif is_uuid(top):
                    index += status.st_size
        return DiskUsage(size_bytes=size, allocated_bytes=allocated, sqlite_bytes=database, index_bytes=index)

    def file_system(self) -> FileSystem:
        """Kind and mount point by ``/proc/self/mountinfo``, free bytes by statvfs (for unprivileged users)."""
        kind, mount_point = _mount_of(self.path)
        free = os.fstatvfs(self.fd)
        return FileSystem(kind=kind, free_bytes=free.f_bavail * free.f_frsize, mount_point=mount_point)

    def users(self) -> Users:
        """Other processes of this host that have a file of the store open for writing, by (device, inode).

        Chroma keeps ``chroma.sqlite3`` and the four files of every loaded index open read-write; our readers open
        read-only and do not count. Processes of other containers and hosts can not be seen at all.
        """
        return _users(self._own_inodes())

    def _own_inodes(self) -> Inodes:
        status = os.stat(DATABASE, dir_fd=self.fd, follow_symlinks=False)
        inodes: Inodes = {(status.st_dev, status.st_ino): status}
        for name in self.uuid_directories():
            try:
                directory = os.open(name, _DIRECTORY, dir_fd=self.fd)
            except OSError:
                continue  # gone meanwhile, or not ours to read
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        inodes[(status.st_dev, status.st_ino)] = status
            except FileNotFoundError:
                continue  # a file that Chroma replaced while we looked: its directory is read again by the next scan
            finally:
                os.close(directory)
            if len(inodes) > _MAX_SCANNED_FILES:
                raise BadPath(path=self.path, why=f"it holds more than {_MAX_SCANNED_FILES} index files")
        return inodes

    def _require_database(self) -> None:
        try:
            status = os.stat(DATABASE, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise NotChroma(path=self.path, why=f"it holds no {DATABASE}") from error
        except OSError as error:
            raise Unreadable(path=self.database_path, why=error.strerror, uid=os.geteuid()) from error
        if stat.S_ISLNK(status.st_mode):
            raise Symlink(path=self.database_path)
        if not stat.S_ISREG(status.st_mode):
            raise NotChroma(path=self.path, why=f"its {DATABASE} is not a file")
        if status.st_nlink > 1:
            raise MultiLink(path=self.database_path, links=status.st_nlink)


def is_uuid(text: str) -> bool:
    """True for a UUID exactly as Chroma writes it: 36 characters, lower case, with dashes."""
    try:
        return len(text) == 36 and str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _entries(directory: int) -> Iterator[FileEntry]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # replaced while we looked
            yield FileEntry(
                name=entry.name,
                kind=_kind(status.st_mode),
                size_bytes=status.st_size,
                allocated_bytes=status.st_blocks * 512,
                modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
            )


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _open_regular(directory: int, name: str, path: Path) -> int:
    if "/" in name or name in ("", ".", ".."):
        raise RefBroken(what=f"{name[:60]!r} is not the name of a file.")
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError as error:
        raise Unreadable(path=path, why=error.strerror, uid=os.geteuid()) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Symlink(path=path) from error
        if error.errno == errno.ENXIO:
            raise RefBroken(what=f"{path} is not a regular file.") from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise RefBroken(what=f"{path} is not a regular file.")
    if status.st_nlink > 1:
        os.close(descriptor)
        raise MultiLink(path=path, links=status.st_nlink)
    return descriptor


@contextmanager
def _scan(descriptor: int, path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        # A directory stream moves the offset of its descriptor, so every listing takes one of its own.
        own = os.open(".", _DIRECTORY, dir_fd=descriptor)
    except OSError as error:
        raise Unreadable(path=path, why=error.strerror, uid=os.geteuid()) from error
    try:
        with os.scandir(own) as entries:
            yield entries
    finally:
        os.close(own)


def _mount_of(path: Path) -> tuple[str, str]:
    """Kind and mount point of the deepest mount over ``path``; the last one listed wins where two lie on one place."""
    best, kind = "", "unknown"
    text = os.fspath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields, _, rest = line.partition(" - ")
            point = fields.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            inside = text == point or point == "/" or text.startswith(point + "/")
            if inside and len(point) >= len(best):
                best, kind = point, rest.split(" ")[0]
    return kind, best


def _users(inodes: Inodes) -> Users:
    users: list[Process] = []
    unseen: list[Process] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            if _could_write(pid, inodes):
                unseen.append(Process(pid=pid, command=_command(pid)))
            continue
        except OSError:
            continue  # ended meanwhile
        held = _written_by(pid, descriptors, inodes)
        if held if pid != os.getpid() else _more_than_ours(held):
            users.append(Process(pid=pid, command=_command(pid)))
    if users:
        return Users(state="used", processes=tuple(sorted(users, key=lambda process: process.pid)))
    if unseen:
        first = ", ".join(f"{process.pid} ({process.command})" for process in unseen[:3])
        why = f"uid {os.geteuid()} may not look into {len(unseen)} process(es) of other users, among them {first}"
        return Users(state="unknown", processes=tuple(unseen), why=why)
    return Users(state="free")


def _written_by(pid: int, descriptors: list[str], inodes: Inodes) -> tuple[tuple[int, int], ...]:
    held = []
    for name in descriptors:
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")
            if (status.st_dev, status.st_ino) not in inodes:
                continue
            with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as info:
                flags = next((int(line.split()[1], 8) for line in info if line.startswith("flags:")), os.O_RDWR)
        except OSError:
            continue  # closed meanwhile
        if flags & os.O_ACCMODE != os.O_RDONLY:
            held.append((status.st_dev, status.st_ino))
    return tuple(held)


def _more_than_ours(held: tuple[tuple[int, int], ...]) -> bool:
    """True when this very process holds files for writing beside our own connections (a client in the same process)."""
    return any(held.count(inode) > sqlite.open_connections(inode, writable=True) for inode in set(held))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(400).replace(b"\0", b" ").strip()
        with open(f"/proc/{pid}/comm", "rb") as file:
            return (line or file.read(64).strip()).decode("utf-8", "replace")
    except OSError:
        return "ended meanwhile"


def _could_write(pid: int, inodes: Inodes) -> bool:
    """False for kernel threads and for processes whose user has no right to open the database for writing.

    A process that inherited an open file from a parent with more rights is seen through that parent only.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            flags = int(file.read().rpartition(")")[2].split()[6])
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except (OSError, ValueError, IndexError):
        return False  # ended meanwhile
    if flags & _PF_KTHREAD:
        return False
    if int(fields.get("CapEff", "0"), 16) & _CAP_DAC_OVERRIDE:
        return True
    uids = {int(number) for number in fields["Uid"].split()}
    return any(_may_write(uids, status) for status in inodes.values())


def _may_write(uids: set[int], status: os.stat_result) -> bool:
    # With an access control list the group bits are its mask, so a set bit may mean any listed user.
    return status.st_uid in uids or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
