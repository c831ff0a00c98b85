"""Pages of runs: the form of an operation with its plan, the list of runs, and one run from request to result."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.shortcuts import redirect, render

from chromaadmin.accounts.doors import client_ip, door, page
from chromaadmin.accounts.rights import Right, may_somewhere
from chromaadmin.audit.selectors import entries_of_run
from chromaadmin.audit.trail import seals_hold, sentence
from chromaadmin.instances.doors import instance_door
from chromaadmin.instances.models import Instance
from chromaadmin.listing import page_of
from chromaadmin.runs import folder, history, watching
from chromaadmin.runs.asking import Asking
from chromaadmin.runs.models import MaintenanceRun, State
from chromaadmin.runs.permissions import may_run
from chromaadmin.runs.results import blocks
from chromaadmin.runs.selectors import log_of, result_of, run_by_id
from chromaadmin.runs.services import cancel_run
from ops.errors import OpsError, UnknownOperation
from ops.operation import Operation
from ops.registry import operation_class

PAGE = 50
LOG_SHOWN = 400


@instance_door("GET", "POST")
def operation(request: HttpRequest, instance: Instance, operation: str) -> HttpResponseBase:
    """GET: the form, filled from the address. POST: the plan, or for a READ the run itself."""
    cls = _class_of(operation)
    if request.method == "GET":
        return _asking_page(request, Asking.begin(_user(request), instance, cls, asked=request.GET))
    asking = Asking.begin(_user(request), instance, cls, data=request.POST)
    if asking.form.is_valid() and asking.operation is not None:
        if asking.operation.writes:
            asking.preview()
        elif (run := asking.run_now(ip=client_ip(request))) is not None:
            return redirect("admin:run", run.pk)
    return _asking_page(request, asking)


@instance_door("POST")
def operation_approve(request: HttpRequest, instance: Instance, operation: str) -> HttpResponseBase:
    """The second POST: with the signed approval the run is stored and its queue is rung."""
    asking = Asking.begin(_user(request), instance, _class_of(operation), asked=request.GET)
    run = asking.approve(request.POST, ip=client_ip(request))
    return _asking_page(request, asking) if run is None else redirect("admin:run", run.pk)


@door("GET", right=Right.VIEW)
def runs(request: HttpRequest) -> HttpResponseBase:
    """All runs the user may see, newest first, by key."""
    found = history.history(request.user, request.GET)
    listed = page_of(found.runs, "number", request.GET, size=PAGE)
    rows = [watching.list_row(one) for one in listed.rows]
    return page(
        request, "runs/list.html", title="Runs", found=found, rows=rows, listed=listed,
        live=history.live_count(request.user),
    )  # fmt: skip


@door("GET", right=Right.VIEW)
def run(request: HttpRequest, run_id: UUID) -> HttpResponseBase:
    """One run: live while it works, then how it ended."""
    found = _run_or_404(request, run_id)
    template = "runs/live.html" if found.is_live else "runs/finished.html"
    context = _live_context(request, found) if found.is_live else _finished_context(request, found)
    environment = found.instance.environment if found.instance else ""
    return page(
        request, template, title=f"Run {found.number}", run=found, environment=environment,
        subject=watching.subject(found), calls=watching.calls_of(found), cancel=_may_cancel(request, found), **context,
    )  # fmt: skip


@door("GET", right=Right.VIEW)
def run_live(request: HttpRequest, run_id: UUID) -> HttpResponseBase:
    """The part of the page that changes; when the run has ended, the browser is told to load the whole page."""
    found = _run_or_404(request, run_id)
    if not found.is_live:
        return HttpResponse(headers={"HX-Refresh": "true"})
    if "log" in request.GET:
        lines = log_of(found, last=LOG_SHOWN)
        if request.GET["log"] == _log_mark(lines):
            return HttpResponse(status=204)
        return render(request, "runs/_log.html", {"run": found, **_log_context(lines)})
    return render(request, "runs/_live.html", {"run": found, **_live_context(request, found)})


@door("POST", right=Right.VIEW)
def run_cancel(request: HttpRequest, run_id: UUID) -> HttpResponseBase:
    """Cancel a waiting run, ask a running one to stop."""
    found = _run_or_404(request, run_id)
    try:
        found = cancel_run(_user(request), found, ip=client_ip(request))
    except OpsError as error:
        messages.warning(request, f"{error} {error.hint_text}")
    else:
        ended = "was taken out of the queue" if found.state == State.CANCELLED else "is asked to stop"
        messages.info(request, f"Run {found.number} {ended}.")
    return redirect("admin:run", found.pk)


@door("GET", right=Right.VIEW)
def run_log(request: HttpRequest, run_id: UUID) -> HttpResponseBase:
    """The whole log as a text file; an empty one where this host has none."""
    found = _run_or_404(request, run_id)
    lines = folder.read_log(found.pk, last=200_000)
    return _download(
        StreamingHttpResponse(_log_text(lines), content_type="text/plain; charset=utf-8"), f"run-{found.number}.log"
    )


@door("GET", right=Right.VIEW)
def run_file(request: HttpRequest, run_id: UUID, name: str) -> HttpResponseBase:
    """The plan or the result as a JSON file."""
    found = _run_or_404(request, run_id)
    value = found.plan if name == "plan.json" else result_of(found) if name == "result.json" else None
    if value is None:
        raise Http404
    text = json.dumps(value, indent=1, ensure_ascii=True)
    return _download(HttpResponse(text, content_type="application/json"), f"run-{found.number}-{name}")


def _user(request: HttpRequest) -> User:
    """Who is signed in; the admin site lets nobody else reach a view."""
    return cast("User", request.user)


def _class_of(name: str) -> type[Operation[Any]]:
    try:
        return operation_class(name)
    except UnknownOperation:
        raise Http404 from None


def _asking_page(request: HttpRequest, asking: Asking) -> HttpResponseBase:
    status = 200 if asking.error is None or request.method == "GET" else 422
    return page(request, "runs/operation.html", status=status, **asking.context())


def _run_or_404(request: HttpRequest, run_id: UUID) -> MaintenanceRun:
    found = run_by_id(request.user, run_id)
    if found is None:
        raise Http404
    return found


def _live_context(request: HttpRequest, found: MaintenanceRun) -> dict[str, Any]:
    return {
        "phases": watching.phase_rows(found),
        "took": watching.took(found),
        "note": watching.note_of(found),
        "figures": watching.figures_of(found),
        "heading": watching.progress_title(found),
        "counts": watching.counts_of(found),
        "eta": watching.eta_of(found),
        **_log_context(log_of(found, last=LOG_SHOWN)),
    }


def _finished_context(request: HttpRequest, found: MaintenanceRun) -> dict[str, Any]:
    entries = list(entries_of_run(found.pk))
    return {
        "phases": watching.phase_rows(found),
        "took": watching.took(found),
        "note": watching.note_of(found),
        "headline": watching.headline(found),
        "report": watching.report_of(found),
        "plan": found.plan,
        "undo": watching.undo_of_run(found),
        "again": watching.again_url(found),
        "blocks": blocks(result_of(found)),
        "parameters": watching.parameters_of(found),
        "effect_sentence": watching.effect_sentence(found),
        "error_details": blocks((found.error or {}).get("details") or None),
        "entries": entries,
        "entry_rows": [{"entry": entry, "sentence": sentence(entry, of_its_run=True)} for entry in entries],
        "may_audit": may_somewhere(request.user, Right.READ_AUDIT),
        "chain_holds": seals_hold(entries),
        "has_result": found.result is not None or folder.read_json(found.pk, "result.json") is not None,
        **_log_context(log_of(found, last=LOG_SHOWN)),
    }


def _log_context(lines: list[folder.LogLine]) -> dict[str, Any]:
    return {"log_rows": watching.log_rows(lines), "log_mark": _log_mark(lines)}


def _log_mark(lines: list[folder.LogLine]) -> str:
    """Tells whether a log has grown; its last line's time and how many lines are shown."""
    return f"{len(lines)}-{lines[-1].at.timestamp():.3f}" if lines else "0"


def _may_cancel(request: HttpRequest, found: MaintenanceRun) -> bool:
    if found.requested_by_id == request.user.pk:
        return True
    try:
        return bool(may_run(request.user, operation_class(found.operation), found.instance))
    except UnknownOperation:
        return False


def _log_text(lines: Iterable[folder.LogLine]) -> Iterator[str]:
    for line in lines:
        yield f"{line.at.isoformat(timespec='milliseconds')}  {line.source:10}  {line.text}\n"


def _download(response: HttpResponseBase, name: str) -> HttpResponseBase:
    """An attachment under a name that is made here, of plain ASCII."""
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response
