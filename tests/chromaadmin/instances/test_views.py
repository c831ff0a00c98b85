"""Registering after a probe, finding stores, and changing what people say of an instance."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances import services
from chromaadmin.instances.finder import find_stores
from chromaadmin.instances.forms import split_tags
from chromaadmin.instances.models import Environment, Instance
from chromaadmin.runs.models import MaintenanceRun
from tests.ops import stores

ADD = "/instances/add/"


@pytest.fixture
def admin(db: None, settings: Any, tmp_path: Path) -> Client:
    settings.CHROMAADMIN_ROOTS = (tmp_path,)
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password="x"))
    return client


@pytest.fixture
def instance(admin: Client, store: Path) -> Instance:
    return services.register_directory("first", store, "development", ("a", "b"))


def said(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def test_a_probe_shows_the_store_and_stores_nothing(admin: Client, store: Path) -> None:
    before = stores.manifest(store)
    response = admin.get(ADD, {"path": str(store)})
    text = response.content.decode()
    assert stores.manifest(store) == before
    assert not Instance.objects.exists()
    assert not AuditEntry.objects.exists()
    assert response.context["look"].probe.collections == 1
    assert response.context["look"].probe.records == 400
    assert "Register it" in text
    assert "The tables are exactly those of Chroma" in text
    assert "No process of this host has it open for writing." in text


def test_registering_after_the_probe(admin: Client, store: Path) -> None:
    given = {"path": str(store), "name": "  My   store ", "environment": "production", "tags": "rag, eu ,rag,"}
    response = admin.post(ADD, given)
    made = Instance.objects.get()
    assert response.headers["Location"] == reverse("admin:instance", args=[made.pk])
    assert made.name == "My store"
    assert made.environment == Environment.PRODUCTION
    assert made.tag_names == {"rag", "eu"}
    assert made.sample is not None
    assert made.sample.records == 400
    entry = AuditEntry.objects.get(action="instance.registered")
    assert (entry.actor_name, entry.ip, entry.object_name) == ("admin", "127.0.0.1", "My store")
    assert "PRODUCTION" not in admin.get("/").content.decode()  # the badge is written in capitals by the style sheet
    assert "env-production" in admin.get("/").content.decode()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda tmp: tmp / "nothing", "MISSING"),
        (lambda tmp: _made(tmp / "empty"), "NOT_CHROMA"),
        (lambda tmp: _written(tmp / "file"), "BAD_PATH"),
        (lambda tmp: Path("/etc"), "OUTSIDE_ROOTS"),
        (lambda tmp: tmp / ".." / ".." / "etc", "OUTSIDE_ROOTS"),
        (lambda tmp: _linked(tmp / "link", Path("/etc")), "OUTSIDE_ROOTS"),
        (lambda tmp: Path("relative"), "BAD_PATH"),
        (lambda tmp: Path("~root"), "BAD_PATH"),
    ],
)
def test_a_probe_that_fails_says_code_sentence_and_cure(
    make: Callable[[Path], Path], code: str, admin: Client, tmp_path: Path
) -> None:
    response = admin.get(ADD, {"path": str(make(tmp_path))})
    failure = response.context["look"].failure
    assert failure.code == code
    assert failure.hint
    text = response.content.decode()
    assert code in text
    assert "Register it" not in text


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _written(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def _linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("path", ["a\0b", " ", "x" * 5000, "file:/etc?vfs=x", "/\udcff"])
def test_strange_paths_are_refused_in_words(admin: Client, path: str) -> None:
    given = urlencode({"path": path.encode("utf-8", "surrogateescape"), "name": "n", "environment": "staging"})
    response = admin.get(f"{ADD}?{given}")
    assert response.status_code == 200
    assert "Register it" not in response.content.decode()
    assert admin.post(ADD, given, content_type="application/x-www-form-urlencoded").status_code == 200
    assert not Instance.objects.exists()


def test_the_same_directory_is_not_registered_twice(admin: Client, instance: Instance, tmp_path: Path) -> None:
    other = _linked(tmp_path / "other", Path(instance.path))
    response = admin.get(ADD, {"path": str(other)})
    assert response.context["look"].registered_as == instance
    assert "DUPLICATE_INSTANCE" in response.content.decode()
    posted = admin.post(ADD, {"path": str(other), "name": "second", "environment": "staging"})
    assert posted.status_code == 200
    assert Instance.objects.count() == 1


def test_a_name_can_be_used_once(admin: Client, instance: Instance, make_store: Callable[..., Path]) -> None:
    response = admin.post(ADD, {"path": str(make_store()), "name": "FIRST", "environment": "staging"})
    assert response.status_code == 200
    assert "name" in response.context["form"].errors
    assert Instance.objects.count() == 1


def test_fields_that_are_not_in_the_form_are_passed_over(admin: Client, store: Path) -> None:
    posted = {
        "path": str(store),
        "name": "n",
        "environment": "staging",
        "host": "evil",
        "device": "1",
        "created_by": "1",
        "problem_code": "X",
    }
    admin.post(ADD, posted)
    made = Instance.objects.get()
    assert (made.host, made.problem_code) == ("testhost", "")
    assert made.device == str(os.stat(store).st_dev)


def test_where_is_my_data(admin: Client, instance: Instance, make_store: Callable[..., Path]) -> None:
    other = make_store()
    text = admin.get(ADD, {"find": "1"}).content.decode()
    assert "registered as first" in text
    assert str(other) in text


def test_finding_is_bounded_and_follows_no_link(tmp_path: Path) -> None:
    root = _made(tmp_path / "root")
    _written(_made(root / "a") / "chroma.sqlite3")
    _made(root / "b").joinpath("chroma.sqlite3").symlink_to("/etc/passwd")
    _linked(root / "c", root / "a")
    deep = root
    for _ in range(12):
        deep = _made(deep / "d")
    _written(deep / "chroma.sqlite3")
    os.mkdir(os.fsencode(root) + b"/\xff\n<script>")
    found = find_stores([root], {str(root / "a"): "known"})
    assert [(one.path, one.registered_as) for one in found.stores] == [(str(root / "a"), "known")]
    late = find_stores([root], {}, deadline_s=-1.0)
    assert late.stopped
    assert late.directories == 1


def test_names_of_directories_are_text_and_nothing_else(admin: Client, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff<script>alert(1)"
    os.mkdir(name)
    with open(name + b"/chroma.sqlite3", "wb"):
        pass
    text = admin.get(ADD, {"find": "1"}).content.decode()
    assert "<script>alert" not in text
    assert "\\xff&lt;script&gt;" in text


def test_settings_are_kept_and_audited(admin: Client, instance: Instance) -> None:
    address = reverse("admin:instance_settings", args=[instance.pk])
    admin.post(address, {"name": "renamed", "environment": "production", "tags": "b, c", "notes": "mine"})
    instance.refresh_from_db()
    assert (instance.name, instance.environment, instance.notes) == ("renamed", "production", "mine")
    assert {tag.name for tag in instance.tags.all()} == {"b", "c"}
    entry = AuditEntry.objects.get(action="instance.changed")
    assert '"name":["first","renamed"]' in entry.detail_json
    wrong = admin.post(address, {"name": "", "environment": "moon", "tags": "x" * 70})
    assert "required" in said(wrong)
    instance.refresh_from_db()
    assert instance.name == "renamed"


def test_removing_needs_the_name_and_touches_no_file(admin: Client, instance: Instance) -> None:
    before = stores.manifest(Path(instance.path))
    address = reverse("admin:instance_remove", args=[instance.pk])
    for typed in ("", "FIRST", "first "):
        admin.post(address, {"typed_name": typed})
        assert Instance.objects.exists()
    grant = RoleGrant.objects.create(
        user=User.objects.get(), role=Role.VIEWER, scope=Scope.INSTANCE, instance_id=instance.pk
    )
    admin.post(address, {"typed_name": "first"})
    assert not Instance.objects.exists()
    assert not RoleGrant.objects.filter(pk=grant.pk).exists()
    assert AuditEntry.objects.filter(action="instance.removed", object_name="first").exists()
    assert stores.manifest(Path(instance.path)) == before


def test_removing_waits_for_its_runs(admin: Client, instance: Instance) -> None:
    MaintenanceRun.objects.create(
        number=1, operation="db_info", effect="read", instance=instance, instance_name="first",
        instance_path=instance.path,
        requested_by_name="x", seal="", queue=instance.queue, state="queued", requested_at=timezone.now(),
    )  # fmt: skip
    response = admin.post(reverse("admin:instance_remove", args=[instance.pk]), {"typed_name": "first"})
    assert "cancel it first" in said(response)
    assert Instance.objects.exists()


def test_another_directory_at_the_path_is_refused_until_confirmed(
    admin: Client, instance: Instance, make_store: Callable[..., Path]
) -> None:
    other = make_store(200, 4)
    path = Path(instance.path)
    path.rename(path.with_name("moved"))
    other.rename(path)
    address = reverse("admin:instance", args=[instance.pk])
    text = admin.get(address).content.decode()
    assert "IDENTITY_CHANGED" in text
    assert "Confirm this directory" in text
    admin.post(reverse("admin:instance_identity", args=[instance.pk]))
    after = admin.get(address).content.decode()
    assert "IDENTITY_CHANGED" not in after
    assert AuditEntry.objects.filter(action="instance.identity_confirmed").exists()


def test_check_now_keeps_a_sample_or_the_reason(admin: Client, instance: Instance) -> None:
    address = reverse("admin:instance_check", args=[instance.pk])
    assert "were read and kept" in said(admin.post(address))
    Path(instance.path).rename(Path(instance.path).with_name("away"))
    assert "There is nothing at" in said(admin.post(address))
    instance.refresh_from_db()
    assert instance.problem_code == "MISSING"
    assert instance.sample is not None


def test_the_list_goes_by_name_and_is_filtered(admin: Client, make_store: Callable[..., Path]) -> None:
    for name in ("beta", "alpha", "gamma"):
        services.register_directory(name, make_store(), "staging")
    rows = admin.get("/instances/").context["rows"]
    assert [one.name for one, _ in rows] == ["alpha", "beta", "gamma"]
    assert [one.name for one, _ in admin.get("/instances/?q=mm").context["rows"]] == ["gamma"]
    assert [one.name for one, _ in admin.get("/instances/?after=alpha").context["rows"]] == ["beta", "gamma"]


def test_a_manager_of_one_instance_changes_that_one_and_registers_none(
    client: Client, instance: Instance, make_store: Callable[..., Path]
) -> None:
    user = User.objects.create_user("manager", is_staff=True)
    RoleGrant.objects.create(user=user, role=Role.ADMIN, scope=Scope.INSTANCE, instance_id=instance.pk)
    client.force_login(user)
    settings_of = reverse("admin:instance_settings", args=[instance.pk])
    assert client.post(settings_of, {"name": "mine", "environment": "staging", "tags": ""}).status_code == 302
    assert Instance.objects.get().name == "mine"
    assert client.get(ADD).status_code == 403
    assert client.post(ADD, {"path": str(make_store()), "name": "n", "environment": "staging"}).status_code == 403


def test_tags_are_words() -> None:
    assert split_tags(" a , b c,a,\n d ,, ") == ["a", "b c", "d"]
