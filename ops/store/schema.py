"""Which Chroma release made a store, what its tables look like, and what in it no release makes.

The family is told from the rows of ``migrations``, never from an installed chromadb. Every object of ``sqlite_master``
is compared with an allow-list per migration set before anything is read through it: a view called ``collections`` is
refused before the first SELECT, a trigger is named before the first write.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ops.errors import SchemaHostile, SchemaUnknown, UnsupportedVersion
from ops.store.sqlite import sqlite_errors
from ops.store.text import visible

DIRECTORIES = ("embeddings_queue", "metadb", "sysdb")
NEWEST: Mapping[str, int] = {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}
FTS_TABLE = "embedding_fulltext_search"
_MAX_OBJECTS = 2000
_MAX_SQL = 20_000
_MAX_MIGRATIONS = 500


@dataclass(frozen=True, kw_only=True)
class Family:
    """Stores whose tables have the same shape. All facts follow from the numbers of the three migration sets.

    ``releases`` names the Chroma releases that write it, ``writable`` says whether this version of ours may.
    """

    name: str
    releases: str
    writable: bool
    int_seq_ids: bool  # max_seq_id and new embeddings.seq_id are integers, else 8-byte big endian blobs
    arrays: bool  # embedding_metadata_array
    schema_str: bool  # collections.schema_str
    config_json_str: bool  # collections.config_json_str
    topic_columns: bool  # collections.topic and segments.topic
    databases: bool  # tenants and databases
    bool_values: bool  # embedding_metadata.bool_value
    catalogue_bool_values: bool  # bool_value of collection_metadata and segment_metadata
    queue_config: bool  # embeddings_queue_config
    maintenance_log: bool
    watermark_in_id_map: bool  # the VECTOR watermark may stand in the id map only (before 0.5.6)
    initial_slots: int  # what Chroma allocates for a new index
    ef_search: int  # what Chroma takes where no value is stored


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What ``sqlite_master`` and ``migrations`` say.

    ``family`` is None when the store is not exactly what a known release writes; ``shape`` has the facts readers need
    in any case. ``foreign_objects`` are what no release makes (with visible escapes), ``differences`` sentences on what
    is missing or changed. ``readable`` are the ordinary tables that may be read through.
    """

    family: Family | None
    shape: Family
    migrations: Mapping[str, int]
    releases: str
    newer: bool
    foreign_objects: tuple[str, ...]
    differences: tuple[str, ...]
    fts_tokenizer: str
    readable: frozenset[str]
    unreadable: Mapping[str, str]

    def has(self, table: str) -> bool:
        """True when the store has that table and it may be read through."""
        return table in self.readable

    def require(self, *tables: str) -> None:
        """Raise SCHEMA_HOSTILE or SCHEMA_UNKNOWN unless all of ``tables`` may be read through."""
        for table in tables:
            if table not in self.readable:
                if table in self.unreadable:
                    raise SchemaHostile(objects=self.unreadable[table])
                raise SchemaUnknown(
                    why=next(
                        (text for text in self.differences if f" {table} " in f" {text} "),
                        f"the table {table} is missing",
                    )
                )

    def require_writable(self, operation: str) -> None:
        """Raise SCHEMA_HOSTILE, UNSUPPORTED_VERSION or SCHEMA_UNKNOWN unless the store may be written."""
        if self.foreign_objects:
            raise SchemaHostile(objects=", ".join(self.foreign_objects[:5]))
        if self.newer or (self.family is not None and not self.family.writable):
            why = "it is newer than this version of Chroma Admin" if self.newer else "its releases are not written yet"
            raise UnsupportedVersion(releases=self.releases, operation=operation, why=why)
        if self.family is None:
            raise SchemaUnknown(
                why="; ".join(self.differences[:3]) or "its migrations are not those of a known release"
            )


# (embeddings_queue, metadb, sysdb) -> name, releases, writable. The numbers are those of the migrations that the wheels
# of these releases carry; a set that is in no row can be read, and is not written.
_FAMILIES: Mapping[tuple[int, int, int], tuple[str, str, bool]] = {
    (1, 1, 3): ("0.4.0", "0.4.0–0.4.3", True),
    (1, 2, 3): ("0.4.4", "0.4.4–0.4.5", True),
    (1, 3, 3): ("0.4.6", "0.4.6–0.4.14", True),
    (1, 3, 4): ("0.4", "0.4.15–0.4.24", True),
    (1, 3, 5): ("0.5.0", "0.5.0", True),
    (1, 3, 6): ("0.5.1", "0.5.1–0.5.3", True),
    (1, 3, 7): ("0.5.4", "0.5.4–0.5.5", True),
    (1, 3, 8): ("0.5.7", "0.5.7", True),
    (2, 4, 9): ("0.6", "0.5.9–0.6.3", True),
    (2, 5, 9): ("1.0", "1.0.0–1.2.2", True),
    (2, 5, 10): ("1.3", "1.3.0–1.4.1", True),
    (2, 6, 10): ("1.5", "1.5.0–1.5.9", True),
}

# Columns that readers name; asked for only where a table's text is not one of the known ones.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "collection_metadata": ("collection_id", "key", "str_value", "int_value", "float_value"),
    "collections": ("id", "name", "dimension"),
    "databases": ("id", "name", "tenant_id"),
    "embedding_metadata": ("id", "key", "string_value", "int_value", "float_value"),
    "embedding_metadata_array": ("id", "key", "string_value", "int_value", "float_value", "bool_value"),
    "embeddings": ("id", "segment_id", "embedding_id", "seq_id", "created_at"),
    "embeddings_queue": ("seq_id", "created_at", "operation", "topic", "id", "vector", "encoding", "metadata"),
    "embeddings_queue_config": ("id", "config_json_str"),
    "max_seq_id": ("segment_id", "seq_id"),
    "segment_metadata": ("segment_id", "key", "str_value", "int_value", "float_value"),
    "segments": ("id", "type", "scope", "collection"),
    "tenants": ("id",),
}

# directory, first migration, migration that ended it (0 = none), type, name, SHA-256 of the normalised SQL.
_OBJECTS_TEXT = """
embeddings_queue 1 0 table embeddings_queue 119e81a6162e9d536068b3a60ef51b5848731bd295fedf19c946cc3dc488c3cf
embeddings_queue 2 0 table embeddings_queue_config b240220e398baf52d8e1f9255f37bf7f8d8a5ad0cf8b7f06cf06345435a76155
sysdb 1 6 table collection_metadata eea53d4feafd2bf4871ad08cc5491c8e6bdb7c8adbe1780bde4d44c2b67146d7
sysdb 1 3 table collections 65e7d77deeb35663ea597da3398087e46a913449b2e7cfa72b5a4378103aaa78
sysdb 2 6 table segment_metadata 6d99fc05417d4c7e014af1b96b34717e93eef035b959b06e7ede7968a61ae598
sysdb 2 5 table segments 77d2cc8cfb30b68db4a1aadaff0af08f4ca17efaad071d5d91fde7a78689c7ed
sysdb 3 4 table collections 266f69e43c105b41de0f360f973f546d8211428cfa0e83827f2e2e98a35893da
sysdb 4 5 table collections 9943e74e8b5096e112c1ce03e2938788beaf952d3329d479c10b387b37ac0ca9
sysdb 4 0 table databases 8108114e2d5ebc489b20821711485ea0d8decfee1d5e0eabbdb5e69b06f78870
sysdb 4 0 table tenants f2ecc382b30a363ed382fc673272d66bb02ce2ae11b14960f74ddba6e21b4950
sysdb 5 7 table collections ccdb7a917ff212639845d181f0237cda0f1dfb52212b72dbf8248ca713f9b5dd
sysdb 5 9 table segments c9f57bcaf805ca0956fb7e4d9ed050174b05213aaae16932d474273d66a8819b
sysdb 6 0 table collection_metadata 5d314a8d252380e9e7a3828280ae94d3d274a8f8ae929a08eefa4a86be6c00b2
sysdb 6 0 table segment_metadata 1f9ea2ca7de180ee604012ae67972e2c1fb272923cf2db20396de49dac588e8a
sysdb 7 10 table collections 5b5a57eca1e3b6a175e7d06f0c53fe22a2fffa13627c2a2db6a0827ac7f83717
sysdb 8 0 table maintenance_log cb3faca863c3804532f6a29e8431ae34c66c03da4c62205406739e65a8950caf
sysdb 9 0 table segments 23bface5254998b6613e5129a0a8f1f55fea7ad271469db54a84e6eb16744332
sysdb 10 0 table collections e65457e7d7b4ff57c4bf7f23c963d8d0cf36060cb9fcecfa3d097f54c5e78863
metadb 1 3 table embedding_fulltext 2d24cf9a8996c775bdc4c9c5bc1a10bffbff4acb229d3848fb5c1964fb842aa4
metadb 1 3 table embedding_fulltext_config 196c0bc06ef997a0efdbb359ca47f731e5bca213b37112c391c2fcfe38cbf98c
metadb 1 3 table embedding_fulltext_content cd28817ed50d62802a1263db8f5b8f59553b5793992978152377198a81e450cb
metadb 1 3 table embedding_fulltext_data f98245b4bc88fdc88f9e99a01b397e8f386718177fb03e669f30db8550ae832a
metadb 1 3 table embedding_fulltext_docsize c4ce695860833f94b2aee5a413099f5dfe5347294146b7a7070826d0a8ec28df
metadb 1 3 table embedding_fulltext_idx fd431aef4edcf700680643a2d96b48f5d37a224356eac1b3e48ecf9e6c95132f
metadb 1 2 table embedding_metadata 275300d5d092f796322c14dcef3ccf4e696d75488911912c405959cedb082fab
metadb 1 0 table embeddings 4ffb1192fbd5a4f342b3705e6fd3f58f7c223e5066e8c90e7f41d16f80550838
metadb 1 5 table max_seq_id 2b469f1d2f4eb15c5a34060bd2a8ff929440a562c262bbe655b20ef639bf15e9
metadb 2 0 table embedding_metadata b0a4e07426dcc2002c3cfb768bb98bef11dc604ee5d0bb98c1733f5b4229851c
metadb 4 0 index embedding_metadata_float_value 08fc597114fed8b5b3ada9eed11742e1a0bf60209a285f1635e6135ba828bce3
metadb 4 0 index embedding_metadata_int_value 7dddcecf616b5d9a7a3d3d0e9110193f6f2aec6c522e4674a70db2c7d7a8d212
metadb 4 0 index embedding_metadata_string_value e1c93d43af600dc0fa36365a1e5b13df10a6caf8f258e69446e4c4a08569c70d
metadb 5 0 table max_seq_id a9467c5dd7c9c3aede40a85607cdf4198cd7e404a9ece7f9ddc5832fd38f7bdb
metadb 6 0 table embedding_metadata_array 8c96b71b9111414a269fc742185290224b4c6e142b7249e6e58290aaa728bd4a
metadb 6 0 index embedding_metadata_array_id_key 9f3cc03dbcce3668ba2af461990ec17df5c32906195086c565b13f6a62047700
metadb 6 0 index embedding_metadata_array_key_float c5d67548b9964b83e4176b15a4af23c11f9010f0ef46379f06a721f5ea8bead4
metadb 6 0 index embedding_metadata_array_key_int d82da73e59d674ce85710c4cb1916955b04dff38add657bea67619d7c810bb19
metadb 6 0 index embedding_metadata_array_key_string d61e55c4b3949510729ce9a32b3b51935866d6ed396221b455b4ee930a7c7864
"""
_OBJECTS: tuple[tuple[str, int, int, str, str, str], ...] = tuple(
    (directory, int(since), int(until), kind, name, digest)
    for directory, since, until, kind, name, digest in map(str.split, _OBJECTS_TEXT.strip().splitlines())
)
# The table of the migrations themselves; tables that a release or SQLite's own ANALYZE adds without a migration.
_MIGRATIONS_SQL = "05131fdf311bbd5fce2c9639f321c955bc174ac6fe770788f12d1248c20f8593"
_OPTIONAL: Mapping[tuple[str, str], str] = {
    ("table", "acquire_write"): "c2ffef6824384b3898724138ab204462e7fe4818ca986f1b59946e8c1cd54925",
    ("table", "sqlite_stat1"): "f3e5b16b86f359c3f77fe5635c1ed86b1b60e7d6dbe6211c13063787c94f6777",
    ("table", "sqlite_stat4"): "aa0aa5dab7e2d7a84effeb3aaee29980f4baedae26727fa4220922b59fe19a59",
}
_FTS_SHADOWS: Mapping[str, str] = {
    f"{FTS_TABLE}_config": "(k PRIMARY KEY, v) WITHOUT ROWID",
    f"{FTS_TABLE}_content": "(id INTEGER PRIMARY KEY, c0)",
    f"{FTS_TABLE}_data": "(id INTEGER PRIMARY KEY, block BLOB)",
    f"{FTS_TABLE}_docsize": "(id INTEGER PRIMARY KEY, sz BLOB)",
    f"{FTS_TABLE}_idx": "(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID",
}
_FTS = re.compile(
    r"""CREATE VIRTUAL TABLE (?:IF NOT EXISTS )?["']?embedding_fulltext_search["']? """
    r"""USING fts5 ?\( ?string_value ?, ?tokenize ?= ?('(?:[^']|'')*'|"(?:[^"]|"")*") ?\)""",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"""\s*('(?:[^']|'')*'|[A-Za-z0-9_]+)""")
_SQL_PART = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|(?:--[^\n]*|/\*.*?(?:\*/|\Z)|\s+)+""", re.DOTALL
)
_TOKENIZER_OPTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ascii": {"separators": (), "tokenchars": ()},
    "trigram": {"case_sensitive": ("0", "1"), "remove_diacritics": ("0", "1")},
    "unicode61": {"categories": (), "remove_diacritics": ("0", "1", "2"), "separators": (), "tokenchars": ()},
}


def read_schema(db: sqlite3.Connection) -> Schema:
    """Read the schema of a store; raises CORRUPT, DEADLINE, … but nothing for what is merely foreign or missing."""
    path = Path(str(getattr(db, "store_path", "chroma.sqlite3")))
    with sqlite_errors(path):
        master = db.execute(
            "SELECT type, name, tbl_name, rootpage, substr(sql, 1, ?) FROM sqlite_master ORDER BY rowid LIMIT ?",
            (_MAX_SQL + 1, _MAX_OBJECTS + 1),
        ).fetchall()
        objects = [_Object(*(_plain(value) for value in row)) for row in master]
        migrations, differences = _read_migrations(db, objects)
    newer = any(level > NEWEST.get(name, 0) for name, level in migrations.items())
    shape = _shape(migrations)
    allowed = _allowed(migrations)
    judged = [_judge(entry, allowed, newer) for entry in objects]
    foreign = [
        f"the {_kind(entry)} {visible(entry.name)}"
        for entry, what in zip(objects, judged, strict=True)
        if what == "foreign"
    ]
    if len(objects) > _MAX_OBJECTS:
        foreign.append(f"more than {_MAX_OBJECTS} tables, indexes, views and triggers")
    present = {entry.name.lower() for entry in objects}
    differences += [f"the {kind} {name} is missing" for kind, name in allowed if name.lower() not in present]
    if "metadb" in migrations and migrations["metadb"] >= 3 and FTS_TABLE not in present:
        differences.append(f"the table {FTS_TABLE} is missing")
    readable: set[str] = set()
    unreadable: dict[str, str] = {}
    for entry, what in zip(objects, judged, strict=True):
        table = entry.name.lower()
        if table not in _COLUMNS and table != "maintenance_log":
            continue
        if what == "known":
            readable.add(entry.name)
        elif not _is_ordinary_table(entry):
            unreadable[table] = f"the {_kind(entry)} {visible(entry.name)}"
        elif trouble := _columns_trouble(db, path, table):
            if trouble.startswith("the generated"):
                unreadable[table] = trouble
                foreign.append(trouble)
            differences.append(trouble)
        else:
            readable.add(table)
            if what == "changed":
                differences.append(f"the table {table} is not as a release makes it")
    # A missing full-text table is damage that `fts rebuild` mends, not another schema.
    exact = not newer and not foreign and not [text for text in differences if FTS_TABLE not in text]
    named = tuple(migrations.get(name, 0) for name in DIRECTORIES) in _FAMILIES
    return Schema(
        family=shape if exact and named else None,
        shape=shape,
        migrations=migrations,
        releases=_releases(migrations, newer, shape),
        newer=newer,
        foreign_objects=tuple(dict.fromkeys(foreign)),
        differences=tuple(dict.fromkeys(differences)),
        fts_tokenizer=next((_tokenizer(entry.sql) or "" for entry in objects if entry.name == FTS_TABLE), ""),
        readable=frozenset(readable),
        unreadable=unreadable,
    )


def normalised(sql: str) -> str:
    """SQL without comments and with single spaces, quoted text untouched: two texts SQLite reads alike become equal."""
    return _SQL_PART.sub(lambda part: part[0] if part[0][0] in "'\"`[" else " ", sql).strip()


def parse_tokenizer(text: str) -> str | None:
    """The canonical text of an FTS5 tokenizer (``porter unicode61 remove_diacritics '2'``), None for anything else.

    Known are ``ascii``, ``trigram`` and ``unicode61`` with the options of SQLite's documentation, ``porter`` before.
    """
    words: list[str] = []
    rest = text
    while rest.strip():
        token = _TOKEN.match(rest)
        if token is None or len(text) > 500:
            return None
        word, rest = token[1], rest[token.end() :]
        words.append(word[1:-1].replace("''", "'") if word[0] == "'" else word)
    porters = 0
    while words and words[0].lower() == "porter":
        words.pop(0)
        porters += 1
    name = words.pop(0).lower() if words else ("unicode61" if porters else "")
    if name not in _TOKENIZER_OPTIONS or porters > 1 or len(words) % 2:
        return None
    parts = ["porter"] * porters + [name]
    for key, value in zip(words[::2], words[1::2], strict=True):
        choices = _TOKENIZER_OPTIONS[name].get(key.lower())
        if choices is None or (choices and value not in choices) or "\0" in value:
            return None
        quoted = value.replace("'", "''")
        parts += [key.lower(), f"'{quoted}'"]
    return " ".join(parts)


@dataclass(frozen=True)
class _Object:
    type: str
    name: str
    table: str
    root_page: str
    sql: str


def _plain(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else "" if value is None else str(value)


def _kind(entry: _Object) -> str:
    if entry.type == "table" and normalised(entry.sql[:200]).upper().startswith("CREATE VIRTUAL"):
        return "virtual table"
    return visible(entry.type, limit=20)


def _is_ordinary_table(entry: _Object) -> bool:
    return entry.type == "table" and entry.root_page not in ("", "0") and _kind(entry) == "table"


def _read_migrations(db: sqlite3.Connection, objects: list[_Object]) -> tuple[dict[str, int], list[str]]:
    entry = next((entry for entry in objects if entry.name.lower() == "migrations"), None)
    if entry is None or _digest(entry.sql) != _MIGRATIONS_SQL or not _is_ordinary_table(entry):
        return {}, [
            "the table migrations is missing" if entry is None else "the table migrations is not as a release makes it"
        ]
    levels: dict[str, int] = {}
    differences = []
    rows = db.execute(
        "SELECT dir, version, substr(sql, 1, ?), hash FROM migrations LIMIT ?", (_MAX_SQL, _MAX_MIGRATIONS)
    )
    for directory, version, sql, digest in rows:
        if not isinstance(directory, str) or type(version) is not int:
            differences.append("the table migrations has a row of wrong types")
            continue
        levels[visible(directory, limit=40)] = max(version, levels.get(visible(directory, limit=40), 0))
        if not _hash_fits(sql, digest):
            differences.append(f"migration {visible(directory, limit=40)} {version} does not have the hash of its text")
    return levels, differences


def _hash_fits(sql: object, digest: object) -> bool:
    if not isinstance(sql, str) or not isinstance(digest, str):
        return False
    text = sql.encode("utf-8", "surrogateescape")
    if len(digest) == 64:  # a server that was configured so
        return hashlib.sha256(text).hexdigest() == digest
    return hashlib.md5(text, usedforsecurity=False).hexdigest() == digest


def _shape(migrations: Mapping[str, int]) -> Family:
    queue, metadb, sysdb = (migrations.get(name, 0) for name in DIRECTORIES)
    name, releases, writable = _FAMILIES.get((queue, metadb, sysdb), ("", "", False))
    return Family(
        name=name,
        releases=releases,
        writable=writable,
        int_seq_ids=metadb >= 5,
        arrays=metadb >= 6,
        schema_str=sysdb >= 10,
        config_json_str=sysdb >= 7,
        topic_columns=sysdb < 5,
        databases=sysdb >= 4,
        bool_values=metadb >= 2,
        catalogue_bool_values=sysdb >= 6,
        queue_config=queue >= 2,
        maintenance_log=sysdb >= 8,
        watermark_in_id_map=sysdb < 8,
        initial_slots=100 if metadb >= 5 else 1000,
        ef_search=100 if metadb >= 5 else 10,
    )


def _releases(migrations: Mapping[str, int], newer: bool, shape: Family) -> str:
    if newer:
        return "newer than 1.5.9"
    if shape.releases:
        return shape.releases
    levels = tuple(migrations.get(name, 0) for name in DIRECTORIES)
    older = [
        releases for row, (_, releases, _) in _FAMILIES.items() if all(a <= b for a, b in zip(row, levels, strict=True))
    ]
    if not migrations:
        return "unknown"
    return f"after {older[-1].rpartition('–')[2]}" if older else "before 0.4.0"


def _allowed(migrations: Mapping[str, int]) -> dict[tuple[str, str], str]:
    return {
        (kind, name): digest
        for directory, since, until, kind, name, digest in _OBJECTS
        if since <= min(migrations.get(directory, 0), NEWEST[directory])
        and not 0 < until <= migrations.get(directory, 0)
    }


def _judge(entry: _Object, allowed: Mapping[tuple[str, str], str], newer: bool) -> str:
    """known, changed (a table with other text) or foreign."""
    if entry.type == "index" and not entry.sql:
        # SQLite makes these for PRIMARY KEY and UNIQUE; nobody else may use the prefix.
        return "known" if entry.name.startswith("sqlite_autoindex_") else "foreign"
    if entry.name == FTS_TABLE:
        return "known" if entry.type == "table" and _tokenizer(entry.sql) is not None else "foreign"
    if entry.name in _FTS_SHADOWS:
        text = normalised(entry.sql).partition("(")
        head = re.fullmatch(rf"CREATE TABLE ['\"]?{entry.name}['\"]? ?", text[0])
        return "known" if head and "(" + text[2] == _FTS_SHADOWS[entry.name] else "foreign"
    digest = _digest(entry.sql)
    if entry.name == "migrations":
        return "known" if digest == _MIGRATIONS_SQL and _is_ordinary_table(entry) else "foreign"
    if _OPTIONAL.get((entry.type, entry.name)) == digest:
        return "known"
    expected = allowed.get((entry.type, entry.name))
    if expected == digest and (entry.root_page not in ("", "0") or _kind(entry) == "virtual table"):
        return "known"
    if expected is None or not _is_ordinary_table(entry):
        return "foreign"
    # Another text of a table that belongs there: of another release, or with something in it that SQLite would run.
    return "foreign" if _RUNS.search(_unquoted(entry.sql)) and not newer else "changed"


_RUNS = re.compile(r"\b(CHECK|GENERATED|AS)\b|\bDEFAULT ?\(", re.IGNORECASE)


def _unquoted(sql: str) -> str:
    return _SQL_PART.sub(" ", sql)


def _digest(sql: str) -> str:
    return hashlib.sha256(encoded_sql(sql)).hexdigest()


def encoded_sql(sql: str) -> bytes:
    """The normalised text as bytes: what the allow-list has the SHA-256 of."""
    return normalised(sql).encode("utf-8", "surrogateescape")


def _tokenizer(sql: str) -> str | None:
    found = _FTS.fullmatch(normalised(sql))
    if found is None:
        return None
    literal = found[1]
    return parse_tokenizer(literal[1:-1].replace(literal[0] * 2, literal[0]))


def _columns_trouble(db: sqlite3.Connection, path: Path, table: str) -> str:
    statement = next(text for name, text in _TABLE_XINFO if name == table)
    with sqlite_errors(path):
        columns = {str(row[1]): row[6] for row in db.execute(statement)}
    if hidden := [name for name, kind in columns.items() if kind != 0]:
        return f"the generated column {visible(hidden[0])} of {table}"
    missing = [name for name in _COLUMNS.get(table, ()) if name not in columns]
    return f"the table {table} has no column {missing[0]}" if missing else ""


def _statements() -> Iterator[tuple[str, str]]:
    # PRAGMA takes no bound values; the names are those of the table above, none comes from a store.
    for table in (*_COLUMNS, "maintenance_log"):
        yield table, f"PRAGMA table_xinfo({table})"


_TABLE_XINFO = tuple(_statements())
