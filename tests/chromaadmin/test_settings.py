"""What the settings promise: configuration, login limits, the queue's pages and permissions."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from pydantic import ValidationError

from chromaadmin.settings.config import Config, host_slug


def patterns(resolver: URLResolver, prefix: str = "") -> list[str]:
    found = []
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        found += patterns(entry, route) if isinstance(entry, URLResolver) else [route]
        assert isinstance(entry, URLResolver | URLPattern)
    return found


class TestConfig:
    def test_reads_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CHROMAADMIN_HOME", str(tmp_path))
        monkeypatch.setenv("CHROMAADMIN_HOST", "Db_7.example")
        monkeypatch.setenv("CHROMAADMIN_ROOTS", f"{tmp_path}/a:{tmp_path}/b")
        monkeypatch.setenv("CHROMAADMIN_ALLOWED_HOSTS", "one.example, two.example")
        monkeypatch.setenv("CHROMAADMIN_BIND", "[::1]:9000")
        config = Config()
        assert config.home == tmp_path
        assert config.jobs_queue == "host-db-7-example"
        assert config.roots == (tmp_path / "a", tmp_path / "b")
        assert config.allowed_hosts == ("one.example", "two.example")
        assert (config.bind_host, config.bind_port, config.loopback_only) == ("::1", 9000, True)

    @pytest.mark.parametrize("bind", ["8000", "127.0.0.1", "127.0.0.1:", ":8000", "127.0.0.1:99999", "127.0.0.1:x"])
    def test_refuses_an_address_without_host_or_port(self, monkeypatch: pytest.MonkeyPatch, bind: str) -> None:
        monkeypatch.setenv("CHROMAADMIN_BIND", bind)
        with pytest.raises(ValidationError, match="ADDRESS:PORT"):
            Config()

    def test_everything_but_loopback_is_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHROMAADMIN_BIND", "0.0.0.0:8000")
        assert not Config().loopback_only

    @pytest.mark.parametrize(
        ("name", "slug"), [("DB-1", "db-1"), ("a.b_c", "a-b-c"), ("--", "localhost"), ("", "localhost")]
    )
    def test_host_slugs(self, name: str, slug: str) -> None:
        assert host_slug(name) == slug


class TestQueue:
    """django_q's own pages and rows can run any function, so nothing of them is offered."""

    def test_no_page_of_the_queue(self) -> None:
        assert not [
            route for route in patterns(get_resolver()) if re.search("django_q|ormq|schedule/|success/|failure/", route)
        ]
        assert not [model for model in admin.site._registry if model._meta.app_label == "django_q"]

    @pytest.mark.django_db
    def test_no_permission_on_the_queue(self) -> None:
        assert Permission.objects.filter(content_type__app_label="auth").exists()
        assert not Permission.objects.filter(content_type__app_label="django_q").exists()

    def test_rows_of_schedules_are_never_executed(self) -> None:
        assert settings.Q_CLUSTER["scheduler"] is False


class TestLogin:
    @pytest.fixture(autouse=True)
    def _fresh_limits(self) -> None:
        cache.clear()

    @pytest.fixture
    def user(self, db: None) -> User:
        return User.objects.create_user("ada", password="correct horse battery")

    def attempt(self, client: Client, password: str, *, name: str = "ada", address: str = "192.0.2.1") -> bool:
        """Whether the login worked."""
        client.logout()
        form = {"login": name, "password": password}
        return client.post("/accounts/login/", form, REMOTE_ADDR=address).status_code == 302

    def test_the_right_password_opens(self, client: Client, user: User) -> None:
        assert self.attempt(client, "correct horse battery")

    def test_five_wrong_passwords_close_the_account_also_for_the_right_one(self, client: Client, user: User) -> None:
        for number in range(5):
            assert not self.attempt(client, "wrong", address=f"192.0.2.{number}")
        assert not self.attempt(client, "correct horse battery", address="192.0.2.77")

    def test_ten_wrong_passwords_close_an_address_for_every_account(self, client: Client, user: User) -> None:
        for number in range(10):
            assert not self.attempt(client, "wrong", name=f"name-{number}", address="192.0.2.9")
        assert not self.attempt(client, "correct horse battery", address="192.0.2.9")
        assert self.attempt(client, "correct horse battery", address="192.0.2.10")

    def test_a_header_of_the_visitor_does_not_change_the_address(self, client: Client, user: User) -> None:
        for number in range(10):
            client.post(
                "/accounts/login/",
                {"login": f"name-{number}", "password": "wrong"},
                REMOTE_ADDR="192.0.2.9",
                headers={"x-forwarded-for": f"198.51.100.{number}"},
            )
        assert not self.attempt(client, "correct horse battery", address="192.0.2.9")

    def test_the_session_key_changes_at_login(self, client: Client, user: User) -> None:
        client.get("/accounts/login/")
        session = client.session
        session["planted"] = 1
        session.save()
        before = session.session_key
        client.cookies[settings.SESSION_COOKIE_NAME] = before
        response = client.post("/accounts/login/", {"login": "ada", "password": "correct horse battery"})
        assert response.status_code == 302
        assert client.cookies[settings.SESSION_COOKIE_NAME].value != before

    @pytest.mark.django_db
    def test_nobody_signs_up(self, client: Client) -> None:
        form = {"username": "eve", "password1": "correct horse battery", "password2": "correct horse battery"}
        client.post("/accounts/signup/", form)
        assert not User.objects.exists()

    @pytest.mark.django_db
    def test_the_admin_has_no_login_of_its_own(self, client: Client, user: User) -> None:
        response = client.post("/login/", {"username": "ada", "password": "correct horse battery"})
        assert response.status_code in {302, 404}
        assert "_auth_user_id" not in client.session

    def test_a_name_that_exists_and_one_that_does_not_get_the_same_answer(self, client: Client, user: User) -> None:
        pages = [
            client.post("/accounts/login/", {"login": name, "password": "wrong"}).content.decode().replace(name, "NAME")
            for name in ("ada", "nobody")
        ]
        token = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')
        assert token.sub("", pages[0]) == token.sub("", pages[1])
