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
_PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
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
    where = f"{authority} of {visible(collection.name)}"
    if authority == "segment_metadata":
        found = _segment_metadata(collection)
        raw = json.dumps(found, sort_keys=True)
    else:
        document = _loaded(raw, where)
        found = {name: _at(document, place) for name, place in _PLACES[authority].items()}
    configuration = stored = _checked({name: value for name, value in found.items() if value is not None}, where)
    if header is not None and header.elements:
        configuration = replace(stored, max_neighbors=header.m, ef_construction=header.ef_construction)
    return Effective(configuration=configuration, stored=stored, authority=authority, raw=raw)


def changed_text(collection: Collection, authority: str, changes: Mapping[str, Value]) -> str:
    """The text of the authority column with the changed values; every byte outside these values is kept.

    A member that is missing is added at the end of its object. Raises FIELD_INVALID where the place does not exist.
    """
    where = f"{authority} of {visible(collection.name)}"
    if authority not in _PLACES:
        raise FieldInvalid(where=where, value="rows instead of one text", expected="a JSON text")
    text = getattr(collection, authority) or ""
    _loaded(text, where)
    for name, value in changes.items():
        text = _replaced(text, _PLACES[authority][name], json.dumps(value), where)
    return text


def write(
    connection: sqlite3.Connection,
    collection: Collection,
    segment_id: str,
    authority: str,
    changes: Mapping[str, Value],
) -> None:
    """Write the changes to the authority, inside the caller's transaction; ``segment_id`` is the VECTOR segment in it.

    Raises PLAN_CHANGED when the text is no longer what ``collection`` was read with, and as ``changed_text``.
    """
    if not changes:
        return
    if authority == "segment_metadata":
        for name, value in changes.items():
            _write_row(connection, segment_id, _SEGMENT_KEYS[name], value)
        return
    text = changed_text(collection, authority, changes)
    values = (encoded(text), encoded(collection.id), encoded(getattr(collection, authority)))
    if connection.execute(_WRITE[authority], values).rowcount != 1:
        raise PlanChanged(what=f"the {authority} of {visible(collection.name)} was changed meanwhile")


def _write_row(connection: sqlite3.Connection, segment_id: str, key: str, value: Value) -> None:
    connection.execute("DELETE FROM segment_metadata WHERE segment_id = ? AND key = ?", (segment_id, key))
    connection.execute(
        "INSERT INTO segment_metadata (segment_id, key, str_value, int_value, float_value) VALUES (?, ?, ?, ?, ?)",
        (
            segment_id,
            key,
            value if isinstance(value, str) else None,
            value if isinstance(value, int) else None,
            value if isinstance(value, float) else None,
        ),
    )


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
    document = _loaded(text, where)
    known, defaults = _at(document, ("keys",)), _at(document, ("defaults",))
    if not isinstance(known, dict) or not isinstance(defaults, dict):
        raise FieldInvalid(where=where, value=_short(text), expected="the form Chroma writes")
    for key, types in keys.items():
        for kind in types:
            described = known.get(key)
            if kind not in defaults or (isinstance(described, dict) and kind in described):
                continue
            value = json.dumps(defaults[kind], separators=(",", ":"))
            if isinstance(described, dict):
                text = _replaced(text, ("keys", key, kind), value, where)
            else:
                text = _replaced(text, ("keys", key), f"{{{json.dumps(kind)}:{value}}}", where)
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
        document = _loaded(raw, f"config_json_str of {visible(collection.name)}")
        if isinstance(_at(document, ("vector_index", "hnsw")), dict):
            return "config_json_str", raw
    return "segment_metadata", ""


def _segment_metadata(collection: Collection) -> dict[str, object]:
    stored = {key: value for segment in collection.of_scope("VECTOR") for key, value in segment.metadata.items()}
    return {name: stored.get(key) for name, key in _SEGMENT_KEYS.items()}


def _loaded(text: str, where: str) -> object:
    if len(text) > MAX_TEXT_CHARS:
        raise FieldInvalid(where=where, value=f"{len(text)} characters", expected=f"shorter than {MAX_TEXT_CHARS}")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldInvalid(where=where, value=_short(text), expected="JSON") from error
    if not isinstance(document, dict):
        raise FieldInvalid(where=where, value=_short(text), expected="a JSON object")
    return document


def _at(document: object, place: tuple[str, ...]) -> object:
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


def _replaced(text: str, place: tuple[str, ...], value: str, where: str) -> str:
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
