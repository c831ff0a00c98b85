"""Lists of our own tables: pages by key, never by offset, and filters that stand in the address."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, QuerySet
from django.http import QueryDict

M = TypeVar("M", bound=Model)
LARGEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Page(Generic[M]):
    """Some rows, newest first, and the keys with which the next and the previous page begin (None at an end)."""

    rows: list[M]
    older: int | None
    newer: int | None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One entry of a dropdown or segment: a link that sets one parameter of the address."""

    label: str
    url: str
    current: bool
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dropdown:
    """A filter: its word, what is chosen, and what can be."""

    label: str
    value: str
    options: tuple[Option, ...]


def page_of(rows: QuerySet[M], key: str, query: QueryDict, *, size: int) -> Page[M]:
    """The page that ``?after=`` (older than) or ``?before=`` (newer than) asks for; ``key`` is a unique number.

    A key that is not a number is as none: an address that was cut off shows the first page.
    """
    after, before = _number(query.get("after")), _number(query.get("before"))
    if before is not None:
        found = list(rows.filter(**{f"{key}__gt": before}).order_by(key)[: size + 1])
        more = len(found) > size
        shown = found[:size][::-1]
        return Page(rows=shown, newer=_key(shown, key, 0) if more else None, older=_key(shown, key, -1))
    found = list((rows if after is None else rows.filter(**{f"{key}__lt": after})).order_by(f"-{key}")[: size + 1])
    shown = found[:size]
    older = _key(shown, key, -1) if len(found) > size else None
    return Page(rows=shown, older=older, newer=_key(shown, key, 0) if after is not None else None)


def dropdown(
    query: QueryDict, name: str, offered: Sequence[tuple[str, str]], *, label: str = "", nothing: str = "any"
) -> Dropdown:
    """The filter ``?name=`` with what it offers as (value, text); a chosen value that is not offered is shown too."""
    chosen = query.get(name, "")
    known = dict(offered)
    options = [("", nothing), *offered]
    if chosen and chosen not in known:
        options.append((chosen, chosen))
    return Dropdown(
        label=label or name,
        value=known.get(chosen, chosen) or nothing,
        options=tuple(
            Option(label=text, url=address(query, **{name: value or None}), current=value == chosen)
            for value, text in options
        ),
    )


def address(query: QueryDict, **changes: object) -> str:
    """The query string with some parameters set, or taken away by None, at the first page of the list."""
    changed: Any = query.copy()
    for name in ("after", "before", *changes):
        changed.pop(name, None)
    for name, value in changes.items():
        if value is not None:
            changed[name] = str(value)
    return f"?{changed.urlencode()}"


def _key(rows: list[Any], key: str, index: int) -> int | None:
    return int(getattr(rows[index], key)) if rows else None


def _number(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    return min(int(text), LARGEST)
