"""MaintenanceRun (short: Run): one requested execution of an operation, the truth about how it went."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from chromaadmin.instances.models import Instance
from chromaadmin.runs.querysets import RunQuerySet
from ops.operation import Effect


class State(models.TextChoices):
    """Where a run stands.

    failed is an expected failure, errored a bug or a crash, refused means that nothing was tried. lost is not final:
    nobody supervises the run any more, and recovery decides what became of it.
    """

    AWAITING_APPROVAL = "awaiting_approval", "Awaiting approval"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    ERRORED = "errored", "Errored"
    CANCELLED = "cancelled", "Cancelled"
    REFUSED = "refused", "Refused"
    LOST = "lost", "Lost"
    NEEDS_OPERATOR = "needs_operator", "Needs an operator"


WAITING = (State.AWAITING_APPROVAL, State.QUEUED)
ACTIVE = (State.RUNNING, State.LOST)
LIVE = (*WAITING, *ACTIVE)
FINAL = tuple(state for state in State if state not in LIVE)


class EffectOnStore(models.TextChoices):
    """What a started run did to its store; empty before it is known."""

    NONE = "none", "None"
    COMPLETE = "complete", "Complete"
    PARTIAL = "partial", "Partial"
    UNKNOWN = "unknown", "Unknown"


class RunEffect(models.TextChoices):
    """The effect of the operation value, as the operation declares it."""

    READ = Effect.READ.value, "Read"
    WRITE = Effect.WRITE.value, "Write"
    EDIT = Effect.EDIT.value, "Edit"
    DESTRUCTIVE = Effect.DESTRUCTIVE.value, "Destructive"


class Door(models.TextChoices):
    """Through which door it was asked for."""

    PAGE = "page", "Page"
    COMMAND = "command", "Command line"


class MaintenanceRun(models.Model):
    """One requested execution of an operation. Rows are changed by services and engine only.

    JSON columns, with what they hold:

    - ``parameters``: the operation value, all its parameters.
    - ``options``: ``undo`` ("keep", "none" or a path), ``attest_unused`` (bool), ``max_rows``, ``max_bytes`` (or null).
    - ``plan``: the approved ``ops.plan.Plan``, later the one made under the lock; null for a READ.
    - ``approval``: ``{"kind": "plan"|"value", "by", "at", "digest"}``; null for a READ. "value" approves the parameters
      within the bounds of ``options`` (``--yes``), "plan" one plan.
    - ``progress``: ``{"phase", "label", "text", "done", "total", "unit", "rate", "eta_s", "memory_bytes"}``; ``rate``
      in units per second, null values where it is not known; ``{}`` before the first event.
    - ``phases``: a list of ``{"key", "label", "commit", "state", "started_at", "finished_at", "detail"}`` in order;
      ``state`` is to_come, now, done or stopped, times are RFC 3339 or null. ``commit`` marks the phase that begins
      with the commit point.
    - ``steps``: a list of ``{"subject", "done", "total", "at"}``, one per committed step.
    - ``result``: the operation's result; null when it is larger than 256 KiB (``selectors.result_of()`` reads both).
    - ``report``: ``ops.operation.Report``; null unless succeeded.
    - ``error``: ``{"code", "message", "hint", "details"}`` or null.

    ``lease_token``, ``worker_*``, ``child_*`` and ``heartbeat_at`` belong to the supervisor that has the run; process
    start texts are those of ``supervisor.birth()``. ``allowed_at`` is when the commit gate was opened last: before that
    nothing visible has changed. ``seal`` is an HMAC, with a key outside the database, over what was asked for; a row
    whose seal does not hold is never executed. ``note`` is one sentence about a run that was recovered.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.PositiveBigIntegerField(unique=True, editable=False)
    operation = models.CharField(max_length=80, db_index=True)
    effect = models.CharField(max_length=20, choices=RunEffect)
    parameters = models.JSONField(default=dict)
    instance = models.ForeignKey(Instance, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    instance_name = models.CharField(max_length=120)
    instance_path = models.TextField()
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    requested_by_name = models.CharField(max_length=200)
    door = models.CharField(max_length=20, choices=Door, default=Door.PAGE)
    reason = models.TextField(blank=True)
    options = models.JSONField(default=dict)
    plan = models.JSONField(null=True, blank=True)
    scope_digest = models.CharField(max_length=64, blank=True)
    approval = models.JSONField(null=True, blank=True)
    seal = models.CharField(max_length=64)
    state = models.CharField(max_length=20, choices=State, default=State.QUEUED, db_index=True)
    effect_on_store = models.CharField(max_length=20, choices=EffectOnStore, blank=True)
    queue = models.CharField(max_length=130)
    heavy = models.BooleanField(default=False)
    worker_host = models.CharField(max_length=120, blank=True)
    lease_token = models.UUIDField(null=True, blank=True)
    worker_pid = models.PositiveIntegerField(null=True, blank=True)
    worker_birth = models.CharField(max_length=80, blank=True)
    child_pid = models.PositiveIntegerField(null=True, blank=True)
    child_birth = models.CharField(max_length=80, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    requested_at = models.DateTimeField(db_index=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    allowed_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    cancel_requested_by_name = models.CharField(max_length=200, blank=True)
    progress = models.JSONField(default=dict)
    phases = models.JSONField(default=list)
    steps = models.JSONField(default=list)
    result = models.JSONField(null=True, blank=True)
    report = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    note = models.TextField(blank=True)
    undo_of = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="undone_by")

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        verbose_name = "run"
        verbose_name_plural = "runs"
        default_permissions = ("view",)
        constraints = [
            # A run whose supervisor is gone still counts: nothing else may write before recovery has looked.
            models.UniqueConstraint(
                fields=["instance"],
                condition=Q(state__in=["running", "lost"]) & ~Q(effect="read"),
                name="runs_one_writer_per_instance",
            ),
            models.UniqueConstraint(
                fields=["queue"], condition=Q(state="running", heavy=True), name="runs_one_heavy_per_host"
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.number}, {self.words} on {self.instance_name}"

    @property
    def words(self) -> str:
        """The operation as people say it: ``hnsw rebuild``."""
        subject, _, verb = self.operation.partition("_")
        return f"{subject} {verb.replace('_', '-')}"

    @property
    def writes(self) -> bool:
        return self.effect != RunEffect.READ

    @property
    def is_live(self) -> bool:
        """Whether its page still changes."""
        return self.state in LIVE

    @property
    def can_be_cancelled(self) -> bool:
        return self.state in (*WAITING, State.RUNNING) and self.cancel_requested_at is None

    @property
    def nothing_visible_yet(self) -> bool:
        """True as long as no step was allowed to commit."""
        return self.allowed_at is None and not self.steps


class RedeemedApproval(models.Model):
    """An approval that was used: its nonce can not be used again."""

    nonce = models.CharField(max_length=64, unique=True)
    run = models.ForeignKey(MaintenanceRun, null=True, on_delete=models.SET_NULL, related_name="+")
    at = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.nonce[:8]} at {self.at:%Y-%m-%d %H:%M}"


class Beat(models.Model):
    """When something that is due every minute was begun and ended last; claimed by a conditional UPDATE."""

    key = models.CharField(max_length=140, primary_key=True)
    begun_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.key} at {self.begun_at:%Y-%m-%d %H:%M:%S}"
