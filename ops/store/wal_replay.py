"""What outstanding WAL entries do: to the vectors of an index, and to the rows of the METADATA segment.

Both follow Chroma's own replay: an add of an id that exists is ignored, so is an update or delete of one that does not.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, cast

from ops.errors import UnsupportedVersion, WalAnomaly
from ops.store.embeddings_queue import ADD, DELETE, UPDATE, UPSERT, WalEntry, operations
from ops.store.metadb import DOCUMENT_KEY
from ops.store.text import encoded, visible

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir
    from ops.store.schema import Family

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar | tuple[Scalar, ...] | None]
_INT64 = 1 << 63


@dataclass(frozen=True, kw_only=True)
class VectorEffects:
    """What the entries leave of an index: ``written`` maps an id to the entry whose vector it has then, in WAL order.

    ``deleted`` are ids of the index that are gone then.
    """

    written: Mapping[str, int]
    deleted: frozenset[str]

    def ids(self, indexed: Ids[str]) -> set[str]:
        """The ids of the index afterwards."""
        return (set(indexed) - self.deleted) | set(self.written)


@dataclass(kw_only=True)
class Applied:
    """What was applied to a METADATA segment: entries, records made and removed, and the types seen for each key."""

    entries: int = 0
    added: int = 0
    updated: int = 0
    deleted: int = 0
    keys: dict[str, set[str]] = field(default_factory=dict)


def require_proved(store: PersistDir, operation: str) -> None:
    """Raise UNSUPPORTED_VERSION on stores before Chroma 1.5: writing their WAL has not been proved yet."""
    schema = store.schema
    if not schema.shape.arrays:
        why = "its WAL is written by this version on stores of Chroma 1.5 only"
        raise UnsupportedVersion(releases=schema.releases, operation=operation, why=why)


def vector_effects(
    store: PersistDir, collection_id: str, indexed: Ids[str], above_seq: int, up_to_seq: int
) -> VectorEffects:
    """Follow the entries above ``above_seq`` from an index that holds the ids ``indexed``; reads no vectors."""
    written: dict[str, int] = {}
    deleted: set[str] = set()
    for seq_id, operation, identifier, has_vector in operations(store, collection_id, above_seq, up_to_seq):
        present = identifier in written or (identifier in indexed and identifier not in deleted)
        if operation == DELETE:
            written.pop(identifier, None)
            if identifier in indexed:
                deleted.add(identifier)
        elif (operation == UPSERT or present == (operation == UPDATE)) and has_vector:
            written.pop(identifier, None)
            written[identifier] = seq_id
            deleted.discard(identifier)
    return VectorEffects(written=written, deleted=frozenset(deleted))


def records_after(
    store: PersistDir, collection_id: str, recorded: Iterable[str], above_seq: int, up_to_seq: int
) -> set[str]:
    """The ids of a METADATA segment that holds ``recorded`` once it has taken up the entries above ``above_seq``."""
    found = set(recorded)
    for _, operation, identifier, _ in operations(store, collection_id, above_seq, up_to_seq):
        if operation == DELETE:
            found.discard(identifier)
        elif operation in (ADD, UPSERT):
            found.add(identifier)
    return found


def apply_metadata(
    connection: sqlite3.Connection, family: Family, segment_id: str, entries: Iterable[WalEntry]
) -> Applied:
    """Apply entries to the rows of a METADATA segment, inside the caller's transaction.

    Raises WAL_ANOMALY for an entry whose metadata is not what Chroma writes. The watermark is the caller's.
    """
    applied = Applied()
    for entry in entries:
        applied.entries += 1
        row = connection.execute(
            "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = CAST(? AS TEXT)",
            (segment_id, encoded(entry.id)),
        ).fetchone()
        if entry.operation == DELETE:
            if row is not None:
                connection.execute("DELETE FROM embeddings WHERE id = ?", row)
                _clear(connection, family, row[0])
                applied.deleted += 1
            continue
        if (row is not None and entry.operation == ADD) or (row is None and entry.operation == UPDATE):
            continue
        seq_id = stored_seq(family, entry.seq_id)
        if row is None:
            row_id = connection.execute(
                "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, CAST(? AS TEXT), ?)",
                (segment_id, encoded(entry.id), seq_id),
            ).lastrowid
            assert row_id is not None  # noqa: S101 - a row was inserted
            _clear(connection, family, row_id)  # SQLite gives the ids of deleted rows out again
            applied.added += 1
        else:
            row_id = row[0]
            connection.execute("UPDATE embeddings SET seq_id = ? WHERE id = ?", (seq_id, row_id))
            applied.updated += 1
        metadata = metadata_of(entry, family)
        for key, value in metadata.items():
            _put(connection, family, row_id, key, value)
            if kind := _kind(value):
                applied.keys.setdefault(key, set()).add(kind)
    applied.keys.pop(DOCUMENT_KEY, None)
    return applied


def metadata_of(entry: WalEntry, family: Family) -> Metadata:
    """The metadata of an entry, typed as Chroma stores it; a document stands under ``chroma:document``.

    Raises WAL_ANOMALY. A document that is no text is left out, as Chroma does.
    """
    try:
        loaded = json.loads(entry.metadata or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _anomaly(entry, "its metadata is not JSON")
    if not isinstance(loaded, dict):
        _anomaly(entry, "its metadata is no JSON object")
    found: dict[str, Scalar | tuple[Scalar, ...] | None] = {}
    for key, value in loaded.items():
        if key == DOCUMENT_KEY and not isinstance(value, str):
            continue
        if isinstance(value, list):
            if not family.arrays:
                _anomaly(entry, f"the key {visible(key)} holds an array, which its release can not store")
            if len({type(element) for element in value}) > 1:
                _anomaly(entry, f"the key {visible(key)} holds an array of several types")
            found[key] = tuple(_scalar(entry, key, element) for element in value)
        elif isinstance(value, bool) and not family.bool_values:
            _anomaly(entry, f"the key {visible(key)} holds a boolean, which its release can not store")
        else:
            found[key] = None if value is None else _scalar(entry, key, value)
    return found


def stored_seq(family: Family, seq_id: int) -> int | bytes:
    """A sequence number as ``embeddings`` and ``max_seq_id`` of that family hold it."""
    return seq_id if family.int_seq_ids else seq_id.to_bytes(8, "big")


def set_watermark(connection: sqlite3.Connection, family: Family, segment_id: str, seq_id: int) -> None:
    """Write the ``max_seq_id`` of a segment, inside the caller's transaction."""
    values = (stored_seq(family, seq_id), segment_id)
    if connection.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", values).rowcount == 0:
        connection.execute("INSERT INTO max_seq_id (seq_id, segment_id) VALUES (?, ?)", values)


def _scalar(entry: WalEntry, key: str, value: object) -> Scalar:
    whole = isinstance(value, int) and -_INT64 <= value < _INT64
    if isinstance(value, bool | str) or whole or (isinstance(value, float) and math.isfinite(value)):
        return cast("Scalar", value)
    raise WalAnomaly(
        seq_id=entry.seq_id, why=f"the key {visible(key)} holds a value that is no text, number or boolean"
    )


def _put(
    connection: sqlite3.Connection, family: Family, row_id: int, key: str, value: Scalar | tuple[Scalar, ...] | None
) -> None:
    name = encoded(key)
    connection.execute("DELETE FROM embedding_metadata WHERE id = ? AND key = CAST(? AS TEXT)", (row_id, name))
    if family.arrays:
        connection.execute(
            "DELETE FROM embedding_metadata_array WHERE id = ? AND key = CAST(? AS TEXT)", (row_id, name)
        )
    if isinstance(value, tuple):
        for element in value:
            connection.execute(
                "INSERT INTO embedding_metadata_array (id, key, string_value, int_value, float_value, bool_value) "
                "VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)",
                (row_id, name, *_columns(element)),
            )
    elif value is not None:
        insert = _INSERT_WITH_BOOL if family.bool_values else _INSERT
        connection.execute(insert, (row_id, name, *_columns(value))[: 6 if family.bool_values else 5])
    if key == DOCUMENT_KEY and isinstance(value, str):
        connection.execute("DELETE FROM embedding_fulltext_search WHERE rowid = ?", (row_id,))
        connection.execute(
            "INSERT INTO embedding_fulltext_search (rowid, string_value) VALUES (?, CAST(? AS TEXT))",
            (row_id, encoded(value)),
        )


_INSERT = (
    "INSERT INTO embedding_metadata (id, key, string_value, int_value, float_value) "
    "VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?)"
)
_INSERT_WITH_BOOL = (
    "INSERT INTO embedding_metadata (id, key, string_value, int_value, float_value, bool_value) "
    "VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"
)


def _columns(value: Scalar) -> tuple[bytes | None, int | None, float | None, int | None]:
    """string_value, int_value, float_value, bool_value."""
    if isinstance(value, bool):
        return None, None, None, int(value)
    if isinstance(value, int):
        return None, value, None, None
    if isinstance(value, float):
        return None, None, value, None
    return encoded(value), None, None, None


def _kind(value: Scalar | tuple[Scalar, ...] | None) -> str:
    """The member of ``schema_str`` that describes a value; an array is described by its elements."""
    sample = (value[0] if value else None) if isinstance(value, tuple) else value
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string")):
        if isinstance(sample, kind):
            return name
    return ""


def _clear(connection: sqlite3.Connection, family: Family, row_id: int) -> None:
    connection.execute("DELETE FROM embedding_metadata WHERE id = ?", (row_id,))
    if family.arrays:
        connection.execute("DELETE FROM embedding_metadata_array WHERE id = ?", (row_id,))
    connection.execute("DELETE FROM embedding_fulltext_search WHERE rowid = ?", (row_id,))


def entries_between(entries: Iterable[WalEntry], up_to_seq: int) -> Iterator[WalEntry]:
    """Those up to ``up_to_seq`` of entries in their order."""
    for entry in entries:
        if entry.seq_id > up_to_seq:
            return
        yield entry


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _anomaly(entry: WalEntry, why: str) -> NoReturn:
    raise WalAnomaly(seq_id=entry.seq_id, why=why)
