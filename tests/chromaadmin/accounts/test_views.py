"""The first administrator by a one-time link, and the team on Django's admin pages."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chromaadmin.accounts import services
from chromaadmin.accounts.models import Role, RoleGrant, Scope, SetupToken
from chromaadmin.audit.models import AuditEntry

GOOD = {"username": "first", "password": "correct horse battery", "again": "correct horse battery"}


@pytest.fixture
def link(db: None) -> str:
    issued = services.issue_setup_link()
    assert issued is not None
    return issued


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", password="x"))
    return client


def test_the_link_makes_one_administrator_once(client: Client, link: str) -> None:
    assert "First administrator" in client.get(link).content.decode()
    response = client.post(link, GOOD)
    assert response.status_code == 302
    assert response.headers["Location"] == "/accounts/login/"
    user = User.objects.get()
    assert user.is_superuser
    assert user.check_password(GOOD["password"])
    assert AuditEntry.objects.filter(action="user.created", actor_name="first").exists()
    assert client.get(link).status_code == 404
    assert client.post(link, {**GOOD, "username": "second"}).status_code == 404
    assert client.login(username="first", password=GOOD["password"])
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"again": "another password 9"}, "again"),
        ({"password": "short", "again": "short"}, "password"),
        ({"password": "123456789012345", "again": "123456789012345"}, "password"),
        ({"username": "with space!"}, "username"),
        ({"username": ""}, "username"),
    ],
)
def test_a_form_that_will_not_do_leaves_the_link_open(
    client: Client, link: str, changed: dict[str, str], field: str
) -> None:
    response = client.post(link, GOOD | changed)
    assert response.status_code == 200
    assert response.context["form"].errors[field]
    assert GOOD["password"] not in response.content.decode()
    assert not User.objects.exists()
    assert client.post(link, GOOD).status_code == 302


@pytest.mark.parametrize(
    "where",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.7"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "127.0.0.1"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "::ffff:192.0.2.7"},
    ],
)
def test_only_from_this_machine(client: Client, link: str, where: dict[str, str]) -> None:
    assert client.get(link, **where).status_code == 404
    assert client.post(link, GOOD, **where).status_code == 404
    assert not User.objects.exists()


def test_from_this_machine_by_either_loopback(client: Client, link: str) -> None:
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        assert client.get(link, REMOTE_ADDR=address).status_code == 200


def test_expired_and_superseded_links_are_not_there(client: Client, link: str) -> None:
    assert services.issue_setup_link() is not None
    assert client.get(link).status_code == 404
    newest = services.issue_setup_link()
    SetupToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get(newest).status_code == 404


def test_the_link_is_told_to_nobody_and_needs_the_csrf_token(link: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    response = strict.get(link)
    assert "no-store" in response.headers["Cache-Control"]
    assert strict.post(link, GOOD).status_code == 403
    assert Client().delete(link).status_code == 405
    assert not User.objects.exists()


def test_an_administrator_makes_an_account_without_any_role(admin: Client) -> None:
    address = reverse("admin:auth_user_add")
    weak = admin.post(address, {"username": "new", "email": "", "password": "short"})
    assert "password" in weak.context["adminform"].form.errors
    admin.post(
        address, {"username": "new", "email": "n@example.com", "password": GOOD["password"], "is_superuser": "on"}
    )
    made = User.objects.get(username="new")
    assert made.check_password(GOOD["password"])
    assert made.is_staff
    assert not made.is_superuser
    assert not made.role_grants.exists()
    assert AuditEntry.objects.filter(action="user.created", object_name="new", actor_name="admin").exists()
    again = admin.post(address, {"username": "new", "email": "", "password": GOOD["password"]})
    assert "username" in again.context["adminform"].form.errors


def test_an_account_is_disabled_with_its_sessions_and_audited(admin: Client) -> None:
    user = User.objects.create_user("gone", password="x", is_staff=True, email="a@example.com")
    other = Client()
    other.force_login(user)
    assert other.get("/").status_code == 200
    address = reverse("admin:auth_user_change", args=[user.pk])
    admin.post(address, {"email": "b@example.com"})
    user.refresh_from_db()
    assert not user.is_active
    assert user.email == "b@example.com"
    assert other.get("/").status_code == 302
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {"user.disabled", "user.changed"}
    admin.post(address, {"email": "b@example.com", "is_active": "on", "is_superuser": "on", "password": "hack"})
    user.refresh_from_db()
    assert user.is_active
    assert not user.is_superuser


def test_the_last_administrator_stays(admin: Client) -> None:
    me = User.objects.get()
    response = admin.post(reverse("admin:auth_user_change", args=[me.pk]), {"email": ""}, follow=True)
    me.refresh_from_db()
    assert me.is_active
    assert "The last administrator can not be disabled." in response.content.decode()


def test_a_role_is_given_and_taken_and_both_are_audited(admin: Client) -> None:
    user = User.objects.create_user("operator", password="x", is_staff=True)
    add = reverse("admin:accounts_rolegrant_add")
    missing = admin.post(add, {"user": user.pk, "role": "operator", "scope": "tag"})
    assert "tag" in missing.context["adminform"].form.errors
    admin.post(add, {"user": user.pk, "role": "operator", "scope": "everything", "instance": "", "tag": ""})
    grant = RoleGrant.objects.get()
    assert (grant.user, grant.role, grant.scope, grant.granted_by_id) == (
        user,
        Role.OPERATOR,
        Scope.EVERYTHING,
        User.objects.get(username="admin").pk,
    )
    assert admin.get(reverse("admin:accounts_rolegrant_changelist")).status_code == 200
    admin.post(reverse("admin:accounts_rolegrant_delete", args=[grant.pk]), {"post": "yes"})
    assert not RoleGrant.objects.exists()
    actions = list(AuditEntry.objects.order_by("seq").values_list("action", flat=True))
    assert actions == ["role.granted", "role.revoked"]


def test_a_role_can_not_be_edited(admin: Client) -> None:
    user = User.objects.create_user("operator", is_staff=True)
    grant = RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.EVERYTHING)
    address = reverse("admin:accounts_rolegrant_change", args=[grant.pk])
    assert admin.post(address, {"user": user.pk, "role": "admin", "scope": "everything"}).status_code == 403
    grant.refresh_from_db()
    assert grant.role == Role.VIEWER


def test_the_list_of_people_shows_their_roles_in_a_fixed_number_of_queries(
    admin: Client, django_assert_max_num_queries: object
) -> None:
    for number in range(12):
        user = User.objects.create_user(f"u{number}", is_staff=True)
        RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.EVERYTHING)
    with django_assert_max_num_queries(16):  # type: ignore[operator]
        text = admin.get(reverse("admin:auth_user_changelist")).content.decode()
    assert text.count("Viewer of everything") == 12
