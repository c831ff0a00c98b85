"""Connections to chroma.sqlite3: what they refuse, what they can not do, what errors become."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

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
    SqliteEmpty,
    Symlink,
    WalMode,
)
from ops.store import sqlite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chroma.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);"
        "CREATE VIRTUAL TABLE f USING fts5(text, tokenize='trigram');"
        "INSERT INTO t (text) VALUES ('one'), ('two');"
        "INSERT INTO f (text) VALUES ('a document');"
    )
    connection.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 500,)] * 400)
    connection.commit()
    connection.close()
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as target:
        target.seek(offset)
        target.write(data)


def listing(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    return {
        entry.name: (entry.stat().st_ino, entry.stat().st_size, entry.stat().st_mtime_ns, entry.stat().st_ctime_ns)
        for entry in os.scandir(directory)
    }


def test_reading(file: Path) -> None:
    before = listing(file.parent)
    connection = sqlite.open_readonly(file)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (402,)
    assert connection.execute("SELECT count(*) FROM f WHERE text LIKE '%docu%'").fetchone() == (1,)
    assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()
    assert listing(file.parent) == before


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t (text) VALUES ('x')",
        "DELETE FROM t",
        "CREATE TABLE u (x)",
        "DROP TABLE t",
        "ATTACH DATABASE ':memory:' AS other",
        "PRAGMA query_only=OFF",
        "PRAGMA writable_schema=ON",
        "PRAGMA journal_mode=WAL",
        "PRAGMA user_version=7",
        "SELECT load_extension('x')",
        "SELECT randomblob(1000000000)",
        "VACUUM",
        "INSERT INTO f (f) VALUES ('rebuild')",
    ],
)
def test_a_reader_can_not(file: Path, statement: str) -> None:
    before = listing(file.parent)
    connection = sqlite.open_readonly(file)
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute(statement)
    connection.close()
    assert listing(file.parent) == before


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH DATABASE '/tmp/other' AS other",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE VIEW v AS SELECT 1",
        "PRAGMA writable_schema=ON",
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=OFF",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('x')",
        "VACUUM INTO '/tmp/other'",
        "CREATE VIRTUAL TABLE g USING rtree(a, b, c)",
    ],
)
def test_a_writer_can_not(file: Path, statement: str) -> None:
    connection = sqlite.open_writable(file)
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute(statement)
    connection.close()


def test_a_writer_can_change_rows_rebuild_fts_and_vacuum(file: Path) -> None:
    connection = sqlite.open_writable(file)
    with sqlite.atomic(connection):
        connection.execute("DELETE FROM t WHERE id > 2")
        connection.execute("DROP TABLE f")
        connection.execute("CREATE VIRTUAL TABLE f USING fts5(text, tokenize='unicode61')")
    connection.execute("VACUUM")
    connection.close()
    assert not (file.parent / "chroma.sqlite3-journal").exists()


def test_atomic_rolls_back(file: Path) -> None:
    connection = sqlite.open_writable(file)

    def interrupted() -> None:
        with sqlite.atomic(connection):
            connection.execute("DELETE FROM t")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (402,)
    connection.close()


def test_refused_by_the_header(tmp_path: Path, file: Path) -> None:
    cases: list[tuple[type[OpsError], bytes | None]] = [
        (SqliteEmpty, b""),
        (NotSqlite, b"<html>" + b"x" * 4090),
        (Corrupt, file.read_bytes()[:60]),
        (Corrupt, file.read_bytes()[:5000]),
        (Missing, None),
    ]
    for number, (error, data) in enumerate(cases):
        path = tmp_path / f"case{number}"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(error):
            sqlite.open_readonly(path)
        assert path.exists() is (data is not None)
        if data is not None:
            assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("offset", "data", "error"),
    [
        (16, b"\x00\x01", Corrupt),  # page size 65536, of which the file is no multiple
        (16, b"\x00\x03", Corrupt),
        (18, b"\x02\x02", WalMode),
        (56, b"\x00\x00\x00\x02", Corrupt),  # UTF-16
        (4096 * 0 + 100, b"\xff" * 200, Corrupt),  # the schema page
    ],
)
def test_a_lying_header(file: Path, offset: int, data: bytes, error: type[OpsError]) -> None:
    patch(file, offset, data)
    before = listing(file.parent)
    with pytest.raises(error):
        sqlite.open_readonly(file)
    assert listing(file.parent) == before


def test_links(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(Symlink):
        sqlite.open_readonly(tmp_path / "link")
    os.link(file, tmp_path / "second")
    with pytest.raises(MultiLink):
        sqlite.open_readonly(file)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "chroma.sqlite3"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(NotSqlite):
        sqlite.open_readonly(path)


def test_a_hot_journal_is_left_as_it_is(file: Path) -> None:
    kill_inside_a_transaction(file)
    journal = Path(f"{file}-journal")
    bytes_before, before = journal.read_bytes(), listing(file.parent)
    assert sqlite.journal_state(file) == "filled"
    for _ in range(3):
        with pytest.raises(NeedsRecovery):
            sqlite.open_readonly(file)
    assert journal.read_bytes() == bytes_before
    assert listing(file.parent) == before
    sqlite.open_writable(file).close()
    assert not journal.exists()


def kill_inside_a_transaction(path: Path) -> None:
    """A process that dies with changed pages in the file, so that its journal is hot."""
    script = (
        "import sqlite3, os, signal, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE t SET text = text || ?', ('y' * 100,))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_writer_at_work_is_no_hot_journal(file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE t SET text = 'z' WHERE id = 1")
    connection = sqlite.open_readonly(file)
    assert connection.execute("SELECT text FROM t WHERE id = 1").fetchone() == ("one",)
    connection.close()
    other.close()


def test_the_deadline(file: Path) -> None:
    connection = sqlite.open_readonly(file, deadline_s=0.2)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"), sqlite.sqlite_errors(file):
        connection.execute(endless).fetchone()
    connection.close()


def test_errors_have_codes(file: Path) -> None:
    connection = sqlite.open_readonly(file)
    with pytest.raises(Corrupt), sqlite.sqlite_errors(file):
        connection.execute("SELECT * FROM not_there")
    connection.close()
    writer = sqlite.open_writable(file)
    writer.execute("BEGIN IMMEDIATE")
    other = sqlite3.connect(file, timeout=0.01, isolation_level=None)
    with pytest.raises(Busy), sqlite.sqlite_errors(file):
        other.execute("BEGIN IMMEDIATE")
    writer.execute("ROLLBACK")
    writer.close()
    other.execute("PRAGMA max_page_count=1")
    with pytest.raises(IoFailed, match="no space"), sqlite.sqlite_errors(file):
        other.execute("INSERT INTO t SELECT NULL, hex(zeroblob(100000))")
    other.close()


def test_the_file_is_not_opened_beside_a_connection(file: Path) -> None:
    """Closing any descriptor of the file would drop this process's locks on it."""
    writer = sqlite.open_writable(file)
    writer.execute("BEGIN IMMEDIATE")
    sqlite.open_readonly(file).close()
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    assert sqlite.open_connections(sqlite.check_header(file)) == 1
    writer.close()
    assert sqlite.open_connections(sqlite.check_header(file)) == 0


def test_text_that_is_not_utf8(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("INSERT INTO t (id, text) VALUES (9999, CAST(x'ff41' AS TEXT))")
    other.commit()
    other.close()
    connection = sqlite.open_readonly(file)
    assert connection.execute("SELECT text FROM t WHERE id = 9999").fetchone() == ("\udcffA",)
    connection.close()


def test_a_path_with_odd_characters(file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a?mode=rwc#%41 ü"
    odd.mkdir()
    shutil.copy(file, odd / "chroma.sqlite3")
    connection = sqlite.open_readonly(odd / "chroma.sqlite3")
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (402,)
    connection.close()
