"""Statements about rows by which a recovery sees, where Chroma keeps no ``maintenance_log``, that a step was committed.

An intent names a condition and its values; the SQL stands here and never in a file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from ops.codec import DecodeError
from ops.store.text import encoded

# Each answers 1 when what the step was to do is done. Values are text; numbers are cast.
_STATEMENTS: Mapping[str, str] = {
    "schema_str_is": "SELECT EXISTS (SELECT 1 FROM collections"
    " WHERE id = CAST(?1 AS TEXT) AND schema_str = CAST(?2 AS TEXT))",
    "config_json_str_is": "SELECT EXISTS (SELECT 1 FROM collections"
    " WHERE id = CAST(?1 AS TEXT) AND config_json_str = CAST(?2 AS TEXT))",
    "segment_int_is": "SELECT EXISTS (SELECT 1 FROM segment_metadata"
    " WHERE segment_id = CAST(?1 AS TEXT) AND key = CAST(?2 AS TEXT) AND int_value = CAST(?3 AS INTEGER))",
    "segment_float_is": "SELECT EXISTS (SELECT 1 FROM segment_metadata"
    " WHERE segment_id = CAST(?1 AS TEXT) AND key = CAST(?2 AS TEXT) AND float_value = CAST(?3 AS REAL))",
    "segment_key_is_absent": "SELECT NOT EXISTS (SELECT 1 FROM segment_metadata"
    " WHERE segment_id = CAST(?1 AS TEXT) AND key = CAST(?2 AS TEXT))",
    "queue_config_is": "SELECT EXISTS (SELECT 1 FROM embeddings_queue_config"
    " WHERE id = CAST(?1 AS INTEGER) AND config_json_str = CAST(?2 AS TEXT))",
    # Topic, highest number that goes, number of the one entry that is kept (0 for none).
    "queue_is_clean_up_to": "SELECT NOT EXISTS (SELECT 1 FROM embeddings_queue"
    " WHERE topic = CAST(?1 AS TEXT) AND seq_id <= CAST(?2 AS INTEGER) AND seq_id <> CAST(?3 AS INTEGER))",
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One named statement about the store with the values in it."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """An intent is a file of the store: only statements that stand here are asked."""
        statement = _STATEMENTS.get(self.name)
        if statement is None or len(self.values) != max(n for n in range(1, 10) if f"?{n}" in statement):
            raise DecodeError(f"{self.name[:60]} is no condition of that many values")

    def holds(self, connection: sqlite3.Connection) -> bool:
        """Ask the store."""
        values = tuple(encoded(value) for value in self.values)
        return bool(connection.execute(_STATEMENTS[self.name], values).fetchone()[0])
