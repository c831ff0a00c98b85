"""What an operation would do: a scope that is approved and compared, and an estimate that is only shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ops.codec import canonical
from ops.errors import PlanChanged


@dataclass(frozen=True, kw_only=True)
class StepScope:
    """One commit point of a plan: one subject, and the bounds that its approval sets.

    ``subject`` is the id of what the step is about (mostly a collection id), ``title`` its name for people,
    ``segment_id`` the segment that must still be current, ``up_to_seq`` and ``max_rows`` the approved bounds.
    """

    subject: str
    title: str
    segment_id: str = ""
    up_to_seq: int | None = None
    max_rows: int | None = None
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is approved. A later plan must lie inside it, else nothing is done."""

    operation: str
    parameters: str  # canonical JSON of the operation value
    family: str
    steps: tuple[StepScope, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON, as hex."""
        return hashlib.sha256(canonical(self)).hexdigest()

    def require_inside(self, approved: Scope) -> None:
        """Raise ``PlanChanged`` unless this scope asks for nothing that ``approved`` does not hold."""
        for name in ("operation", "parameters", "family"):
            if getattr(self, name) != getattr(approved, name):
                raise PlanChanged(what=f"its {name} is another")
        allowed = {step.subject: step for step in approved.steps}
        for step in self.steps:
            if step.subject not in allowed:
                raise PlanChanged(what=f"{step.title} was not part of it")
            if why := _outside(step, allowed[step.subject]):
                raise PlanChanged(what=f"{step.title}: {why}")
        if len(self.steps) < len(approved.steps):
            gone = {step.subject for step in approved.steps} - {step.subject for step in self.steps}
            raise PlanChanged(what=f"{allowed[min(gone)].title} is gone")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row of "what will change": values as text for people; ``now`` None where there was none."""

    what: str
    now: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One precondition that was looked at: state is passed, attest (only a person can know) or refused."""

    state: str
    sentence: str
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Shown, not compared. Bytes and seconds; None where it can not be told."""

    rows: int | None = None
    written_bytes: int | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    freed_now_bytes: int | None = None
    freed_at_expiry_bytes: int | None = None
    shortest_s: float | None = None
    longest_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer of ``preview()``: nothing has changed yet."""

    headline: str
    scope: Scope
    estimate: Estimate = field(default_factory=Estimate)
    changes: tuple[Change, ...] = ()
    checks: tuple[Check, ...] = ()
    undo: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the scope: what an approval signs."""
        return self.scope.digest

    @property
    def refused(self) -> tuple[Check, ...]:
        """The checks that stand in the way."""
        return tuple(check for check in self.checks if check.state == "refused")


def _outside(new: StepScope, approved: StepScope) -> str:
    if new.segment_id != approved.segment_id:
        return "its segment is another now"
    if new.digest != approved.digest:
        return "what it touches is different now"
    for name, what in (("up_to_seq", "it reaches further into the WAL"), ("max_rows", "it touches more rows")):
        limit, asked = getattr(approved, name), getattr(new, name)
        if limit is not None and (asked is None or asked > limit):
            return what
    return ""
