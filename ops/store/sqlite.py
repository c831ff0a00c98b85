"""Hardened connections to ``chroma.sqlite3``: read-only for readers, read-write for operations, errors mapped."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ops.errors import (
    Busy,
    Corrupt,
    DeadlineExceeded,
    IoFailed,
    Missing,
    MultiLink,
    NeedsRecovery,
    NotSqlite,
    OpsError,
    ReadOnly,
    SqliteEmpty,
    Symlink,
    Unreadable,
    WalMode,
)

BUSY_TIMEOUT_S = 30.0
READER_TIMEOUT_S = 5.0
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_PROGRESS_OPCODES = 1000
_RESERVED_BYTE = 0x40000001
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid

_READ_PRAGMAS = frozenset(
    {
        "application_id",
        "auto_vacuum",
        "compile_options",
        "data_version",
        "encoding",
        "freelist_count",
        "journal_mode",
        "page_count",
        "page_size",
        "schema_version",
        "user_version",
    }
)
_READ_PRAGMAS_WITH_ARGUMENT = frozenset(
    {
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_FUNCTIONS = frozenset(
    {
        "->",
        "->>",
        "abs",
        "avg",
        "cast",
        "changes",
        "char",
        "coalesce",
        "count",
        "date",
        "datetime",
        "dense_rank",
        "first_value",
        "format",
        "glob",
        "group_concat",
        "hex",
        "ifnull",
        "iif",
        "instr",
        "json",
        "json_array_length",
        "json_each",
        "json_extract",
        "json_group_array",
        "json_group_object",
        "json_remove",
        "json_set",
        "json_tree",
        "json_type",
        "json_valid",
        "julianday",
        "lag",
        "last_insert_rowid",
        "last_value",
        "lead",
        "length",
        "like",
        "lower",
        "ltrim",
        "match",
        "max",
        "min",
        "nullif",
        "octet_length",
        "printf",
        "quote",
        "random",
        "rank",
        "replace",
        "round",
        "row_number",
        "rtrim",
        "sqlite_version",
        "strftime",
        "substr",
        "substring",
        "sum",
        "time",
        "total",
        "total_changes",
        "trim",
        "typeof",
        "unicode",
        "unixepoch",
        "upper",
    }
)
_READ_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
)
_DENIED_TO_WRITERS = frozenset(
    {
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_DROP_TEMP_TRIGGER,
        sqlite3.SQLITE_DROP_TEMP_VIEW,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_DROP_VIEW,
    }
)
_DENIED_FUNCTIONS = frozenset({"edit", "fts3_tokenizer", "load_extension", "readfile", "writefile"})


class Connection(sqlite3.Connection):
    """A connection that knows its file, so that the process never opens that file beside it (``open_connections``)."""

    store_path: str = ""
    inode: tuple[int, int] = (0, 0)
    deadline_s: float | None = None
    writable: bool = False

    def close(self) -> None:
        """Close and forget."""
        _OPEN.discard(self)
        super().close()


_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()


def open_connections(inode: tuple[int, int], *, writable: bool | None = None) -> int:
    """How many connections of this process are open on the file ``(device, inode)``."""
    return sum(
        1 for connection in _OPEN if connection.inode == inode and (writable is None or connection.writable is writable)
    )


def open_readonly(path: Path, *, deadline_s: float | None = None) -> sqlite3.Connection:
    """A connection that can only read. ``deadline_s`` counts from now, for all its statements together.

    Raises MISSING, UNREADABLE, SYMLINK, MULTI_LINK, SQLITE_EMPTY, NOT_SQLITE, WAL_MODE, CORRUPT (by the header, before
    SQLite sees the file) and NEEDS_RECOVERY (a hot journal, which SQLite in ``mode=ro`` refuses to roll back).
    """
    inode = check_header(path)
    _refuse_hot_journal(path, inode)
    connection = _connect(path, "ro", inode, READER_TIMEOUT_S)
    connection.deadline_s = deadline_s
    try:
        for pragma in (
            "PRAGMA query_only=ON",
            "PRAGMA trusted_schema=OFF",
            "PRAGMA cell_size_check=ON",
            "PRAGMA mmap_size=0",
            "PRAGMA temp_store=MEMORY",
        ):
            connection.execute(pragma)
        connection.set_authorizer(_authorize_reader)
        if deadline_s is not None:
            end = time.monotonic() + deadline_s
            connection.set_progress_handler(lambda: int(time.monotonic() > end), _PROGRESS_OPCODES)
        _first_read(connection, path, inode)
    except (OpsError, sqlite3.Error):
        connection.close()
        raise
    return connection


def open_writable(path: Path) -> sqlite3.Connection:
    """A connection for the commit of an operation: manual transactions, synchronous EXTRA, busy timeout 30 s.

    Opening it rolls back a hot journal (SQLite does), so callers look for one first (``journal_state``).
    """
    inode = check_header(path)
    connection = _connect(path, "rw", inode, BUSY_TIMEOUT_S)
    connection.writable = True
    try:
        with sqlite_errors(path):
            for pragma in (
                "PRAGMA synchronous=EXTRA",
                "PRAGMA trusted_schema=OFF",
                "PRAGMA foreign_keys=OFF",
                "PRAGMA cell_size_check=ON",
                "PRAGMA mmap_size=0",
                "PRAGMA recursive_triggers=OFF",
            ):
                connection.execute(pragma)
        connection.set_authorizer(_authorize_writer)
        _first_read(connection, path, inode)
    except (OpsError, sqlite3.Error):
        connection.close()
        raise
    return connection


@contextmanager
def atomic(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """``BEGIN IMMEDIATE`` … ``COMMIT``; ``ROLLBACK`` when the body or the commit fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise the ``OpsError`` that a ``sqlite3.Error`` of the body means for the file at ``path``."""
    try:
        yield
    except sqlite3.Error as error:
        raise _ops_error(error, path) from error


def check_header(path: Path) -> tuple[int, int]:
    """Look at the first 100 bytes and close the file again; returns (device, inode).

    Where this process already has the file open through SQLite it is only stat'ed: closing any descriptor of a file
    drops the POSIX locks that the process holds on it.
    """
    status = _lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotSqlite(path=path)
    if status.st_nlink > 1:
        raise MultiLink(path=path, links=status.st_nlink)
    inode = (status.st_dev, status.st_ino)
    if open_connections(inode):
        return inode
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise Unreadable(path=path, why=error.strerror, uid=os.geteuid()) from error
    except OSError as error:
        raise IoFailed(what=f"Opening {path}", why=error.strerror) from error
    try:
        opened = os.fstat(descriptor)
        if (opened.st_dev, opened.st_ino) != inode:
            raise IoFailed(what=f"Opening {path}", why="another file took its place meanwhile")
        header = os.pread(descriptor, _HEADER_BYTES, 0)
        size_bytes = opened.st_size
    except OSError as error:
        raise IoFailed(what=f"Reading {path}", why=error.strerror) from error
    finally:
        os.close(descriptor)
    _check_header_bytes(path, header, size_bytes)
    return inode


def journal_state(path: Path) -> str:
    """What lies at ``<path>-journal``: "absent", "idle" (empty or zeroed header) or "filled".

    A filled journal is hot unless a writer is at work now; only SQLite, which asks for its locks, can tell these apart.
    """
    journal = Path(f"{path}-journal")
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        if os.path.islink(journal):
            raise Symlink(path=journal) from error
        raise Unreadable(path=journal, why=error.strerror, uid=os.geteuid()) from error
    try:
        return "filled" if os.pread(descriptor, 1, 0) not in (b"", b"\0") else "idle"
    finally:
        os.close(descriptor)


def _refuse_hot_journal(path: Path, inode: tuple[int, int]) -> None:
    """Raise NEEDS_RECOVERY for a filled journal beside which no process holds SQLite's RESERVED lock.

    SQLite would say the same, but run as root it gives the journal its owner anew on opening it, which moves its ctime.
    """
    journal = Path(f"{path}-journal")
    if open_connections(inode) or journal_state(path) != "filled":
        return
    try:
        before = os.lstat(journal).st_ino
        if _is_reserved(path):
            return
        # A journal lives inside the time its writer holds the lock, so this one has no writer.
        still = os.lstat(journal).st_ino == before
    except FileNotFoundError:
        return
    if still and journal_state(path) == "filled":
        raise NeedsRecovery(path=path)


def _is_reserved(path: Path) -> bool:
    """Whether another process holds the RESERVED byte of a database file (https://sqlite.org/lockingv3.html)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _RESERVED_BYTE, 1, 0)
        kind: int = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
    finally:
        os.close(descriptor)
    return kind != fcntl.F_UNLCK


def _lstat(path: Path) -> os.stat_result:
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        raise Missing(path=path) from error
    except OSError as error:
        raise Unreadable(path=path, why=error.strerror, uid=os.geteuid()) from error
    if stat.S_ISLNK(status.st_mode):
        raise Symlink(path=path)
    return status


def _check_header_bytes(path: Path, header: bytes, size_bytes: int) -> None:
    if size_bytes == 0:
        raise SqliteEmpty(path=path)
    if header[:16] != _MAGIC:
        raise NotSqlite(path=path)
    if len(header) < _HEADER_BYTES:
        raise Corrupt(path=path, why=f"it ends inside its header, after {size_bytes} bytes")
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    if page_size < 512 or page_size & (page_size - 1):
        raise Corrupt(path=path, why=f"its header claims a page size of {page_size}")
    if 2 in (header[18], header[19]):
        raise WalMode(path=path)
    if size_bytes % page_size and journal_state(path) != "filled":
        raise Corrupt(path=path, why=f"its {size_bytes} bytes are not a multiple of the page size {page_size}")
    if header[56:60] not in (b"\0\0\0\0", b"\0\0\0\1"):
        raise Corrupt(path=path, why="its header claims a text encoding other than UTF-8, which every release uses")


def _connect(path: Path, mode: str, inode: tuple[int, int], timeout_s: float) -> Connection:
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode={mode}"
    with sqlite_errors(path):
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, factory=Connection, cached_statements=64, timeout=timeout_s
        )
    assert isinstance(connection, Connection)  # noqa: S101 - tells mypy what the factory made
    connection.store_path = os.fspath(path)
    connection.inode = inode
    connection.text_factory = _text
    _OPEN.add(connection)
    return connection


def _first_read(connection: Connection, path: Path, inode: tuple[int, int]) -> None:
    """Read the schema once, so that a damaged file or a hot journal shows here, and see which file was opened."""
    with sqlite_errors(path):
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    status = _lstat(path)
    if (status.st_dev, status.st_ino) != inode or not _has_open(inode):
        raise IoFailed(what=f"Opening {path}", why="another file took its place meanwhile")


def _has_open(inode: tuple[int, int]) -> bool:
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if (status.st_dev, status.st_ino) == inode:
            return True
    return False


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _authorize_reader(
    action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None
) -> int:
    if action in _READ_ACTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if (second or "").lower() in _FUNCTIONS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_PRAGMA:
        return _authorize_pragma(first, second)
    if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
        # Asked when SQLite declares the columns of a virtual table while it opens it. Nothing is written by that, and
        # nothing could be: the connection is mode=ro and query_only.
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _authorize_writer(
    action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None
) -> int:
    if action in _DENIED_TO_WRITERS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_ATTACH:
        # VACUUM attaches a nameless temporary file; nothing else may be attached.
        return sqlite3.SQLITE_OK if first == "" else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() in _DENIED_FUNCTIONS else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA:
        return _authorize_pragma(first, second)
    if action == sqlite3.SQLITE_CREATE_VTABLE:
        return sqlite3.SQLITE_OK if (second or "").lower() == "fts5" else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _authorize_pragma(name: str | None, argument: str | None) -> int:
    pragma = (name or "").lower()
    if pragma in _READ_PRAGMAS_WITH_ARGUMENT or (pragma in _READ_PRAGMAS and argument is None):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _ops_error(error: sqlite3.Error, path: Path) -> OpsError:
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error)
    if code is None:
        # Raised by the Python module itself, not by SQLite: a wrong use of it, which is a bug here.
        raise error
    primary = code & 0xFF
    by_code: dict[int, OpsError] = {
        sqlite3.SQLITE_CORRUPT: Corrupt(path=path, why=text),
        sqlite3.SQLITE_FORMAT: Corrupt(path=path, why=text),
        sqlite3.SQLITE_NOTADB: NotSqlite(path=path),
        sqlite3.SQLITE_BUSY: Busy(seconds=f"{BUSY_TIMEOUT_S:.0f}"),
        sqlite3.SQLITE_LOCKED: Busy(seconds=f"{BUSY_TIMEOUT_S:.0f}"),
        sqlite3.SQLITE_PERM: Unreadable(path=path, why=text, uid=os.geteuid()),
        sqlite3.SQLITE_CANTOPEN: Unreadable(path=path, why=text, uid=os.geteuid()),
        sqlite3.SQLITE_FULL: IoFailed(what=f"Writing {path}", why="there is no space left"),
        sqlite3.SQLITE_IOERR: IoFailed(what=f"A read or write of {path}", why=text),
        sqlite3.SQLITE_NOMEM: IoFailed(what=f"Reading {path}", why="there was not enough memory"),
        sqlite3.SQLITE_TOOBIG: Corrupt(path=path, why=text),
    }
    if code in (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_BUSY_RECOVERY):
        return NeedsRecovery(path=path)
    if primary == sqlite3.SQLITE_READONLY:
        return ReadOnly(path=path, why=text)
    if primary == sqlite3.SQLITE_INTERRUPT:
        return DeadlineExceeded(seconds=_deadline_of(path))
    if primary in by_code:
        return by_code[primary]
    if primary == sqlite3.SQLITE_ERROR and ("no such" in text or "malformed" in text or "vtable" in text):
        return Corrupt(path=path, why=text)
    raise error


def _deadline_of(path: Path) -> str:
    deadlines = [c.deadline_s for c in _OPEN if c.store_path == os.fspath(path) and c.deadline_s is not None]
    return f"{deadlines[-1]:g}" if deadlines else "0"
