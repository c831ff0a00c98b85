"""The one-time link in a real browser, whose headers decide whether the form is taken."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from chromaadmin.accounts.services import issue_setup_link
from tests.e2e.conftest import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True, scope="module")
def _loop_of_playwright() -> Iterator[None]:
    """playwright keeps an event loop in this thread, and nothing awaits in it; Django is to do its work all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


def test_the_link_makes_the_first_administrator_who_then_signs_in(chromium: Any, live_server: Any) -> None:
    link = issue_setup_link()
    page = chromium.new_page(base_url=live_server.url)
    try:
        page.goto(link)
        page.fill("input[name=username]", "ada")
        page.fill("input[name=password]", PASSWORD)
        page.fill("input[name=again]", PASSWORD)
        page.click("text=Make the account")
        page.wait_for_url("**/accounts/login/**")
        assert User.objects.get(username="ada").is_superuser
        page.fill("input[name=login]", "ada")
        page.fill("input[name=password]", PASSWORD)
        page.click("button:text-is('Sign in')")
        page.wait_for_url(f"{live_server.url}/")
        assert page.goto(link).status == 404
    finally:
        page.close()
