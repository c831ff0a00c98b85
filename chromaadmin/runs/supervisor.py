"""One child process that works on a store: its lines, its signals, its end. Knows nothing of runs or the database."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from ops import child as ops_child
from ops.store.persist_dir import STAGING_ROOT

MAX_LINE_BYTES = 16 * 1024 * 1024 + 4096
MAX_STDERR_LINE = 4000


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the child said: ``event`` is the JSON object of a line, None for text of its standard error."""

    event: Mapping[str, Any] | None
    text: str = ""


class BrokenProtocol(Exception):
    """The child said something that no child of ours says."""


class Child:
    """A process in a session of its own, spoken to by JSON lines.

    It ends when its standard input does, so it never outlives this process by more than an instant.
    """

    def __init__(self, command: Sequence[str], request: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ops_child.environment(sqlite_tmpdir=os.path.join(request["path"], STAGING_ROOT)),
            start_new_session=True,
            bufsize=0,
        )
        self.pid = self._process.pid
        self.birth = birth(self.pid)
        self._stdin, self._stdout, self._stderr = (
            _stream(self._process.stdin), _stream(self._process.stdout), _stream(self._process.stderr),
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)
        self._outgoing = b""
        self._partial = {self._stdout: b"", self._stderr: b""}
        self._ready: deque[Line] = deque()
        self._asked: set[signal.Signals] = set()
        self.send(request)

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue one line for the child; it is written as fast as the child reads."""
        self._outgoing += json.dumps(message).encode("ascii") + b"\n"
        self._flush()

    def lines(self, timeout_s: float) -> Iterator[Line]:
        """What was said within ``timeout_s``; returns at once when there is something, or when the child is gone."""
        end = time.monotonic() + timeout_s
        while not self._ready and self._selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                break
            for key, mask in self._selector.select(left):
                if mask & selectors.EVENT_WRITE:
                    self._flush()
                else:
                    self._receive(key.fileobj)  # type: ignore[arg-type]
        if not self._selector.get_map() and not self._ready:
            # Both streams have ended: wait for the process, not longer than asked.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, end - time.monotonic()))
        while self._ready:
            yield self._ready.popleft()

    @property
    def ended(self) -> bool:
        """True when the process is gone and everything it said was handed out."""
        return self._process.poll() is not None and not self._selector.get_map() and not self._ready

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def how_it_ended(self) -> str:
        """As words: ``was killed by SIGKILL (out of memory?)`` or ``ended with exit status 70``."""
        code = self._process.returncode or 0
        if code >= 0:
            return f"ended with exit status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        guess = " (out of memory?)" if name == "SIGKILL" and signal.SIGKILL not in self._asked else ""
        return f"was killed by {name}{guess}"

    def ask_to_stop(self) -> None:
        """SIGTERM to the child itself; what it started it ends on its own."""
        self._asked.add(signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its whole group, and wait for it."""
        self._asked.add(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def memory_bytes(self) -> int | None:
        """Resident bytes of the child and of what it started; None when it is gone."""
        try:
            process = psutil.Process(self.pid)
            return int(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
        except psutil.Error:
            return None

    def close(self) -> None:
        """Make sure that nothing of it is left; safe to call twice."""
        if self._process.poll() is None:
            self.kill()
        else:
            # Helpers of a child that died go with its group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._selector.close()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._stdin.fileno(), self._outgoing[:65536]) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._outgoing = b""
        watched = self._stdin in self._selector.get_map()
        if self._outgoing and not watched:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        elif watched and not self._outgoing:
            self._selector.unregister(self._stdin)

    def _receive(self, stream: IO[bytes]) -> None:
        try:
            chunk = os.read(stream.fileno(), 1 << 18)
        except BlockingIOError:
            return
        if not chunk:
            self._selector.unregister(stream)
            if self._partial[stream] and stream is self._stderr:
                self._said_on_stderr(self._partial[stream])
            self._partial[stream] = b""
            if stream is self._stdout and self._stdin in self._selector.get_map():
                self._selector.unregister(self._stdin)
            return
        *whole, self._partial[stream] = (self._partial[stream] + chunk).split(b"\n")
        for line in whole:
            if stream is self._stdout:
                self._said(line)
            else:
                self._said_on_stderr(line)
        if stream is self._stdout and len(self._partial[stream]) > MAX_LINE_BYTES:
            raise BrokenProtocol("it answered with more than 16 MiB in one line")
        if stream is self._stderr and len(self._partial[stream]) > MAX_STDERR_LINE:
            self._said_on_stderr(self._partial[stream])
            self._partial[stream] = b""

    def _said(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise BrokenProtocol("it answered with more than 16 MiB in one line")
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise BrokenProtocol("it answered with a line that is not JSON") from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise BrokenProtocol("it answered with a line that is no event")
        self._ready.append(Line(event=event))

    def _said_on_stderr(self, line: bytes) -> None:
        self._ready.append(Line(event=None, text=line[:MAX_STDERR_LINE].decode("utf-8", "replace")))


def birth(pid: int) -> str:
    """What tells a process from a later one with the same number: boot id and start time; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name in parentheses may hold anything; field 22 counts from after it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return ""
    return f"{boot}:{fields[19].decode('ascii')}"


def is_alive(pid: int | None, born: str) -> bool:
    """Whether that very process still runs here."""
    return bool(pid and born) and birth(pid or 0) == born


def kill_group(pid: int | None, born: str) -> bool:
    """SIGKILL to the group that this process leads, when it still is this process; True when it was there."""
    if pid is None or not is_alive(pid, born):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return True


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the stream was not opened")
    return stream
