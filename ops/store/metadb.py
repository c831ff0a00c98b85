"""Records of the METADATA segment: ids, metadata with arrays, documents; read in pages by key.

Pages go by ``embedding_id``, which the unique index (segment_id, embedding_id) serves on every release. An id is text
in a sound store; what else lies there is shown as text with a problem beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from ops.store.embeddings_queue import number, time_of
from ops.store.sqlite import sqlite_errors
from ops.store.sysdb import Value, typed
from ops.store.text import Key, cursor, encoded, keys_of, visible

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir

DOCUMENT_KEY = "chroma:document"
MetadataValue = Value | tuple[Value, ...]
_CHUNK = 5000
_MOST_ELEMENTS = 1000


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record of the METADATA segment without its embedding.

    ``row_id`` is embeddings.id, ``document_chars`` the length of the whole document of which ``document`` may be only
    the beginning, ``more_keys`` says that ``metadata`` is not complete. Values that were cut end with an ellipsis.
    """

    row_id: int
    id: str
    key: str
    seq_id: int | None
    created_at: datetime | None
    document: str | None
    document_chars: int | None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    more_keys: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecordPage:
    """Some records by id; ``after`` and ``before`` are the cursors of the next and previous page, None at the ends."""

    records: tuple[Record, ...]
    after: str | None
    before: str | None


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How much of a record is read: characters of the document and of a text value, keys, elements of an array."""

    document_chars: int = 300
    value_chars: int = 300
    keys: int = 50
    elements: int = 50


WHOLE = Caps(document_chars=1 << 20, value_chars=1 << 16, keys=2000, elements=_MOST_ELEMENTS)


def count_records(store: PersistDir, segment_id: str) -> int:
    """Rows of ``embeddings`` of a METADATA segment, from the index alone."""
    store.schema.require("embeddings")
    rows = _rows(store, "SELECT count(*) FROM embeddings WHERE segment_id = CAST(? AS TEXT)", (encoded(segment_id),))
    return rows[0][0] if isinstance(rows[0][0], int) else 0


def count_all(store: PersistDir) -> dict[str, int]:
    """Records per segment id, of every segment that has any: one pass over the index."""
    store.schema.require("embeddings")
    rows = _rows(
        store, "SELECT substr(segment_id, 1, 4096), count(*) FROM embeddings GROUP BY segment_id LIMIT 100000", ()
    )
    return {str(row[0]): row[1] for row in rows if isinstance(row[1], int)}


def records(
    store: PersistDir,
    segment_id: str,
    *,
    after: str | None = None,
    before: str | None = None,
    limit: int,
    id_from: str | None = None,
    caps: Caps | None = None,
) -> RecordPage:
    """At most ``limit`` records behind ``after``, or those in front of ``before``, in the order of their ids.

    ``id_from`` starts the list at the first id that is not smaller. Raises BAD_PARAMETERS for a cursor that is none.
    """
    store.schema.require("embeddings")
    segment = encoded(segment_id)
    if before is not None:
        bound = keys_of(before, 1, "before")[0]
        rows = _rows(store, _BACKWARDS[isinstance(bound, bytes)], (segment, _bytes(bound), limit + 1))
        more_before, more_after = len(rows) > limit, True
        rows = rows[:limit][::-1]
    else:
        bound = keys_of(after, 1)[0] if after is not None else id_from or ""
        inclusive = after is None
        statement = _FORWARDS[(isinstance(bound, bytes), inclusive)]
        rows = _rows(store, statement, (segment, _bytes(bound), limit + 1))
        more_before, more_after = after is not None or bool(id_from), len(rows) > limit
        rows = rows[:limit]
    found = tuple(_record(store, row, caps or Caps()) for row in rows)
    return RecordPage(
        records=found,
        after=found[-1].key if found and more_after else None,
        before=found[0].key if found and more_before else None,
    )


def record(store: PersistDir, segment_id: str, embedding_id: Key, *, caps: Caps = WHOLE) -> Record | None:
    """One record with at most a mebibyte of its document; None when the segment has no such id."""
    store.schema.require("embeddings")
    rows = _rows(store, _ONE[isinstance(embedding_id, bytes)], (encoded(segment_id), _bytes(embedding_id)))
    return _record(store, rows[0], caps) if rows else None


def live_ids(store: PersistDir, segment_id: str) -> Iterator[str]:
    """All ids of a segment in the order of their bytes, from the index alone."""
    store.schema.require("embeddings")
    last: Key | None = None
    while True:
        statement = _IDS[(isinstance(last, bytes), last is None)]
        rows = _rows(store, statement, (encoded(segment_id), _bytes(last or ""), _CHUNK))
        for (identifier,) in rows:
            yield _text(identifier)
        if len(rows) < _CHUNK:
            return
        last = rows[-1][0] if isinstance(rows[-1][0], bytes) else _text(rows[-1][0])


_SELECT = (
    "SELECT id, embedding_id, CASE WHEN length(seq_id) <= 64 THEN seq_id END, created_at FROM embeddings "
    "WHERE segment_id = CAST(?1 AS TEXT) AND embedding_id "
)
_KEY: Mapping[bool, str] = {False: "CAST(?2 AS TEXT)", True: "CAST(?2 AS BLOB)"}
_FORWARDS: Mapping[tuple[bool, bool], str] = {
    (blob, inclusive): f"{_SELECT}{'>=' if inclusive else '>'} {key} ORDER BY embedding_id LIMIT ?3"
    for blob, key in _KEY.items()
    for inclusive in (False, True)
}
_BACKWARDS: Mapping[bool, str] = {
    blob: f"{_SELECT}< {key} ORDER BY embedding_id DESC LIMIT ?3" for blob, key in _KEY.items()
}
_IDS: Mapping[tuple[bool, bool], str] = {
    (blob, inclusive): (
        "SELECT embedding_id FROM embeddings WHERE segment_id = CAST(?1 AS TEXT) "  # noqa: S608
        f"AND embedding_id {'>=' if inclusive else '>'} {key} ORDER BY embedding_id LIMIT ?3"
    )
    for blob, key in _KEY.items()
    for inclusive in (False, True)
}
_ONE: Mapping[bool, str] = {blob: f"{_SELECT}= {key}" for blob, key in _KEY.items()}
_METADATA: Mapping[bool, str] = {
    has_bool: "SELECT substr(key, 1, 1025), substr(string_value, 1, ?2), length(string_value), int_value, float_value, "  # noqa: S608
    f"{'bool_value' if has_bool else 'NULL'} FROM embedding_metadata WHERE id = ?1 AND key <> 'chroma:document' "
    "ORDER BY key LIMIT ?3"
    for has_bool in (False, True)
}
_ARRAYS = (
    "SELECT substr(key, 1, 1025), substr(string_value, 1, ?2), length(string_value), int_value, float_value, "
    "bool_value FROM embedding_metadata_array WHERE id = ?1 ORDER BY rowid LIMIT ?3"
)
_DOCUMENT = (
    "SELECT substr(string_value, 1, ?2), length(string_value), typeof(string_value) FROM embedding_metadata "
    "WHERE id = ?1 AND key = 'chroma:document'"
)


def _record(store: PersistDir, row: tuple[object, ...], caps: Caps) -> Record:
    row_id, identifier, seq_id, created_at = row
    problems: list[str] = []
    if not isinstance(identifier, str):
        problems.append("FIELD_INVALID: the id is not text.")
    if number(seq_id) is None:
        problems.append("FIELD_INVALID: seq_id is no sequence number.")
    metadata: dict[str, MetadataValue] = {}
    more = False
    if store.schema.has("embedding_metadata"):
        statement = _METADATA[store.schema.shape.bool_values]
        scalars = _rows(store, statement, (row_id, caps.value_chars, caps.keys + 1))
        more = len(scalars) > caps.keys
        for key, *columns in scalars[: caps.keys]:
            metadata[_text(key)] = _value(columns, _text(key), problems)
    if store.schema.shape.arrays and store.schema.has("embedding_metadata_array"):
        more = _add_arrays(store, row_id, caps, metadata, problems) or more
    document, chars = _document(store, row_id, caps, problems)
    return Record(
        row_id=row_id if isinstance(row_id, int) else 0,
        id=_text(identifier),
        key=cursor(identifier if isinstance(identifier, bytes | str) else _text(identifier)),
        seq_id=number(seq_id),
        created_at=time_of(created_at),
        document=document,
        document_chars=chars,
        metadata=metadata,
        more_keys=more,
        problems=tuple(problems),
    )


def _add_arrays(
    store: PersistDir, row_id: object, caps: Caps, metadata: dict[str, MetadataValue], problems: list[str]
) -> bool:
    most = caps.keys * caps.elements
    rows = _rows(store, _ARRAYS, (row_id, caps.value_chars, most + 1))
    arrays: dict[str, list[Value]] = {}
    elements: list[Value] = []
    for key, *columns in rows[:most]:
        elements = arrays.setdefault(_text(key), [])
        if len(elements) < caps.elements:
            elements.append(_value(columns, _text(key), problems))
        elif elements[-1] != "…":
            elements.append("…")
    if len(rows) > most and elements and elements[-1] != "…":
        elements.append("…")
    for key, elements in arrays.items():
        if key in metadata:
            problems.append(f"FIELD_INVALID: the metadata key {visible(key)} has a value and an array.")
        metadata[key] = tuple(elements)
    return len(rows) > most


def _document(store: PersistDir, row_id: object, caps: Caps, problems: list[str]) -> tuple[str | None, int | None]:
    if not store.schema.has("embedding_metadata"):
        return None, None
    rows = _rows(store, _DOCUMENT, (row_id, caps.document_chars))
    if not rows or rows[0][2] == "null":
        return None, None
    text, chars, kind = rows[0]
    if kind != "text":
        problems.append("FIELD_INVALID: the document is not text.")
    return _text(text), chars if isinstance(chars, int) else None


def _value(columns: list[object], key: str, problems: list[str]) -> Value:
    string, chars, integer, floating, boolean = columns
    value, wrong = typed(string, integer, floating, boolean)
    if wrong:
        problems.append(f"FIELD_INVALID: the metadata key {visible(key)} does not hold {wrong}.")
    if isinstance(value, str) and isinstance(chars, int) and chars > len(value):
        return value + "…"
    return value


def _bytes(key: Key) -> bytes:
    return key if isinstance(key, bytes) else encoded(key)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else "" if value is None else str(value)


def _rows(store: PersistDir, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    with sqlite_errors(store.database_path):
        return store.db.execute(statement, values).fetchall()
