"""Starts the processes of one installation, keeps them running, and ends all of them when it ends itself."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from chromaadmin.platform import lifeline
from chromaadmin.platform.logs import printable

BACKOFF_SECONDS = (1, 2, 4, 8, 15, 30)
# A process that ran this long had started well: the next restart begins with the shortest wait again.
STEADY_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process to keep running. Services of a lower `stage` are drained before those of a higher one."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    stage: int = 0


class Supervisor:
    """Runs services until a signal: the first SIGINT or SIGTERM drains, the second aborts.

    Each service leads a session of its own, so that Ctrl-C reaches only this process: SIGTERM to a whole django-q2
    cluster would end its workers in mid-run and hang its main process. What outlives a dead leader is killed with its
    group before the service is started again, because orphaned workers would go on taking runs.
    """

    def __init__(self, services: Sequence[Service], *, write: Callable[[str], None]) -> None:
        self._running = [_Process(service) for service in services]
        self._write = write
        self._selector = selectors.DefaultSelector()
        self._signals = 0

    def run(self) -> int:
        """Blocks until every service has ended; 0 after a drain, 1 after an abort."""
        # Whatever is left at the end of the block ends with the lifeline, also after an exception.
        with lifeline.offered() as descriptor:
            return self._run(descriptor)

    def _run(self, descriptor: int) -> int:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._selector.register(wake_read, selectors.EVENT_READ)
        handlers = {
            signal.SIGINT: self._count,
            signal.SIGTERM: self._count,
            signal.SIGCHLD: lambda *_: None,
        }
        # Under nohup a terminal that closes is to be ignored; else it is a Ctrl-C.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._count
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            return self._loop(descriptor, wake_read)
        finally:
            for process in self._running:
                process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            os.close(wake_read)
            os.close(wake_write)
            self._selector.close()

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _loop(self, lifeline_read: int, wake_read: int) -> int:
        while True:
            if self._signals > 1:
                self._write("Aborting: everything is ended now.")
                return 1
            if self._signals and self._drain():
                self._write("Stopped.")
                return 0
            now = time.monotonic()
            for process in self._running:
                if not self._signals and process.due(now):
                    process.start(lifeline_read)
                    self._selector.register(process.output, selectors.EVENT_READ, process)
            for key, _ in self._selector.select(timeout=0.5):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 512)
                else:
                    self._forward(key.data)
            for process in self._running:
                self._look_after(process)

    def _drain(self) -> bool:
        """Ask the lowest stage that still runs to finish; True when nothing runs."""
        left = [process for process in self._running if process.alive]
        stage = min((process.service.stage for process in left), default=None)
        for process in left:
            if process.service.stage == stage and not process.asked:
                self._write(
                    f"Stopping {process.service.name}: what it has begun is finished first. Ctrl-C again aborts."
                )
                process.ask()
        return not left

    def _look_after(self, process: "_Process") -> None:
        code = process.reap()
        if code is None:
            return
        self._forward(process)
        self._selector.unregister(process.output)
        wait = process.ended()
        if not self._signals:
            reason = f"signal {-code}" if code < 0 else f"status {code}"
            self._write(f"{process.service.name} ended with {reason}; it is started again in {wait} s.")

    def _forward(self, process: "_Process") -> None:
        for line in process.lines():
            self._write(f"{process.service.name:>7} | {printable(line)}")


class _Process:
    """The life of one service: started, ended, waiting to be started again."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.asked = False
        self._child: subprocess.Popen[bytes] | None = None
        self._partial = b""
        self._failures = 0
        self._started_at = 0.0
        self._due_at = 0.0

    @property
    def alive(self) -> bool:
        return self._child is not None

    @property
    def output(self) -> IO[bytes]:
        if self._child is None or self._child.stdout is None:
            raise RuntimeError(f"{self.service.name} does not run.")
        return self._child.stdout

    def due(self, now: float) -> bool:
        return self._child is None and now >= self._due_at

    def start(self, lifeline_read: int) -> None:
        self._started_at = time.monotonic()
        self._child = subprocess.Popen(
            list(self.service.command),
            env=os.environ
            | {"PYTHONUNBUFFERED": "1", lifeline.VARIABLE: str(lifeline_read)}
            | dict(self.service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline_read, *self.service.descriptors),
            start_new_session=True,
        )
        os.set_blocking(self.output.fileno(), False)

    def ask(self) -> None:
        """SIGTERM to the main process alone; it brings its own processes to an end."""
        self.asked = True
        if self._child is not None:
            self._child.terminate()

    def reap(self) -> int | None:
        return None if self._child is None else self._child.poll()

    def ended(self) -> int:
        """Clear up after the main process ended; the seconds until it is due again."""
        self.kill()
        self.output.close()
        self._child = None
        if time.monotonic() - self._started_at >= STEADY_SECONDS:
            self._failures = 0
        wait = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)]
        self._failures += 1
        self._due_at = time.monotonic() + wait
        return wait

    def kill(self) -> None:
        """SIGKILL to the whole group, the main process and what it left behind."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def lines(self) -> Iterator[str]:
        while True:
            try:
                chunk = os.read(self.output.fileno(), 65536)
            except BlockingIOError:
                return
            if not chunk:
                return
            *whole, self._partial = (self._partial + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip("\r")
            if len(self._partial) > 65536:
                yield self._partial.decode("utf-8", "replace")
                self._partial = b""


def python(*arguments: str) -> list[str]:
    """A command line of this very interpreter."""
    return [sys.executable, *arguments]
