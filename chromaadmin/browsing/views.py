"""One collection: its records by key, its vector segment, its configuration; everything read by children."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase

from chromaadmin.accounts.doors import page
from chromaadmin.accounts.rights import Right, may
from chromaadmin.browsing.addresses import collection_url
from chromaadmin.browsing.records import metadata_pairs, record_table
from chromaadmin.browsing.segments import segment_context, standing
from chromaadmin.instances.doors import instance_door
from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import look
from chromaadmin.runs.models import MaintenanceRun
from chromaadmin.runs.selectors import latest_runs
from ops import reads
from ops.execute import Failure

RUNS_LOOKED_THROUGH = 200
TABS = {"records": "Records", "configuration": "Configuration", "metadata": "Metadata", "runs": "Runs"}


@instance_door("GET", right=Right.BROWSE)
def collection(request: HttpRequest, instance: Instance, collection_id: str) -> HttpResponseBase:
    """Records, configuration, metadata or runs of one collection."""
    found, failure = look(instance, reads.collection, collection_id=collection_id)
    _require_there(failure)
    tab = request.GET.get("tab", "")
    tab = tab if tab in TABS else "records"
    context = _frame(request, instance, collection_id, found, failure, tab)
    if found is not None and tab == "records":
        context["table"] = record_table(instance, collection_id, request.GET)
    elif found is not None and tab == "runs":
        context["runs"] = _runs(request, instance, found)
    elif found is not None:
        context["pairs"] = metadata_pairs(found.metadata)
    return page(request, "browsing/collection.html", **context)


@instance_door("GET")
def segment(request: HttpRequest, instance: Instance, collection_id: str) -> HttpResponseBase:
    """The vector segment of one collection: a verdict, exact figures, slots, files, parameters."""
    found, failure = look(instance, reads.collection, collection_id=collection_id)
    _require_there(failure)
    context = _frame(request, instance, collection_id, found, failure, "segment")
    if found is not None:
        context |= segment_context(instance, collection_id)
    return page(request, "browsing/segment.html", **context)


def _require_there(failure: Failure | None) -> None:
    if failure is not None and failure.code == "COLLECTION_NOT_FOUND":
        raise Http404


def _frame(
    request: HttpRequest,
    instance: Instance,
    collection_id: str,
    found: reads.CollectionPage | None,
    failure: Failure | None,
    tab: str,
) -> dict[str, Any]:
    """What every page of a collection has around it."""
    own, index = collection_url(instance, collection_id), collection_url(instance, collection_id, "segment")
    tabs: list[dict[str, Any]] = [
        {"key": key, "label": label, "url": f"{own}?tab={key}"} for key, label in TABS.items()
    ]
    tabs[0] |= {"count": found.row.records if found else None}
    tabs.insert(1, {"key": "segment", "label": "Vector segment", "url": index})
    if not may(request.user, Right.BROWSE, instance):
        tabs = tabs[1:2]
    return {
        "instance": instance,
        "environment": instance.environment,
        "nav_current": "instances",
        "title": found.row.shown if found else "Collection",
        "found": found,
        "failure": failure,
        "collection_id": collection_id,
        "standing": standing(found.row) if found else None,
        "tab": tab,
        "tabs": tabs,
    }


def _runs(request: HttpRequest, instance: Instance, found: reads.CollectionPage) -> list[MaintenanceRun]:
    """The latest runs of the instance that name this collection, or mean all of them."""
    return [
        run for run in latest_runs(request.user, instance=instance, limit=RUNS_LOOKED_THROUGH) if _means(run, found)
    ]


def _means(run: MaintenanceRun, found: reads.CollectionPage) -> bool:
    ids, names = run.parameters.get("collection_id"), run.parameters.get("collection")
    if not ids and not names:
        return "collection" in run.parameters or "collection_id" in run.parameters
    return found.row.id in (ids or ()) or found.row.name in (names or ())
