"""The declaration of a page: which methods it answers and which right it needs. The list of addresses is made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from allauth.account.adapter import get_adapter
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseNotAllowed
from django.template.response import TemplateResponse

from chromaadmin.accounts.rights import ROLE_RIGHTS, Right, may, may_somewhere

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True, kw_only=True)
class Door:
    """What a view declares. ``where``: the right is asked for on the instance, somewhere, or on everything."""

    methods: tuple[str, ...]
    right: Right | None = None
    where: str = "somewhere"

    def refuses(self, request: HttpRequest) -> HttpResponseBase | None:
        """405 for a method that the page does not answer."""
        answered = {*self.methods, *(("HEAD",) if "GET" in self.methods else ())}
        return None if request.method in answered else HttpResponseNotAllowed(sorted(answered))


def door(*methods: str, right: Right | None = None, everywhere: bool = False) -> Callable[[View], View]:
    """A page that is about no single instance. Without ``right`` everybody who is logged in may see it.

    ``everywhere``: the right must hold on everything, as registering a new instance needs.
    """
    declared = Door(methods=methods or ("GET",), right=right, where="everything" if everywhere else "somewhere")

    def declare(view: View) -> View:
        @wraps(view)
        def opened(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if refused := declared.refuses(request):
                return refused
            has = may if everywhere else may_somewhere
            if right is not None and not has(request.user, right):
                raise PermissionDenied(why_not(right))
            return view(request, *args, **kwargs)

        opened.door = declared  # type: ignore[attr-defined]
        return opened

    return declare


def why_not(right: Right, place: str = "") -> str:
    """Which roles would open a page that was refused, as a sentence."""
    roles = [str(role) for role, rights in ROLE_RIGHTS.items() if right in rights]
    names = " or ".join((", ".join(roles[:-1]), roles[-1])) if len(roles) > 1 else roles[0]
    return f"This needs the role {names}{f' on {place}' if place else ''}."


def person(request: HttpRequest) -> User:
    """Who is logged in; behind the login there always is somebody."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Nobody is logged in.")
    return request.user


def client_ip(request: HttpRequest) -> str:
    """The address of who asks, past as many reverse proxies as are configured; for the audit trail."""
    address: str = get_adapter().get_client_ip(request)
    return address


def page(request: HttpRequest, template: str, *, status: int = 200, **context: Any) -> TemplateResponse:
    """A page of the console inside its frame: navigation, role and theme come from the admin site."""
    return TemplateResponse(request, template, {**admin.site.each_context(request), **context}, status=status)
