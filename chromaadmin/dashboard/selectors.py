"""The fleet as rows, figures and filters, from stored samples only: a list opens no store."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from chromaadmin.instances.models import Environment, Instance, Sample
from chromaadmin.instances.verdict import STATES, Verdict, verdict
from chromaadmin.runs.models import LIVE, MaintenanceRun, State
from chromaadmin.templatetags.formats import grouped

TREND_STEP = timedelta(days=3)
TREND_POINTS = 30
_MONTH_POINTS = 10  # so many steps are thirty days
DEFAULT_SORT = "-state"


@dataclass(frozen=True, kw_only=True)
class FleetRow:
    """One instance with what is known of it; ``sizes`` are those of ``size_trend``."""

    instance: Instance
    verdict: Verdict
    sizes: tuple[int | None, ...] = ()
    running: MaintenanceRun | None = None

    @property
    def sample(self) -> Sample | None:
        return self.instance.sample

    @property
    def environment(self) -> str:
        return self.instance.environment


@dataclass(frozen=True, kw_only=True)
class FleetFilter:
    """What the address asks for; empty means all."""

    text: str = ""
    environment: str = ""
    tag: str = ""
    state: str = ""
    sort: str = DEFAULT_SORT

    def __bool__(self) -> bool:
        return bool(self.text or self.environment or self.tag or self.state)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the instances whose figure is known; None where none is."""

    states: tuple[tuple[str, int], ...]
    instances: int
    production: int
    size_bytes: int | None
    collections: int | None
    records: int | None
    wal_entries: int | None
    growth_bytes: int | None
    newest_at: datetime | None
    unmeasured: int


def fleet_rows(user: AbstractBaseUser | AnonymousUser | None) -> list[FleetRow]:
    """Every instance that ``user`` may see, in four queries whatever their number."""
    instances = list(Instance.objects.for_user(user).select_related("sample").prefetch_related("tags"))
    sizes = size_trend(instances)
    active = MaintenanceRun.objects.filter(instance__in=[one.pk for one in instances], state=State.RUNNING)
    running = {run.instance_id: run for run in active.order_by("effect", "-number")}
    now = timezone.now()
    return [
        FleetRow(
            instance=one,
            verdict=verdict(one, now),
            sizes=sizes.get(one.pk, ()),
            running=running.get(one.pk),
        )
        for one in instances
    ]


def size_trend(instances: Iterable[Instance], figure: str = "size_bytes") -> Mapping[UUID, tuple[int | None, ...]]:
    """A figure of the samples, in bytes, at TREND_POINTS times, TREND_STEP apart, the last of them now.

    None before the first sample. One query that looks each point up in the index, because a busy store keeps hundreds
    of samples a day.
    """
    now = timezone.now()
    names = [f"point_{number}" for number in range(TREND_POINTS)]
    known = Sample.objects.filter(instance=OuterRef("pk"), **{f"{figure}__isnull": False}).order_by("-at")
    points = {
        name: Subquery(known.filter(at__lte=now - TREND_STEP * (TREND_POINTS - 1 - number)).values(figure)[:1])
        for number, name in enumerate(names)
    }
    rows = Instance.objects.filter(pk__in=[one.pk for one in instances]).order_by()
    return {row[0]: row[1:] for row in rows.annotate(**points).values_list("pk", *names)}


def size_chart(instance: Instance) -> dict[str, Any] | None:
    """The sizes of one instance for a stacked chart in its own unit; None below two points."""
    parts = {
        label: size_trend([instance], figure).get(instance.pk, ())
        for label, figure in (("HNSW", "index_bytes"), ("SQLite", "sqlite_bytes"))
    }
    first = next((at for at, values in enumerate(zip(*parts.values(), strict=True)) if None not in values), None)
    if first is None or TREND_POINTS - first < 2:
        return None
    now = timezone.now()
    largest = max(value or 0 for values in parts.values() for value in values)
    unit, scale = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if largest >= pair[1]), ("kB", 1e3))
    return {
        "labels": [now - TREND_STEP * (TREND_POINTS - 1 - number) for number in range(first, TREND_POINTS)],
        "series": [
            {"label": label, "values": [(value or 0) / scale for value in values[first:]], "shape": "area"}
            for label, values in parts.items()
        ],
        "unit": unit,
        "context": f"{(TREND_POINTS - 1 - first) * TREND_STEP.days} days, {unit} of files",
    }


def totals(rows: list[FleetRow]) -> Totals:
    """The figures above the table."""
    counts = Counter(row.verdict.state for row in rows)
    samples = [row.sample for row in rows if row.sample is not None]

    def total(name: str) -> int | None:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        return sum(values) if values else None

    month = [
        row.sizes[-1] - before
        for row in rows
        if row.sizes and row.sizes[-1] is not None and (before := row.sizes[-1 - _MONTH_POINTS]) is not None
    ]
    return Totals(
        states=tuple((state, counts[state]) for state in STATES),
        instances=len(rows),
        production=sum(row.instance.is_production for row in rows),
        size_bytes=total("size_bytes"),
        collections=total("collections"),
        records=total("records"),
        wal_entries=total("wal_entries"),
        growth_bytes=sum(month) if month else None,
        newest_at=max((sample.at for sample in samples), default=None),
        unmeasured=len(rows) - len(samples),
    )


def filtered(rows: list[FleetRow], wanted: FleetFilter) -> list[FleetRow]:
    """The rows that fit, in the order asked for."""
    text = wanted.text.casefold()
    kept = [
        row
        for row in rows
        if (not wanted.environment or row.environment == wanted.environment)
        and (not wanted.tag or wanted.tag in row.instance.tag_names)
        and (not wanted.state or row.verdict.state == wanted.state)
        and (not text or any(text in word.casefold() for word in _words(row.instance)))
    ]
    return _sorted(kept, wanted.sort)


def _words(instance: Instance) -> Iterable[str]:
    return (instance.name, instance.path, instance.host, *instance.tag_names)


_KEYS: dict[str, Callable[[FleetRow], Any]] = {
    "state": lambda row: -row.verdict.rank,
    "name": lambda row: row.instance.name.casefold(),
    "size": lambda row: row.sample and row.sample.size_bytes,
    "collections": lambda row: row.sample and row.sample.collections,
    "records": lambda row: row.sample and row.sample.records,
    "wal": lambda row: row.sample and row.sample.wal_entries,
    "checked": lambda row: row.instance.checked_at,
}


def _sorted(rows: list[FleetRow], order: str) -> list[FleetRow]:
    """Sorted by a known column, else worst first; what is not known comes last either way, names break ties."""
    key = _KEYS.get(order.removeprefix("-"))
    if key is None:
        key, order = _KEYS["state"], DEFAULT_SORT
    known = sorted((row for row in rows if key(row) is not None), key=lambda row: row.instance.name.casefold())
    known.sort(key=key, reverse=order.startswith("-"))
    return known + [row for row in rows if key(row) is None]


def environment_choices(rows: list[FleetRow]) -> list[dict[str, Any]]:
    """The filter by environment with its counts, for ``segmented``."""
    counts = Counter(row.environment for row in rows)
    choices = [{"key": "", "label": "All", "count": len(rows)}]
    return choices + [
        {"key": value, "label": label, "count": counts[value]} for value, label in Environment.choices if counts[value]
    ]


def tag_counts(rows: list[FleetRow], limit: int = 6) -> list[tuple[str, int]]:
    """The most used tags with how many instances carry them."""
    return Counter(name for row in rows for name in row.instance.tag_names).most_common(limit)


def live_runs(user: AbstractBaseUser | AnonymousUser | None, limit: int = 5) -> list[MaintenanceRun]:
    """What runs or waits, running first."""
    runs = MaintenanceRun.objects.for_user(user).filter(state__in=LIVE).order_by("-state", "number")
    return list(runs[:limit])


def ended_runs(user: AbstractBaseUser | AnonymousUser | None, limit: int = 5) -> list[MaintenanceRun]:
    """The runs that ended last."""
    runs = MaintenanceRun.objects.for_user(user).exclude(state__in=LIVE).exclude(finished_at=None)
    return list(runs.order_by("-finished_at")[:limit])


def short_count(value: int | None) -> tuple[str, str]:
    """A count as figure and unit: ("19.2", "million") from a million on, else grouped."""
    if value is None or value < 1_000_000:
        return grouped(value), ""
    return f"{value / 1e6:,.1f}" if value < 1e8 else grouped(value // 1_000_000), "million"
