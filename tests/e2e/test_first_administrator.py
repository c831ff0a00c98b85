"""The one-time link in a real browser, whose headers decide whether the form is taken."""

import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User

from chromaadmin.accounts.services import issue_setup_link
from tests.e2e.conftest import CHROMIUM, PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

# The browser is driven by a process of its own: its event loop and Django's database do not share a thread.
_VISIT = """
import sys
from playwright.sync_api import sync_playwright
executable, base, link, password = sys.argv[1:]
with sync_playwright() as playwright:
    arguments = ["--no-sandbox", "--no-proxy-server"]
    browser = playwright.chromium.launch(executable_path=executable, headless=True, args=arguments)
    page = browser.new_page(base_url=base)
    page.goto(link)
    page.fill("input[name=username]", "ada")
    page.fill("input[name=password]", password)
    page.fill("input[name=again]", password)
    page.click("text=Make the account")
    page.wait_for_url("**/accounts/login/**")
    page.fill("input[name=login]", "ada")
    page.fill("input[name=password]", password)
    page.click("button:text-is('Sign in')")
    page.wait_for_url(base + "/")
    print(page.goto(link).status)
    browser.close()
"""


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")
def test_the_link_makes_the_first_administrator_who_then_signs_in(live_server: Any) -> None:
    link = issue_setup_link()
    done = subprocess.run(
        [sys.executable, "-c", _VISIT, str(CHROMIUM), live_server.url, link, PASSWORD],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "404", "the link opens once"
    assert User.objects.get(username="ada").is_superuser
