"""The child's side of every process boundary: ``python -m ops internal run|reader|call``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, cast

from ops.child import CALLABLE_MODULES
from ops.codec import DecodeError, Json, from_json, hints, to_json
from ops.errors import BadParameters, OpsError
from ops.execute import Failure, RunOptions, execute, preview
from ops.params import parse
from ops.plan import Scope, StepScope
from ops.progress import Outlet, Progress
from ops.registry import operation_class
from ops.store.persist_dir import Identity, PersistDir

READER_DATA_BYTES = 1 << 30  # private memory of a reader; mapped index files do not count
GATE_ANSWER_S = 30.0


def run() -> NoReturn:
    """One run for a supervisor: the request is the first line of standard input, events are lines of standard output.

    Ends at once when standard input ends, because then nobody supervises it any more; recovery takes it from there.
    """
    inbox: queue.Queue[str] = queue.Queue()
    request = json.loads(sys.stdin.buffer.readline() or b"{}")
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    _no_core()
    folder = request.get("folder")  # of the run; elsewhere nobody who asks through an application makes a file
    progress = Progress(
        lambda event: _say(to_json(event), kind=event.kind),
        stop.is_set,
        outlet=Outlet(folder=Path(folder) / "files" if folder else None, anywhere=False),
    )
    try:
        operation = parse(operation_class(request["operation"]), request["parameters"])
        scope = request.get("approved_scope")
        ended = execute(
            operation,
            request["path"],
            run_id=request["run_id"],
            approved=None if scope is None else from_json(Scope, scope, "approved_scope"),
            allow_unplanned=bool(request.get("allow_unplanned", False)),
            options=from_json(RunOptions, request.get("options", {}), "options"),
            progress=progress,
            gate=lambda step: _ask_gate(step, inbox),
            identity=_identity(request.get("identity")),
        )
    except OpsError as error:  # the request itself
        _say({"status": "refused", "effect_on_store": "none", "error": Failure.of(error).to_json()}, kind="end")
        _leave(error.outcome.exit_status)
    _say(
        {
            "status": ended.status,
            "effect_on_store": ended.effect_on_store,
            "plan": to_json(ended.plan),
            "result": to_json(ended.result),
            "report": to_json(ended.report),
            "error": ended.error.to_json() if ended.error is not None else None,
            "duration_s": ended.duration_s,
        },
        kind="end",
    )
    _leave(ended.exit_status)


def _leave(exit_status: int) -> NoReturn:
    """Everything is said and closed; the thread that still waits on standard input must not hold up the interpreter."""
    sys.stderr.flush()
    os._exit(exit_status)


def reader() -> int:
    """Answer requests of a ``ReaderChild`` until standard input ends; can not write a file."""
    _no_core()
    resource.setrlimit(resource.RLIMIT_DATA, (READER_DATA_BYTES, READER_DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin.buffer:
        _write(_shaped(functools.partial(_read, json.loads(line))))
    return 0


def call() -> int:
    """One call for ``ops.child.call``: the request is all of standard input."""
    _no_core()
    request = json.loads(sys.stdin.buffer.read())
    _write(_shaped(lambda: _call(request["function"], request["arguments"])))
    return 0


def _read(request: Mapping[str, object]) -> Json:
    path, deadline_s = str(request["path"]), cast("float", request["deadline_s"])
    if "operation" in request:
        parameters = cast("Mapping[str, object]", request["parameters"])
        return to_json(
            preview(parse(operation_class(str(request["operation"])), parameters), path, deadline_s=deadline_s)
        )
    with PersistDir.open(path, deadline_s=deadline_s) as store:
        return _call(str(request["function"]), cast("Mapping[str, object]", request["arguments"]), store)


def _call(name: str, arguments: Mapping[str, object], *first: object) -> Json:
    module_name, _, function_name = name.partition(":")
    if module_name not in CALLABLE_MODULES or function_name.startswith("_"):
        raise BadParameters({"function": f"{name} can not be called."})
    function = cast("Callable[..., object]", getattr(importlib.import_module(module_name), function_name))
    types_of = hints(cast("type", function))
    try:
        values = {key: from_json(types_of[key], value, key) for key, value in arguments.items()}
    except (DecodeError, KeyError) as error:
        raise BadParameters({"arguments": f"{error}"}) from error
    return to_json(function(*first, **values))


def _shaped(work: Callable[[], Json]) -> dict[str, Json]:
    try:
        return {"value": work()}
    except OpsError as error:
        shaped = cast("dict[str, Json]", Failure.of(error).to_json())
        return {"error": shaped | {"outcome": error.outcome.value}}


def _ask_gate(step: StepScope, inbox: queue.Queue[str]) -> str | None:
    """None when the supervisor lets the step commit, else its reason. No answer in time is a no."""
    _say({"step": to_json(step)}, kind="commit?")
    try:
        answer = json.loads(inbox.get(timeout=GATE_ANSWER_S))
    except queue.Empty:
        return f"the supervisor did not answer within {GATE_ANSWER_S:g} s"
    return None if answer.get("commit") is True else str(answer.get("why") or "the supervisor said no")


def _listen(inbox: queue.Queue[str]) -> None:
    for line in sys.stdin.buffer:
        inbox.put(line.decode())
    os._exit(74)  # nobody supervises this run any more: stop as if killed, at once


def _identity(given: object) -> Identity | None:
    if not isinstance(given, list) or len(given) != 2:
        return None
    return Identity(device=int(given[0]), inode=int(given[1]))


def _say(fields: Json, *, kind: str) -> None:
    line: dict[str, Json] = {"event": kind}
    line.update((key, value) for key, value in cast("dict[str, Json]", fields).items() if key != "kind")
    _write(line)


def _write(line: Json) -> None:
    with _uninterrupted():
        sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")
        sys.stdout.buffer.flush()


_WRITING = threading.Lock()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    with _WRITING:
        yield


def _no_core() -> None:
    """A core file of a child that crashed on a damaged index would hold the customer's data."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
