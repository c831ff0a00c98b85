"""Which release made a store, and what in it no release makes."""

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import OpsError, SchemaHostile, SchemaUnknown, UnsupportedVersion
from ops.store import schema as schemas
from ops.store.persist_dir import PersistDir
from ops.store.schema import Schema, normalised, parse_tokenizer, read_schema
from tests.ops import corpus, stores


def schema_of(path: Path) -> Schema:
    with PersistDir.open(path) as store:
        return store.schema


def spoiled(path: Path, *statements: str) -> Path:
    return corpus._changed(*statements)(path, path)


def code_of(schema: Schema) -> str:
    try:
        schema.require_writable("hnsw rebuild")
    except OpsError as error:
        return error.code
    return ""


def test_a_store_of_1_5(opened: PersistDir) -> None:
    found = opened.schema
    assert found.family is not None
    assert (found.family.name, found.releases, found.family.writable) == ("1.5", "1.5.0–1.5.9", True)
    assert found.migrations == {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}
    assert found.foreign_objects == found.differences == ()
    assert found.fts_tokenizer == "trigram"
    assert found.family.int_seq_ids
    assert found.family.arrays
    assert found.family.schema_str
    assert not found.family.topic_columns
    assert code_of(found) == ""


@pytest.mark.parametrize("script", ["EMPTY", "TENANTS", "TYPES", "CHURNED"])
def test_every_store_of_this_release_is_exact(make_store: Callable[[str], Path], script: str) -> None:
    assert code_of(schema_of(make_store(getattr(stores, script)))) == ""


# What the migrations in a store of 1.5.9 build step by step: levels, releases, and whether we write such a store.
OLDER = [
    ((1, 3, 3), "0.4.6–0.4.14"),
    ((1, 3, 4), "0.4.15–0.4.24"),
    ((1, 3, 5), "0.5.0"),
    ((1, 3, 6), "0.5.1–0.5.3"),
    ((1, 3, 7), "0.5.4–0.5.5"),
    ((1, 3, 8), "0.5.7"),
    ((2, 4, 9), "0.5.9–0.6.3"),
    ((2, 5, 9), "1.0.0–1.2.2"),
    ((2, 5, 10), "1.3.0–1.4.1"),
    ((2, 6, 10), "1.5.0–1.5.9"),
]


def built(source: Path, levels: tuple[int, int, int]) -> sqlite3.Connection:
    """A database with the migrations of ``source`` up to these levels, as Chroma would apply them."""
    limits = dict(zip(schemas.DIRECTORIES, levels, strict=True))
    with sqlite3.connect(source / "chroma.sqlite3") as origin:
        sql = origin.execute("SELECT sql FROM sqlite_master WHERE name = 'migrations'").fetchone()[0]
        rows = origin.execute(
            "SELECT dir, version, filename, sql, hash FROM migrations ORDER BY dir, version"
        ).fetchall()
    origin.close()
    made = sqlite3.connect(":memory:")
    made.execute(sql)
    for row in sorted(rows, key=lambda row: (("embeddings_queue", "sysdb", "metadb").index(row[0]), row[1])):
        if row[1] <= limits[row[0]]:
            made.executescript(row[3])
            made.execute("INSERT INTO migrations VALUES (?, ?, ?, ?, ?)", row)
    return made


@pytest.mark.parametrize(("levels", "releases"), OLDER, ids=str)
def test_every_migration_set(small: Path, levels: tuple[int, int, int], releases: str) -> None:
    made = built(small, levels)
    found = read_schema(made)
    assert found.releases == releases
    assert found.foreign_objects == found.differences == ()
    assert (found.family is None) == releases.startswith("after")
    assert code_of(found) == ("SCHEMA_UNKNOWN" if found.family is None else "")
    columns = {row[1] for row in made.execute("PRAGMA table_info(segments)")}
    assert found.shape.topic_columns == ("topic" in columns)
    columns = {row[1] for row in made.execute("PRAGMA table_info(collections)")}
    assert found.shape.schema_str == ("schema_str" in columns)
    assert found.shape.config_json_str == ("config_json_str" in columns)
    made.close()


def test_a_hash_of_either_kind(small: Path) -> None:
    with sqlite3.connect(small / "chroma.sqlite3") as db:
        rows = db.execute("SELECT dir, version, sql FROM migrations").fetchall()
        for directory, version, sql in rows:
            digest = hashlib.sha256(sql.encode()).hexdigest()
            db.execute("UPDATE migrations SET hash = ? WHERE dir = ? AND version = ?", (digest, directory, version))
    db.close()
    assert code_of(schema_of(small)) == ""


def test_newer_stores_are_read_and_not_written(small: Path) -> None:
    found = schema_of(
        spoiled(
            small,
            "INSERT INTO migrations VALUES ('metadb', 7, 'x', 'x', '9dd4e461268c8034f5c8564e155c67a6')",
            "CREATE INDEX embedding_metadata_bool_value ON embedding_metadata (key, bool_value)",
        )
    )
    assert (found.family, found.newer, found.releases) == (None, True, "newer than 1.5.9")
    assert found.has("collections")
    with pytest.raises((UnsupportedVersion, SchemaHostile)):
        found.require_writable("hnsw rebuild")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER t AFTER DELETE ON embeddings_queue BEGIN SELECT 1; END", "the trigger t"),
        ("CREATE VIEW v AS SELECT 1", "the view v"),
        ("CREATE TABLE extra (a)", "the table extra"),
        ("CREATE INDEX i ON collections (lower(name))", "the index i"),
        ("CREATE INDEX i ON collections (name)", "the index i"),
        ("CREATE VIRTUAL TABLE f USING fts5(a)", "the virtual table f"),
        ('CREATE VIEW "a\nb\u202ec" AS SELECT 1', "the view a\\x0ab\\u202ec"),
        ("DROP TABLE acquire_write; CREATE VIEW acquire_write AS SELECT 1", "the view acquire_write"),
        ("DROP TABLE tenants; CREATE VIEW TENANTS AS SELECT 1 AS id", "the view TENANTS"),
        ("ALTER TABLE collections ADD COLUMN g AS (upper(name))", "the generated column g of collections"),
    ],
)
def test_foreign_objects_are_named(small: Path, statement: str, named: str) -> None:
    found = schema_of(spoiled(small, *statement.split("; ") if "TRIGGER" not in statement else (statement,)))
    assert named in found.foreign_objects
    assert found.family is None
    with pytest.raises(SchemaHostile):
        found.require_writable("hnsw rebuild")


def test_analyze_is_no_attack(small: Path) -> None:
    assert code_of(schema_of(spoiled(small, "ANALYZE"))) == ""


def test_nothing_is_read_through_a_view(small: Path) -> None:
    with PersistDir.open(
        corpus._changed("DROP TABLE tenants", "CREATE VIEW tenants AS SELECT 1 AS id")(small, small)
    ) as store:
        with pytest.raises(SchemaHostile, match="view tenants"):
            store.schema.require("tenants")
        with pytest.raises(SchemaUnknown):
            store.schema.require("no_such_table")


def test_a_missing_full_text_table_is_damage_and_no_other_schema(small: Path) -> None:
    found = schema_of(spoiled(small, "DROP TABLE embedding_fulltext_search"))
    assert code_of(found) == ""
    assert found.fts_tokenizer == ""
    assert any("embedding_fulltext_search" in text for text in found.differences)


@pytest.mark.parametrize(
    "tokenizer",
    [
        "trigram",
        "unicode61",
        "ascii",
        "porter ascii",
        "porter",
        "trigram case_sensitive 1",
        "unicode61 remove_diacritics 2 tokenchars '-_'",
        "porter unicode61 separators ','",
        "unicode61 categories 'L* N* Co'",
    ],
)
@pytest.mark.parametrize("quote", ["'", '"'])
def test_every_tokenizer_that_fits_is_known(small: Path, tokenizer: str, quote: str) -> None:
    literal = quote + tokenizer.replace(quote, quote * 2) + quote
    statement = f"CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize={literal})"
    found = schema_of(spoiled(small, "DROP TABLE embedding_fulltext_search", statement))
    assert found.foreign_objects == ()
    assert found.fts_tokenizer == parse_tokenizer(tokenizer)
    assert code_of(found) == ""


@pytest.mark.parametrize(
    "definition",
    [
        "fts5(string_value, other)",
        "fts5(string_value, tokenize='trigram', content='collections')",
        "fts5(string_value, prefix='2 3', tokenize='trigram')",
        "fts5(string_value)",
    ],
)
def test_other_full_text_tables_are_foreign(small: Path, definition: str) -> None:
    found = schema_of(
        spoiled(
            small,
            "DROP TABLE embedding_fulltext_search",
            f"CREATE VIRTUAL TABLE embedding_fulltext_search USING {definition}",
        )
    )
    assert "the virtual table embedding_fulltext_search" in found.foreign_objects


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trigram'); DROP TABLE embeddings; --",
        "icu",
        "trigram case_sensitive 2",
        "unicode61 remove_diacritics",
        "porter porter ascii",
        "unicode61 tokenchars 'a",
        "trigram;",
        "ascii " + "x" * 600,
    ],
)
def test_texts_that_are_no_tokenizer(text: str) -> None:
    assert parse_tokenizer(text) is None


@given(st.text(max_size=60))
def test_a_parsed_tokenizer_parses_to_itself(text: str) -> None:
    canonical = parse_tokenizer(text)
    if canonical is not None:
        assert parse_tokenizer(canonical) == canonical


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("CREATE TABLE a (b)", "CREATE  TABLE\n a\t(b)", True),
        ("CREATE TABLE a (b -- c\n, d)", "CREATE TABLE a (b, d)", False),
        ("CREATE TABLE a (b, -- c\n d)", "CREATE TABLE a (b, d)", True),
        ("CREATE TABLE a (b, -- c\n d)", "CREATE TABLE a (b, -- c d)", False),
        ("CREATE TABLE a (b /* x */)", "CREATE TABLE a (b )", True),
        ("CREATE TABLE a (b DEFAULT 'x  y')", "CREATE TABLE a (b DEFAULT 'x y')", False),
        ("CREATE TABLE a (b DEFAULT '--x\n')", "CREATE TABLE a (b DEFAULT '')", False),
    ],
)
def test_normalised_text(left: str, right: str, equal: bool) -> None:
    assert (normalised(left) == normalised(right)) is equal


def test_very_many_objects(small: Path) -> None:
    found = schema_of(spoiled(small, "BEGIN", *(f"CREATE TABLE t{number} (a)" for number in range(2100)), "COMMIT"))
    assert "more than 2000 tables, indexes, views and triggers" in found.foreign_objects
