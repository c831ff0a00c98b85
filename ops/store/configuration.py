"""The HNSW configuration of a collection: where each release reads it from, what it says, and how it is changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from ops.errors import FieldInvalid, PlanChanged
from ops.store.text import encoded, visible

if TYPE_CHECKING:
    import sqlite3

    from ops.store.hnsw import Header
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import Collection

Value = int | float | str
SPACES = ("l2", "cosine", "ip")
MAX_TEXT_CHARS = 16 * 1024 * 1024
_MAX_INT = 2**31 - 1

# Where the members stand inside the text of each authority: found by changing one place and asking Chroma.
_SCHEMA_CONFIG = ("keys", "#embedding", "float_list", "vector_index", "config")
PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "schema_str": {
        "space": (*_SCHEMA_CONFIG, "space"),
        "max_neighbors": (*_SCHEMA_CONFIG, "hnsw", "max_neighbors"),
        "ef_construction": (*_SCHEMA_CONFIG, "hnsw", "ef_construction"),
        "ef_search": (*_SCHEMA_CONFIG, "hnsw", "ef_search"),
        "num_threads": (*_SCHEMA_CONFIG, "hnsw", "num_threads"),
        "batch_size": (*_SCHEMA_CONFIG, "hnsw", "batch_size"),
        "sync_threshold": (*_SCHEMA_CONFIG, "hnsw", "sync_threshold"),
        "resize_factor": (*_SCHEMA_CONFIG, "hnsw", "resize_factor"),
    },
    "config_json_str": {
        name: ("vector_index", "hnsw", name)
        for name in (
            "space",
            "max_neighbors",
            "ef_construction",
            "ef_search",
            "num_threads",
            "batch_size",
            "sync_threshold",
            "resize_factor",
        )
    },
}
_SEGMENT_KEYS = {
    "space": "hnsw:space",
    "max_neighbors": "hnsw:M",
    "ef_construction": "hnsw:construction_ef",
    "ef_search": "hnsw:search_ef",
    "num_threads": "hnsw:num_threads",
    "batch_size": "hnsw:batch_size",
    "sync_threshold": "hnsw:sync_threshold",
    "resize_factor": "hnsw:resize_factor",
}
# Where releases before 1.0 keep a copy for display, without reading it: found as above.
_SHOWN: Mapping[str, tuple[str, ...]] = {
    name: ("hnsw_configuration", "M" if name == "max_neighbors" else name) for name in _SEGMENT_KEYS
}
_ROWS: Mapping[str, tuple[str, str]] = {
    "segment_metadata": (
        "DELETE FROM segment_metadata WHERE segment_id = CAST(?1 AS TEXT) AND key = CAST(?2 AS TEXT)",
        "INSERT INTO segment_metadata (segment_id, key, str_value, int_value, float_value)"
        " VALUES (CAST(?1 AS TEXT), CAST(?2 AS TEXT), ?3, ?4, ?5)",
    ),
    "collection_metadata": (
        "DELETE FROM collection_metadata WHERE collection_id = CAST(?1 AS TEXT) AND key = CAST(?2 AS TEXT)",
        "INSERT INTO collection_metadata (collection_id, key, str_value, int_value, float_value)"
        " VALUES (CAST(?1 AS TEXT), CAST(?2 AS TEXT), ?3, ?4, ?5)",
    ),
}
_WRITE: Mapping[str, str] = {
    "schema_str": "UPDATE collections SET schema_str = CAST(?1 AS TEXT)"
    " WHERE id = CAST(?2 AS TEXT) AND schema_str = CAST(?3 AS TEXT)",
    "config_json_str": "UPDATE collections SET config_json_str = CAST(?1 AS TEXT)"
    " WHERE id = CAST(?2 AS TEXT) AND config_json_str = CAST(?3 AS TEXT)",
}
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, kw_only=True)
class HnswConfiguration:
    """The parameters of an HNSW index under the names of Chroma 1.x; the defaults are those of Chroma 0.6–1.5.

    ``num_threads`` None means: as many as the machine has.
    """

    space: str = "l2"
    max_neighbors: int = 16
    ef_construction: int = 100
    ef_search: int = 100
    num_threads: int | None = None
    batch_size: int = 100
    sync_threshold: int = 1000
    resize_factor: float = 1.2

    def changes(self, other: HnswConfiguration) -> dict[str, Value]:
        """The fields that ``other`` has otherwise, with its values."""
        found: dict[str, Value] = {}
        for field in fields(self):
            value = getattr(other, field.name)
            if value is not None and value != getattr(self, field.name):
                found[field.name] = value
        return found


@dataclass(frozen=True, kw_only=True)
class Effective:
    """What Chroma uses: ``authority`` is schema_str, config_json_str or segment_metadata, ``raw`` its text.

    Of segment_metadata, whose values are rows, ``raw`` is a JSON text of the ``hnsw:`` rows and of their copies: the
    rows of collection_metadata, and config_json_str where it holds an ``hnsw_configuration``.

    ``stored`` is what stands there; ``configuration`` has M and ef_construction of the index where there is one.
    """

    configuration: HnswConfiguration
    stored: HnswConfiguration
    authority: str
    raw: str


def effective(store: PersistDir, collection: Collection, header: Header | None = None) -> Effective:
    """The configuration that Chroma uses for the collection.

    Space, ef_search and sync_threshold come from the authority of the release that created the collection; of an index
    that exists, M and ef_construction come from its header. Raises FIELD_INVALID for a text or value of a wrong kind.
    """
    authority, raw = _authority(store, collection)
    if authority == "segment_metadata":
        raw = _rows_text(collection)
    configuration = stored = stored_in(store, collection, authority, raw)
    if header is not None and header.elements:
        configuration = replace(stored, max_neighbors=header.m, ef_construction=header.ef_construction)
    return Effective(configuration=configuration, stored=stored, authority=authority, raw=raw)


def stored_in(store: PersistDir, collection: Collection, authority: str, raw: str) -> HnswConfiguration:
    """What ``raw`` says, which is or was the text of the authority; raises FIELD_INVALID as ``effective``."""
    where = f"{authority} of {visible(collection.name)}"
    document = loaded(raw, where)
    if authority == "segment_metadata":
        found = {name: member(document, (authority, key)) for name, key in _SEGMENT_KEYS.items()}
        if found["ef_search"] is None:
            found["ef_search"] = _default_ef_search(store, member(document, ("config_json_str",)))
    else:
        found = {name: member(document, place) for name, place in PLACES[authority].items()}
    return _checked({name: value for name, value in found.items() if value is not None}, where)


def changed_text(collection: Collection, authority: str, changes: Mapping[str, Value]) -> str:
    """The text of the authority column with the changed values; every byte outside these values is kept.

    A member that is missing is added at the end of its object. Raises FIELD_INVALID where the place does not exist.
    """
    where = f"{authority} of {visible(collection.name)}"
    if authority not in PLACES:
        raise FieldInvalid(where=where, value="rows instead of one text", expected="a JSON text")
    text = getattr(collection, authority) or ""
    loaded(text, where)
    return _with(text, PLACES[authority], changes, where)


def rows_of(authority: str, changes: Mapping[str, Value]) -> int:
    """How many rows ``write`` changes at most."""
    return 2 * len(changes) + bool(changes) if authority == "segment_metadata" else int(bool(changes))


def after(collection: Collection, found: Effective, changes: Mapping[str, Value]) -> str:
    """``found.raw`` as it reads when ``changes`` were written to it."""
    if found.authority == "schema_str":
        return changed_text(replace(collection, schema_str=found.raw), found.authority, changes)
    if found.authority == "config_json_str":
        return changed_text(replace(collection, config_json_str=found.raw), found.authority, changes)
    document = json.loads(found.raw)
    for name, value in changes.items():
        for table in _ROWS:
            document[table][_SEGMENT_KEYS[name]] = value
    if document["config_json_str"] is not None:
        document["config_json_str"] = _shown(document["config_json_str"], changes)
    return _dumped(document)


def write(
    connection: sqlite3.Connection,
    collection: Collection,
    segment_id: str,
    found: Effective,
    changes: Mapping[str, Value],
) -> None:
    """Write the changes to the authority, inside the caller's transaction; ``segment_id`` is the VECTOR segment in it.

    Where values are rows of segment_metadata the copies that Chroma displays are written too. Raises PLAN_CHANGED when
    the text is no longer what ``collection`` was read with, FIELD_INVALID where a place does not exist.
    """
    if changes:
        put(connection, collection, segment_id, found, after(collection, found, changes))


def put(connection: sqlite3.Connection, collection: Collection, segment_id: str, found: Effective, wanted: str) -> None:
    """Make ``wanted`` what ``found.raw`` is now, inside the caller's transaction; raises as ``write``."""
    if found.authority != "segment_metadata":
        _put_text(connection, collection, found.authority, wanted, found.raw)
        return
    now, then = json.loads(found.raw), json.loads(wanted)
    for table, owner in (("segment_metadata", segment_id), ("collection_metadata", collection.id)):
        for key in sorted(now[table].keys() | then[table].keys()):
            if now[table].get(key) != then[table].get(key):
                _put_row(connection, table, owner, key, then[table].get(key))
    if now["config_json_str"] != then["config_json_str"]:
        _put_text(connection, collection, "config_json_str", then["config_json_str"], now["config_json_str"])


def _put_text(connection: sqlite3.Connection, collection: Collection, column: str, text: str, old: str) -> None:
    values = (encoded(text), encoded(collection.id), encoded(old))
    if connection.execute(_WRITE[column], values).rowcount != 1:
        raise PlanChanged(what=f"the {column} of {visible(collection.name)} was changed meanwhile")


def _put_row(connection: sqlite3.Connection, table: str, owner: str, key: str, value: Value | None) -> None:
    delete, insert = _ROWS[table]
    place = (encoded(owner), encoded(key))
    connection.execute(delete, place)
    if value is None:
        return
    text, whole, real = (value if isinstance(value, kind) else None for kind in (str, int, float))
    connection.execute(insert, (*place, text, whole, real))


def add_keys(connection: sqlite3.Connection, collection_id: str, keys: Mapping[str, Iterable[str]]) -> int:
    """Name the types of new metadata keys in ``schema_str``, inside the caller's transaction; how many were new.

    Chroma 1.5 writes ``keys.<key>.<type>`` with the indexes of ``defaults.<type>`` when its metadata segment first sees
    a key. A collection without ``schema_str`` (made by an older release) has none of it.
    """
    row = connection.execute("SELECT schema_str FROM collections WHERE id = ?", (collection_id,)).fetchone()
    if row is None or row[0] is None:
        return 0
    old = text = str(row[0])
    where, added = "schema_str", 0
    document = loaded(text, where)
    known, defaults = member(document, ("keys",)), member(document, ("defaults",))
    if not isinstance(known, dict) or not isinstance(defaults, dict):
        raise FieldInvalid(where=where, value=_short(text), expected="the form Chroma writes")
    for key, types in keys.items():
        for kind in types:
            described = known.get(key)
            if kind not in defaults or (isinstance(described, dict) and kind in described):
                continue
            value = json.dumps(defaults[kind], separators=(",", ":"))
            if isinstance(described, dict):
                text = replaced(text, ("keys", key, kind), value, where)
            else:
                text = replaced(text, ("keys", key), f"{{{json.dumps(kind)}:{value}}}", where)
                described = known[key] = {}
            described[kind] = True
            added += 1
    if added:
        connection.execute(
            _WRITE["schema_str"],
            (encoded(text), encoded(collection_id), encoded(old)),
        )
    return added


def _authority(store: PersistDir, collection: Collection) -> tuple[str, str]:
    for column in ("schema_str", "config_json_str"):
        if any(problem.startswith(f"FIELD_INVALID: collections.{column} ") for problem in collection.problems):
            raise FieldInvalid(where=f"{column} of {visible(collection.name)}", value="no usable text", expected="JSON")
    if store.schema.shape.schema_str and collection.schema_str is not None:
        return "schema_str", collection.schema_str
    raw = collection.config_json_str
    if raw is not None:
        document = loaded(raw, f"config_json_str of {visible(collection.name)}")
        if isinstance(member(document, ("vector_index", "hnsw")), dict):
            return "config_json_str", raw
    return "segment_metadata", ""


def _default_ef_search(store: PersistDir, displayed: object) -> int:
    """What Chroma takes without a row: 10 up to 0.5, 100 later.

    0.5.9 to 0.6.3 write the same tables; which default their reader has is told by the text that they display.
    """
    shape = store.schema.shape
    if not shape.int_seq_ids and isinstance(displayed, str):
        shown = member(loaded(displayed, "config_json_str"), _SHOWN["ef_search"])
        if type(shown) is int and shown > 0:
            return shown
    return shape.ef_search


def _rows_text(collection: Collection) -> str:
    rows = {key: value for segment in collection.of_scope("VECTOR") for key, value in segment.metadata.items()}
    return _dumped(
        {
            "segment_metadata": {key: rows[key] for key in _SEGMENT_KEYS.values() if key in rows},
            "collection_metadata": {
                key: collection.metadata[key] for key in _SEGMENT_KEYS.values() if key in collection.metadata
            },
            "config_json_str": _shown_text(collection),
        }
    )


def _shown_text(collection: Collection) -> str | None:
    """``config_json_str`` where it is a copy for display, else None."""
    text = collection.config_json_str
    if text is None:
        return None
    copied = member(loaded(text, f"config_json_str of {visible(collection.name)}"), ("hnsw_configuration",))
    return text if isinstance(copied, dict) else None


def _shown(text: str, changes: Mapping[str, Value]) -> str:
    """The text for display with the changed values that it shows."""
    document = json.loads(text)
    shown = {name: value for name, value in changes.items() if member(document, _SHOWN[name]) is not None}
    return _with(text, _SHOWN, shown, "config_json_str")


def _with(text: str, places: Mapping[str, tuple[str, ...]], changes: Mapping[str, Value], where: str) -> str:
    for name, value in changes.items():
        text = replaced(text, places[name], json.dumps(value), where)
    return text


def _dumped(document: Mapping[str, object]) -> str:
    return json.dumps(document, sort_keys=True)


def loaded(text: str, where: str) -> object:
    """The object of a JSON text; raises FIELD_INVALID, which says ``where`` it stands, for anything else."""
    if len(text) > MAX_TEXT_CHARS:
        raise FieldInvalid(where=where, value=f"{len(text)} characters", expected=f"shorter than {MAX_TEXT_CHARS}")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldInvalid(where=where, value=_short(text), expected="JSON") from error
    if not isinstance(document, dict):
        raise FieldInvalid(where=where, value=_short(text), expected="a JSON object")
    return document


def member(document: object, place: tuple[str, ...]) -> object:
    """The value at a place; None where there is none."""
    for key in place:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _checked(found: Mapping[str, object], where: str) -> HnswConfiguration:
    values: dict[str, Value] = {}
    for name, value in found.items():
        if name == "space":
            if value not in SPACES:
                raise FieldInvalid(where=f"space in {where}", value=_short(repr(value)), expected=" or ".join(SPACES))
            values[name] = value
        elif name == "resize_factor":
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise FieldInvalid(where=f"{name} in {where}", value=_short(repr(value)), expected="a positive number")
            values[name] = float(value)
        else:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_INT:
                raise FieldInvalid(
                    where=f"{name} in {where}", value=_short(repr(value)), expected="a positive whole number"
                )
            values[name] = value
    return HnswConfiguration(**values)  # type: ignore[arg-type]


def replaced(text: str, place: tuple[str, ...], value: str, where: str) -> str:
    """``text`` with the JSON ``value`` at ``place``, whose parents must be objects and stand there once."""
    start = _after_space(text, 0)
    for depth, key in enumerate(place):
        if text[start : start + 1] != "{":
            raise FieldInvalid(where=where, value=_short(text[start:]), expected=f"an object that holds {key}")
        spans, end = _members(text, start)
        found = [span for name, *span in spans if name == key]
        if len(found) > 1:
            raise FieldInvalid(where=where, value=f"{key} twice", expected="one value for each key")
        if not found:
            if depth < len(place) - 1:
                raise FieldInvalid(where=where, value=f"no {key}", expected="the form Chroma writes")
            comma = "," if spans else ""
            at = spans[-1][2] if spans else start + 1
            return f"{text[:at]}{comma}{json.dumps(key)}:{value}{text[at:]}"
        start, end = found[0]
    return text[:start] + value + text[end:]


def _members(text: str, start: int) -> tuple[list[tuple[str, int, int]], int]:
    """Key, start and end of each value of the object at ``start``, and the object's end; the text is valid JSON."""
    spans: list[tuple[str, int, int]] = []
    at = _after_space(text, start + 1)
    while text[at] != "}":
        if text[at] == ",":
            at = _after_space(text, at + 1)
        key, at = _decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)  # the colon
        _, end = _decode(text, at)
        spans.append((key, at, end))
        at = _after_space(text, end)
    return spans, at + 1


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
