"""Pipes that tie processes together: when the holder of the write end is gone, however it went, the others end at once.

`up` keeps the write end of a pipe and hands the read end to its children by CHROMAADMIN_LIFELINE_FD; a queue cluster's
main process does the same for what it forks. Nobody writes; a read returns when the last write end is closed, that is
when the holder died. django-q2 forks workers that would otherwise go on taking runs after their main process was
killed, so every forked child starts watchers of its own.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

VARIABLE = "CHROMAADMIN_LIFELINE_FD"
PARENT_CHECK_SECONDS = 0.25

_watched: list[int] = []
_held: list[int] = []


def attach() -> None:
    """Watch the lifeline of `up` here and in every process forked from here; does nothing outside `up`."""
    descriptor = os.environ.get(VARIABLE)
    if descriptor is not None and int(descriptor) not in _watched:
        _remember(int(descriptor))
        _watch(int(descriptor))


@contextlib.contextmanager
def offered() -> Iterator[int]:
    """The read end of a new pipe for children started inside the block; they end with this process or the block."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(write_end)
        os.close(read_end)


def hold() -> None:
    """Let every process forked from this one, at any depth, end with this one."""
    read_end, write_end = os.pipe()
    _held.append(write_end)
    _remember(read_end)


def follow_parent() -> None:
    """End this process, and with it what it holds, soon after the process that started it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _remember(descriptor: int) -> None:
    if not _watched:
        os.register_at_fork(after_in_child=_after_fork)
    _watched.append(descriptor)


def _after_fork() -> None:
    while _held:
        os.close(_held.pop())
    for descriptor in _watched:
        _watch(descriptor)


def _watch(descriptor: int) -> None:
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        return  # this process closed it on purpose
    # The leader of a session takes its group along: operation children load no Django and have no watcher.
    if os.getpgrp() == os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
