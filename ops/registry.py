"""Finds operations by the file names in ``ops/operations``; there is no list to keep."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import ops.operations
from ops.errors import UnknownOperation
from ops.operation import Operation

AnyClass = type[Operation[object]]


def operation_names() -> tuple[str, ...]:
    """All names, sorted, without importing one of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(ops.operations.__path__)))


@cache
def operation_class(name: str) -> AnyClass:
    """The operation of that name (``hnsw_rebuild``); raises ``UnknownOperation``."""
    if name not in operation_names():
        raise UnknownOperation(name=name)
    module = importlib.import_module(f"ops.operations.{name}")
    wanted = name.replace("_", "").lower()
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Operation) and value.__name__.lower() == wanted:
            return value
    raise UnknownOperation(name=name)


def all_operations() -> tuple[AnyClass, ...]:
    """Every operation class, by name."""
    return tuple(operation_class(name) for name in operation_names())
