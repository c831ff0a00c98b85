"""Starts the children in which stores are read, written and checked, and speaks with them.

Children are new interpreters started by exec, never forks: a fork would share SQLite's file locks. They get no secret
of the application in their environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, ParamSpec, TypeVar, cast

from ops.codec import Json, from_json, hints, to_json
from ops.errors import ChildDied, DeadlineExceeded, Outcome, RemoteError

P = ParamSpec("P")
R = TypeVar("R")
CALLABLE_MODULES = (
    "ops.reads",
    "ops.sampling",
    "ops.store.recovery",
    "ops.store.setting",
    "ops.store.verify",
    "ops.store.verify_undo",
    "ops.store.verify_wal",
)
MAX_ANSWER_BYTES = 16 * 1024 * 1024
VERIFY_WITHIN_S = 24 * 3600.0
_INTERRUPT_S = 0.25
_ROOT = Path(__file__).resolve().parent.parent
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR", "COVERAGE_PROCESS_START", "CHROMAADMIN_LIFELINE_FD")


def command(*arguments: str) -> list[str]:
    """The command line of ``python -m ops internal …`` with this interpreter."""
    return [sys.executable, "-m", "ops", "internal", *arguments]


def environment(sqlite_tmpdir: str = "") -> dict[str, str]:
    """What a child needs of the environment, and nothing else.

    A child that writes keeps SQLite's temporary files in the staging root of its store; SQLite asks the environment
    only once, when the process starts, and takes its usual place when there is no such directory.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    fixed = {
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "OPENBLAS_NUM_THREADS": "1",  # else numpy reserves memory for a thread per core in every child
    }
    return kept | fixed | ({"SQLITE_TMPDIR": sqlite_tmpdir} if sqlite_tmpdir else {})


def name_of(function: Callable[..., object]) -> str:
    """How a request names a function: ``ops.reads:overview``."""
    return f"{function.__module__}:{function.__qualname__}"


def how_it_ended(returncode: int) -> str:
    """An exit status as words: ``signal SIGSEGV`` or ``exit status 70``."""
    if returncode < 0:
        try:
            return f"signal {signal.Signals(-returncode).name}"
        except ValueError:
            return f"signal {-returncode}"
    return f"exit status {returncode}"


def _never() -> None:
    """Nobody interrupts."""


def call(
    function: Callable[P, R],
    timeout_s: float = 3600.0,
    interrupt: Callable[[], None] = _never,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Run ``function`` of one of ``CALLABLE_MODULES`` in a fresh child and return what it returns.

    Only keyword arguments with a JSON form can travel. An ``OpsError`` of the child is raised here with its code; a
    child that dies raises ``ChildDied`` with its signal. ``interrupt`` is asked a few times a second: when it raises,
    the child is killed and the exception goes on.
    """
    if args:
        raise TypeError("only keyword arguments can travel to a child")
    request = json.dumps({"function": name_of(function), "arguments": to_json(kwargs)}).encode()
    process = subprocess.Popen(
        command("call"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    end = time.monotonic() + timeout_s
    given: bytes | None = request
    try:
        while True:
            try:
                stdout, stderr = process.communicate(given, timeout=_INTERRUPT_S)
                break
            except subprocess.TimeoutExpired:
                given = None  # communicate() keeps what it has not sent yet
            interrupt()
            if time.monotonic() > end:
                raise DeadlineExceeded(seconds=timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if not stdout:
        raise ChildDied(
            doing=function.__name__.replace("_", " "), how=how_it_ended(process.returncode), log=_tail(stderr)
        )
    return answered(function, json.loads(stdout))


def answered(function: Callable[..., R], answer: Mapping[str, object]) -> R:
    """The typed result in a child's answer; raises the error that stands in it."""
    if "error" in answer:
        raise remote_error(cast("Mapping[str, object]", answer["error"]))
    return from_json(cast("type[R]", hints(function)["return"]), answer["value"], function.__name__)


def remote_error(error: Mapping[str, object]) -> RemoteError:
    """The error that a child reported, with its own code, sentence, hint and outcome."""
    return RemoteError(
        code=str(error["code"]),
        text=str(error["message"]),
        hint=str(error["hint"]),
        outcome=Outcome(str(error["outcome"])),
        details=dict(cast("Mapping[str, object]", error["details"])),
    )


class ReaderChild:
    """One long-lived reader: answers one request at a time over its standard streams."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command("reader"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False when it has ended."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Json], timeout_s: float) -> Mapping[str, object]:
        """Send a request and wait for its answer; a child that dies or is late is killed and an error raised."""
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = _read_line(stdout, timeout_s)
        except BrokenPipeError:
            line = b""
        except DeadlineExceeded:
            self.kill()
            raise
        if not line:
            self.kill()
            raise ChildDied(doing="reading the store", how=how_it_ended(self._process.returncode))
        return cast("Mapping[str, object]", json.loads(line))

    def kill(self) -> None:
        """End it now, with everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """One line of the stream within ``timeout_s``; empty at its end."""
    end = time.monotonic() + timeout_s
    fd = stream.fileno()
    pieces: list[bytes] = []
    size = 0
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise DeadlineExceeded(seconds=timeout_s)
        piece = os.read(fd, 1 << 16)
        pieces.append(piece)
        size += len(piece)
        if not piece:
            return b""
        if piece.endswith(b"\n"):
            return b"".join(pieces)
        if size > MAX_ANSWER_BYTES:
            raise DeadlineExceeded(seconds=timeout_s)


def _tail(stderr: bytes) -> str:
    return stderr[-2000:].decode("utf-8", "replace")
