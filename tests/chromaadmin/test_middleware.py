"""Security headers on every response, and the limits of a session."""

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from chromaadmin.middleware import content_security_policy

START = 1_750_000_000


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada", password="correct horse battery", is_staff=True, is_superuser=True)


def logged_in(client: Client) -> bool:
    """Whether the server still knows the visitor: the login page sends those it knows elsewhere."""
    return client.get("/accounts/login/").status_code == 302


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/healthz", "/accounts/login/", "/no-such-page", "/"])
def test_headers_stand_on_every_response(client: Client, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'self'",
        "object-src": "'none'",
        "base-uri": "'self'",
        "frame-ancestors": "'none'",
        "form-action": "'self'",
    }
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


def test_the_policy_allows_nothing_unsafe() -> None:
    assert "unsafe" not in content_security_policy(settings.SECURE_CSP)


def test_a_session_ends_after_thirty_idle_minutes(client: Client, user: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        client.force_login(user)
        assert logged_in(client)
        clock.shift(29 * 60)
        assert logged_in(client)
        clock.shift(29 * 60)
        assert logged_in(client)
        clock.shift(30 * 60)
        assert not logged_in(client)


def test_a_session_ends_after_twelve_hours_of_work(client: Client, user: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        client.force_login(user)
        for _ in range(12 * 3 - 1):
            assert logged_in(client)
            clock.shift(20 * 60)
        assert logged_in(client)
        clock.shift(20 * 60)
        assert not logged_in(client)


def test_a_page_that_asks_for_its_live_part_is_no_activity(client: Client, user: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        client.force_login(user)
        assert logged_in(client)
        for _ in range(6):
            clock.shift(5 * 60)
            client.get("/runs/0b0e7f0e-3f5c-4df3-9d52-6a0e1f3c3c11/live/")
        assert not logged_in(client)


def test_a_disabled_user_is_out_at_once(client: Client, user: User) -> None:
    client.force_login(user)
    assert logged_in(client)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert not logged_in(client)
