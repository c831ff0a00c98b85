"""Any result of any operation as blocks of labels and values and tables: one renderer for all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from chromaadmin.templatetags import formats

ROWS_SHOWN = 200
TEXT_SHOWN = 400
_LIST_SHOWN = 12
_DEPTH = 4
_MONO = ("id", "ids", "path", "paths", "digest", "hash", "uuid", "directory", "file", "name")
_NUMBERED = ("pid", "port", "number", "inode", "device")  # names that happen to be numbers
_UNITS = ("_bytes", "_at", "_s", "_ms")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value as text; ``whole`` where it was cut, ``number`` for the right edge, ``mono`` for ids and paths."""

    text: str
    whole: str = ""
    number: bool = False
    mono: bool = False
    known: bool = True


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    label: str
    number: bool


@dataclass(frozen=True, kw_only=True)
class Block:
    """A piece of a result: either ``pairs`` or a table (``columns``, ``rows``), and the pieces inside it.

    ``total`` is how many rows there are; the table holds at most ``ROWS_SHOWN`` of them.
    """

    title: str
    pairs: tuple[tuple[str, Cell], ...] = ()
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    total: int = 0
    inner: tuple["Block", ...] = field(default=())


def blocks(result: object) -> tuple[Block, ...]:
    """A result dataclass in its JSON form, as blocks; the first one holds its plain values. Empty for None."""
    if result is None:
        return ()
    if isinstance(result, Mapping):
        return _of_mapping("", result, 0)
    if isinstance(result, list):
        return (_of_list("", result),)
    return (Block(title="", pairs=(("value", cell("", result)),)),)


def cell(name: str, value: object) -> Cell:
    """One plain value, written after its name: ``_bytes`` as GB, ``_at`` as a time in UTC, ``_s`` as a duration."""
    if value is None:
        return Cell(text="—", known=False)
    if isinstance(value, bool):
        return Cell(text="yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(text=_number(name, value), number=True)
    if isinstance(value, str):
        return _text(name, value)
    if isinstance(value, list):
        if not value:
            return Cell(text="none", known=False)
        shown = ", ".join(cell(name, item).text for item in value[:_LIST_SHOWN])
        return _text(name, shown if len(value) <= _LIST_SHOWN else f"{shown} and {len(value) - _LIST_SHOWN:,} more")
    return _text(name, str(value))


def label(name: str) -> str:
    """A field's name as words: ``freed_bytes`` is "freed"."""
    for unit in _UNITS:
        if name.endswith(unit) and len(name) > len(unit):
            name = name.removesuffix(unit)
            break
    return formats.visible(name).replace("_", " ")


def _of_mapping(title: str, value: Mapping[str, object], depth: int) -> tuple[Block, ...]:
    pairs: list[tuple[str, Cell]] = []
    inner: list[Block] = []
    for name, item in value.items():
        if isinstance(item, Mapping) and item and depth < _DEPTH:
            inner += _of_mapping(_joined(title, label(name)), item, depth + 1)
        elif isinstance(item, list) and len(item) == 1 and isinstance(item[0], Mapping) and depth < _DEPTH:
            # A table of one row reads better as a list of its fields.
            inner += _of_mapping(_joined(title, label(name)), item[0], depth + 1)
        elif isinstance(item, list) and any(isinstance(one, Mapping | list) for one in item):
            inner.append(_of_list(_joined(title, label(name)), item))
        else:
            pairs.append((label(name), cell(name, item)))
    own = (Block(title=title, pairs=tuple(pairs)),) if pairs else ()
    return (*own, *inner)


def _of_list(title: str, items: Sequence[object]) -> Block:
    flat = [dict(_flat("", item)) for item in items[:ROWS_SHOWN]]
    names: dict[str, None] = {}
    for row in flat:
        names.update(dict.fromkeys(row))
    known = {name: [row[name] for row in flat if name in row and row[name].known] for name in names}
    columns = tuple(
        Column(label=label(name), number=bool(known[name]) and all(one.number for one in known[name])) for name in names
    )
    unknown = Cell(text="—", known=False)
    rows = tuple(tuple(row.get(name, unknown) for name in names) for row in flat)
    return Block(title=title, columns=columns, rows=rows, total=len(items))


def _flat(prefix: str, item: object) -> Iterable[tuple[str, Cell]]:
    if not isinstance(item, Mapping):
        yield prefix or "value", cell(prefix, item)
        return
    for name, value in item.items():
        whole = f"{prefix} {name}" if prefix else name
        if isinstance(value, Mapping) and value:
            yield from _flat(whole, value)
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield whole, Cell(text=f"{len(value):,}", number=True)
        else:
            yield whole, cell(name, value)


def _joined(outer: str, inner: str) -> str:
    return f"{outer}, {inner}" if outer else inner


def _number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return formats.bytes_h(value)
    if name.endswith("_s"):
        return formats.duration(value)
    if name.endswith("_ms"):
        return f"{formats.grouped(value)} ms"
    if name.rsplit("_", 1)[-1] in _NUMBERED:
        return str(value)
    return formats.grouped(value)


def _text(name: str, value: str) -> Cell:
    if name.endswith("_at"):
        try:
            return Cell(text=formats.utc(datetime.fromisoformat(value)))
        except ValueError:
            pass  # not a time after all: shown as it is
    shown = formats.visible(value)
    mono = name.rsplit("_", 1)[-1] in _MONO and " " not in shown
    if len(shown) <= TEXT_SHOWN:
        return Cell(text=shown, mono=mono)
    return Cell(text=shown[: TEXT_SHOWN - 1] + "…", whole=shown[:8000], mono=mono)
