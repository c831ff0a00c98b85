"""Every address of the application, read from the URL configuration itself, with what its view declares."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from chromaadmin.accounts.doors import Door
from chromaadmin.accounts.rights import Right

# The audit app stands below accounts and can not name a right; who may read it is told to it from above.
_TOLD = {
    "audit": Door(methods=("GET",), right=Right.READ_AUDIT),
    "audit_verify": Door(methods=("POST",), right=Right.READ_AUDIT),
    "audit_export": Door(methods=("GET",), right=Right.READ_AUDIT),
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """One address: full name, route, methods (empty: not declared), the right it needs and where it must hold."""

    name: str
    path: str
    methods: tuple[str, ...]
    right: str
    where: str
    module: str


def all_addresses() -> list[Address]:
    """All of them, in the order in which they are tried."""
    return list(_walk(get_resolver().url_patterns, "", ""))


def _walk(patterns: Iterable[URLPattern | URLResolver], prefix: str, namespace: str) -> Iterator[Address]:
    for one in patterns:
        path = prefix + str(one.pattern)
        if isinstance(one, URLResolver):
            inner = f"{namespace}{one.namespace}:" if one.namespace else namespace
            yield from _walk(one.url_patterns, path, inner)
        else:
            yield _address(one, path, namespace)


def _address(pattern: URLPattern, path: str, namespace: str) -> Address:
    view: Any = pattern.callback
    door = getattr(view, "door", None) or _TOLD.get(pattern.name or "")
    owner = getattr(view, "model_admin", None)
    if door is not None:
        right, where = str(door.right or ""), door.where
    elif owner is not None:
        right, where = str(getattr(owner, "right", "")), "everything"
    else:
        right, where = "", "anyone"
    return Address(
        name=f"{namespace}{pattern.name or ''}",
        path=f"/{path}",
        methods=door.methods if door is not None else (),
        right=right,
        where=where,
        module=view.__module__,
    )
