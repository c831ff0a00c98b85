"""Frozen dataclasses to JSON and back, by their type hints, for everything that crosses a process or the database.

Understands ``None``, bool, int, float, str, enums, aware datetimes (RFC 3339, UTC), ``Optional``, ``tuple[T, ...]``,
``Mapping[str, T]`` and dataclasses of these. Anything else is a programming error and raises ``TypeError``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class DecodeError(ValueError):
    """The JSON does not fit the type; the text names the place."""


def to_json(value: object) -> Json:
    """The JSON form of ``value``; NaN and infinities become null, because JSON has no word for them."""
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


T = TypeVar("T")


def from_json(kind: type[T], data: object, where: str = "value") -> T:
    """Restore a ``kind`` from JSON; unknown keys of a dataclass are an error, missing ones take their default."""
    return _decode(kind, data, where)  # type: ignore[no-any-return]


def canonical(value: object) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8. Digests are made of it."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


@cache
def hints(kind: type) -> Mapping[str, Any]:
    """The resolved type hints of a class."""
    return get_type_hints(kind)


def _decode(kind: Any, data: object, where: str) -> Any:
    if kind is Any or kind is object:
        return data
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if data is None:
            return None
        options = [option for option in get_args(kind) if option is not type(None)]
        for option in options:
            try:
                return _decode(option, data, where)
            except DecodeError:
                if option is options[-1]:
                    raise
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise DecodeError(f"{where} must be a list")
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], item, f"{where}[{index}]") for index, item in enumerate(data))
        if len(args) != len(data):
            raise DecodeError(f"{where} must have {len(args)} items")
        return tuple(_decode(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, data, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise DecodeError(f"{where} must be an object")
        return {str(key): _decode(get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    return _decode_plain(kind, data, where)


def _decode_dataclass(kind: Any, data: object, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise DecodeError(f"{where} must be an object")
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    if unknown := sorted(set(data) - fields):
        raise DecodeError(f"{where} has no field {unknown[0]}")
    types_of = hints(kind)
    values = {str(name): _decode(types_of[name], item, f"{where}.{name}") for name, item in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise DecodeError(f"{where}: {error}") from error


def _decode_plain(kind: Any, data: object, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError as error:
            raise DecodeError(f"{where} must be one of {', '.join(str(item.value) for item in kind)}") from error
    if kind is datetime and isinstance(data, str):
        try:
            return datetime.fromisoformat(data)
        except ValueError as error:
            raise DecodeError(f"{where} must be an RFC 3339 time") from error
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if kind is type(None) and data is None:
        return None
    if kind in (bool, int, str) and type(data) is kind:
        return data
    raise DecodeError(f"{where} must be a {getattr(kind, '__name__', kind)}")
