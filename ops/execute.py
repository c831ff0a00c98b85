"""The only two doors to an operation: ``preview()`` plans it, ``execute()`` does it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ops.codec import Json, to_json
from ops.errors import (
    ApprovalRequired,
    BoundsExceeded,
    IdentityChanged,
    IoFailed,
    NeedsRecovery,
    OpsError,
    Outcome,
    PartlyDone,
)
from ops.operation import Operation, Report
from ops.plan import Check, Plan, Scope, StepScope
from ops.progress import Progress
from ops.store.commit import Writer, shared_lock
from ops.store.persist_dir import Identity, PersistDir

Gate = Callable[[StepScope], str | None]
_STATUS = {
    Outcome.USAGE: "refused",
    Outcome.REFUSED: "refused",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.NEEDS_OPERATOR: "needs_operator",
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every writing run takes beside the operation's own parameters.

    ``undo`` is keep, none or a path; ``max_rows`` and ``max_bytes`` bound what an approval without a plan allows.
    """

    undo: str = "keep"
    attest_unused: bool = False
    max_rows: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An expected failure in the shape every door shows."""

    code: str
    message: str
    hint: str
    details: dict[str, object]

    @classmethod
    def of(cls, error: OpsError) -> Failure:
        """The failure an error stands for."""
        return cls(code=error.code, message=str(error), hint=error.hint_text, details=error.details)

    def to_json(self) -> Json:
        """Details that have no JSON form become text."""
        details: dict[str, Json] = {}
        for key, value in self.details.items():
            try:
                details[key] = to_json(value)
            except TypeError:
                details[key] = str(value)
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": details}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an execution ended. ``effect_on_store`` is none, complete, partial or unknown."""

    status: str
    effect_on_store: str
    plan: Plan | None
    result: object | None
    report: Report | None
    error: Failure | None
    exit_status: int
    duration_s: float


def open_gate(_step: StepScope) -> str | None:
    """The gate of a bare path: nobody is asked, it opens."""
    return None


def preview(operation: Operation[object], path: str, *, deadline_s: float | None = None) -> Plan:
    """The plan of a writing operation, with the checks that hold for every one of them. Changes no byte.

    A precondition that only a person can settle, or that stands in the way, is a check of the plan; what makes a plan
    impossible (no store, hostile schema, damaged index) raises.
    """
    with PersistDir.open(path, deadline_s=deadline_s) as store:
        store.require_writable(operation.name)
        plan = operation.plan(store)
        return replace(plan, checks=plan.checks + _common_checks(store, operation))


def execute(
    operation: Operation[object],
    path: str,
    *,
    run_id: str,
    approved: Scope | None,
    allow_unplanned: bool = False,
    options: RunOptions | None = None,
    progress: Progress | None = None,
    gate: Gate = open_gate,
    identity: Identity | None = None,
) -> Ended:
    """Run an operation and say how it ended; expected failures are answers, bugs raise.

    ``approved`` is the scope somebody approved; ``allow_unplanned`` says that the operation's value was approved within
    the bounds of ``options`` (``--yes``, schedules). One of both is needed by everything that writes.
    """
    started = time.monotonic()
    work = _Execution(
        operation, run_id, approved, allow_unplanned, options or RunOptions(), progress or Progress(), gate
    )
    failure: OpsError | None = None
    try:
        work.perform(path, identity)
    except OpsError as error:
        failure = error
    except OSError as error:
        failure = IoFailed(what=f"Working on {error.filename or path}", why=os.strerror(error.errno or 0))
    return work.ended(failure, time.monotonic() - started)


class _Execution:
    """State of one execution: what was planned, what was committed, what came out."""

    def __init__(
        self,
        operation: Operation[object],
        run_id: str,
        approved: Scope | None,
        allow_unplanned: bool,
        options: RunOptions,
        progress: Progress,
        gate: Gate,
    ) -> None:
        self.operation = operation
        self.run_id = run_id
        self.approved = approved
        self.allow_unplanned = allow_unplanned
        self.options = options
        self.progress = progress
        self.gate = gate
        self.plan: Plan | None = None
        self.result: object | None = None
        self.writer: Writer | None = None

    def perform(self, path: str, identity: Identity | None) -> None:
        with PersistDir.open(path) as store:
            if identity is not None and identity != store.identity:
                raise IdentityChanged(path=path, was=identity, now=store.identity)
            if self.operation.writes:
                self._write(store)
            else:
                self._read(store)

    def _read(self, store: PersistDir) -> None:
        self.progress.phase("read", "Reading")
        with shared_lock(store) as lock_was_made:
            self.result = self.operation.run(store, None, self.progress)
            again = lock_was_made()
        if again:  # a writing run began where there was no lock to share: read once more, with it
            store.close_database()
            with shared_lock(store):
                self.result = self.operation.run(store, None, self.progress)

    def _write(self, store: PersistDir) -> None:
        if self.approved is None and not self.allow_unplanned:
            raise ApprovalRequired(operation=self.operation.name)
        with suppress(NeedsRecovery):  # the writer rolls back what is ours, and refuses what is not
            store.require_writable(self.operation.name)
        store.close_database()
        with Writer.open(
            store,
            run_id=self.run_id,
            operation=self.operation.name,
            needs=self.operation.declared.needs,
            undo=self.options.undo,
            attest_unused=self.options.attest_unused,
            gate=self.gate,
            progress=self.progress,
        ) as self.writer:
            store.writer = self.writer
            self.plan = self.operation.plan(store)
            if self.approved is not None:
                self.plan.scope.require_inside(self.approved)
            _require_bounds(self.plan, self.options)
            self.result = self.operation.run(store, self.plan, self.progress)

    def ended(self, failure: OpsError | None, duration_s: float) -> Ended:
        effect = self._effect(failure)
        if failure is not None and effect == "partial" and self.writer is not None and self.plan is not None:
            failure = self._partly(failure, self.writer.committed, self.plan.scope.steps)
        if failure is not None:
            return Ended(
                status=_STATUS[failure.outcome],
                effect_on_store=effect,
                plan=self.plan,
                result=None,
                report=None,
                error=Failure.of(failure),
                exit_status=failure.outcome.exit_status,
                duration_s=duration_s,
            )
        return Ended(
            status="succeeded",
            effect_on_store=effect,
            plan=self.plan,
            result=self.result,
            report=self.operation.report(self.result),
            error=None,
            exit_status=0,
            duration_s=duration_s,
        )

    def _effect(self, failure: OpsError | None) -> str:
        committed = len(self.writer.committed) if self.writer is not None else 0
        if self.writer is not None and self.writer.unsettled:
            return "unknown"  # COMMIT failed and the store could not be asked; the next recovery finds out
        if not self.operation.writes or (failure is not None and committed == 0):
            return "none"
        if failure is None:
            return "complete"
        return "complete" if self.plan is not None and committed == len(self.plan.scope.steps) else "partial"

    @staticmethod
    def _partly(failure: OpsError, committed: list[str], steps: tuple[StepScope, ...]) -> OpsError:
        left = ", ".join(step.title for step in steps if step.subject not in committed)
        partly = PartlyDone(done=len(committed), total=len(steps), why=str(failure), left=left, cause=failure.code)
        partly.outcome = failure.outcome  # cancelled stays cancelled, needs_operator stays that
        return partly


def _common_checks(store: PersistDir, operation: Operation[object]) -> tuple[Check, ...]:
    checks = [
        Check(state="passed", sentence=f"The schema is exactly Chroma {store.schema.releases}, nothing else is in it.")
    ]
    if operation.declared.needs == "quiet":
        checks.append(_in_use_check(store))
    return tuple(checks)


def _in_use_check(store: PersistDir) -> Check:
    users = store.users()
    if users.state == "used":
        names = ", ".join(f"{process.command} (pid {process.pid})" for process in users.processes)
        return Check(state="refused", code="IN_USE", sentence=f"It is open for writing in {names}; stop it first.")
    if users.state == "unknown":
        return Check(state="attest", code="IN_USE_UNKNOWN", sentence=f"Nobody else may have it open: {users.why}.")
    return Check(state="passed", sentence="No process of this host has the directory open for writing.")


def _require_bounds(plan: Plan, options: RunOptions) -> None:
    for what, planned, allowed in (
        ("rows", plan.estimate.rows, options.max_rows),
        ("bytes", plan.estimate.written_bytes, options.max_bytes),
    ):
        if allowed is not None and (planned is None or planned > allowed):
            raise BoundsExceeded(planned=planned, what=what, allowed=allowed)
