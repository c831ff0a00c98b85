"""Reading runs for pages."""

from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import QuerySet

from chromaadmin.instances.models import Instance
from chromaadmin.runs import folder
from chromaadmin.runs.models import LIVE, MaintenanceRun, State
from chromaadmin.runs.permissions import Decision, may_run
from ops.operation import Operation
from ops.registry import all_operations


def run_queryset(user: AbstractBaseUser | AnonymousUser | None) -> QuerySet[MaintenanceRun]:
    """All runs that ``user`` may see, newest first."""
    return MaintenanceRun.objects.for_user(user).select_related("instance", "requested_by")


def latest_runs(
    user: AbstractBaseUser | AnonymousUser | None, *, instance: Instance | None = None, limit: int = 10
) -> list[MaintenanceRun]:
    """The newest runs that ``user`` may see, of one instance or of all."""
    runs = run_queryset(user)
    return list((runs.filter(instance=instance) if instance is not None else runs)[:limit])


def live_runs(user: AbstractBaseUser | AnonymousUser | None) -> QuerySet[MaintenanceRun]:
    """Runs that wait, run, or are lost and not yet recovered."""
    return run_queryset(user).filter(state__in=LIVE)


def active_writer(instance: Instance) -> MaintenanceRun | None:
    """The run that writes to the instance now, or whose recovery is pending."""
    return (
        MaintenanceRun.objects.filter(instance=instance, state__in=(State.RUNNING, State.LOST))
        .exclude(effect="read")
        .first()
    )


def runnable_operations(
    user: AbstractBaseUser | AnonymousUser | None, instance: Instance
) -> list[tuple[type[Operation[Any]], Decision]]:
    """Every operation with whether ``user`` may run it here, and why not."""
    return [(cls, may_run(user, cls, instance)) for cls in all_operations()]


def result_of(run: MaintenanceRun) -> Any:
    """The result as JSON, from the row or, when it is large, from the run's folder; None when there is none."""
    if run.result is not None:
        return run.result
    return folder.read_json(run.pk, "result.json")


def log_of(run: MaintenanceRun, *, last: int = 500) -> list[folder.LogLine]:
    """The last lines of its log, oldest first."""
    return folder.read_log(run.pk, last=last)


def run_by_id(user: AbstractBaseUser | AnonymousUser | None, run_id: UUID) -> MaintenanceRun | None:
    """One run that ``user`` may see; None for others' and unknown ones alike."""
    return run_queryset(user).filter(pk=run_id).first()
