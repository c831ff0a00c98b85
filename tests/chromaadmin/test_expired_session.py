"""A live page whose session has ended leads to the login page as a whole, and back to itself."""

import uuid

import pytest
from django.test import Client


@pytest.mark.django_db
def test_the_live_part_of_a_page_sends_the_whole_page_to_login(client: Client) -> None:
    page = f"/runs/{uuid.uuid4()}/"
    answer = client.get(
        f"{page}live/",
        headers={"HX-Request": "true", "HX-Current-URL": f"http://testserver{page}"},
        follow=True,
    )
    assert answer.status_code == 200
    assert answer.headers["HX-Redirect"] == f"/accounts/login/?next={page}"
    assert b"<form" not in answer.content


@pytest.mark.django_db
def test_a_page_is_redirected_as_usual(client: Client) -> None:
    answer = client.get("/runs/", follow=True)
    assert answer.redirect_chain[-1][0].startswith("/accounts/login/")
    assert "HX-Redirect" not in answer.headers
