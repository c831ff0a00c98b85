"""A django-q2 cluster that survives the sudden death of its parts.

In the stock cluster a worker that is killed while it waits for work takes the queue's lock with it: no task runs again,
and the cluster still says that it works. The same holds for the monitor. The guarded sentinel gives the cluster new
queues and new processes then; workers that supervise a run finish it first. When the sentinel itself stands still, an
alarm ends it, and who started the cluster starts it again.
"""

import signal
from multiprocessing import Event, Process
from time import monotonic, sleep
from typing import Any

import psutil
from django import db
from django_q import cluster
from django_q.conf import Conf, logger
from django_q.queues import Queue

from chromaadmin.platform import lifeline

# The guard's cycle is one second; none of its steps takes this long.
FROZEN_AFTER_SECONDS = 60
# A worker between two steps of a run has no child for moments only.
RETIRED_AFTER_SECONDS = 10


class GuardedSentinel(cluster.Sentinel):
    """django-q2's sentinel, with queues that are renewed when one of their readers or writers was killed."""

    pool: list[Process]
    monitor: Process
    pusher: Process

    def __init__(self, *args: Any, **options: Any) -> None:
        # The base class works inside __init__ until the cluster stops, so this comes first.
        self._retiring: dict[Process, float] = {}
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        super().__init__(*args, **options)

    def status(self) -> Any:
        """The cluster's state; asked once per guard cycle, hence the place where the cycle's own duties stand."""
        if not self.stop_event.is_set():
            signal.alarm(FROZEN_AFTER_SECONDS)
        self._dismiss_retired()
        return super().status()

    def reincarnate(self, process: Process) -> None:
        if process.exitcode is None or process.exitcode >= 0:
            super().reincarnate(process)
        elif process in self.pool or process in (self.monitor, self.pusher):
            self._renew(process)

    def stop(self) -> None:
        # A drain lasts as long as its longest run.
        signal.alarm(0)
        super().stop()
        while self._retiring:
            self._dismiss_retired()
            sleep(0.1)

    def _renew(self, killed: Process) -> None:
        logger.critical("%s was killed by signal %s: the cluster gets new queues", killed.name, -(killed.exitcode or 0))
        db.connections.close_all()
        for helper in (self.monitor, self.pusher):
            helper.kill()
            helper.join()
        self._retiring |= {worker: monotonic() for worker in self.pool if worker.is_alive()}
        self.task_queue = Queue(maxsize=Conf.QUEUE_LIMIT)
        self.result_queue = Queue()
        self.event_out = Event()
        self.pool = []
        for _ in range(self.pool_size):
            self.spawn_worker()
        self.monitor = self.spawn_monitor()
        self.pusher = self.spawn_pusher()
        self.reincarnations += 1

    def _dismiss_retired(self) -> None:
        """End workers of the old queues that no longer supervise a child process."""
        now = monotonic()
        for worker, busy_at in list(self._retiring.items()):
            if not worker.is_alive():
                del self._retiring[worker]
            elif _has_children(worker):
                self._retiring[worker] = now
            elif now - busy_at > RETIRED_AFTER_SECONDS:
                worker.kill()


def _has_children(process: Process) -> bool:
    try:
        return bool(psutil.Process(process.pid).children())
    except psutil.NoSuchProcess:
        return False


def install() -> None:
    """Make `django_q.cluster.Cluster` use the guarded sentinel, and tie what it forks to this process."""
    cluster.Sentinel = GuardedSentinel
    lifeline.hold()
