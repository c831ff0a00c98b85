"""Executing runs: a worker claims a run, supervises the child process that does the work, and writes down how it ended.

What django-q2 calls is ``execute(run_id)`` and ``tick()``; both never raise. The worker itself touches no store.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, IntegrityError, close_old_connections, connection, transaction
from django.utils import timezone

from chromaadmin.accounts import services as accounts
from chromaadmin.audit import anchor
from chromaadmin.audit.services import serialise
from chromaadmin.instances import services as instances
from chromaadmin.runs import approvals, beats, recovery
from chromaadmin.runs.folder import RunFolder
from chromaadmin.runs.models import Door, EffectOnStore, MaintenanceRun, RedeemedApproval, State
from chromaadmin.runs.permissions import may_run
from chromaadmin.runs.recovery import LEASE_S, Outcome, error_json
from chromaadmin.runs.services import audit
from chromaadmin.runs.supervisor import BrokenProtocol, Child, birth
from chromaadmin.runs.tasks import ring_unheard, ring_waiting
from ops import child as ops_child
from ops.codec import to_json
from ops.errors import OpsError
from ops.params import parse
from ops.registry import operation_class

log = logging.getLogger("chromaadmin.runs")

LOOK_EVERY_S = 0.5  # at the cancel flag
BEAT_EVERY_S = 2.0  # heartbeat and progress
GRACE_S = 10.0  # between SIGTERM and SIGKILL
COMMIT_GRACE_S = 600.0  # a step that was allowed to commit is not killed by a cancel before this
EXIT_WITHIN_S = 10.0  # after its last line
MARK_WITHIN_S = 300.0  # how long the end is tried to be written when the database does not answer
KEPT_RESULT_BYTES = 256 * 1024
RATE_OVER_S = 10.0
STATES = {
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "refused": State.REFUSED,
    "cancelled": State.CANCELLED,
    "needs_operator": State.NEEDS_OPERATOR,
}
T = TypeVar("T")


class LeaseLost(Exception):
    """The run is no longer ours: it was marked lost, or the database has been silent for too long."""


def execute(run_id: str) -> None:
    """Execute a run if it is still to be executed; any further delivery of the same id does nothing."""
    try:
        lease = claim(UUID(run_id))
        if lease is not None:
            Supervision(lease).work()
    except Exception:  # the boundary to django-q2, which would keep a pickle of the traceback
        log.exception("run %s: the supervisor failed; the reaper takes over", run_id)
    finally:
        close_old_connections()


def tick() -> None:
    """What is due every minute: lost runs, recovery, forgotten runs, samples, the anchor of the audit trail, pruning.

    Handed out by the broker once a minute and host; harmless at any other time, and when two do it together.
    """
    duties: tuple[Callable[[], object], ...] = (
        recovery.mark_lost,
        recovery.recover_host,
        ring_unheard,
        instances.refresh_samples,
        anchor.note,
        accounts.prune,
        instances.prune,
        _prune_approvals,
    )
    try:
        for duty in duties:
            try:
                duty()
            except Exception:  # one duty that fails must not keep the others from being done
                log.exception("tick: %s failed", duty.__name__)
    finally:
        beats.end(beats.HOST)
        close_old_connections()


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A claimed run; ``run`` is as it was at the claim."""

    run: MaintenanceRun
    token: UUID


def claim(run_id: UUID) -> Lease | None:
    """Take a queued run by one conditional UPDATE, with its audit entry, before anything is done.

    None when somebody else has it, when it is not queued, when it has to wait for another run of its instance or host,
    and when it may not be run any more; then it is refused here.
    """
    token = uuid4()
    try:
        with transaction.atomic():
            serialise()
            queued = MaintenanceRun.objects.filter(pk=run_id, state=State.QUEUED)
            run = queued.select_related("instance", "requested_by").first()
            if run is None:
                return None
            if why := _why_not_start(run):
                _refuse(run, *why)
                return None
            now = timezone.now()
            queued.update(
                state=State.RUNNING, lease_token=token, worker_host=settings.CHROMAADMIN_HOST, worker_pid=os.getpid(),
                worker_birth=birth(os.getpid()), started_at=now, heartbeat_at=now,
            )  # fmt: skip
            audit(
                run, "run.started", actor_name=f"worker {settings.CHROMAADMIN_HOST}",
                detail={"pid": os.getpid(), "requested_by": run.requested_by_name},
            )  # fmt: skip
    except IntegrityError:
        # One writer per instance, one heavy run per host: the end of the other run rings again.
        return None
    run.refresh_from_db()
    return Lease(run=run, token=token)


def why_not_allowed(run: MaintenanceRun) -> str:
    """Why who asked for this run may not have it run now, as a sentence; empty when they may."""
    if run.instance is None:
        return "The instance is no longer registered."
    if run.requested_by is None and run.door == Door.COMMAND:
        return ""  # the command line of the host, which the seal vouches for
    operation = parse(operation_class(run.operation), run.parameters)
    return may_run(run.requested_by, operation, run.instance).reason


def _why_not_start(run: MaintenanceRun) -> tuple[str, str] | None:
    if run.seal != approvals.seal(run):
        return (
            "SEAL_BROKEN",
            "What is stored of this run is not what was asked for, or its account or instance is gone.",
        )
    if run.instance is None or run.instance.host != settings.CHROMAADMIN_HOST:
        return "OTHER_HOST", "The directory lies on another host than this worker."
    if run.deadline_at is not None and run.deadline_at <= timezone.now():
        return "DEADLINE", "Its deadline had passed before it could start."
    try:
        why = why_not_allowed(run)
    except OpsError as error:
        return error.code, str(error)
    return ("NOT_ALLOWED", why) if why else None


def _refuse(run: MaintenanceRun, code: str, why: str) -> None:
    MaintenanceRun.objects.filter(pk=run.pk).update(
        state=State.REFUSED,
        effect_on_store=EffectOnStore.NONE,
        finished_at=timezone.now(),
        error=error_json(code, why, "Ask for it again when the reason is gone."),
    )
    audit(run, "run.refused", actor_name=f"worker {settings.CHROMAADMIN_HOST}", detail={"code": code, "why": why})


def _prune_approvals() -> None:
    RedeemedApproval.objects.filter(at__lt=timezone.now() - 2 * approvals.LIFE).delete()


@dataclass
class Watch:
    """What is known of the child's work: phase, how far, how fast."""

    phases: list[dict[str, Any]]
    progress: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def phase(self, key: str, text: str) -> None:
        """A new phase begins; the one before is done."""
        now = _now()
        self._close("done", now)
        places = [index for index, phase in enumerate(self.phases) if phase["key"] == key]
        if places:
            phase = self.phases[places[0]]
            # A run of several steps goes through its phases once per step: what is shown is the present step.
            for later in self.phases[places[0] + 1 :]:
                later.update(state="to_come", started_at=None, finished_at=None, detail="")
            phase["detail"] = ""
        else:
            phase = {"key": key, "label": text, "commit": False, "detail": ""}
            begun = [index for index, each in enumerate(self.phases) if each["state"] != "to_come"]
            self.phases.insert((begun[-1] + 1) if begun else 0, phase)
        phase.update(state="now", started_at=now, finished_at=None)
        self._seen.clear()
        self.progress = {"phase": key, "label": text, "text": "", "done": None, "total": None, "unit": "", "rate": None,
                         "eta_s": None, "memory_bytes": None}  # fmt: skip

    def advance(self, event: Mapping[str, Any]) -> None:
        """So much of the phase is done."""
        now, done = time.monotonic(), int(event.get("done") or 0)
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER_S:
            self._seen.popleft()
        began, first = self._seen[0]
        rate = (done - first) / (now - began) if now - began >= 0.5 and done > first else None
        total = event.get("total")
        self.progress.update(
            text=str(event.get("text") or ""), done=done, total=total, unit=str(event.get("unit") or ""), rate=rate,
            eta_s=round((total - done) / rate, 1) if rate and isinstance(total, int) else None,
        )  # fmt: skip

    def ended(self, *, well: bool) -> None:
        """Nothing more comes."""
        self._close("done" if well else "stopped", _now())

    def _close(self, state: str, now: str) -> None:
        for phase in self.phases:
            if phase["state"] == "now":
                phase.update(state=state, finished_at=now)
                if self.progress.get("done") and not phase["detail"]:
                    phase["detail"] = f"{self.progress['done']:,} {self.progress['unit']}".strip()


class Supervision:
    """One run from claim to end, in the worker that claimed it."""

    def __init__(self, lease: Lease) -> None:
        self.run = lease.run
        self.token = lease.token
        self.folder = RunFolder(self.run.pk)
        self.watch = Watch(phases=list(self.run.phases))
        self.child: Child | None = None
        self.last_line: Mapping[str, Any] | None = None
        self.ended_at = 0.0
        self.stopping = ""  # why it is being stopped: cancelled or deadline
        self.asked_at = 0.0
        self.in_commit = False
        self.database_ok_at = time.monotonic()
        self.committed: list[Mapping[str, Any]] = []  # steps that are not in the audit trail yet

    def work(self) -> None:
        """Start the child, watch it, and write down how it ended. When the lease is lost nothing is written."""
        try:
            outcome = self._supervise()
            if self._finish(outcome):
                self._after_end()
        except LeaseLost as lost:
            self.folder.log("supervisor", f"stopped supervising: {lost}")
            log.warning("run %s: %s", self.run.pk, lost)
        finally:
            if self.child is not None:
                self.child.close()
            self.folder.close()

    # --- the child ----------------------------------------------------------------------------------------------------

    def _supervise(self) -> Outcome:
        if self.run.plan is not None:
            self.folder.write_json("plan.json", self.run.plan)
        self.child = child = Child(ops_child.command("run"), self._request())
        self.folder.log("supervisor", f"claimed by worker {self.run.worker_pid} on {self.run.worker_host}")
        self.folder.log("supervisor", f"child pid {child.pid} started")
        self._update(child_pid=child.pid, child_birth=child.birth)
        looked = beaten = time.monotonic()
        try:
            while not child.ended:
                for line in child.lines(0.25):
                    self._heard(line.event, line.text)
                now = time.monotonic()
                if now - looked >= LOOK_EVERY_S:
                    looked = now
                    self._look()
                if now - beaten >= BEAT_EVERY_S:
                    beaten = now
                    self._beat()
                self._press(now)
        except BrokenProtocol as broken:
            child.kill()
            self.last_line = None
            return self._crashed(f"was stopped: {broken}")
        except LeaseLost:
            child.kill()
            raise
        self.watch.ended(well=bool(self.last_line) and (self.last_line or {}).get("status") == "succeeded")
        if self.last_line is None:
            return self._crashed(child.how_it_ended())
        return self._said(self.last_line)

    def _request(self) -> dict[str, Any]:
        run = self.run
        options = run.options
        return {
            "run_id": str(run.pk),
            "path": run.instance_path,
            "folder": str(self.folder.path),
            "identity": list(run.instance.identity) if run.instance else None,
            "operation": run.operation,
            "parameters": run.parameters,
            "options": {name: options.get(name) for name in ("undo", "attest_unused", "max_rows", "max_bytes")},
            "approved_scope": run.plan["scope"] if run.plan else None,
            "allow_unplanned": (run.approval or {}).get("kind") == "value",
        }

    def _heard(self, event: Mapping[str, Any] | None, text: str) -> None:
        if event is None:
            self.folder.log("stderr", text)
            return
        kind = event["event"]
        if kind == "phase":
            self.watch.phase(str(event.get("key")), str(event.get("text")))
            self.folder.log("operation", str(event.get("text")))
            self._beat()
        elif kind == "progress":
            self.watch.advance(event)
        elif kind == "log":
            self.folder.log("operation", str(event.get("text")))
        elif kind == "step":
            self._step(event)
        elif kind == "commit?":
            self._gate(event.get("step"))
        elif kind == "end":
            self.last_line = event
            self.ended_at = time.monotonic()
        else:
            raise BrokenProtocol(f"it sent an event of a kind that is not known, {kind[:40]!r}")

    def _step(self, event: Mapping[str, Any]) -> None:
        step = {"subject": str(event.get("key")), "done": event.get("done"), "total": event.get("total"), "at": _now()}
        self.watch.steps.append(step)
        self.committed.append(step)
        self.in_commit = False
        if self.stopping:
            self.asked_at = time.monotonic()
        self.folder.log("supervisor", f"step {step['done']} of {step['total']} is committed: {step['subject']}")
        self._beat()

    def _gate(self, step: object) -> None:
        """Answer "may I commit?": lease, cancel flag, deadline, right and account of the requester are asked anew."""
        try:
            why = self._why_not_commit()
        except DatabaseError:
            why = "the application's database does not answer"
        except LeaseLost as lost:
            self._answer({"commit": False, "why": str(lost)})
            raise
        title = step.get("title", "") if isinstance(step, Mapping) else ""
        if why:
            self.folder.log("supervisor", f"commit of {title} not allowed: {why}")
            self._answer({"commit": False, "why": why})
        else:
            self.folder.log("supervisor", f"commit of {title} allowed")
            self.in_commit = True
            self._answer({"commit": True})

    def _why_not_commit(self) -> str:
        with transaction.atomic():
            serialise()
            mine = MaintenanceRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=State.RUNNING)
            now = timezone.now()
            row = mine.select_related("instance", "requested_by").first()
            if row is None:
                raise LeaseLost("the run was taken from this worker")
            if row.cancel_requested_at is not None or self.stopping == "cancelled":
                return "it was cancelled"
            if row.deadline_at is not None and row.deadline_at <= now:
                return "its deadline has passed"
            if row.requested_by_id != self.run.requested_by_id:
                return "the account that asked for it is gone"
            if why := why_not_allowed(row):
                return why
            mine.update(allowed_at=now, heartbeat_at=now)
        self.database_ok_at = time.monotonic()
        return ""

    def _answer(self, answer: Mapping[str, Any]) -> None:
        if self.child is not None:
            self.child.send(answer)

    def _press(self, now: float) -> None:
        """Make a child that is to stop, or that has said its last word, end."""
        child = self.child
        if child is None or child.ended:
            return
        if self.last_line is not None:
            if now - self.ended_at > EXIT_WITHIN_S:
                child.kill()
        elif self.stopping:
            if not self.asked_at:
                self.asked_at = now
                self.folder.log("supervisor", f"asked to stop: {self.stopping}")
                child.ask_to_stop()
            elif now - self.asked_at > (COMMIT_GRACE_S if self.in_commit else GRACE_S):
                self.folder.log("supervisor", "did not stop in time and is killed")
                child.kill()

    # --- the row ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See whether somebody wants it to stop; find out when the run is no longer ours."""
        mine = MaintenanceRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=State.RUNNING)
        rows = self._patiently(lambda: list(mine.values_list("cancel_requested_at", "deadline_at")))
        if rows is None or self.stopping:
            return
        if not rows:
            raise LeaseLost("the run was taken from this worker")
        ((cancelled, deadline),) = rows
        if cancelled is not None:
            self.stopping = "cancelled"
        elif deadline is not None and deadline <= timezone.now():
            self.stopping = "deadline"

    def _beat(self) -> None:
        """Write heartbeat and progress while the run is ours; 0 rows means that it is not."""
        if self.watch.progress and self.child is not None:
            self.watch.progress["memory_bytes"] = self.child.memory_bytes()
        columns: dict[str, Any] = {"progress": self.watch.progress, "phases": self.watch.phases}
        if self.committed:  # the list may be long and seldom changes
            columns["steps"] = self.watch.steps
        self._update(heartbeat_at=timezone.now(), **columns)

    def _update(self, **columns: Any) -> None:
        def write() -> bool:
            with transaction.atomic():
                if self.committed:
                    serialise()
                mine = MaintenanceRun.objects.filter(pk=self.run.pk, lease_token=self.token, state=State.RUNNING)
                if not mine.update(**columns):
                    return False
                for step in self.committed:
                    recovery.audit_step(self.run, step)
            self.committed.clear()
            return True

        if self._patiently(write) is False:
            raise LeaseLost("the run was taken from this worker")

    def _patiently(self, ask: Callable[[], T]) -> T | None:
        """The database's answer; None while it is silent. Silent for longer than a lease minus a margin: LeaseLost."""
        try:
            answer = ask()
        except DatabaseError as error:
            connection.close()
            if time.monotonic() - self.database_ok_at > LEASE_S * 0.7:
                raise LeaseLost("the application's database does not answer") from error
            return None
        self.database_ok_at = time.monotonic()
        return answer

    # --- the end ------------------------------------------------------------------------------------------------------

    def _said(self, end: Mapping[str, Any]) -> Outcome:
        """The outcome that the child's last line tells."""
        state = STATES.get(str(end.get("status")), State.ERRORED)
        effect = str(end.get("effect_on_store") or EffectOnStore.UNKNOWN)
        error = end.get("error")
        if self.stopping == "deadline" and state == State.CANCELLED:
            state, error = (
                State.FAILED,
                error_json("DEADLINE", "It was stopped at its deadline.", "Give it more time, or narrow it."),
            )
        outcome = Outcome(
            state=state, effect=effect, error=error, plan=end.get("plan"), result=end.get("result"),
            report=end.get("report"),
        )  # fmt: skip
        if effect == EffectOnStore.UNKNOWN and self.run.writes:
            return self._recovered(outcome)
        return outcome

    def _crashed(self, how: str) -> Outcome:
        """The outcome of a child that ended without saying how; what it did to the store recovery has to find out."""
        self.watch.ended(well=False)
        doing = self.watch.progress.get("label")
        during = f" while it was at “{doing}”" if doing else " before it began"
        self.folder.log("supervisor", f"the child {how}{during}")
        if self.stopping == "cancelled":
            state, error = (
                State.CANCELLED,
                error_json("CANCELLED", f"It was cancelled; the process that worked on the store {how}{during}.", ""),
            )
        else:
            state, error = State.ERRORED, error_json(
                "CHILD_DIED", f"The process that worked on the store {how}{during}.",
                "Look at the log; a damaged file or too little memory are the usual reasons.",
            )  # fmt: skip
        outcome = Outcome(state=state, effect=EffectOnStore.NONE, error=error)
        return self._recovered(outcome) if self.run.writes else outcome

    def _recovered(self, outcome: Outcome) -> Outcome:
        """Ask the store what became of the run, with the heartbeat going on."""
        if self.child is not None:
            self.child.close()
        self.watch.phase("recovery", "Recovering")
        self._beat()
        with ThreadPoolExecutor(1) as pool:
            asked: Future[Outcome] = pool.submit(recovery.judge, outcome, self.run.instance_path, str(self.run.pk))
            while True:
                try:
                    judged = asked.result(timeout=BEAT_EVERY_S)
                    break
                except TimeoutError:
                    self._beat()
        self.watch.ended(well=judged.state != State.LOST)
        self.folder.log("supervisor", judged.note or "recovery did not settle it")
        return judged

    def _finish(self, outcome: Outcome) -> bool:
        """Write the end; tries for a while when the database does not answer, after that the reaper does it."""
        size = self.folder.write_json("result.json", outcome.result) if outcome.result is not None else 0
        if outcome.plan is not None:
            self.folder.write_json("plan.json", outcome.plan)
        end = time.monotonic() + MARK_WITHIN_S
        while True:
            try:
                return recovery.write_end(
                    self.run, outcome, token=self.token, progress=self.watch.progress, phases=self.watch.phases,
                    steps=self.watch.steps, keep_result=size <= KEPT_RESULT_BYTES, committed=self.committed,
                )  # fmt: skip
            except DatabaseError:
                connection.close()
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def _after_end(self) -> None:
        self.folder.log("supervisor", "finished")
        if self.run.writes:
            recovery.acknowledge(self.run.instance_path, str(self.run.pk))
        ring_waiting(queue=self.run.queue, instance_id=self.run.instance_id)


def _now() -> str:
    value = to_json(timezone.now())
    return str(value)


def last_tick() -> datetime | None:
    """When this host's tick ended last; the watchdog and the System page look at it."""
    return beats.last_end()
