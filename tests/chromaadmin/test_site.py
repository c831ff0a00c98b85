"""Every role × every address × own and foreign × GET and POST, from the URL configuration itself."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.accounts.rights import ROLE_RIGHTS, Right
from chromaadmin.addresses import all_addresses
from chromaadmin.instances import services
from chromaadmin.instances.models import Instance
from chromaadmin.runs.models import MaintenanceRun
from tests.ops import stores

VIEW, BROWSE, MANAGE, TEAM, AUDIT = (
    Right.VIEW, Right.BROWSE, Right.MANAGE_INSTANCE, Right.MANAGE_TEAM, Right.READ_AUDIT,
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What an address must ask for. ``of``: instance, run, or nothing; ``everywhere``: the right holds there."""

    methods: str
    right: Right | None = None
    of: str = ""
    everywhere: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


# An address that stands here and not in the application, or the other way round, fails the suite.
TABLE: dict[str, Expected] = {
    "admin:index": Expected("GET"),
    "admin:search": Expected("GET"),
    "admin:instances": Expected("GET"),
    "admin:instance_add": Expected("GET POST", MANAGE, everywhere=True),
    "admin:instance": Expected("GET", VIEW, "instance"),
    "admin:instance_check": Expected("POST", VIEW, "instance"),
    "admin:instance_settings": Expected("POST", MANAGE, "instance"),
    "admin:instance_identity": Expected("POST", MANAGE, "instance"),
    "admin:instance_remove": Expected("POST", MANAGE, "instance"),
    "admin:collection": Expected("GET", BROWSE, "instance", arguments={"collection_id": "COLLECTION"}),
    "admin:segment": Expected("GET", VIEW, "instance", arguments={"collection_id": "COLLECTION"}),
    "admin:operation": Expected("GET POST", VIEW, "instance", arguments={"operation": "db_info"}),
    "admin:operation_approve": Expected("POST", VIEW, "instance", arguments={"operation": "db_info"}),
    "admin:runs": Expected("GET", VIEW),
    "admin:run": Expected("GET", VIEW, "run"),
    "admin:run_live": Expected("GET", VIEW, "run"),
    "admin:run_cancel": Expected("POST", VIEW, "run"),
    "admin:run_log": Expected("GET", VIEW, "run"),
    "admin:run_file": Expected("GET", VIEW, "run", arguments={"name": "result.json"}),
    "admin:audit": Expected("GET", AUDIT),
    "admin:audit_verify": Expected("POST", AUDIT),
    "admin:audit_export": Expected("GET", AUDIT, arguments={"kind": "csv"}),
    "admin:auth_user_changelist": Expected("GET POST", TEAM, everywhere=True),
    "admin:auth_user_add": Expected("GET POST", TEAM, everywhere=True),
    "admin:auth_user_history": Expected("GET POST", TEAM, everywhere=True, arguments={"object_id": "USER"}),
    # Nobody may delete an account: runs and the audit trail name it.
    "admin:auth_user_delete": Expected("", TEAM, everywhere=True, arguments={"object_id": "USER"}),
    "admin:auth_user_change": Expected("GET POST", TEAM, everywhere=True, arguments={"object_id": "USER"}),
    "admin:accounts_rolegrant_changelist": Expected("GET POST", TEAM, everywhere=True),
    "admin:accounts_rolegrant_add": Expected("GET POST", TEAM, everywhere=True),
    "admin:accounts_rolegrant_history": Expected("GET POST", TEAM, everywhere=True, arguments={"object_id": "GRANT"}),
    "admin:accounts_rolegrant_delete": Expected("GET POST", TEAM, everywhere=True, arguments={"object_id": "GRANT"}),
    "admin:accounts_rolegrant_change": Expected("GET", TEAM, everywhere=True, arguments={"object_id": "GRANT"}),
}  # fmt: skip
# Open without a login, or redirects to where the login is; each is asked in `test_what_is_open_without_a_login`.
OPEN = {"healthz", "readyz", "setup", "admin:login", "admin:logout", "admin:password_change", "admin:jsi18n", "admin:"}
ALLAUTH = {
    "account_login", "account_logout", "account_inactive", "account_signup", "account_reauthenticate", "account_email",
    "account_email_verification_sent", "account_change_password", "account_set_password", "account_reset_password",
    "account_confirm_login_code", "account_confirm_email", "account_reset_password_from_key_done",
    "account_reset_password_from_key", "account_reset_password_done", "mfa_index", "mfa_authenticate",
    "mfa_reauthenticate", "mfa_activate_totp", "mfa_deactivate_totp", "mfa_view_recovery_codes",
    "mfa_generate_recovery_codes", "mfa_download_recovery_codes",
}  # fmt: skip

WHO = ("nobody", "no role", "disabled", *Role.values, "admin everywhere", "viewer by tag", "superuser")


@dataclass(frozen=True)
class World:
    own: Instance
    foreign: Instance
    runs: dict[Any, MaintenanceRun]
    collection: str
    user: User
    grant: RoleGrant

    def address(self, name: str, expected: Expected, instance: Instance) -> str:
        words = {"COLLECTION": self.collection, "USER": str(self.user.pk), "GRANT": str(self.grant.pk)}
        arguments = {key: words.get(value, value) for key, value in expected.arguments.items()}
        if expected.of == "instance":
            arguments["instance_id"] = instance.pk
        elif expected.of == "run":
            arguments["run_id"] = self.runs[instance.pk].pk
        return reverse(name, kwargs=arguments)


@pytest.fixture
def world(db: None, make_store: Callable[..., Path]) -> World:
    own = services.register_directory("own", make_store(), "development", ("mine",))
    foreign = services.register_directory("foreign", make_store(), "production")
    user = User.objects.create_user("somebody", password="x", is_staff=True)
    grant = RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.TAG, tag="nothing carries it")
    runs = {
        instance.pk: MaintenanceRun.objects.create(
            number=number, operation="db_info", effect="read", instance=instance, instance_name=instance.name,
            instance_path=instance.path, requested_by_name="x", seal="", queue=instance.queue, state="failed",
            requested_at=timezone.now(), finished_at=timezone.now(), result={"path": "x"}, parameters={},
        )
        for number, instance in enumerate((own, foreign), start=1)
    }  # fmt: skip
    from chromaadmin.instances.access import store_access
    from ops import reads

    found = store_access(own).read(reads.collections, limit=1)
    return World(own, foreign, runs, found.collections[0].id, user, grant)


def account(who: str, world: World) -> User | None:
    """The account of a role, which holds on the instance called own."""
    if who == "nobody":
        return None
    user = User.objects.create_user("the-one", password="x", is_staff=True, is_superuser=who == "superuser")
    if who in Role.values:
        RoleGrant.objects.create(user=user, role=who, scope=Scope.INSTANCE, instance_id=world.own.pk)
    elif who == "admin everywhere":
        RoleGrant.objects.create(user=user, role=Role.ADMIN, scope=Scope.EVERYTHING)
    elif who == "viewer by tag":
        RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.TAG, tag="mine")
    return user


def rights(who: str, *, everywhere: bool, foreign: bool) -> frozenset[Right]:
    """What the role gives in that place, from the table of roles."""
    if who in ("superuser", "admin everywhere"):
        return frozenset(Right)
    if who in ("nobody", "no role", "disabled") or everywhere or foreign:
        return frozenset()
    return ROLE_RIGHTS[Role.VIEWER if who == "viewer by tag" else who]


def wanted(who: str, expected: Expected, method: str, *, foreign: bool) -> set[int]:
    """The statuses that are right."""
    if who in ("nobody", "disabled"):
        return {302}
    if expected.methods and method not in expected.methods.split() and expected.right is not TEAM:
        return {405}
    mine = rights(who, everywhere=expected.everywhere, foreign=foreign)
    somewhere = rights(who, everywhere=expected.everywhere, foreign=False)
    if expected.right is TEAM:
        allowed = TEAM in mine and method in expected.methods.split()
        return {200, 302} if allowed else {403}
    if expected.of == "instance" and VIEW not in mine:
        return {404}
    if expected.right is not None and expected.right not in somewhere:
        return {403}
    if expected.of == "run" and VIEW not in mine:
        return {404}
    if expected.right is not None and expected.of and expected.right not in mine:
        return {403}
    return {200, 302, 422}


def test_every_address_is_in_the_table() -> None:
    names = {one.name for one in all_addresses()}
    assert names == set(TABLE) | OPEN | ALLAUTH
    assert not [name for name in names if "django_q" in name or "schedule" in name or "token" in name]


def test_declared_doors_are_those_of_the_table() -> None:
    for one in all_addresses():
        if one.name in TABLE and one.methods:
            expected = TABLE[one.name]
            assert set(one.methods) == set(expected.methods.split()), one.name
            assert one.right == (expected.right or ""), one.name


@pytest.mark.parametrize("who", WHO)
def test_access(who: str, world: World) -> None:
    user = account(who, world)
    client = Client(raise_request_exception=True)
    if user is not None:
        client.force_login(user)
    if who == "disabled":
        User.objects.filter(pk=user.pk).update(is_active=False)  # type: ignore[union-attr]
    wrong = []
    for name, expected in TABLE.items():
        for foreign in (False, True) if expected.of else (False,):
            address = world.address(name, expected, world.foreign if foreign else world.own)
            for method in ("GET", "POST"):
                response = client.generic(method, address)
                if method == "GET" or response.status_code != 302:
                    assert (
                        "Traceback" not in response.content.decode(errors="replace") if not response.streaming else True
                    )
                right = wanted(who, expected, method, foreign=foreign)
                if response.status_code not in right or not _stays(response, right):
                    where = response.headers.get("Location", "")
                    wrong.append(
                        f"{method} {name} {'foreign' if foreign else 'own'}: {response.status_code} {where} not {right}"
                    )
    assert not wrong, "\n".join(wrong)
    assert Instance.objects.count() == 2, "an empty POST removed an instance"


def _stays(response: Any, right: set[int]) -> bool:
    """A refusal by redirect goes to the login; a redirect of somebody who may be there does not."""
    if response.status_code != 302:
        return True
    return response.headers["Location"].startswith(("/login/", "/accounts/login/")) == (right == {302})


@pytest.mark.parametrize("who", ["superuser"])
def test_every_post_needs_the_csrf_token(who: str, world: World) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(account(who, world))  # type: ignore[arg-type]
    for name, expected in TABLE.items():
        if "POST" in expected.methods.split():
            address = world.address(name, expected, world.own)
            assert client.post(address, {"typed_name": "own"}).status_code == 403, name
    assert Instance.objects.count() == 2


@contextmanager
def no_write() -> Iterator[None]:
    """Any statement that writes fails, but for the session's own table."""

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        word = sql.lstrip().split(" ", 1)[0].upper()
        assert word in {"SELECT", "SAVEPOINT", "RELEASE", "PRAGMA", "BEGIN"} or "django_session" in sql, sql
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse):
        yield


def test_a_get_writes_nothing_and_changes_no_byte_of_a_store(world: World) -> None:
    client = Client()
    client.force_login(account("superuser", world))  # type: ignore[arg-type]
    before = stores.manifest(Path(world.own.path))
    for name, expected in TABLE.items():
        if "GET" in expected.methods.split():
            with no_write():
                response = client.get(world.address(name, expected, world.own))
            assert response.status_code in (200, 302), name
    assert stores.manifest(Path(world.own.path)) == before


def test_what_is_open_without_a_login(client: Client, db: None) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    assert client.get("/setup/guessed/").status_code == 404
    for address in ("/", "/nothing/of/that/name/", "/django_q/", "/admin/", "/auth/", "/jsi18n/"):
        response = client.get(address)
        assert response.status_code == 302, address
        assert response.headers["Location"].startswith(("/login/?next=", "/accounts/login/?next=")), address


def test_unknown_addresses_are_404_with_an_incident_and_no_inside(client: Client, world: World) -> None:
    client.force_login(account("superuser", world))  # type: ignore[arg-type]
    for address in (
        "/nothing/",
        f"/instances/{uuid.uuid4()}/",
        "/autocomplete/",
        "/auth/",
        "/r/1/1/",
        "/django_q/schedule/",
    ):
        response = client.get(address)
        text = response.content.decode()
        assert response.status_code == 404, address
        assert "Incident" in text
        assert "There is nothing at this address." in text
        assert str(Path(__file__).parents[2]) not in text


def test_a_page_that_breaks_says_so_without_a_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from chromaadmin.dashboard import selectors

    def broken(*args: object) -> None:
        raise RuntimeError("the inside of it")

    client = Client(raise_request_exception=False)
    client.force_login(account("superuser", world))  # type: ignore[arg-type]
    monkeypatch.setattr(selectors, "fleet_rows", broken)
    response = client.get("/")
    text = response.content.decode()
    assert response.status_code == 500
    assert "No store was touched." in text
    assert "the inside of it" not in text
    assert "Traceback" not in text


def test_the_frame_counts_and_names(client: Client, world: World) -> None:
    client.force_login(account("auditor", world))  # type: ignore[arg-type]
    context = client.get("/").context
    assert [item["key"] for item in context["nav"]] == ["fleet", "instances", "runs", "audit"]
    assert context["nav"][1]["count"] == 1
    assert context["user_role"] == "auditor"


def test_list_urls(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("list_urls", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["admin:instance_remove"] == {
        "name": "admin:instance_remove",
        "path": "/instances/<uuid:instance_id>/remove/",
        "methods": ["POST"],
        "right": "manage:instance",
        "where": "instance",
    }
