"""Malformed and hostile directories: one builder per row of the corpus, each with what must be said of it.

A builder gets a scratch directory and a store it may spoil, and returns the path that is to be looked at.
"""

# ruff: noqa: S608 - the statements are made of constants of this file

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.store.hnsw import HEADER, LENGTH, LEVEL0, LINK_LISTS

Build = Callable[[Path, Path], Path]
ID_MAP = "index_metadata.pickle"
MODULE, CLASS = "chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData"


@dataclass(frozen=True)
class Row:
    """One malformed directory.

    ``at`` says where ``codes`` must appear (one of them is enough): "open" when it is opened and read, "write" when a
    writing operation asks, "collection" among the problems of the collection alpha, "segment" among the verdicts of
    its vector segment; "nowhere" when the store must be read as a sound one.
    """

    name: str
    variant: str
    at: str
    codes: tuple[str, ...]
    build: Build

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".strip()


ROWS: list[Row] = []


def row(name: str, variant: str, at: str, *codes: str) -> Callable[[Build], Build]:
    """Register a builder."""

    def register(build: Build) -> Build:
        ROWS.append(Row(name=name, variant=variant, at=at, codes=codes, build=build))
        return build

    return register


def rows(*names: str) -> list[Row]:
    """The rows of these names, all without any."""
    return [entry for entry in ROWS if not names or entry.name in names]


# --- directories ----------------------------------------------------------------------------------------------------


@row("D1", "empty directory", "open", "NOT_CHROMA")
def empty_directory(scratch: Path, _store: Path) -> Path:
    path = scratch / "empty"
    path.mkdir()
    return path


@row("D2", "file", "open", "BAD_PATH")
def path_is_a_file(scratch: Path, _store: Path) -> Path:
    path = scratch / "file"
    path.write_bytes(b"x")
    return path


@row("D2", "fifo", "open", "BAD_PATH")
def path_is_a_fifo(scratch: Path, _store: Path) -> Path:
    path = scratch / "fifo"
    os.mkfifo(path)
    return path


@row("D2", "socket", "open", "BAD_PATH")
def path_is_a_socket(scratch: Path, _store: Path) -> Path:
    path = scratch / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(scratch)  # the path of a socket has at most 107 bytes
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
    return path


@row("D2", "link to a device", "open", "BAD_PATH")
def path_is_a_device(scratch: Path, _store: Path) -> Path:
    path = scratch / "zero"
    path.symlink_to("/dev/zero")
    return path


@row("D2", "database is a fifo", "open", "NOT_CHROMA")
def database_is_a_fifo(scratch: Path, _store: Path) -> Path:
    path = scratch / "pipe"
    path.mkdir()
    os.mkfifo(path / "chroma.sqlite3")
    return path


@row("D2", "nothing", "open", "MISSING")
def nothing_there(scratch: Path, _store: Path) -> Path:
    return scratch / "nothing"


@row("D8", "names", "nowhere")
def strange_names(_scratch: Path, store: Path) -> Path:
    for name in (b"\xff\xfe", b"line\nbreak", "\u202egnp.exe".encode(), b"<img src=x onerror=alert(1)>", b"n" * 255):
        os.mkdir(os.path.join(os.fsencode(store), name))
    (store / "1B4E28BA-2FA1-11D2-883F-0016D3CCA427").mkdir()
    (store / "{1b4e28ba-2fa1-11d2-883f-0016d3cca427}").mkdir()
    return store


# --- the database file ----------------------------------------------------------------------------------------------


@row("Q1", "0 bytes", "open", "SQLITE_EMPTY")
def database_is_empty(_scratch: Path, store: Path) -> Path:
    os.truncate(store / "chroma.sqlite3", 0)
    return store


def _replaced(content: bytes) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        (store / "chroma.sqlite3").write_bytes(content)
        return store

    return build


for _name, _content in (
    ("text", b"hello\n" * 100),
    ("html", b"<!doctype html><html>" + b" " * 200),
    ("zip", b"PK\x03\x04" + b"\0" * 200),
    ("short", b"SQLit"),
):
    row("Q2", _name, "open", "NOT_SQLITE")(_replaced(_content))


def _truncated(size: Callable[[int], int]) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        path = store / "chroma.sqlite3"
        os.truncate(path, size(path.stat().st_size))
        return store

    return build


row("Q3", "half", "open", "CORRUPT")(_truncated(lambda size: size // 2 // 4096 * 4096))
row("Q3", "100 bytes", "open", "CORRUPT")(_truncated(lambda size: 100))
row("Q3", "60 bytes", "open", "CORRUPT")(_truncated(lambda size: 60))
row("Q3", "not a page multiple", "open", "CORRUPT")(_truncated(lambda size: size - 7))


def _interrupted_writer(path: Path) -> None:
    """Kill a process inside a write transaction whose pages have spilled into the file."""
    code = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=5')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute(\"UPDATE embedding_metadata SET string_value = coalesce(string_value, '') || 'x'\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path / "chroma.sqlite3")], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (path / "chroma.sqlite3-journal").stat().st_size > 512


@row("Q5", "hot journal", "open", "NEEDS_RECOVERY")
def hot_journal(_scratch: Path, store: Path) -> Path:
    _interrupted_writer(store)
    return store


@row("Q6", "journal of another store", "open", "NEEDS_RECOVERY")
def foreign_journal(scratch: Path, store: Path) -> Path:
    other = scratch / "other"
    shutil.copytree(store, other)
    _interrupted_writer(other)
    shutil.copy(other / "chroma.sqlite3-journal", store / "chroma.sqlite3-journal")
    return store


@row("Q7", "WAL mode", "open", "WAL_MODE")
def wal_mode(_scratch: Path, store: Path) -> Path:
    with _database(store) as db:
        db.execute("PRAGMA journal_mode=WAL").fetchall()
    assert not (store / "chroma.sqlite3-wal").exists()
    return store


@row("Q7", "WAL mode with a filled -wal", "open", "WAL_MODE")
def wal_mode_in_use(_scratch: Path, store: Path) -> Path:
    code = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode=WAL').fetchall()\n"
        "db.execute(\"INSERT INTO tenants VALUES ('waiting')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store / "chroma.sqlite3")], check=False, timeout=60)
    assert (store / "chroma.sqlite3-wal").stat().st_size > 0
    return store


def _patched(offset: int, content: bytes) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        with (store / "chroma.sqlite3").open("r+b") as file:
            file.seek(offset)
            file.write(content)
        return store

    return build


row("Q13", "page size 64 KiB", "open", "CORRUPT")(_patched(16, b"\0\1"))
row("Q13", "page size 3", "open", "CORRUPT")(_patched(16, b"\0\3"))
row("Q13", "page count 2^32-1", "open", "CORRUPT")(_patched(28, b"\xff\xff\xff\xff"))
row("Q13", "UTF-16", "open", "CORRUPT")(_patched(56, b"\0\0\0\2"))


# --- the schema -----------------------------------------------------------------------------------------------------


def _changed(*statements: str) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        with _database(store) as db:
            for statement in statements:
                db.execute(statement)
        return store

    return build


@row("Q8", "database of another program", "write", "SCHEMA_UNKNOWN", "SCHEMA_HOSTILE")
def other_program(scratch: Path, _store: Path) -> Path:
    path = scratch / "app"
    path.mkdir()
    with _database(path) as db:
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
    return path


@row("Q8", "Chroma 0.3", "open", "NOT_CHROMA")
def chroma_0_3(scratch: Path, _store: Path) -> Path:
    path = scratch / "duckdb"
    path.mkdir()
    (path / "chroma-collections.parquet").write_bytes(b"PAR1")
    (path / "chroma-embeddings.parquet").write_bytes(b"PAR1")
    return path


row("Q8", "no segments table", "write", "SCHEMA_UNKNOWN")(_changed("DROP TABLE segments"))
row("Q8", "no migrations table", "write", "SCHEMA_UNKNOWN", "SCHEMA_HOSTILE")(_changed("DROP TABLE migrations"))
row("Q8", "extra column", "write", "SCHEMA_UNKNOWN")(_changed("ALTER TABLE collections ADD COLUMN colour TEXT"))
row("Q8", "missing column", "write", "SCHEMA_UNKNOWN")(_changed("ALTER TABLE collections DROP COLUMN dimension"))
row("Q8", "future migration", "write", "UNSUPPORTED_VERSION")(
    _changed(
        "INSERT INTO migrations VALUES ('sysdb', 11, '00011-future.sqlite.sql', 'x', "
        "'9dd4e461268c8034f5c8564e155c67a6')"
    )
)
row("Q8", "hash of a migration", "write", "SCHEMA_UNKNOWN")(
    _changed("UPDATE migrations SET hash = 'beef' WHERE version = 1")
)
row("Q9", "trigger", "write", "SCHEMA_HOSTILE")(
    _changed("CREATE TRIGGER t AFTER DELETE ON embeddings_queue BEGIN DELETE FROM embeddings; END")
)
row("Q10", "endless view", "write", "SCHEMA_HOSTILE")(
    _changed(
        "ALTER TABLE collections RENAME TO kept",
        "CREATE VIEW collections AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS id, i AS name, i AS dimension, i AS database_id, NULL AS config_json_str, NULL AS schema_str "
        "FROM n",
    )
)
row("Q10", "virtual table", "write", "SCHEMA_HOSTILE")(
    _changed("DROP TABLE tenants", "CREATE VIRTUAL TABLE tenants USING fts5(id)")
)
row("Q11", "expression index", "write", "SCHEMA_HOSTILE")(_changed("CREATE INDEX e ON collections (lower(name))"))
row("Q11", "partial index", "write", "SCHEMA_HOSTILE")(
    _changed("CREATE INDEX e ON collections (name) WHERE abs(dimension) > 3")
)
row("Q11", "generated column", "write", "SCHEMA_HOSTILE")(
    _changed("ALTER TABLE collections ADD COLUMN g TEXT GENERATED ALWAYS AS (upper(name)) VIRTUAL")
)
row("Q11", "CHECK", "write", "SCHEMA_HOSTILE")(
    _changed("ALTER TABLE collections ADD COLUMN c TEXT CHECK (c IS NULL OR printf('%s', c) <> '')")
)
row("Q11", "DEFAULT expression", "write", "SCHEMA_HOSTILE")(
    _changed(
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'name TEXT NOT NULL', "
        "'name TEXT NOT NULL DEFAULT (load_extension(''/tmp/x''))') WHERE name = 'databases'",
    )
)


# --- values and references ------------------------------------------------------------------------------------------

_ALPHA = "(SELECT id FROM collections WHERE name = 'alpha')"
_ALPHA_VECTOR = f"(SELECT id FROM segments WHERE scope = 'VECTOR' AND collection = {_ALPHA})"

for _name, _statement in (
    ("dimension is text", "UPDATE collections SET dimension = 'abc'"),
    ("dimension -1", "UPDATE collections SET dimension = -1"),
    ("dimension 2^63", "UPDATE collections SET dimension = 9223372036854775808"),
    ("schema is no JSON", "UPDATE collections SET schema_str = '{broken'"),
    ("schema nested 10,000 deep", f"UPDATE collections SET schema_str = '{'[' * 10_000}{']' * 10_000}'"),
    ("schema is a blob", "UPDATE collections SET schema_str = x'00ff'"),
    ("schema is a number", "UPDATE collections SET schema_str = '7'"),
    ("metadata of no type", "INSERT INTO collection_metadata SELECT id, 'bad', NULL, NULL, NULL, 7 FROM collections"),
):
    row("Q16", _name, "collection", "FIELD_INVALID")(_changed(_statement))
for _size in (3, 24):
    row("Q16", f"watermark of {_size} bytes", "nowhere")(
        _changed(f"UPDATE max_seq_id SET seq_id = x'{'11' * _size}' WHERE segment_id = {_ALPHA_VECTOR}")
    )
    row("Q16", f"seq_id of {_size} bytes", "nowhere")(_changed(f"UPDATE embeddings SET seq_id = x'{'11' * _size}'"))
row("Q16", "seq_id of 8 bytes", "nowhere")(_changed("UPDATE embeddings SET seq_id = x'0000000000000007'"))
row("Q16", "id is a blob", "nowhere")(_changed("UPDATE embeddings SET embedding_id = x'00ff41' WHERE id = 1"))
row("Q16", "id is no UTF-8", "nowhere")(
    _changed("UPDATE embeddings SET embedding_id = CAST(x'ff41' AS TEXT) WHERE id = 1")
)
row("Q16", "name is no UTF-8", "nowhere")(
    _changed("UPDATE collections SET name = CAST(x'ff41' AS TEXT) WHERE name = 'beta'")
)

for _name, _statement in (
    (
        "two VECTOR segments",
        "INSERT INTO segments SELECT '99999999-9999-4999-8999-999999999999', type, scope, collection FROM segments "
        "WHERE scope = 'VECTOR'" + f" AND collection = {_ALPHA}",
    ),
    ("no VECTOR segment", f"DELETE FROM segments WHERE id = {_ALPHA_VECTOR}"),
    ("segment id is a path", f"UPDATE segments SET id = '../../etc' WHERE id = {_ALPHA_VECTOR}"),
    ("segment id is no UUID", f"UPDATE segments SET id = upper(id) WHERE id = {_ALPHA_VECTOR}"),
):
    row("Q17", _name, "segment", "REF_BROKEN")(_changed(_statement))
row("Q17", "segment of no collection", "nowhere")(
    _changed(
        "INSERT INTO segments SELECT '99999999-9999-4999-8999-999999999999', type, scope, "
        "'99999999-9999-4999-8999-999999999998' FROM segments LIMIT 1"
    )
)
row("Q17", "database does not exist", "collection", "REF_BROKEN")(
    _changed("UPDATE collections SET database_id = 'gone'")
)


# --- id maps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pickle:
    """A hostile id map: what it is called, its bytes, and the code of the refusal."""

    name: str
    content: bytes
    code: str


def hostile_pickles(canary: Path) -> list[Pickle]:
    """More than sixty files that would run code, take memory or time, or are torn; those with code make ``canary``."""
    command = f"touch {canary}".encode()
    text = struct.pack("<I", len(command)) + command
    unicode_ = b"X" + text
    stub = f"c{MODULE}\n{CLASS}\n".encode()
    sound = pickle.dumps(
        {"total_elements_added": 2, "id_to_label": {"a": 1, "b": 2}, "label_to_id": {1: "a", 2: "b"}}, 3
    )
    state = sound[2:-1]
    forbidden: dict[str, bytes] = {
        "REDUCE os.system": b"cos\nsystem\n" + unicode_ + b"\x85R.",
        "REDUCE posix.system": b"cposix\nsystem\n" + unicode_ + b"\x85R.",
        "REDUCE subprocess": b"csubprocess\nPopen\n" + unicode_ + b"\x85R.",
        "REDUCE eval": b"cbuiltins\neval\n" + unicode_ + b"\x85R.",
        "REDUCE exec": b"cbuiltins\nexec\n" + unicode_ + b"\x85R.",
        "REDUCE getattr": b"cbuiltins\ngetattr\n" + unicode_ + unicode_ + b"\x86R.",
        "REDUCE __import__": b"cbuiltins\n__import__\nX\x02\0\0\0os\x85R.",
        "REDUCE inside a dict": b"}X\x01\0\0\0acos\nsystem\n" + unicode_ + b"\x85Rs.",
        "REDUCE of the stub": stub + b")R.",
        "REDUCE of the stub with arguments": stub + unicode_ + b"\x85R.",
        "INST os.system": b"(" + unicode_ + b"ios\nsystem\n.",
        "INST of the stub": b"(i" + f"{MODULE}\n{CLASS}\n".encode() + b".",
        "OBJ": b"(cos\nsystem\n" + unicode_ + b"o.",
        "OBJ of the stub": b"(" + stub + b"o.",
        "NEWOBJ of another class": b"cbuiltins\nset\n)\x81.",
        "NEWOBJ with arguments": stub + unicode_ + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "NEWOBJ_EX of the stub with arguments": b"\x80\x04" + stub + b")}X\x01\0\0\0aK\x01s\x92.",
        "two objects": stub + b")\x81" + stub + b")\x81\x86.",
        "object inside the map": b"}X\x01\0\0\0a" + stub + b")\x81s.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + unicode_ + b"\x85R.",
        "STACK_GLOBAL of another attribute": b"\x80\x04\x8c"
        + bytes([len(MODULE)])
        + MODULE.encode()
        + b"\x8c\x04json\x93.",
        "GLOBAL alone": b"cos\nsystem\n.",
        "GLOBAL of chromadb": b"cchromadb\nPersistentClient\n)R.",
        "GLOBAL of a dotted name": b"\x80\x04\x8c"
        + bytes([len(MODULE)])
        + MODULE.encode()
        + b"\x8c\x17PersistentData.__init__\x93.",
        "BUILD with an extra attribute": stub + b")\x81}X\x04\0\0\0evilK\x01sb.",
        "BUILD with __class__": stub + b")\x81}X\x09\0\0\0__class__K\x01sb.",
        "BUILD with slots": stub + b")\x81N}X\x01\0\0\0aK\x01s\x86b.",
        "BUILD with a list": stub + b")\x81]b.",
        "BUILD twice": stub + b")\x81" + state + b"b" + state + b"b.",
        "BUILD on the class": stub + state + b"b.",
        "PERSID": b"Pevil\n.",
        "BINPERSID": b"K\x01Q.",
        "EXT1": b"\x82\x05.",
        "EXT2": b"\x83\x05\x06.",
        "EXT4": b"\x84\x05\x06\x07\x08.",
        "EXT1 of zero": b"\x82\x00.",
        "NEXT_BUFFER": b"\x80\x05\x97.",
    }
    large: dict[str, bytes] = {
        "memo of 2^32": b"\x80\x02Nr\xff\xff\xff\xff.",
        "LONG_BINPUT of 2^31": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "LONG4 of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "BINUNICODE8 of 2^60": b"\x80\x04\x8d" + struct.pack("<Q", 2**60),
        "BINUNICODE8 above 2^63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 + 9),
        "BINUNICODE of 4 GiB": b"X\xff\xff\xff\xff",
        "BINBYTES of 2 GiB": b"\x80\x03B\xff\xff\xff\x7f",
        "BINBYTES8 of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60),
        "BYTEARRAY8 of 2^60": b"\x80\x05\x96" + struct.pack("<Q", 2**60),
        "FRAME of 2^50": b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"}.",
        "FRAME above 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63 + 9) + b"}.",
        "tuples 200,000 deep": b"(" * 200_000 + b"t" * 200_000 + b".",
        "lists 200,000 deep": b"]" * 200_000 + b"a" * 199_999 + b".",
        "a deep key": b"}" + b"(" * 200_000 + b"t" * 200_000 + b"Ns.",
        "a deep value": b"}X\x0b\0\0\0id_to_label"
        + b"(" * 200_000
        + b"t" * 200_000
        + b"s"
        + b"X\x0b\0\0\0label_to_id}sX\x14\0\0\0total_elements_addedK\x00s.",
    }
    torn: dict[str, bytes] = {
        "0 bytes": b"",
        "trailing byte": sound + b"\0",
        "two pickles": sound + sound,
        "text": b"not a pickle at all",
        "no STOP": sound[:-1],
        "a list": b"].",
        "None": b"N.",
        "a number": b"K\x07.",
        "an empty dict": b"}.",
        "unknown key": pickle.dumps({"total_elements_added": 0, "id_to_label": {}, "label_to_id": {}, "more": 1}, 3),
        "counter is text": pickle.dumps({"total_elements_added": "2", "id_to_label": {}, "label_to_id": {}}, 3),
        "counter is a bool": pickle.dumps({"total_elements_added": True, "id_to_label": {}, "label_to_id": {}}, 3),
        "counter is negative": pickle.dumps({"total_elements_added": -1, "id_to_label": {}, "label_to_id": {}}, 3),
        "counter of 2^64": pickle.dumps({"total_elements_added": 2**64, "id_to_label": {}, "label_to_id": {}}, 3),
        "label is text": pickle.dumps({"total_elements_added": 1, "id_to_label": {"a": "1"}, "label_to_id": {}}, 3),
        "label is negative": pickle.dumps({"total_elements_added": 1, "id_to_label": {"a": -1}, "label_to_id": {}}, 3),
        "id is a number": pickle.dumps({"total_elements_added": 1, "id_to_label": {1: 1}, "label_to_id": {}}, 3),
        "map is a list": pickle.dumps({"total_elements_added": 1, "id_to_label": [], "label_to_id": {}}, 3),
        "memo that was never put": b"h\x07.",
        "a long line": b"I" + b"1" * 300_000,
    }
    made = [Pickle(name, content, "PICKLE_FORBIDDEN") for name, content in forbidden.items()]
    made += [Pickle(name, content, "PICKLE_LIMIT") for name, content in large.items()]
    made += [Pickle(name, content, "PICKLE_TORN") for name, content in torn.items()]
    made += [Pickle(f"cut after {cut}", sound[:cut], "PICKLE_TORN") for cut in range(1, len(sound), len(sound) // 19)]
    return made


def _id_map(content: bytes) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        (index_of(store) / ID_MAP).write_bytes(content)
        return store

    return build


row("P1", "REDUCE", "segment", "PICKLE_FORBIDDEN")(_id_map(b"cos\nsystem\nX\x04\0\0\0true\x85R."))
row("P2", "persistent id", "segment", "PICKLE_FORBIDDEN")(_id_map(b"Pevil\n."))
row("P2", "extension", "segment", "PICKLE_FORBIDDEN")(_id_map(b"\x83\x05\x06."))
row("P3", "memo", "segment", "PICKLE_LIMIT")(_id_map(b"\x80\x02Nr\xff\xff\xff\xff."))
row("P4", "nesting", "segment", "PICKLE_LIMIT")(_id_map(b"(" * 200_000 + b"t" * 200_000 + b"."))
row("P5", "0 bytes", "segment", "PICKLE_TORN")(_id_map(b""))


@row("P5", "half", "segment", "PICKLE_TORN")
def id_map_half(_scratch: Path, store: Path) -> Path:
    path = index_of(store) / ID_MAP
    os.truncate(path, path.stat().st_size // 2)
    return store


@row("P5", "trailing garbage", "segment", "PICKLE_TORN")
def id_map_with_garbage(_scratch: Path, store: Path) -> Path:
    with (index_of(store) / ID_MAP).open("ab") as file:
        file.write(b"garbage")
    return store


@row("P6", "missing", "segment", "INDEX_METADATA_MISSING")
def id_map_missing(_scratch: Path, store: Path) -> Path:
    (index_of(store) / ID_MAP).unlink()
    return store


# --- index files ----------------------------------------------------------------------------------------------------


@row("X1", "directory missing", "segment", "INDEX_MISSING")
def index_missing(_scratch: Path, store: Path) -> Path:
    shutil.rmtree(index_of(store))
    return store


@row("X1", "directory empty", "segment", "INDEX_MISSING")
def index_empty(_scratch: Path, store: Path) -> Path:
    for file in index_of(store).iterdir():
        file.unlink()
    return store


def _resized(name: str, size: Callable[[int], int] | None) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        path = index_of(store) / name
        if size is None:
            path.unlink()
        else:
            os.truncate(path, size(path.stat().st_size))
        return store

    return build


for _name in (HEADER, LEVEL0, LENGTH, LINK_LISTS):
    for _variant, _size in (
        ("missing", None),
        ("0 bytes", lambda size: 0),
        ("half", lambda size: size // 2),
        ("doubled", lambda size: size * 2),
    ):
        row("X2", f"{_name} {_variant}", "segment", "INDEX_TORN", "INDEX_HEADER_INVALID")(_resized(_name, _size))


def _header(offset: int, kind: str, value: int) -> Build:
    def build(_scratch: Path, store: Path) -> Path:
        with (index_of(store) / HEADER).open("r+b") as file:
            file.seek(offset)
            file.write(struct.pack(kind, value))
        return store

    return build


for _name, _offset, _kind, _value in (
    ("version 2", 0, "<i", 2),
    ("offset of level 0", 4, "<Q", 64),
    ("2^63 allocated", 12, "<Q", 2**63),
    ("10^6 elements", 20, "<Q", 10**6),
    ("slot size", 28, "<Q", 2**40),
    ("label offset", 36, "<Q", 2**60),
    ("data offset", 44, "<Q", 2**62),
    ("entry point", 56, "<I", 2**31),
    ("M of 2^31", 76, "<Q", 2**31),
    ("M of 0", 76, "<Q", 0),
):
    row("X3", _name, "segment", "INDEX_HEADER_INVALID")(_header(_offset, _kind, _value))


# --- links ----------------------------------------------------------------------------------------------------------


def _linked(target: Callable[[Path, Path], str]) -> Build:
    def build(scratch: Path, store: Path) -> Path:
        index = index_of(store)
        moved = scratch / "moved"
        index.rename(moved)
        index.symlink_to(target(scratch, store))
        return store

    return build


row("S1", "to /etc", "segment", "SYMLINK")(_linked(lambda scratch, store: "/etc"))
row("S1", "to a victim", "segment", "SYMLINK")(_linked(lambda scratch, store: str(scratch / "moved")))
row("S1", "to .", "segment", "SYMLINK")(_linked(lambda scratch, store: "."))
row("S1", "loop", "segment", "SYMLINK")(_linked(lambda scratch, store: index_of(store, existing=False).name))
row("S1", "dangling", "segment", "SYMLINK")(_linked(lambda scratch, store: "nowhere"))


@row("S1", "orphan link", "nowhere")
def orphan_link(scratch: Path, store: Path) -> Path:
    victim = scratch / "victim"
    shutil.copytree(index_of(store), victim)
    (store / "99999999-9999-4999-8999-999999999999").symlink_to(victim)
    return store


@row("S2", "linked database", "open", "SYMLINK")
def linked_database(scratch: Path, store: Path) -> Path:
    moved = scratch / "moved.sqlite3"
    (store / "chroma.sqlite3").rename(moved)
    (store / "chroma.sqlite3").symlink_to(moved)
    return store


@row("S2", "hard link of the database", "open", "MULTI_LINK")
def hard_linked_database(scratch: Path, store: Path) -> Path:
    os.link(store / "chroma.sqlite3", scratch / "second.sqlite3")
    return store


@row("S2", "linked index file", "segment", "SYMLINK")
def linked_index_file(scratch: Path, store: Path) -> Path:
    path = index_of(store) / HEADER
    path.rename(scratch / HEADER)
    path.symlink_to(scratch / HEADER)
    return store


@row("S2", "linked id map", "segment", "SYMLINK")
def linked_id_map(scratch: Path, store: Path) -> Path:
    path = index_of(store) / ID_MAP
    path.rename(scratch / ID_MAP)
    path.symlink_to(scratch / ID_MAP)
    return store


def unreadable_directory(store: Path) -> Path:
    """D5: nobody but root can read it; look at it as another user."""
    store.chmod(0o000)
    return store


def read_only_directory(store: Path) -> Path:
    """D6: a directory and a database that can not be written; look at it as another user."""
    for folder, _directories, files in os.walk(store):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)  # noqa: S103
    return store


# --- parts ----------------------------------------------------------------------------------------------------------


def index_of(store: Path, name: str = "alpha", *, existing: bool = True) -> Path:
    """The directory of the VECTOR segment of a collection."""
    with _database(store) as db:
        statement = (
            "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection "
            "WHERE c.name = ? AND s.scope = 'VECTOR'"
        )
        path = store / db.execute(statement, (name,)).fetchone()[0]
    assert path.is_dir() or not existing
    return path


class _database:  # noqa: N801 - used as a function
    """A connection that is committed and closed at its end."""

    def __init__(self, store: Path) -> None:
        self.db = sqlite3.connect(store / "chroma.sqlite3", isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        return self.db

    def __exit__(self, *_: object) -> None:
        self.db.close()
