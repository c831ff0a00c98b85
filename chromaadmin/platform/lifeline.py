"""The pipe that ties every process to `manage.py up`: when `up` is gone, however it went, they end at once.

`up` keeps the write end and hands the read end to its children by CHROMAADMIN_LIFELINE_FD. Nobody writes; a read
returns when the last write end is closed, that is when `up` died. django-q2 forks workers that would otherwise go on
taking runs after their main process was killed, so each forked child starts a watcher of its own.
"""

import os
import signal
import threading

VARIABLE = "CHROMAADMIN_LIFELINE_FD"

_attached = False


def attach() -> None:
    """Watch the lifeline in this process and in every process forked from it; does nothing outside `up`."""
    global _attached
    text = os.environ.get(VARIABLE)
    if text is None or _attached:
        return
    descriptor = int(text)
    _attached = True
    _watch(descriptor)
    os.register_at_fork(after_in_child=lambda: _watch(descriptor))


def _watch(descriptor: int) -> None:
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    while True:
        try:
            if os.read(descriptor, 1) == b"":
                break
        except InterruptedError:
            continue
        except OSError:
            return  # closed by this process on purpose: a child that replaced itself has its own
    # A leader of a session takes its whole group along: operation children never load Django and hold no watcher.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
