"""What the page of a run shows: how far it is, whether it is alive, what holds now, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from chromaadmin.runs.calls import calls
from chromaadmin.runs.models import EffectOnStore, MaintenanceRun, State
from chromaadmin.templatetags import formats
from ops.codec import to_json
from ops.errors import OpsError
from ops.operation import Operation
from ops.params import Parameter, parameters, parse
from ops.registry import operation_class, operation_names

UNDO = "run_undo"
_EFFECTS = {
    EffectOnStore.NONE: "The store is as it was before the run.",
    EffectOnStore.COMPLETE: "The change is in the store.",
    EffectOnStore.PARTIAL: "A part of it is in the store and stays there.",
    EffectOnStore.UNKNOWN: "What it did to the store is not known; recovery has to look first.",
}
_ENDED = {
    State.SUCCEEDED: "It has succeeded.",
    State.FAILED: "It has failed.",
    State.ERRORED: "It stopped with a crash.",
    State.CANCELLED: "It was cancelled.",
    State.REFUSED: "It was refused; nothing was tried.",
    State.NEEDS_OPERATOR: "A person has to look at the store.",
}
_NOTE_KIND = {State.REFUSED: "warn", State.CANCELLED: "neutral", State.SUCCEEDED: "ok"}


@dataclass(frozen=True, kw_only=True)
class PhaseRow:
    """One line of the phases; ``time`` is seconds, a moment or nothing. After a row with ``commit`` comes the point."""

    key: str
    label: str
    state: str
    detail: str = ""
    time: float | datetime | str = ""
    commit: bool = False
    commit_detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sentence that matters, and what goes on after it."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Undo:
    """What is kept of the state before; ``url`` is empty when the way back is gone, ``reason`` says why."""

    sentence: str
    path: str
    url: str
    reason: str
    until: datetime | None


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One line of the log as it is drawn."""

    at: str
    text: str
    level: str = ""


def phase_rows(run: MaintenanceRun, now: datetime | None = None) -> list[PhaseRow]:
    """Requested, started, the operation's own phases with the commit point, ended."""
    now = now or timezone.now()
    with_reason = ", with a reason" if run.reason else ""
    rows = [
        PhaseRow(
            key="requested", label="Requested", state="done",
            detail=f"{run.requested_by_name}{with_reason}", time=run.requested_at,
        ),
        _started_row(run, now),
        *(_phase_row(run, phase, now) for phase in run.phases),
        _ended_row(run),
    ]  # fmt: skip
    for index, phase in enumerate(run.phases):
        if phase.get("commit"):
            # The point stands before the phase that begins with it.
            before = rows[index + 1]
            passed = formats.utc(run.allowed_at, "time") if run.allowed_at else ""
            rows[index + 1] = PhaseRow(**(vars(before) | {"commit": True, "commit_detail": passed}))
    return rows


def note_of(run: MaintenanceRun) -> Note:
    """The sentence that matters at night: what holds in the store right now."""
    if not run.is_live:
        return _ended_note(run)
    if run.state == State.LOST:
        return Note(
            kind="bad", title="Nobody supervises this run any more.",
            text="Recovery looks at the store and says how it ended; until then no other run may write here.",
        )  # fmt: skip
    if run.cancel_requested_at is not None:
        return Note(
            kind="warn", title=f"{run.cancel_requested_by_name} asked to cancel it.",
            text="It stops at the next safe point. " + (
                "Nothing visible has changed yet." if run.nothing_visible_yet else "What was committed stays."
            ),
        )  # fmt: skip
    if run.state in (State.QUEUED, State.AWAITING_APPROVAL):
        return Note(
            kind="busy", title="Nothing has been started yet.",
            text="It waits for a worker on the host that has the directory. Cancelling now takes it out of the queue.",
        )  # fmt: skip
    if not run.writes:
        return Note(kind="busy", title="This run only reads.", text="It changes no byte of the store.")
    if run.nothing_visible_yet:
        return Note(
            kind="busy", title="Nothing visible has changed yet.",
            text="The store is in place and whole. Cancelling now removes what was prepared and leaves all as it was.",
        )  # fmt: skip
    return Note(kind="busy", title="The commit point is passed.", text=_after_commit(run))


def figures_of(run: MaintenanceRun, now: datetime | None = None) -> list[dict[str, Any]]:
    """The figures of a live run: rate, memory, heartbeat, time; what is not known is a dash."""
    now = now or timezone.now()
    progress = run.progress
    rate, memory = progress.get("rate"), progress.get("memory_bytes")
    beat = None if run.heartbeat_at is None else max(0, round((now - run.heartbeat_at).total_seconds()))
    figure, unit = formats.bytes_pair(memory)
    figures: list[dict[str, Any]] = [
        {
            "label": "Rate", "value": None if rate is None else formats.grouped(_rounded(rate)),
            "unit": f"{progress.get('unit') or ''}/s".strip(), "context": "in this phase",
        },
        {"label": "Memory", "value": None if memory is None else figure, "unit": unit, "context": "of the child now"},
        {
            "label": "Heartbeat", "value": beat, "unit": "s ago" if beat is not None else "",
            "context": f"worker on {run.worker_host}" if run.worker_host else "no worker yet",
        },
        {
            "label": "Running for" if run.started_at else "Waiting for",
            "value": formats.duration((now - (run.started_at or run.requested_at)).total_seconds()), "unit": "",
            "context": f"since {formats.utc(run.started_at or run.requested_at, 'time')} UTC",
        },
    ]  # fmt: skip
    if run.steps or (run.plan and len(_steps(run)) > 1):
        figures.append(
            {
                "label": "Committed", "value": len(run.steps), "unit": f"of {max(len(_steps(run)), len(run.steps))}",
                "context": "steps; they stay",
            }
        )  # fmt: skip
    if run.deadline_at is not None:
        left = formats.distance(run.deadline_at, now)
        figures.append({"label": "Deadline", "value": left, "unit": "left", "context": formats.utc(run.deadline_at)})
    return figures


def eta_of(run: MaintenanceRun) -> str:
    """How long this phase still takes, as words; empty when it can not be told."""
    left = run.progress.get("eta_s")
    return f"about {formats.duration(left)} for this phase" if left is not None and run.state == State.RUNNING else ""


def progress_title(run: MaintenanceRun) -> str:
    """What it is doing now."""
    if run.state == State.QUEUED:
        return "Waiting for a worker"
    if run.state == State.AWAITING_APPROVAL:
        return "Waiting for a second person"
    if run.state == State.LOST:
        return "Waiting for recovery"
    return str(run.progress.get("text") or run.progress.get("label") or "Starting")


def headline(run: MaintenanceRun) -> str:
    """How it ended, or how far it is, in one sentence."""
    if run.is_live:
        return progress_title(run)
    if run.report and run.state == State.SUCCEEDED:
        return str(run.report.get("headline") or _ENDED[State.SUCCEEDED])
    if run.error:
        return str(run.error.get("message"))
    return run.note or _ENDED.get(State(run.state), run.get_state_display())


def report_of(run: MaintenanceRun) -> dict[str, Any]:
    """The report with what each figure was before, as words."""
    report = dict(run.report or {})
    report["figures"] = [
        one | {"was": "" if one.get("before") is None else f"was {one['before']}"} for one in report.get("figures", ())
    ]
    return report


def list_row(run: MaintenanceRun) -> dict[str, Any]:
    """One run as a line of the list."""
    return {"run": run, "subject": subject(run), "took": took(run), "sentence": headline(run), "counts": counts_of(run)}


def subject(run: MaintenanceRun) -> str:
    """What the run is about inside the instance: a collection, "8 collections", or nothing."""
    titles = [str(step.get("title", "")) for step in _steps(run)]
    if titles:
        return titles[0] if len(titles) == 1 else f"{len(titles):,} steps"
    for name in ("collection", "collections", "collection_id", "run"):
        value = run.parameters.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            return str(value[0]) if len(value) == 1 else f"{len(value):,} collections"
    return ""


def took(run: MaintenanceRun) -> float | None:
    """Seconds from start to end, or until now; None when it was never started."""
    if run.started_at is None:
        return None
    return ((run.finished_at or timezone.now()) - run.started_at).total_seconds()


def value_of(run: MaintenanceRun) -> Operation[Any] | None:
    """The operation value of a run; None when this version of the program has no such operation or parameter."""
    try:
        return parse(operation_class(run.operation), run.parameters)
    except OpsError:
        return None


def calls_of(run: MaintenanceRun) -> list[tuple[str, str]]:
    """The commands that ask for the same; empty for an operation that is gone."""
    value = value_of(run)
    return [] if value is None else calls(value, path=run.instance_path, instance_name=run.instance_name)


def again_url(run: MaintenanceRun) -> str:
    """The form of the same operation, filled with what this run was asked; empty without its instance."""
    if run.instance_id is None or run.operation not in operation_names() or run.operation == UNDO:
        return ""
    return _form_url(run, run.operation, _asked(run))


def undo_of_run(run: MaintenanceRun) -> Undo | None:
    """What is kept, and the way to the form that brings it back; None when nothing is."""
    report = run.report or {}
    if run.state not in (State.SUCCEEDED, State.NEEDS_OPERATOR) or not run.writes or not report.get("undo"):
        return None
    undone = run.undone_by.filter(state__in=(State.SUCCEEDED, State.QUEUED, State.RUNNING)).order_by("-number").first()
    reason = ""
    if undone is not None:
        done = "has undone it" if undone.state == State.SUCCEEDED else "is about to undo it"
        reason = f"Run {undone.number} {done}."
    elif run.instance_id is None:
        reason = "Its instance is no longer registered."
    named = _run_parameter() if not reason else ""
    return Undo(
        sentence=str(report["undo"]),
        path=str(report.get("undo_path") or ""),
        url=_form_url(run, UNDO, [(named, str(run.pk))]) if named else "",
        reason=reason,
        until=min(_expiries(run.result), default=None),
    )


def log_rows(lines: list[Any]) -> list[LogRow]:
    """Log lines as they are drawn; what the child wrote to its standard error is toned."""
    return [
        LogRow(at=formats.utc(line.at, "time"), text=line.text, level="warning" if line.source == "stderr" else "")
        for line in lines
    ]


def parameters_of(run: MaintenanceRun) -> dict[str, Any]:
    """The parameters that were given, as (label, value) pairs, and how many others stayed as by default."""
    known: Mapping[str, Parameter] = {}
    if run.operation in operation_names():
        known = {one.name: one for one in parameters(operation_class(run.operation))}
    pairs, rest = [], 0
    for name, value in run.parameters.items():
        parameter = known.get(name)
        if parameter is not None and not parameter.required and value == to_json(parameter.default):
            rest += 1
        else:
            pairs.append((parameter.label if parameter else name, _written(value)))
    return {"pairs": pairs, "rest": rest}


def counts_of(run: MaintenanceRun) -> dict[str, Any]:
    """How much of how much; None where it is not known."""
    progress = run.progress
    return {name: progress.get(name) for name in ("done", "total")} | {"unit": progress.get("unit") or ""}


def effect_sentence(run: MaintenanceRun) -> str:
    """What the run did to the store, in words; empty while that is not known or for a run that only reads."""
    if not run.writes or not run.effect_on_store:
        return ""
    return _EFFECTS[EffectOnStore(run.effect_on_store)]


def _started_row(run: MaintenanceRun, now: datetime) -> PhaseRow:
    if run.started_at is not None:
        waited = (run.started_at - run.requested_at).total_seconds()
        by = f"by the worker on {run.worker_host}" if run.worker_host else ""
        return PhaseRow(key="claimed", label="Claimed", state="done", detail=by, time=max(0.0, waited))
    if run.is_live:
        waits = (now - run.requested_at).total_seconds()
        return PhaseRow(key="claimed", label="Waiting in the queue", state="now", detail=run.queue, time=waits)
    return PhaseRow(key="claimed", label="Claimed", state="skipped", detail="never started")


def _ended_row(run: MaintenanceRun) -> PhaseRow:
    if run.is_live:
        return PhaseRow(key="ended", label="Reported", state="todo")
    state = {State.SUCCEEDED: "done", State.CANCELLED: "skipped", State.REFUSED: "skipped"}.get(
        State(run.state), "failed"
    )
    label = "Reported" if run.state == State.SUCCEEDED else run.get_state_display()
    return PhaseRow(key="ended", label=label, state=state, time=run.finished_at or "")


def _phase_row(run: MaintenanceRun, phase: Mapping[str, Any], now: datetime) -> PhaseRow:
    state = {"to_come": "todo", "now": "now", "done": "done", "stopped": "failed"}.get(str(phase.get("state")), "todo")
    kind_end = run.state in (State.CANCELLED, State.REFUSED)
    if not run.is_live and (state == "todo" or (state == "failed" and kind_end)):
        state = "skipped"
    detail, label = str(phase.get("detail") or ""), str(phase.get("label", ""))
    if state == "now":
        detail = detail or _counts(run.progress)
        if run.progress.get("phase") == phase.get("key"):
            label = str(run.progress.get("label") or label)
    return PhaseRow(
        key=str(phase.get("key", "")), label=label, state=state, detail=detail,
        time=_spent(phase, now) if state in ("now", "done", "failed") else "",
    )  # fmt: skip


def _spent(phase: Mapping[str, Any], now: datetime) -> float | str:
    begun, ended = _moment(phase.get("started_at")), _moment(phase.get("finished_at"))
    return "" if begun is None else max(0.0, ((ended or now) - begun).total_seconds())


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def _counts(progress: Mapping[str, Any]) -> str:
    done, total, unit = progress.get("done"), progress.get("total"), progress.get("unit") or ""
    if not done and not total:
        return ""
    of = f" of {total:,}" if total is not None else ""
    return f"{done or 0:,}{of} {unit}".strip()


def _after_commit(run: MaintenanceRun) -> str:
    total = len(_steps(run))
    if total > 1:
        return f"{len(run.steps):,} of {total:,} steps are committed and stay. Cancelling stops before the next one."
    return "What was committed is finished and checked now; cancelling no longer changes anything."


def _ended_note(run: MaintenanceRun) -> Note:
    kind = _NOTE_KIND.get(State(run.state), "bad")
    if run.state == State.SUCCEEDED:
        verified = str((run.report or {}).get("verified") or "")
        return Note(kind="ok" if verified else "neutral", title=verified or effect_sentence(run), text=run.note)
    error = run.error or {}
    text = " ".join(filter(None, (effect_sentence(run), str(error.get("hint") or ""), run.note)))
    return Note(kind=kind, title=_ENDED.get(State(run.state), ""), text=text)


def _steps(run: MaintenanceRun) -> list[Mapping[str, Any]]:
    return list(((run.plan or {}).get("scope") or {}).get("steps") or [])


def _asked(run: MaintenanceRun) -> list[tuple[str, str]]:
    """The parameters that are not as by default, as a query string takes them."""
    value = value_of(run)
    if value is None:
        return []
    pairs = []
    for parameter in parameters(type(value)):
        held = getattr(value, parameter.name)
        if held is None or (not parameter.required and held == parameter.default):
            continue
        for one in held if isinstance(held, tuple) else (held,):
            pairs.append((parameter.name, str(one).lower() if isinstance(one, bool) else str(one)))
    return pairs


def _form_url(run: MaintenanceRun, operation: str, asked: list[tuple[str, str]]) -> str:
    address = reverse("admin:operation", args=[run.instance_id, operation])
    return f"{address}?{urlencode(asked)}" if asked else address


def _run_parameter() -> str:
    """The name of the parameter with which the undo operation takes a run; empty when there is no such operation."""
    if UNDO not in operation_names():
        return ""
    return next((one.name for one in parameters(operation_class(UNDO)) if one.name in ("run", "run_id")), "")


def _expiries(result: object) -> list[datetime]:
    """Every ``expires_at`` in a result: when what is kept for an undo goes."""
    if isinstance(result, list):
        return [moment for item in result for moment in _expiries(item)]
    if not isinstance(result, Mapping):
        return []
    own = _moment(result.get("expires_at"))
    return ([own] if own else []) + [moment for item in result.values() for moment in _expiries(item)]


def _written(value: object) -> str:
    if value is None:
        return "as it is"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(formats.visible(one) for one in value) or "none named"
    return formats.visible(value) or "empty"


def _rounded(rate: float) -> float | int:
    return round(rate) if rate >= 10 else round(rate, 1)
