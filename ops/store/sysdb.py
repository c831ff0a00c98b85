"""Tenants, databases, collections and segments: Chroma's catalogue, read with every value judged.

Rows of a store are untrusted: a value of the wrong type becomes None (or its text) and a sentence in ``problems`` of
the row; nothing raises because of it. Large texts are cut at SQL level.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.errors import CollectionAmbiguous, CollectionNotFound, RefBroken
from ops.store.persist_dir import is_uuid
from ops.store.sqlite import sqlite_errors
from ops.store.text import cursor, encoded, keys_of, visible

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir

Value = bool | int | float | str | None
VECTOR = "VECTOR"
METADATA = "METADATA"
HNSW_TYPE = "urn:chroma:segment/vector/hnsw-local-persisted"
SQLITE_TYPE = "urn:chroma:segment/metadata/sqlite"
LONGEST_CONFIGURATION = 4 << 20
_LONGEST_ID = 4096
_LONGEST_VALUE = 1 << 16
_MOST_KEYS = 1000
_LARGEST_DIMENSION = 2**31 - 1
_BATCH = 200


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A row of ``tenants``; releases before 0.4.15 have none."""

    id: str


@dataclass(frozen=True, kw_only=True)
class Database:
    """A row of ``databases`` with the tenant it belongs to."""

    id: str
    name: str
    tenant: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A row of ``segments``. ``scope`` is VECTOR or METADATA in a sound store; ``metadata`` is empty from 1.0 on."""

    id: str
    type: str
    scope: str
    collection_id: str
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A row of ``collections``.

    ``tenant`` and ``database`` are empty when the row names a database that does not exist (a problem says so).
    ``config_json_str`` and ``schema_str`` are the texts as stored, None where the column is NULL or missing, or holds
    more than 4 MiB or something else than text. ``problems`` are sentences, each the FIELD_INVALID or REF_BROKEN of one
    value.
    """

    id: str
    name: str
    tenant: str
    database: str
    database_id: str
    dimension: int | None
    config_json_str: str | None
    schema_str: str | None
    metadata: Mapping[str, Value]
    segments: tuple[Segment, ...]
    problems: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Tenant, database and name as one text for people."""
        return f"{visible(self.tenant)}/{visible(self.database)}/{visible(self.name)}"

    @property
    def cursor(self) -> str:
        """Where this collection stands in the list of ``collections``."""
        return cursor(self.name, self.id)

    def of_scope(self, scope: str) -> tuple[Segment, ...]:
        """Its segments of that scope."""
        return tuple(segment for segment in self.segments if segment.scope == scope)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many rows the catalogue has."""

    tenants: int
    databases: int
    collections: int
    segments: int


def counts(store: PersistDir) -> Counts:
    """Rows of the four tables; 0 for a table this release has not."""
    return Counts(
        tenants=_count(store, "tenants", "SELECT count(*) FROM tenants"),
        databases=_count(store, "databases", "SELECT count(*) FROM databases"),
        collections=_count(store, "collections", "SELECT count(*) FROM collections"),
        segments=_count(store, "segments", "SELECT count(*) FROM segments"),
    )


def tenants(store: PersistDir, *, after: str | None = None, limit: int | None = None) -> tuple[Tenant, ...]:
    """Tenants by id; ``after`` is the id of the last one seen."""
    if not store.schema.shape.databases:
        return ()
    store.schema.require("tenants")
    rows = _rows(
        store,
        "SELECT substr(id, 1, ?) FROM tenants WHERE id > CAST(? AS TEXT) OR ? ORDER BY id LIMIT ?",
        (_LONGEST_ID, encoded(after or ""), after is None, _limit(limit)),
    )
    return tuple(Tenant(id=_text(row[0])) for row in rows)


def databases(store: PersistDir, *, after: str | None = None, limit: int | None = None) -> tuple[Database, ...]:
    """Databases by id; ``after`` is the id of the last one seen."""
    if not store.schema.shape.databases:
        return ()
    store.schema.require("databases")
    rows = _rows(
        store,
        "SELECT substr(id, 1, ?1), substr(name, 1, ?1), substr(tenant_id, 1, ?1) FROM databases "
        "WHERE id > CAST(?2 AS TEXT) OR ?3 ORDER BY id LIMIT ?4",
        (_LONGEST_ID, encoded(after or ""), after is None, _limit(limit)),
    )
    return tuple(Database(id=_text(row[0]), name=_text(row[1]), tenant=_text(row[2])) for row in rows)


def collections(
    store: PersistDir,
    *,
    after: str | None = None,
    limit: int | None = None,
    name_contains: str = "",
    tenant: str | None = None,
    database: str | None = None,
) -> tuple[Collection, ...]:
    """Collections of every tenant and database by (name, id), unless narrowed.

    ``after`` is the ``cursor`` of the last collection seen; ``name_contains`` ignores case for ASCII letters.
    """
    name, identifier = keys_of(after, 2) if after is not None else ("", "")
    rows = _rows(
        store,
        _select(store)
        + " WHERE (?5 OR (c.name, c.id) > (CAST(?6 AS TEXT), CAST(?7 AS TEXT)))"
        + " AND (?8 OR instr(lower(c.name), lower(CAST(?9 AS TEXT))) > 0)"
        + _PLACE[store.schema.shape.databases]
        + " ORDER BY c.name, c.id LIMIT ?4",
        (
            _LONGEST_ID,
            LONGEST_CONFIGURATION,
            _LONGEST_ID,
            _limit(limit),
            after is None,
            _bound(name),
            _bound(identifier),
            not name_contains,
            encoded(name_contains),
            *_place_values(store, tenant, database),
        ),
    )
    return _collections(store, rows)


def collection(store: PersistDir, collection_id: str) -> Collection:
    """The collection of that id; raises COLLECTION_NOT_FOUND."""
    found = _by_id(store, (collection_id,))
    if not found:
        raise CollectionNotFound(name=visible(collection_id))
    return found[0]


def collections_by_database(store: PersistDir) -> dict[str, int]:
    """How many collections each database id has, those of databases that do not exist among them."""
    store.schema.require("collections")
    if not store.schema.shape.databases:
        return {}
    rows = _rows(store, "SELECT substr(database_id, 1, 4096), count(*) FROM collections GROUP BY 1 LIMIT 100000", ())
    return {_text(row[0]): row[1] for row in rows if isinstance(row[1], int)}


def select_collections(
    store: PersistDir,
    *,
    names: Iterable[str] = (),
    ids: Iterable[str] = (),
    tenant: str | None = None,
    database: str | None = None,
    skip: Iterable[str] = (),
) -> tuple[Collection, ...]:
    """The collections that a request names, in the order of (name, id); all of them when it names none.

    A name must be unique in the tenants and databases that are asked for. Raises COLLECTION_NOT_FOUND and
    COLLECTION_AMBIGUOUS (which lists the places).
    """
    names, ids, left_out = tuple(dict.fromkeys(names)), tuple(dict.fromkeys(ids)), frozenset(skip)
    if not names and not ids:
        found = collections(store, tenant=tenant, database=database)
        return tuple(entry for entry in found if entry.name not in left_out)
    chosen: dict[str, Collection] = {}
    for identifier in ids:
        entry = collection(store, identifier)
        chosen[entry.id] = entry
    for name in names:
        found = _by_name(store, name, tenant, database)
        if not found:
            raise CollectionNotFound(name=visible(name))
        if len(found) > 1:
            places = ", ".join(
                f"{visible(entry.tenant)}/{visible(entry.database)} ({entry.id})" for entry in found[:20]
            )
            raise CollectionAmbiguous(count=len(found), name=visible(name), places=places)
        chosen[found[0].id] = found[0]
    return tuple(entry for entry in sorted(chosen.values(), key=_order) if entry.name not in left_out)


def segments(store: PersistDir, collection_id: str) -> tuple[Segment, ...]:
    """The segment rows of a collection, with their metadata, by scope and id."""
    return _segments(store, (collection_id,)).get(collection_id, ())


def segment_ids(store: PersistDir) -> frozenset[str]:
    """The ids of all segments of any scope: what is no orphan."""
    store.schema.require("segments")
    return frozenset(_text(row[0]) for row in _rows(store, "SELECT id FROM segments WHERE id IS NOT NULL", ()))


def collection_ids(store: PersistDir) -> frozenset[str]:
    """The ids of all collections of every tenant and database."""
    store.schema.require("collections")
    return frozenset(_text(row[0]) for row in _rows(store, "SELECT id FROM collections WHERE id IS NOT NULL", ()))


def vector_segment(store: PersistDir, entry: Collection) -> Segment:
    """The one VECTOR segment of a collection; raises REF_BROKEN when there is none, or two, or its id is no UUID."""
    return _only(entry, VECTOR)


def metadata_segment(store: PersistDir, entry: Collection) -> Segment:
    """The one METADATA segment of a collection; raises REF_BROKEN as ``vector_segment``."""
    return _only(entry, METADATA)


def typed(string: object, integer: object, number: object, boolean: object) -> tuple[Value, str]:
    """One metadata value out of its four columns, and what is wrong with it (empty when nothing is).

    Chroma fills exactly one column. 0.4 keeps a boolean as an integer where there is no column for it.
    """
    if string is not None:
        return (string, "") if isinstance(string, str) else (_text(string), "text")
    if boolean is not None:
        return (bool(boolean), "") if boolean in (0, 1) else (None, "a boolean")
    if integer is not None:
        return (integer, "") if isinstance(integer, int) else (_plain(integer), "a whole number")
    if number is not None:
        if isinstance(number, float):
            return (number, "") if math.isfinite(number) else (repr(number), "a finite number")
        return _plain(number), "a number"
    return None, "any value"


# --- statements -----------------------------------------------------------------------------------------------------

_COLUMNS: Mapping[tuple[bool, bool], str] = {
    (False, False): "NULL, NULL, NULL, NULL",
    (True, False): "substr(c.config_json_str, 1, ?2 + 1), typeof(c.config_json_str), NULL, NULL",
    (True, True): "substr(c.config_json_str, 1, ?2 + 1), typeof(c.config_json_str), substr(c.schema_str, 1, ?2 + 1), "
    "typeof(c.schema_str)",
}
_FROM: Mapping[bool, str] = {
    False: " NULL, NULL, NULL FROM collections c",
    True: " substr(c.database_id, 1, ?3), substr(d.name, 1, ?3), substr(d.tenant_id, 1, ?3) "
    "FROM collections c LEFT JOIN databases d ON d.id = c.database_id",
}
_PLACE: Mapping[bool, str] = {
    False: " AND ?10 IS NOT NULL AND ?11 IS NOT NULL AND ?12 IS NOT NULL AND ?13 IS NOT NULL",
    True: " AND (?10 OR d.tenant_id = CAST(?11 AS TEXT)) AND (?12 OR d.name = CAST(?13 AS TEXT))",
}


def _select(store: PersistDir) -> str:
    shape = store.schema.shape
    store.schema.require("collections", *(("databases",) if shape.databases else ()))
    columns = _COLUMNS[(shape.config_json_str, shape.schema_str)]
    return f"SELECT substr(c.id, 1, ?1), substr(c.name, 1, ?1), c.dimension, {columns},{_FROM[shape.databases]}"


def _place_values(store: PersistDir, tenant: str | None, database: str | None) -> tuple[object, ...]:
    return (tenant is None, encoded(tenant or ""), database is None, encoded(database or ""))


def _by_id(store: PersistDir, ids: tuple[str, ...]) -> tuple[Collection, ...]:
    rows: list[tuple[object, ...]] = []
    for identifier in ids:
        rows += _rows(
            store,
            _select(store) + " WHERE c.id = CAST(?4 AS TEXT)",
            (_LONGEST_ID, LONGEST_CONFIGURATION, _LONGEST_ID, encoded(identifier)),
        )
    return _collections(store, rows)


def _by_name(store: PersistDir, name: str, tenant: str | None, database: str | None) -> tuple[Collection, ...]:
    rows = _rows(
        store,
        _select(store)
        + " WHERE c.name = CAST(?4 AS TEXT) AND ?5 = ?6 AND ?7 = ?8 AND ?9"
        + _PLACE[store.schema.shape.databases]
        + " ORDER BY c.id LIMIT 1000",
        (
            _LONGEST_ID,
            LONGEST_CONFIGURATION,
            _LONGEST_ID,
            encoded(name),
            *(1, 1, 1, 1, 1),
            *_place_values(store, tenant, database),
        ),
    )
    return _collections(store, rows)


def _collections(store: PersistDir, rows: list[tuple[object, ...]]) -> tuple[Collection, ...]:
    ids = tuple(_text(row[0]) for row in rows)
    of_collection = _metadata(store, "collection_metadata", ids)
    of_segments = _segments(store, ids)
    has_databases = store.schema.shape.databases
    found = []
    for identifier, row in zip(ids, rows, strict=True):
        _, name, dimension, config, config_type, schema, schema_type, database_id, database, tenant = row
        problems: list[str] = []
        shown = visible(_text(name))
        if has_databases and database is None:
            problems.append(f"REF_BROKEN: its database {visible(_text(database_id))} does not exist.")
        metadata, trouble = of_collection.get(identifier, ({}, []))
        problems += trouble
        segments_of = of_segments.get(identifier, ())
        problems += _segment_problems(segments_of)
        found.append(
            Collection(
                id=identifier,
                name=_checked_text(name, f"collections.name of {shown}", problems),
                tenant=_text(tenant) if has_databases else "default_tenant",
                database=_text(database) if has_databases else "default_database",
                database_id=_text(database_id),
                dimension=_dimension(dimension, f"collections.dimension of {shown}", problems),
                config_json_str=_configuration(
                    config, config_type, f"collections.config_json_str of {shown}", problems
                ),
                schema_str=_configuration(schema, schema_type, f"collections.schema_str of {shown}", problems),
                metadata=metadata,
                segments=segments_of,
                problems=tuple(problems),
            )
        )
    return tuple(found)


def _segments(store: PersistDir, collection_ids: tuple[str, ...]) -> dict[str, tuple[Segment, ...]]:
    store.schema.require("segments")
    rows: list[tuple[object, ...]] = []
    for batch in _batches(collection_ids):
        marks = ", ".join(["CAST(? AS TEXT)"] * len(batch))
        rows += _rows(
            store,
            "SELECT substr(id, 1, 4096), substr(type, 1, 4096), substr(scope, 1, 4096), substr(collection, 1, 4096) "  # noqa: S608
            f"FROM segments WHERE collection IN ({marks}) ORDER BY collection, scope, id LIMIT 10000",
            tuple(encoded(identifier) for identifier in batch),
        )
    metadata = _metadata(store, "segment_metadata", tuple(_text(row[0]) for row in rows))
    found: dict[str, list[Segment]] = {}
    for row in rows:
        identifier, kind, scope, owner = map(_text, row)
        made = Segment(
            id=identifier, type=kind, scope=scope, collection_id=owner, metadata=metadata.get(identifier, ({}, []))[0]
        )
        found.setdefault(owner, []).append(made)
    return {owner: tuple(entries) for owner, entries in found.items()}


_METADATA: Mapping[tuple[str, bool], str] = {
    (table, has_bool): (
        f"SELECT substr({owner}, 1, 4096), substr(key, 1, 4096), substr(str_value, 1, 65537), int_value, float_value, "  # noqa: S608
        f"{'bool_value' if has_bool else 'NULL'} FROM {table} WHERE {owner} IN "
    )
    for table, owner in (("collection_metadata", "collection_id"), ("segment_metadata", "segment_id"))
    for has_bool in (False, True)
}


def _metadata(store: PersistDir, table: str, owners: tuple[str, ...]) -> dict[str, tuple[dict[str, Value], list[str]]]:
    """Metadata of the owners and the problems in it; empty when the table can not be read through."""
    found: dict[str, tuple[dict[str, Value], list[str]]] = {}
    if not store.schema.has(table):
        return found
    for batch in _batches(owners):
        marks = ", ".join(["CAST(? AS TEXT)"] * len(batch))
        statement = _METADATA[(table, store.schema.shape.catalogue_bool_values)]
        rows = _rows(
            store,
            f"{statement}({marks}) ORDER BY 1, 2 LIMIT {_MOST_KEYS * _BATCH}",
            tuple(encoded(owner) for owner in batch),
        )
        for owner, key, *columns in rows:
            values, problems = found.setdefault(_text(owner), ({}, []))
            if len(values) >= _MOST_KEYS:
                continue
            value, wrong = typed(columns[0], columns[1], columns[2], columns[3])
            if isinstance(value, str) and len(value) > _LONGEST_VALUE:
                wrong, value = f"text of at most {_LONGEST_VALUE} characters", value[:_LONGEST_VALUE]
            if wrong:
                problems.append(f"FIELD_INVALID: {table} key {visible(_text(key))} is not {wrong}.")
            values[_text(key)] = value
    return found


def _segment_problems(found: tuple[Segment, ...]) -> list[str]:
    problems = []
    for scope in (METADATA, VECTOR):
        count = sum(segment.scope == scope for segment in found)
        if count != 1:
            problems.append(
                f"REF_BROKEN: it has {count or 'no'} {scope} segment{'s' if count > 1 else ''} instead of one."
            )
    problems += [
        f"REF_BROKEN: the segment id {visible(segment.id, limit=60)} is not a UUID."
        for segment in found
        if not is_uuid(segment.id)
    ]
    problems += [
        f"FIELD_INVALID: the segment {segment.id} has the unknown scope {visible(segment.scope, limit=60)}."
        for segment in found
        if segment.scope not in (METADATA, VECTOR)
    ]
    return problems


def _only(entry: Collection, scope: str) -> Segment:
    found = entry.of_scope(scope)
    if len(found) != 1:
        count = "no" if not found else str(len(found))
        raise RefBroken(
            what=f"{entry.place} has {count} {scope} segment{'s' if len(found) > 1 else ''} instead of one."
        )
    if not is_uuid(found[0].id):
        raise RefBroken(what=f"The {scope} segment of {entry.place} is {visible(found[0].id, limit=60)}, not a UUID.")
    return found[0]


# --- values ---------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)


def _plain(value: object) -> Value:
    return value if isinstance(value, bool | int | float | str) else _text(value)


def _checked_text(value: object, where: str, problems: list[str]) -> str:
    if not isinstance(value, str):
        problems.append(f"FIELD_INVALID: {where} is not text.")
    return _text(value)


def _dimension(value: object, where: str, problems: list[str]) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and 1 <= value <= _LARGEST_DIMENSION:
        return value
    problems.append(f"FIELD_INVALID: {where} holds {visible(_text(value), limit=40)}, which is no dimension.")
    return None


def _configuration(value: object, kind: object, where: str, problems: list[str]) -> str | None:
    if value is None:
        return None
    if kind != "text" or not isinstance(value, str):
        problems.append(f"FIELD_INVALID: {where} is not text.")
        return None
    if len(value) > LONGEST_CONFIGURATION:
        problems.append(f"FIELD_INVALID: {where} is longer than {LONGEST_CONFIGURATION} characters.")
        return None
    return value


def _order(entry: Collection) -> tuple[bytes, bytes]:
    return encoded(entry.name), encoded(entry.id)


def _bound(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else encoded(key)


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit


def _batches(items: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    unique = tuple(dict.fromkeys(items))
    return (unique[start : start + _BATCH] for start in range(0, len(unique), _BATCH))


def _count(store: PersistDir, table: str, statement: str) -> int:
    if not store.schema.has(table):
        return 0
    count: int = _rows(store, statement, ())[0][0]  # type: ignore[assignment]
    return count


def _rows(store: PersistDir, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    with sqlite_errors(store.database_path):
        cursor_: sqlite3.Cursor = store.db.execute(statement, values)
        return cursor_.fetchall()
