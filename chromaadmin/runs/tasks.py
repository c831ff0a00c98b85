"""The doorbell: tells a queue that a run waits. Losing a ring loses nothing, the reaper rings again."""

from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import OrmQ

from chromaadmin.runs.models import MaintenanceRun, State

UNHEARD_AFTER = timedelta(seconds=15)


def ring(run: MaintenanceRun) -> None:
    """Put the run's id, and nothing else, into its queue."""
    get_broker(run.queue).enqueue(str(run.pk))


def ring_on_commit(run: MaintenanceRun) -> None:
    """Ring when the transaction in which the run was written has been committed."""
    transaction.on_commit(lambda: ring(run))


def ring_waiting(*, queue: str, instance_id: UUID | None) -> None:
    """Ring for runs that wait because of the one that just ended: of its instance, and the heavy ones of its host."""
    waiting = MaintenanceRun.objects.filter(state=State.QUEUED, queue=queue).order_by("number")
    of_instance = waiting.filter(instance_id=instance_id).first() if instance_id else None
    heavy = waiting.filter(heavy=True).first()
    for run in {run.pk: run for run in (of_instance, heavy) if run is not None}.values():
        ring(run)


def ring_unheard() -> int:
    """Ring again for queued runs that no message names; returns how many.

    Their message was lost, or they were delivered while another run of their instance was active.
    """
    rung = 0
    before = timezone.now() - UNHEARD_AFTER
    for run in MaintenanceRun.objects.filter(state=State.QUEUED, requested_at__lt=before).order_by("number"):
        if not OrmQ.objects.filter(key=run.queue, payload=str(run.pk)).exists():
            ring(run)
            rung += 1
    return rung
