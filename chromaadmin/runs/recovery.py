"""What becomes of runs that nobody supervises any more: lost, recovered from the store, and then final."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from chromaadmin.audit.services import record, serialise
from chromaadmin.instances.models import Instance
from chromaadmin.runs.models import EffectOnStore, MaintenanceRun, State
from chromaadmin.runs.services import audit
from chromaadmin.runs.supervisor import is_alive, kill_group
from chromaadmin.runs.tasks import ring_waiting
from ops import child as ops_child
from ops.errors import OpsError
from ops.store import recovery as store_recovery
from ops.store.persist_dir import STAGING_ROOT

log = logging.getLogger("chromaadmin.runs")

LEASE_S = 30.0
RECOVERY_WITHIN_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. State LOST means that recovery could not be done yet and is tried again by the next tick."""

    state: State
    effect: str
    error: Any = None
    plan: Any = None
    result: Any = None
    report: Any = None
    note: str = ""


def error_json(code: str, message: str, hint: str, **details: Any) -> dict[str, Any]:
    """An error as it is stored."""
    return {"code": code, "message": message, "hint": hint, "details": details}


def mark_lost() -> list[UUID]:
    """Mark running runs lost whose heartbeat is older than the lease, and at once those whose worker here is dead."""
    expired = timezone.now() - timedelta(seconds=LEASE_S)
    here = Q(worker_host=settings.CHROMAADMIN_HOST)
    lost = []
    for run in MaintenanceRun.objects.filter(Q(heartbeat_at__lt=expired) | here, state=State.RUNNING):
        heartbeat_gone = run.heartbeat_at is None or run.heartbeat_at < expired
        worker_gone = run.worker_host == settings.CHROMAADMIN_HOST and not is_alive(run.worker_pid, run.worker_birth)
        if not (heartbeat_gone or worker_gone):
            continue
        with transaction.atomic():
            serialise()
            # Only when nothing has been heard since: a worker that woke up in between keeps its run.
            same = MaintenanceRun.objects.filter(
                pk=run.pk, state=State.RUNNING, lease_token=run.lease_token, heartbeat_at=run.heartbeat_at
            )
            if not same.update(state=State.LOST, effect_on_store=EffectOnStore.UNKNOWN):
                continue
            why = "its worker is dead" if worker_gone else "its worker has not been heard of"
            audit(run, "run.lost", detail={"why": why, "worker_pid": run.worker_pid, "host": run.worker_host})
        lost.append(run.pk)
    return lost


def recover_host() -> list[MaintenanceRun]:
    """Settle the lost runs whose worker was on this host, then what other interrupted writers left in its instances."""
    settled = [
        run
        for run in MaintenanceRun.objects.filter(state=State.LOST, worker_host=settings.CHROMAADMIN_HOST)
        if recover_run(run)
    ]
    for instance in Instance.objects.of_host():
        if has_intents(instance.path):
            recover_instance(instance)
    return settled


def recover_run(run: MaintenanceRun) -> bool:
    """Kill what is left of a lost run, ask its store what became of it, write that down; False when it must wait."""
    if kill_group(run.child_pid, run.child_birth):
        log.warning("run %s: its child %s was still there and was killed", run.pk, run.child_pid)
    end = time.monotonic() + 10
    while is_alive(run.child_pid, run.child_birth) and time.monotonic() < end:
        time.sleep(0.05)
    outcome = Outcome(state=State.FAILED, effect=EffectOnStore.NONE, error=run.error or _lost_error(run))
    if run.cancel_requested_at is not None:
        outcome = replace(outcome, state=State.CANCELLED)
    elif run.error is not None:
        outcome = replace(outcome, state=State.ERRORED)
    outcome = judge(outcome, run.instance_path, str(run.pk)) if run.writes else outcome
    if outcome.state == State.LOST:
        log.warning("run %s: %s", run.pk, outcome.note)
        MaintenanceRun.objects.filter(pk=run.pk, state=State.LOST).update(note=outcome.note)
        return False
    phases = [phase | {"state": "stopped"} if phase["state"] == "now" else phase for phase in run.phases]
    if write_end(run, outcome, token=run.lease_token, progress=run.progress, phases=phases, steps=run.steps):
        if run.writes:
            acknowledge(run.instance_path, str(run.pk))
        ring_waiting(queue=run.queue, instance_id=run.instance_id)
    return True


def judge(outcome: Outcome, path: str, run_id: str) -> Outcome:
    """What the store says became of a writing run that did not tell it itself; recovers the store first.

    A run that turns out complete is succeeded, unless its process crashed: that stays errored, with effect complete.
    Touches no database, so that a thread may do it.
    """
    try:
        found = ops_child.call(store_recovery.outcome_of, RECOVERY_WITHIN_S, path=path, run_id=run_id)
    except OpsError as error:
        note = f"Recovery could not be done ({error.code}): {error} It is tried again every minute."
        state = State.LOST
        if error.code == "RECOVERY_NEEDS_OPERATOR":
            state, note = State.NEEDS_OPERATOR, str(error)
        return replace(outcome, state=state, effect=EffectOnStore.UNKNOWN, note=note)
    state, failure = outcome.state, outcome.error
    if found.state == "needs_operator":
        state = State.NEEDS_OPERATOR
    elif found.effect_on_store == "complete" and state in (State.FAILED, State.CANCELLED):
        state, failure = State.SUCCEEDED, None
    note = found.sentence if found.sentence.endswith(".") else f"{found.sentence}."
    return replace(outcome, state=state, effect=found.effect_on_store, error=failure, note=note)


def write_end(
    run: MaintenanceRun,
    outcome: Outcome,
    *,
    token: UUID | None,
    progress: Mapping[str, Any],
    phases: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    keep_result: bool = True,
    committed: Sequence[Mapping[str, Any]] = (),
) -> bool:
    """State and audit entry in one transaction; False when the run is no longer in the hands of ``token``."""
    columns: dict[str, Any] = {
        "state": outcome.state,
        "effect_on_store": outcome.effect,
        "error": outcome.error,
        "note": outcome.note,
        "progress": dict(progress),
        "phases": list(phases),
        "steps": list(steps),
    }
    if outcome.state != State.LOST:
        columns["finished_at"] = timezone.now()
    if outcome.plan is not None:
        columns["plan"] = outcome.plan
    if outcome.report is not None:
        columns["report"] = outcome.report
    if outcome.result is not None and keep_result:
        columns["result"] = outcome.result
    worker = f"worker {settings.CHROMAADMIN_HOST}"
    with transaction.atomic():
        serialise()
        if not MaintenanceRun.objects.filter(pk=run.pk, lease_token=token, state=run.state).update(**columns):
            return False
        for step in committed:
            audit_step(run, step)
        detail = {"state": outcome.state, "effect_on_store": outcome.effect}
        if outcome.error:
            detail |= {"code": outcome.error.get("code"), "message": outcome.error.get("message")}
        if outcome.note:
            detail["note"] = outcome.note
        if outcome.state == State.LOST:
            audit(run, "run.lost", actor_name=worker, detail=detail)
        else:
            if outcome.state == State.REFUSED:
                audit(run, "run.refused", actor_name=worker, detail=detail)
            if run.state == State.LOST:
                audit(run, "run.recovered", actor_name=worker, detail=detail)
            audit(run, "run.finished", actor_name=worker, detail=detail)
    return True


def audit_step(run: MaintenanceRun, step: Mapping[str, Any]) -> None:
    """The entry about one committed step."""
    detail = {"subject": step["subject"], "step": step["done"], "of": step["total"], "at": step["at"]}
    audit(run, "store.committed", actor_name=f"worker {settings.CHROMAADMIN_HOST}", detail=detail)


def acknowledge(path: str, run_id: str) -> None:
    """Let the store forget an outcome that is written down; when it can not now, a later recovery shows it again."""
    try:
        ops_child.call(store_recovery.acknowledge, 60.0, path=path, run_id=run_id)
    except OpsError as error:
        log.warning("run %s: its outcome stays noted in the store: %s", run_id, error)


def has_intents(path: str) -> bool:
    """Whether an interrupted (or running) writer has left an intent in the directory."""
    try:
        return any(name.endswith(".json") for name in os.listdir(Path(path) / STAGING_ROOT / "intents"))
    except OSError:
        return False


def recover_instance(instance: Instance) -> tuple[store_recovery.Recovered | None, str]:
    """Finish or roll back what any interrupted writer left in an instance; the second item says why that failed."""
    if MaintenanceRun.objects.filter(instance=instance, state=State.RUNNING).exclude(effect="read").exists():
        return None, "a run is writing to it"
    try:
        found = ops_child.call(store_recovery.recover, RECOVERY_WITHIN_S, path=instance.path)
    except OpsError as error:
        return None, f"{error.code}: {error}"
    for run in found.runs:
        record(
            "store.recovered", kind="instance", object_id=instance.pk, object_name=instance.name,
            instance_id=instance.pk,
            detail={"run": run.run_id, "operation": run.operation, "state": run.state,
                    "effect_on_store": run.effect_on_store, "sentence": run.sentence},
        )  # fmt: skip
    return found, ""


def _lost_error(run: MaintenanceRun) -> dict[str, Any]:
    return error_json(
        "LOST",
        f"The worker that supervised it on {run.worker_host} ended, and the work with it.",
        "Nothing of it goes on. Ask for it again when its effect on the store is none.",
    )
