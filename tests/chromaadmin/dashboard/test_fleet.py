"""The fleet: worst first, filtered by its address, fast, and without opening a store."""

import re
import time
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.dashboard import selectors
from chromaadmin.instances.models import Instance, Sample, Tag
from chromaadmin.instances.verdict import verdict
from chromaadmin.runs.models import MaintenanceRun


def make(name: str, *, tags: tuple[str, ...] = (), minutes: int = 3, history: int = 0, **fields: object) -> Instance:
    """A registered instance with one sample, and one a day before it; no directory stands behind it."""
    figures = {
        key: fields.pop(key)
        for key in ("size_bytes", "records", "collections", "wal_entries", "orphans", "free_bytes", "release")
        if key in fields
    }
    now = timezone.now()
    number = Instance.objects.count() + 1
    one = Instance.objects.create(
        name=name, slug=f"s{number}", path=f"/nowhere/{number}", device="1", inode=str(number),
        host=settings.CHROMAADMIN_HOST, identity_confirmed_at=now, checked_at=now - timedelta(minutes=minutes),
        **fields,
    )  # fmt: skip
    one.tags.set([Tag.objects.get_or_create(name=tag)[0] for tag in tags])
    for day in range(history, -1, -1):
        figures.setdefault("size_bytes", 1000)
        grown = {**figures, "size_bytes": int(figures["size_bytes"]) - 10 * day}  # type: ignore[call-overload]
        one.sample = Sample.objects.create(
            instance=one,
            at=now - timedelta(days=day, minutes=minutes),
            **({"release": "1.5", "judged": grown.get("collections", 0)} | grown),
        )
    one.save()
    return one


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password="x"))
    return client


def names(text: str) -> list[str]:
    return re.findall(r'<a class="name" href="/instances/[^"]+">([^<]+)</a>', text)


@pytest.fixture
def five(admin: Client) -> Client:
    make("sound", environment="production", tags=("rag",), size_bytes=5_000, records=10, free_bytes=10**12)
    make("torn", problem_code="CORRUPT", problem_text="The database is damaged.", size_bytes=9_000, tags=("rag", "eu"))
    make("late", minutes=600, size_bytes=1_000)
    make("littered", orphans=2, size_bytes=7_000, records=4, environment="staging")
    make("moved", problem_code="IDENTITY_CHANGED", problem_text="Another directory stands there.")
    return admin


def test_worst_first_with_its_sentence(five: Client) -> None:
    response = five.get("/")
    assert names(response.content.decode()) == ["torn", "moved", "littered", "late", "sound"]
    assert dict(response.context["totals"].states) == {
        "critical": 1,
        "error": 1,
        "warning": 1,
        "unknown": 1,
        "healthy": 1,
    }
    text = response.content.decode()
    assert "2 orphan segment directories are used by no collection." in text
    assert "The database is damaged." in text
    assert "The last look was 10 h ago" in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sort=-size", ["torn", "littered", "sound", "late", "moved"]),
        ("sort=size", ["late", "moved", "sound", "littered", "torn"]),
        ("sort=-records", ["sound", "littered"]),
        ("sort=name", ["late", "littered", "moved", "sound", "torn"]),
        ("sort=nonsense", ["torn", "moved", "littered", "late", "sound"]),
        ("q=TOR", ["torn"]),
        ("q=rag&sort=name", ["sound", "torn"]),
        ("environment=staging", ["littered"]),
        ("tag=eu", ["torn"]),
        ("state=healthy", ["sound"]),
        ("q=nothing-fits", []),
    ],
)
def test_the_address_filters_and_sorts(five: Client, query: str, expected: list[str]) -> None:
    found = names(five.get(f"/?{query}").content.decode())
    assert found[: len(expected)] == expected
    if not query.startswith("sort"):
        assert found == expected


def test_unknown_figures_are_last_and_no_zero(five: Client) -> None:
    text = five.get("/?sort=records").content.decode()
    assert names(text)[:2] == ["littered", "sound"]
    assert text.count("—</") > 5


def test_nothing_registered_is_a_welcome_with_the_promise(admin: Client) -> None:
    text = admin.get("/").content.decode()
    assert "No instance is registered yet" in text
    assert "Probing changes no byte." in text
    assert 'action="/instances/add/"' in text


def test_a_viewer_of_nothing_is_told_so_and_offered_nothing(client: Client, db: None) -> None:
    make("elsewhere")
    client.force_login(User.objects.create_user("v", is_staff=True))
    text = client.get("/").content.decode()
    assert "elsewhere" not in text
    assert "/instances/add/" not in text


def test_only_what_the_role_shows(client: Client, db: None) -> None:
    seen, _ = make("seen", tags=("mine",)), make("unseen", tags=("theirs",))
    user = User.objects.create_user("v", is_staff=True)
    RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.TAG, tag="mine")
    client.force_login(user)
    response = client.get("/")
    assert names(response.content.decode()) == ["seen"]
    assert response.context["totals"].instances == 1
    assert response.context["tags"][0][:2] == ("mine", 1)
    assert client.get(f"/instances/{seen.pk}/").status_code == 200


def test_fifty_instances_in_a_second_and_few_queries(admin: Client) -> None:
    for number in range(50):
        one = make(f"i{number:02}", tags=("a", f"t{number % 7}"), size_bytes=10**9, collections=100)
        Sample.objects.bulk_create(
            Sample(instance=one, at=timezone.now() - timedelta(hours=hour), size_bytes=hour, release="1.5")
            for hour in range(0, 24 * 90, 2)
        )
    admin.get("/")
    began = time.perf_counter()
    with CaptureQueriesContext(connection) as queries:
        assert admin.get("/").status_code == 200
    assert time.perf_counter() - began < 1.0
    assert len(queries) <= 13, "\n".join(one["sql"][:120] for one in queries)


def test_the_number_of_queries_does_not_grow(admin: Client) -> None:
    counts = []
    for upto in (2, 12):
        while Instance.objects.count() < upto:
            make(f"i{Instance.objects.count()}", tags=("a",))
        admin.get("/")
        with CaptureQueriesContext(connection) as queries:
            admin.get("/")
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_trend_and_growth_come_from_the_samples(db: None) -> None:
    one = make("grown", size_bytes=100_000, history=60)
    (row,) = selectors.fleet_rows(User.objects.create_superuser("a"))
    assert row.sizes[-1] == 100_000
    assert row.sizes[0] is None
    assert [size for size in row.sizes if size is not None] == sorted(size for size in row.sizes if size is not None)
    assert selectors.totals([row]).growth_bytes == 300
    assert verdict(one).state == "healthy"


def test_running_and_ended_runs(admin: Client) -> None:
    one = make("busy")
    for number, (state, ended) in enumerate((("running", None), ("queued", None), ("failed", timezone.now())), start=1):
        MaintenanceRun.objects.create(
            number=number, operation="hnsw_rebuild", effect="write", instance=one, instance_name=one.name,
            instance_path=one.path, requested_by_name="x", seal="", queue=one.queue, state=state,
            requested_at=timezone.now(), finished_at=ended,
            progress={"done": 25, "total": 100, "unit": "vectors", "eta_s": 61} if state == "running" else {},
        )  # fmt: skip
    response = admin.get("/")
    assert [run.state for run in response.context["live"]] == ["running", "queued"]
    assert [run.state for run in response.context["ended"]] == ["failed"]
    assert "25 of 100 vectors" in response.content.decode()
    assert response.context["rows"][0].running.number == 1


def test_healthy_is_said_only_of_what_was_read(db: None) -> None:
    assert verdict(make("a", release="")).state == "unknown"
    assert verdict(make("b", problem_code="UNREADABLE", problem_text="Permission denied.")).state == "unknown"
    never = make("c")
    never.sample = None
    assert verdict(never).state == "unknown"
    assert verdict(make("d", size_bytes=100, free_bytes=50)).state == "warning"
