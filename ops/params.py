"""Typed parameters of operations: declared once with ``param()``, read by form, CLI, docs and ``parse()``.

A parameter is a dataclass field whose metadata holds a ``ParamSpec``. ``parse()`` takes strings as forms and command
lines give them as well as JSON values, and reports every bad field at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from ops.codec import hints
from ops.errors import BadParameters

_KEY = "chromaadmin.param"
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", ""})
MISSING = dataclasses.MISSING
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """What a door needs to know of one parameter beside its type."""

    help: str
    choices: tuple[str, ...] = ()
    source: str = ""  # "collections", …: the door offers what the store holds, and accepts other text
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    label: str = ""
    aliases: tuple[str, ...] = ()
    short: str = ""
    split: bool = False  # a comma separates values of a list
    advanced: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of an operation class, with its type resolved.

    ``kind`` is bool, int, float or str; ``many``: the value is a tuple of them; ``optional``: it may be None.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: object
    spec: ParamSpec

    @property
    def required(self) -> bool:
        """True when there is no default."""
        return self.default is MISSING

    @property
    def option(self) -> str:
        """The long option of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """What a form calls it."""
        return self.spec.label or self.name


def param(
    default: Any = MISSING,
    *,
    help: str,
    choices: tuple[str, ...] = (),
    source: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    label: str = "",
    aliases: tuple[str, ...] = (),
    short: str = "",
    split: bool = False,
    advanced: bool = False,
) -> Any:
    """Declare a parameter as the default of an annotated class attribute of an operation."""
    spec = ParamSpec(
        help=help,
        choices=choices,
        source=source,
        minimum=minimum,
        maximum=maximum,
        unit=unit,
        label=label,
        aliases=aliases,
        short=short,
        split=split,
        advanced=advanced,
    )
    metadata = {_KEY: spec}
    if default is MISSING:
        return dataclasses.field(kw_only=True, metadata=metadata)
    return dataclasses.field(default=default, kw_only=True, metadata=metadata)


def parameters(operation: type) -> tuple[Parameter, ...]:
    """The parameters of an operation class in the order of their declaration."""
    found = []
    for field in dataclasses.fields(operation):
        spec = field.metadata.get(_KEY)
        if spec is None:
            continue
        kind, many, optional = _shape(hints(operation)[field.name])
        found.append(
            Parameter(name=field.name, kind=kind, many=many, optional=optional, default=field.default, spec=spec)
        )
    return tuple(found)


def parse(operation: type[T], given: Mapping[str, object]) -> T:
    """An operation value from what a door was given; raises ``BadParameters`` that names every bad field."""
    command = str(getattr(operation, "name", operation.__name__)).replace("_", " ", 1)
    known = {parameter.name: parameter for parameter in parameters(operation)}
    bad = {name: "There is no such parameter." for name in given if name not in known}
    values: dict[str, object] = {}
    for name, parameter in known.items():
        if name not in given:
            if parameter.required:
                bad[name] = "This parameter is required."
            continue
        try:
            values[name] = _value(parameter, given[name])
        except ValueError as error:
            bad[name] = str(error)
    if bad:
        raise BadParameters(bad, command)
    value = operation(**values)
    check = getattr(value, "check", None)
    if check is not None and (bad := check()):
        raise BadParameters(bad, command)
    return value


def _shape(hint: Any) -> tuple[type, bool, bool]:
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        optional = len(options) < len(get_args(hint))
        (hint,) = options
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def _value(parameter: Parameter, given: object) -> object:
    if parameter.many:
        if given is None:
            return ()
        items = list(given) if isinstance(given, list | tuple) else [given]
        if parameter.spec.split:
            items = [part for item in items for part in (str(item).split(",") if isinstance(item, str) else [item])]
        return tuple(_single(parameter, item) for item in items if item != "")
    if given is None or (given == "" and (parameter.optional or parameter.kind is not str)):
        if parameter.optional:
            return None
        if parameter.kind is bool and given == "":
            return False
        raise ValueError("A value is required.")
    return _single(parameter, given)


def _single(parameter: Parameter, given: object) -> object:
    value = _converted(parameter, given)
    spec = parameter.spec
    if spec.choices and value not in spec.choices:
        raise ValueError(f"{value!r} is not one of {', '.join(spec.choices)}.")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if spec.minimum is not None and value < spec.minimum:
            raise ValueError(f"{given} is below the least value, {spec.minimum:g}.")
        if spec.maximum is not None and value > spec.maximum:
            raise ValueError(f"{given} is above the greatest value, {spec.maximum:g}.")
    return value


def _converted(parameter: Parameter, given: object) -> object:
    kind = parameter.kind
    if kind is bool:
        if isinstance(given, bool):
            return given
        if isinstance(given, str) and given.lower() in _TRUE | _FALSE:
            return given.lower() in _TRUE
        raise ValueError(f"{given!r} is not true or false.")
    if kind is int:
        if isinstance(given, int) and not isinstance(given, bool):
            return given
        if isinstance(given, str):
            try:
                return int(given)
            except ValueError:
                pass
        raise ValueError(f"{given!r} is not a whole number.")
    if kind is float:
        if isinstance(given, int | float | str) and not isinstance(given, bool):
            try:
                number = float(given)
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
        raise ValueError(f"{given!r} is not a number.")
    if not isinstance(given, str):
        raise ValueError(f"{given!r} is not text.")
    if "\0" in given:
        raise ValueError("The text contains a NUL character.")
    return given
