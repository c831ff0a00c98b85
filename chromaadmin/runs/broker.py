"""The queue: django-q2's ORM broker, carrying ids of runs and nothing else.

django-q2's own messages are signed pickles that name a function. Here a row of the queue is the text of a run's id;
what the worker gets is built at dequeue, so that no row, however it came into the table, can name a function or hold a
pickle. A row that is not the id of a known run is removed and audited.

Once a minute the broker hands out ``engine.tick`` without any row. It stands here, and not in a thread or a process of
its own, because everything that must be watched already is: a cluster that takes no ticks takes no runs either, and the
watchdog restarts it. A host's tick is claimed by a conditional UPDATE; the console cluster takes it first, a host that
runs no console takes it in its jobs cluster.
"""

import hashlib
import uuid
from time import sleep
from typing import Any

from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from chromaadmin.audit.services import record
from chromaadmin.runs import beats
from chromaadmin.runs.models import MaintenanceRun, State

EXECUTE = "chromaadmin.runs.engine.execute"
TICK = "chromaadmin.runs.engine.tick"
# Shown in the audit entry of a refused row; enough to recognise it.
_SHOWN = 120


class RunBroker(ORM):
    """See the module's text."""

    # A cluster that has just been started looks at once at what was lost while it was away.
    _just_started = True

    def enqueue(self, task: str) -> Any:
        """Put the id of a run into the queue. Anything else is a programming error: ValueError."""
        run_id = str(uuid.UUID(task))
        row = OrmQ.objects.using(Conf.ORM).create(key=self.list_key, payload=run_id, lock=timezone.now())
        return row.pk

    def dequeue(self) -> list[tuple[Any, str]] | None:
        """The next packages, at most one run per call; sleeps when there is none."""
        if transaction.get_autocommit(using=Conf.ORM):
            close_old_connections()
        if self._tick_is_due():
            return [(None, self._package(TICK, ()))]
        for row in self._free_rows():
            run_id = self._known_run(row)
            if run_id is None:
                continue
            # Another cluster may have been faster.
            if OrmQ.objects.using(Conf.ORM).filter(pk=row.pk, lock=row.lock).update(lock=self.timeout(row)):
                return [(row.pk, self._package(EXECUTE, (run_id,)))]
        sleep(Conf.POLL)
        return None

    def _free_rows(self) -> list[OrmQ]:
        rows = OrmQ.objects.using(Conf.ORM).filter(key=self.list_key, lock__lt=timezone.now()).order_by("id")
        return list(rows[: max(10, Conf.BULK)])

    def _known_run(self, row: OrmQ) -> str | None:
        """The id in a row when it is that of a run waiting in this queue; other rows are removed."""
        try:
            run_id = uuid.UUID(row.payload)
        except (ValueError, TypeError, AttributeError):
            self._refuse(row, "it is not the id of a run")
            return None
        run = MaintenanceRun.objects.filter(pk=run_id).values_list("state", "queue").first()
        if run is None:
            self._refuse(row, "there is no such run")
            return None
        if run != (State.QUEUED, self.list_key):
            # Delivered before, cancelled, or rung twice: nothing is left to do.
            self.delete(row.pk)
            return None
        return str(run_id)

    def _refuse(self, row: OrmQ, why: str) -> None:
        payload = str(row.payload)
        with transaction.atomic():
            if not OrmQ.objects.using(Conf.ORM).filter(pk=row.pk).delete()[0]:
                return
            record(
                "queue.row_refused",
                kind="queue",
                object_id=row.pk,
                object_name=self.list_key,
                detail={
                    "why": why,
                    "length": len(payload),
                    "begins": payload[:_SHOWN],
                    "sha256": hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest(),
                },
            )

    def _tick_is_due(self) -> bool:
        after_s = {settings.CONSOLE_QUEUE: beats.EVERY_S, settings.JOBS_QUEUE: beats.EVERY_S * 1.5}.get(self.list_key)
        if after_s is None:
            return False
        try:
            due = beats.claim(beats.HOST, after_s=1.0 if self._just_started else after_s)
        except DatabaseError:
            return False  # locked for too long: the next turn of the loop asks again
        self._just_started = False
        return due

    @staticmethod
    def _package(function: str, arguments: tuple[str, ...]) -> str:
        """django-q2's package: never saved, never retried, no timeout of its own (a child has its deadline)."""
        return str(
            SignedPackage.dumps(
                {
                    "id": uuid.uuid4().hex,
                    "name": " ".join((function.rpartition(".")[2], *arguments)),
                    "func": function,
                    "args": arguments,
                    "kwargs": {},
                    "started": timezone.now(),
                    "timeout": -1,
                    "save": False,
                    "ack_failure": True,
                }
            )
        )
