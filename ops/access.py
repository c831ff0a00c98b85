"""StoreAccess: every read of a store goes through it, to a small pool of hardened reader children."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast

from ops.child import ReaderChild, answered, name_of, remote_error
from ops.codec import Json, from_json, to_json
from ops.errors import DeadlineExceeded
from ops.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops.operation import Operation
    from ops.store.persist_dir import PersistDir

P = ParamSpec("P")
R = TypeVar("R")
PAGE_DEADLINE_S = 2.0
PREVIEW_DEADLINE_S = 30.0
GRACE_S = 3.0  # a child that does not notice its own deadline is killed after this much more


class StoreAccess(Protocol):
    """What pages know of a store's whereabouts: nothing. One implementation per kind of place."""

    def read(
        self, path: str, function: Callable[Concatenate[PersistDir, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The answer of a function of ``ops.reads`` about the store at ``path``."""
        ...

    def preview(self, path: str, operation: Operation[object]) -> Plan:
        """The plan of a writing operation."""
        ...


class LocalAccess:
    """Stores on this host, read by at most ``size`` reader children of this process; made when first needed.

    A child that died or was late is replaced. Safe for threads; after a fork the new process starts its own children.
    """

    def __init__(self, size: int = 2) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._free: queue.LifoQueue[ReaderChild | None] = queue.LifoQueue()
        for _ in range(self._size):
            self._free.put(None)

    def read(
        self, path: str, function: Callable[Concatenate[PersistDir, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See ``StoreAccess.read``; raises the reader's ``OpsError`` with its code, or ``DeadlineExceeded``."""
        if args:
            raise TypeError("only keyword arguments can travel to a reader")
        request: dict[str, Json] = {"path": path, "function": name_of(function), "arguments": to_json(kwargs)}
        return answered(cast("Callable[..., R]", function), self._ask(request, PAGE_DEADLINE_S))

    def preview(self, path: str, operation: Operation[object]) -> Plan:
        """See ``StoreAccess.preview``."""
        request: dict[str, Json] = {"path": path, "operation": operation.name, "parameters": operation.to_json()}
        answer = self._ask(request, PREVIEW_DEADLINE_S)
        if "error" in answer:
            raise remote_error(cast("Mapping[str, object]", answer["error"]))
        return from_json(Plan, answer["value"], "plan")

    def close(self) -> None:
        """End all children."""
        for _ in range(self._size):
            child = self._free.get()
            if child is not None:
                child.kill()
            self._free.put(None)

    def _ask(self, request: dict[str, Json], deadline_s: float) -> Mapping[str, object]:
        with self._lock:
            if self._pid != os.getpid():
                self._start_anew()
        try:
            child = self._free.get(timeout=deadline_s + GRACE_S)
        except queue.Empty:
            raise DeadlineExceeded(seconds=deadline_s + GRACE_S) from None
        try:
            if child is None or not child.alive:
                child = ReaderChild()
            return child.ask(request | {"deadline_s": deadline_s}, deadline_s + GRACE_S)
        finally:
            self._free.put(child if child is not None and child.alive else None)
