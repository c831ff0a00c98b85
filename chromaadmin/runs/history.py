"""The list of runs: filters from the address, counts per state, what each dropdown offers."""

from dataclasses import dataclass
from datetime import timedelta

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Count, Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from chromaadmin.listing import Dropdown, Option, address, dropdown
from chromaadmin.runs.models import LIVE, MaintenanceRun, State
from chromaadmin.runs.selectors import run_queryset

OFFERED = 60
DAYS = (("1", "24 hours"), ("7", "7 days"), ("30", "30 days"))
SEGMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("All", ()),
    "live": ("Live", LIVE),
    "succeeded": ("Succeeded", (State.SUCCEEDED,)),
    "failed": ("Failed", (State.FAILED, State.ERRORED, State.LOST, State.NEEDS_OPERATOR)),
    "refused": ("Refused", (State.REFUSED,)),
    "cancelled": ("Cancelled", (State.CANCELLED,)),
}


@dataclass(frozen=True, kw_only=True)
class History:
    """The runs an address asks for, newest first, and the filters around them."""

    runs: QuerySet[MaintenanceRun]
    segments: tuple[Option, ...]
    dropdowns: tuple[Dropdown, ...]
    total: int
    filtered: bool


def history(user: AbstractBaseUser | AnonymousUser | None, query: QueryDict) -> History:
    """Everything the list shows but its rows; unknown values of a filter find nothing, they are not passed over."""
    seen = run_queryset(user)
    rest = _narrowed(seen, query)
    counts = rest.aggregate(
        **{
            key or "all": Count("pk", filter=Q(state__in=states) if states else None)
            for key, (_, states) in SEGMENTS.items()
        }
    )
    chosen = query.get("state", "")
    states = SEGMENTS[chosen][1] if chosen in SEGMENTS else (chosen,)
    return History(
        runs=rest.filter(state__in=states) if states else rest,
        segments=tuple(
            Option(
                label=label, count=counts[key or "all"], url=address(query, state=key or None), current=key == chosen
            )
            for key, (label, _) in SEGMENTS.items()
        ),
        dropdowns=(
            dropdown(query, "instance", _distinct(seen, "instance_name")),
            dropdown(query, "operation", _operations(seen)),
            dropdown(query, "by", _distinct(seen, "requested_by_name"), nothing="anyone"),
            dropdown(query, "days", DAYS, label="last", nothing="any time"),
        ),
        total=counts[chosen or "all"] if chosen in SEGMENTS else rest.filter(state=chosen).count(),
        filtered=any(query.get(name) for name in ("state", "instance", "operation", "by", "days", "q")),
    )


def live_count(user: AbstractBaseUser | AnonymousUser | None) -> dict[str, int]:
    """How many runs are running, queued and waiting for a person."""
    counts = dict(run_queryset(user).filter(state__in=LIVE).order_by().values_list("state").annotate(many=Count("pk")))
    return {str(state): many for state, many in counts.items()}


def _narrowed(runs: QuerySet[MaintenanceRun], query: QueryDict) -> QuerySet[MaintenanceRun]:
    for parameter, column in (("instance", "instance_name"), ("operation", "operation"), ("by", "requested_by_name")):
        if value := query.get(parameter):
            runs = runs.filter(**{column: value})
    if (days := query.get("days", "")).isdecimal():
        runs = runs.filter(requested_at__gte=timezone.now() - timedelta(days=min(int(days), 36500)))
    if text := query.get("q", "").strip():
        runs = runs.filter(_found(text))
    return runs


def _found(text: str) -> Q:
    found = Q(instance_name__icontains=text) | Q(requested_by_name__icontains=text) | Q(reason__icontains=text)
    found |= Q(operation__icontains=text.replace(" ", "_").replace("-", "_")) | Q(instance_path__icontains=text)
    if text.isascii() and text.isdigit() and len(text) < 19:
        found |= Q(number=int(text))
    return found


def _distinct(runs: QuerySet[MaintenanceRun], column: str) -> list[tuple[str, str]]:
    values = runs.order_by(column).values_list(column, flat=True).distinct()[:OFFERED]
    return [(value, value) for value in values]


def _operations(runs: QuerySet[MaintenanceRun]) -> list[tuple[str, str]]:
    return [(name, name.replace("_", " ", 1).replace("_", "-")) for name, _ in _distinct(runs, "operation")]
