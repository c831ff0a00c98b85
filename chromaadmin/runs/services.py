"""Asking for runs: ``preview_run()``, ``request_run()``, ``cancel_run()``. Every refusal is an ``OpsError``.

A page does: ``operation = parse(operation_class(name), form.cleaned_data)``; for a READ ``request_run(user, instance,
operation)``; for everything else ``plan, approval = preview_run(user, instance, operation)``, shows the plan, and posts
``request_run(user, instance, operation, approval=…, reason=…, typed_name=…, attest_unused=…)``.
"""

import getpass
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone

from chromaadmin.audit.services import record, serialise
from chromaadmin.instances.access import store_access
from chromaadmin.instances.models import Instance
from chromaadmin.runs import approvals
from chromaadmin.runs.errors import (
    ApprovalInvalid,
    AttestationMissing,
    NameNotTyped,
    NotAllowed,
    NotCancellable,
    PlanRefused,
    ReasonMissing,
)
from chromaadmin.runs.models import WAITING, Door, MaintenanceRun, RedeemedApproval, State
from chromaadmin.runs.permissions import may_run
from chromaadmin.runs.tasks import ring_on_commit
from ops.codec import to_json
from ops.errors import ApprovalRequired
from ops.operation import Effect, Operation, words
from ops.plan import Plan
from ops.registry import operation_class

AnyOperation = Operation[Any]
ATTEST = "attest"


def confirmation_needed(operation: AnyOperation, instance: Instance) -> bool:
    """Whether the instance's name must be typed and a reason given: destructive anywhere, any change in production."""
    return operation.effect is Effect.DESTRUCTIVE or (operation.writes and instance.is_production)


def attestation_needed(plan: Plan) -> str:
    """What only a person can know, as a sentence; empty when there is nothing to attest."""
    return " ".join(check.sentence for check in plan.checks if check.state == ATTEST)


def preview_run(user: User, instance: Instance, operation: AnyOperation) -> tuple[Plan, str]:
    """The plan of a writing operation, and the approval to post with it; nothing is stored.

    The approval is empty when a check of the plan stands in the way. Raises NotAllowed, and whatever reading the store
    raises (``OpsError``).
    """
    _require_right(user, instance, operation)
    plan = store_access(instance).preview(operation)
    return plan, "" if plan.refused else approvals.sign(user, instance, operation, plan)


def request_run(
    user: User | None,
    instance: Instance,
    operation: AnyOperation,
    *,
    approval: str = "",
    approve_value: bool = False,
    seen: Plan | None = None,
    reason: str = "",
    typed_name: str = "",
    attest_unused: bool = False,
    undo: str = "keep",
    max_rows: int | None = None,
    max_bytes: int | None = None,
    undo_of: MaintenanceRun | None = None,
    deadline_at: datetime | None = None,
    door: Door = Door.PAGE,
    ip: str | None = None,
) -> MaintenanceRun:
    """Store the run, audit it, and ring its queue when that is committed; returns the run.

    ``approval`` is what ``preview_run`` gave; a READ needs none. ``approve_value`` approves the operation value within
    ``max_rows`` and ``max_bytes`` instead of a plan (``--yes``), ``seen`` is the plan that was shown and confirmed on
    the terminal; both are for the command line only, and so is ``user`` None: its user can read the keys anyway.

    Raises NotAllowed, ApprovalRequired, ApprovalInvalid, PlanRefused, AttestationMissing, NameNotTyped, ReasonMissing.
    """
    reason = reason.strip()
    _require_right(user, instance, operation, door)
    plan: Plan | None = None
    nonce = ""
    statement: Mapping[str, Any] | None = None
    if operation.writes:
        _require_confirmation(operation, instance, reason, typed_name, door)
        if approval:
            if user is None:
                raise ApprovalInvalid(why="it was given to somebody")
            verified = approvals.verify(approval, user, instance, operation)
            plan, nonce = verified.plan, verified.nonce
            _require_clear(plan, attest_unused)
        elif seen is not None and door == Door.COMMAND:
            plan = seen
            _require_clear(plan, attest_unused)
        elif not (approve_value and door == Door.COMMAND):
            raise ApprovalRequired(operation=" ".join(words(type(operation))))
        statement = {
            "kind": "plan" if plan else "value",
            "by": _name(user),
            "at": to_json(timezone.now()),
            "digest": plan.digest if plan else "",
        }
    options = {"undo": undo, "attest_unused": attest_unused, "max_rows": max_rows, "max_bytes": max_bytes}

    with transaction.atomic():
        serialise()
        run = MaintenanceRun(
            number=(MaintenanceRun.objects.aggregate(last=Max("number"))["last"] or 0) + 1,
            operation=operation.name,
            effect=operation.effect.value,
            parameters=operation.to_json(),
            instance=instance,
            instance_name=instance.name,
            instance_path=instance.path,
            requested_by=user,
            requested_by_name=_name(user),
            door=door,
            reason=reason,
            options=options,
            plan=to_json(plan),
            scope_digest=plan.digest if plan else "",
            approval=statement,
            state=State.QUEUED,
            queue=instance.queue,
            heavy=_heavy(type(operation)),
            requested_at=timezone.now(),
            deadline_at=deadline_at,
            undo_of=undo_of,
            phases=_phases(type(operation)),
        )
        run.seal = approvals.seal(run)
        run.save(force_insert=True)
        if nonce:
            _redeem(nonce, run)
        audit(run, "run.requested", actor=user, ip=ip, reason=reason, detail=_asked(run))
        ring_on_commit(run)
    return run


def cancel_run(user: User, run: MaintenanceRun, *, ip: str | None = None) -> MaintenanceRun:
    """Cancel a waiting run at once, ask a running one to stop; returns it as it stands then.

    Who asked for a run may cancel it, and everybody who may run it on that instance. Raises NotAllowed, NotCancellable.
    """
    own = run.requested_by_id is not None and run.requested_by_id == user.pk and user.is_active
    if not own:
        _require_right(user, run.instance, operation_class(run.operation))
    with transaction.atomic():
        serialise()
        mine = MaintenanceRun.objects.filter(pk=run.pk)
        asked = {
            "cancel_requested_at": timezone.now(),
            "cancel_requested_by": user,
            "cancel_requested_by_name": user.get_username(),
        }
        if mine.filter(state__in=WAITING).update(
            state=State.CANCELLED, effect_on_store="none", finished_at=timezone.now(), **asked
        ):
            audit(run, "run.cancelled", actor=user, ip=ip, detail={"state": State.CANCELLED, "started": False})
        elif mine.filter(state=State.RUNNING, cancel_requested_at=None).update(**asked):
            audit(run, "run.cancel_requested", actor=user, ip=ip)
        else:
            run.refresh_from_db()
            why = "that was asked for already" if run.cancel_requested_at and run.is_live else "it has ended"
            raise NotCancellable(number=run.number, why=why)
    run.refresh_from_db()
    return run


def audit(
    run: MaintenanceRun,
    action: str,
    *,
    actor: User | AnonymousUser | None = None,
    actor_name: str = "",
    ip: str | None = None,
    detail: Mapping[str, Any] | None = None,
    reason: str = "",
) -> None:
    """One audit entry about a run."""
    record(
        action,
        actor=actor,
        actor_name=actor_name or ("" if actor else run.requested_by_name if action == "run.requested" else ""),
        ip=ip,
        kind="run",
        object_id=run.pk,
        object_name=f"{run.words} on {run.instance_name}",
        instance_id=run.instance_id or "",
        run_id=run.pk,
        detail={"run": run.number, **(detail or {})},
        reason=reason,
    )


def _require_right(user: User | None, instance: Instance | None, operation: Any, door: Door = Door.PAGE) -> None:
    if user is None and door == Door.COMMAND and instance is not None:
        return
    decision = may_run(user, operation, instance)
    if not decision:
        raise NotAllowed(why=decision.reason)


def _require_confirmation(
    operation: AnyOperation, instance: Instance, reason: str, typed_name: str, door: Door
) -> None:
    # The command line asks on its terminal, or was told --yes.
    if door == Door.COMMAND or not confirmation_needed(operation, instance):
        return
    if typed_name != instance.name:
        raise NameNotTyped(name=instance.name)
    if not reason:
        raise ReasonMissing


def _require_clear(plan: Plan, attest_unused: bool) -> None:
    if plan.refused:
        raise PlanRefused(why=" ".join(check.sentence for check in plan.refused))
    if not attest_unused and (sentence := attestation_needed(plan)):
        raise AttestationMissing(why=sentence)


def _redeem(nonce: str, run: MaintenanceRun) -> None:
    try:
        with transaction.atomic():
            RedeemedApproval.objects.create(nonce=nonce, run=run, at=timezone.now())
    except IntegrityError:
        raise ApprovalInvalid(why="it was used already") from None


def _asked(run: MaintenanceRun) -> dict[str, Any]:
    return {
        "operation": run.operation,
        "effect": run.effect,
        "parameters": run.parameters,
        "options": run.options,
        "plan": run.scope_digest,
        "approved": (run.approval or {}).get("kind", ""),
        "door": run.door,
        "path": run.instance_path,
    }


def _name(user: User | None) -> str:
    if user is not None:
        return user.get_username()
    return f"{getpass.getuser()} at the command line of {socket.gethostname()}"


def _heavy(cls: type[AnyOperation]) -> bool:
    """An operation that builds an index takes a processor and much memory: one at a time per host."""
    return any(phase.key == "build" for phase in cls.phases)


def _phases(cls: type[AnyOperation]) -> list[dict[str, Any]]:
    return [
        {
            "key": phase.key, "label": phase.label, "commit": phase.commit, "state": "to_come",
            "started_at": None, "finished_at": None, "detail": "",
        }
        for phase in cls.phases
    ]  # fmt: skip
