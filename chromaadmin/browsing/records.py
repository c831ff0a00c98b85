"""The table of records and the panel of one of them, as a page shows them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict

from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import look
from ops import reads
from ops.execute import Failure
from ops.store.metadb import MetadataValue

PAGE = 20
COLUMNS_SHOWN = 3
COLUMNS_BESIDE_PANEL = 1
MOST_COLUMNS = 12
_CELL_CHARS = 120
_SHORT_ID_CHARS = 36
_SHOWN_COMPONENTS = 4  # what the width of the panel takes


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A metadata value as text; ``number`` stands at the right, ``missing`` where the record has no such key."""

    text: str
    number: bool = False
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordLine:
    """One row of the table."""

    row: reads.RecordRow
    url: str
    selected: bool
    cells: tuple[Cell, ...]

    @property
    def short(self) -> bool:
        """Whether the id fits on one line."""
        return len(self.row.shown) <= _SHORT_ID_CHARS


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metadata key that can be a column, how many records of this page have it, and whether it is one."""

    key: str
    count: int
    shown: bool
    number: bool


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One record in full. ``pairs`` are (key, text, type); the neighbours are addresses within this page."""

    record: reads.RecordPageOf
    pairs: tuple[tuple[str, str, str], ...]
    close: str
    previous: str
    next: str

    @property
    def document_context(self) -> str:
        """How long the document is, and how much of it is shown."""
        row = self.record.row
        if row.document is None or row.document_chars is None:
            return ""
        shown = f"first {len(row.document):,} of " if len(row.document) < row.document_chars else ""
        return f"{shown}{row.document_chars:,} characters"

    @property
    def metadata_context(self) -> str:
        """How many keys, and whether these are all."""
        count = len(self.pairs)
        return f"first {count:,} keys" if self.record.row.more_keys else f"{count:,} {'key' if count == 1 else 'keys'}"

    @property
    def vector_context(self) -> str:
        """The shape of the vector, and its norm where it was read."""
        shape = f"{self.record.dimension:,} × float32" if self.record.dimension is not None else ""
        return f"{shape}, norm {self.record.norm:.4f}" if self.record.norm is not None else shape

    @property
    def vector_head(self) -> str:
        """The first components as text; empty where they were not read."""
        head = self.record.vector_head[:_SHOWN_COMPONENTS]
        shown = " ".join(f"{component:.4f}".replace("-", "−") for component in head)
        return f"{shown} …" if head and len(head) < (self.record.dimension or 0) else shown


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """Everything the tab of records shows."""

    page: reads.RecordsPage | None
    failure: Failure | None
    lines: tuple[RecordLine, ...]
    columns: tuple[Column, ...]
    panel: Panel | None
    panel_failure: Failure | None
    gone: bool
    wanted_id: str
    address: str
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def shown_columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.shown)


def record_table(instance: Instance, collection_id: str, query: QueryDict) -> RecordTable:
    """The page of records that ``query`` asks for: after, before, id (its beginning), columns, record."""
    wanted_id, key = query.get("id", "")[:1000], query.get("record", "")
    page, failure = look(
        instance, reads.records, collection_id=collection_id, after=query.get("after") or None,
        before=query.get("before") or None, limit=PAGE, search_id=wanted_id,
    )  # fmt: skip
    record, panel_failure = None, None
    if key and failure is None:
        record, panel_failure = look(instance, reads.record, collection_id=collection_id, key=key)
    rows = page.records if page is not None else ()
    columns = _columns(rows, query.getlist("columns"), beside=record is not None)
    shown = [column for column in columns if column.shown]
    return RecordTable(
        page=page,
        failure=failure,
        lines=tuple(
            RecordLine(
                row=row,
                url=_address(query, record=row.key),
                selected=bool(key) and row.key == key,
                cells=tuple(_cell(row.metadata, column.key) for column in shown),
            )
            for row in rows
        ),
        columns=columns,
        panel=_panel(record, rows, key, query) if record is not None else None,
        panel_failure=panel_failure,
        gone=bool(key) and failure is None and record is None and panel_failure is None,
        wanted_id=wanted_id,
        address=_address(query, record=None),
        kept=tuple((name, value) for name in ("after", "before", "id", "record") if (value := query.get(name, ""))),
    )


def metadata_pairs(metadata: Mapping[str, MetadataValue]) -> tuple[tuple[str, str, str], ...]:
    """Key, value as text, and the word of its type; arrays as ``str[]``."""
    return tuple((key, text_of(value), type_of(value)) for key, value in sorted(metadata.items()))


def text_of(value: Any) -> str:
    """A value as it is written in JSON, strings without quotes outside of arrays."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(f'"{one}"' if isinstance(one, str) else text_of(one) for one in value) + "]"
    return "null" if value is None else str(value)


def type_of(value: Any) -> str:
    """The type's word: str, int, float, bool, or an array of one of these."""
    if isinstance(value, tuple | list):
        kinds = {type_of(one) for one in value}
        return f"{kinds.pop()}[]" if len(kinds) == 1 else "array"
    return "null" if value is None else type(value).__name__


def _columns(rows: Iterable[reads.RecordRow], asked: list[str], *, beside: bool) -> tuple[Column, ...]:
    rows = list(rows)
    counts = Counter(key for row in rows for key in row.metadata)
    wanted = [key for word in asked for key in word.split(",") if key][:MOST_COLUMNS]
    known = [key for key, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    # With the panel open there are fewer columns, not narrower ones.
    shown = (wanted or known[:COLUMNS_SHOWN])[: COLUMNS_BESIDE_PANEL if beside else MOST_COLUMNS]
    keys = [*shown, *(key for key in [*wanted, *known] if key not in shown)]
    return tuple(
        Column(key=key, count=counts[key], shown=key in shown, number=_numeric(rows, key))
        for key in dict.fromkeys(keys)
    )


def _numeric(rows: list[reads.RecordRow], key: str) -> bool:
    values = [row.metadata[key] for row in rows if key in row.metadata]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _cell(metadata: Mapping[str, MetadataValue], key: str) -> Cell:
    if key not in metadata:
        return Cell(text="", missing=True)
    value = metadata[key]
    text = text_of(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text=text if len(text) <= _CELL_CHARS else f"{text[:_CELL_CHARS]}…", number=number)


def _panel(record: reads.RecordPageOf, rows: Iterable[reads.RecordRow], key: str, query: QueryDict) -> Panel:
    keys = [row.key for row in rows]
    at = keys.index(key) if key in keys else None
    before = keys[at - 1] if at else None
    after = keys[at + 1] if at is not None and at + 1 < len(keys) else None
    return Panel(
        record=record,
        pairs=metadata_pairs(record.row.metadata),
        close=_address(query, record=None),
        previous=_address(query, record=before) if before else "",
        next=_address(query, record=after) if after else "",
    )


def _address(query: QueryDict, **changes: str | None) -> str:
    changed = query.copy()
    for name, value in changes.items():
        if value is None:
            changed.pop(name, None)
        else:
            changed[name] = value
    return f"?{changed.urlencode()}"
