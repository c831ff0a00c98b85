"""Roles as data: what each gives, where, and that nothing is given otherwise."""

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth import get_user
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from chromaadmin.accounts import services
from chromaadmin.accounts.models import Role, RoleGrant, Scope, SetupToken
from chromaadmin.accounts.rights import ROLE_RIGHTS, Right, may, may_somewhere, reach_of, rights_of
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances.models import Instance
from chromaadmin.instances.services import register_directory

pytestmark = pytest.mark.django_db
GOOD = "correct horse battery staple"


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("boss")


@pytest.fixture
def own(store) -> Instance:
    return register_directory("own", store, "staging", ("shop", "eu"))


@pytest.fixture
def foreign(make_store) -> Instance:
    return register_directory("foreign", make_store(), "staging", ("bank",))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("scope", Scope)
def test_a_role_gives_its_rights_where_it_holds_and_nothing_elsewhere(role, scope, own, foreign):
    user = User.objects.create_user("somebody")
    RoleGrant.objects.create(
        user=user, role=role, scope=scope, instance_id=own.pk if scope == Scope.INSTANCE else None,
        tag="shop" if scope == Scope.TAG else "",
    )  # fmt: skip
    wanted = ROLE_RIGHTS[role]
    everywhere = scope == Scope.EVERYTHING
    for right in Right:
        local = right in wanted and (everywhere or right != Right.MANAGE_TEAM)
        assert may(user, right, own) is local, right
        assert may(user, right, foreign) is (right in wanted and everywhere), right
        assert may(user, right) is (right in wanted and everywhere), right
        found = set(Instance.objects.for_user(user, right))
        assert found == ({own, foreign} if everywhere else {own} if right in wanted else set()) or right not in wanted
        if right not in wanted:
            assert not found


def test_nobody_has_no_right(own):
    user = User.objects.create_user("somebody")
    for who in (None, user):
        assert rights_of(who, own) == frozenset()
        assert not Instance.objects.for_user(who).exists()
        assert not may_somewhere(who, Right.VIEW)


def test_a_superuser_has_every_right_until_disabled(own, admin):
    assert rights_of(admin, own) == frozenset(Right)
    admin.is_active = False
    assert rights_of(admin, own) == frozenset()
    assert reach_of(admin, Right.VIEW).nowhere


def test_an_instance_with_two_of_the_tags_comes_once(own):
    user = User.objects.create_user("somebody")
    for tag in ("shop", "eu"):
        RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.TAG, tag=tag)
    assert list(Instance.objects.for_user(user)) == [own]


def test_a_tag_that_is_taken_away_takes_the_right(own, admin):
    from chromaadmin.instances.services import change_instance

    user = User.objects.create_user("somebody")
    RoleGrant.objects.create(user=user, role=Role.VIEWER, scope=Scope.TAG, tag="shop")
    change_instance(own, by=admin, tags=["eu"])
    assert not may(user, Right.VIEW, Instance.objects.get(pk=own.pk))
    assert not Instance.objects.for_user(user).exists()


@pytest.mark.parametrize(
    "given",
    [
        {"scope": Scope.EVERYTHING, "tag": "x"}, {"scope": Scope.INSTANCE}, {"scope": Scope.TAG},
        {"scope": "elsewhere"},
    ],
)  # fmt: skip
def test_the_database_refuses_a_grant_of_no_place(given):
    user = User.objects.create_user("somebody")
    with pytest.raises(IntegrityError), transaction.atomic():
        RoleGrant.objects.create(user=user, role=Role.ADMIN, **given)


class TestTeam:
    def test_changes_are_audited(self, admin):
        user = services.create_user("new", GOOD, by=admin)
        grant = services.grant_role(user, Role.OPERATOR, by=admin, tag="shop")
        assert services.grant_role(user, Role.OPERATOR, by=admin, tag="shop") == grant
        services.revoke_role(grant, by=admin)
        services.set_active(user, False, by=admin)
        assert list(AuditEntry.objects.order_by("seq").values_list("action", "actor_name", "object_name")) == [
            ("user.created", "boss", "new"), ("role.granted", "boss", "new"), ("role.revoked", "boss", "new"),
            ("user.disabled", "boss", "new"),
        ]  # fmt: skip
        assert not user.is_superuser

    def test_is_for_administrators_over_everything_only(self, own):
        local = User.objects.create_user("local")
        RoleGrant.objects.create(user=local, role=Role.ADMIN, scope=Scope.INSTANCE, instance_id=own.pk)
        with pytest.raises(PermissionDenied):
            services.create_user("new", GOOD, by=local)
        with pytest.raises(PermissionDenied):
            services.grant_role(local, Role.ADMIN, by=local)
        with pytest.raises(PermissionDenied):
            services.set_active(local, True, by=local)
        assert not AuditEntry.objects.filter(object_kind="user").exists()

    def test_the_last_administrator_stays(self, admin):
        with pytest.raises(ValidationError):
            services.set_active(admin, False, by=admin)
        assert User.objects.get(pk=admin.pk).is_active

    def test_sessions_of_a_disabled_account_die_at_once(self, admin):
        user = services.create_user("new", GOOD, by=admin)
        client = Client()
        client.force_login(user)
        request = HttpRequest()
        request.session = client.session
        assert get_user(request) == user
        services.set_active(user, False, by=admin)
        assert get_user(request).is_anonymous


class TestFirstAdministrator:
    def token(self) -> str:
        return services.issue_setup_link().split("/")[2]

    def test_by_link_once(self):
        token = self.token()
        assert services.setup_link_opens(token)
        assert not SetupToken.objects.filter(token_hash__contains=token[:10]).exists()
        user = services.redeem_setup_token(token, "first", GOOD, ip="127.0.0.1")
        assert user.is_superuser
        assert user.is_staff
        assert user.check_password(GOOD)
        assert not services.setup_link_opens(token)
        with pytest.raises(services.SetupRefused):
            services.redeem_setup_token(token, "second", GOOD)
        assert services.issue_setup_link() is None
        assert User.objects.count() == 1
        assert AuditEntry.objects.filter(action="user.created").count() == 1

    def test_a_new_link_ends_the_one_before(self):
        old, new = self.token(), self.token()
        assert not services.setup_link_opens(old)
        assert services.setup_link_opens(new)

    def test_a_link_expires(self):
        token = self.token()
        with time_machine.travel(timezone.now() + timedelta(minutes=31)):
            assert not services.setup_link_opens(token)
            with pytest.raises(services.SetupRefused):
                services.redeem_setup_token(token, "first", GOOD)

    @pytest.mark.parametrize("token", ["", "x", "\udcff", "a" * 43, "' OR 1=1 --"])
    def test_other_tokens_open_nothing(self, token):
        self.token()
        assert not services.setup_link_opens(token)
        with pytest.raises(services.SetupRefused):
            services.redeem_setup_token(token, "first", GOOD)

    @pytest.mark.parametrize(
        ("name", "password"), [("first", "short"), ("first", "password1234"), ("", GOOD), ("a b", GOOD)]
    )
    def test_fields_that_will_not_do_leave_the_link_open(self, name, password):
        token = self.token()
        with pytest.raises(ValidationError):
            services.redeem_setup_token(token, name, password)
        assert services.setup_link_opens(token)
        assert not User.objects.exists()

    def test_by_file(self, tmp_path):
        file = tmp_path / "password"
        file.write_text(GOOD + "\n")
        assert services.ensure_admin_from_file("root", file)
        assert User.objects.get().check_password(GOOD)
        file.write_text("another good password\n")
        assert not services.ensure_admin_from_file("root", file)
        assert User.objects.get().check_password(GOOD)

    def test_a_weak_password_in_the_file_is_refused(self, tmp_path):
        file = tmp_path / "password"
        file.write_text("admin")
        with pytest.raises(ValidationError):
            services.ensure_admin_from_file("root", file)
        assert not User.objects.exists()
