"""The fleet, the search, and the page of one instance."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse

from chromaadmin.accounts.doors import door, page
from chromaadmin.accounts.rights import Right, may
from chromaadmin.dashboard import finding, selectors
from chromaadmin.dashboard.instance_page import instance_context
from chromaadmin.dashboard.selectors import FleetFilter
from chromaadmin.instances import services
from chromaadmin.instances.doors import instance_door
from chromaadmin.instances.models import Instance
from chromaadmin.templatetags.formats import bytes_h, grouped

_SORTED = {
    "state": "worst first",
    "name": "name",
    "size": "size",
    "collections": "collections",
    "records": "records",
    "wal": "WAL entries",
    "checked": "last look",
}


@door("GET")
def fleet(request: HttpRequest) -> HttpResponseBase:
    """Every instance, worst first, from stored samples; the welcome page when there is none."""
    rows = selectors.fleet_rows(request.user)
    may_register = may(request.user, Right.MANAGE_INSTANCE)
    if not rows:
        find_url = f"{reverse('admin:instance_add')}?find=1"
        return page(request, "dashboard/welcome.html", title="Fleet", may_register=may_register, find_url=find_url)
    asked = request.GET
    wanted = FleetFilter(
        text=asked.get("q", "").strip()[:200],
        environment=asked.get("environment", ""),
        tag=asked.get("tag", ""),
        state=asked.get("state", ""),
        sort=asked.get("sort", "") or selectors.DEFAULT_SORT,
    )
    return page(
        request,
        "dashboard/fleet.html",
        title="Fleet",
        rows=selectors.filtered(rows, wanted),
        wanted=wanted,
        may_register=may_register,
        live=selectors.live_runs(request.user),
        ended=selectors.ended_runs(request.user),
        **_figures(rows),
        **_filters(rows, wanted),
    )


def _figures(rows: list[selectors.FleetRow]) -> dict[str, Any]:
    totals = selectors.totals(rows)
    growth = totals.growth_bytes
    return {
        "totals": totals,
        "states_sentence": f"of {totals.instances} {'instance' if totals.instances == 1 else 'instances'}"
        f", {totals.production} of them production",
        "records": selectors.short_count(totals.records),
        "wal": selectors.short_count(totals.wal_entries),
        "growth": "no history of 30 days yet"
        if growth is None
        else f"{'+' if growth >= 0 else ''}{bytes_h(growth)} in 30 days",
        "collections_sentence": f"in {grouped(totals.collections)} collections",
    }


def _filters(rows: list[selectors.FleetRow], wanted: FleetFilter) -> dict[str, Any]:
    given = {
        "q": wanted.text,
        "environment": wanted.environment,
        "tag": wanted.tag,
        "state": wanted.state,
        "sort": "" if wanted.sort == selectors.DEFAULT_SORT else wanted.sort,
    }

    def address(**changes: str) -> str:
        return "?" + urlencode({key: value for key, value in {**given, **changes}.items() if value})

    word = _SORTED.get(wanted.sort.removeprefix("-"), "worst first")
    return {
        "environments": selectors.environment_choices(rows),
        "tags": [(name, amount, address(tag=name)) for name, amount in selectors.tag_counts(rows)],
        "kept": [(key, value) for key, value in given.items() if value and key != "q"],
        "without_tag": address(tag=""),
        "without_state": address(state=""),
        "state_links": f"{address(state='')}&state=",
        "sorted_sentence": f"Sorted {word}" if word == "worst first" else f"Sorted by {word}",
        "register_url": reverse("admin:instance_add"),
    }


def _find_url() -> str:
    return f"{reverse('admin:instance_add')}?find=1"


@instance_door("GET")
def instance(request: HttpRequest, instance: Instance) -> HttpResponseBase:
    """One instance: what is wrong or notable, five figures, and a tab."""
    return page(request, "dashboard/instance.html", **instance_context(request.user, instance, request.GET))


@instance_door("POST")
def check(request: HttpRequest, instance: Instance) -> HttpResponseBase:
    """Read the figures of the store now and keep them as a sample."""
    if services.refresh_sample(instance) is None:
        messages.warning(request, f"{instance.problem_text} The figures of the last look stay.")
    else:
        messages.success(request, "The figures were read and kept.")
    return redirect("admin:instance", instance.pk)


@door("GET")
def search(request: HttpRequest) -> HttpResponseBase:
    """Instances, collections and runs by a part of their name or the whole of their id."""
    text = request.GET.get("q", "").strip()[:200]
    found = finding.find(request.user, text)
    return page(request, "dashboard/search.html", title="Search", search_query=text, text=text, found=found)
