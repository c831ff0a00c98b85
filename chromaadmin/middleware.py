"""Middleware: security headers, and the idle and absolute limits of a session."""

import time
from collections.abc import Callable, Mapping, Sequence

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponseBase

GetResponse = Callable[[HttpRequest], HttpResponseBase]

# Seconds between two writes of "seen" to one session: not every request is worth a database write.
SEEN_STEP_SECONDS = 60


def content_security_policy(directives: Mapping[str, Sequence[str]]) -> str:
    """The header's value for a mapping as in Django 6's SECURE_CSP."""
    return "; ".join(" ".join((name, *sources)) for name, sources in directives.items())


class SecurityHeadersMiddleware:
    """Content-Security-Policy and Permissions-Policy on every response, static files and errors included."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.headers = {
            "Content-Security-Policy": content_security_policy(settings.SECURE_CSP),
            "Permissions-Policy": ", ".join(
                f"{feature}=({' '.join(allowed)})" for feature, allowed in settings.PERMISSIONS_POLICY.items()
            ),
        }

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        for name, value in self.headers.items():
            response.headers[name] = value
        return response


class SessionLimitsMiddleware:
    """End a login after SESSION_IDLE_SECONDS without activity and SESSION_COOKIE_AGE seconds after it began.

    Times stand in the session itself, so a cookie kept by a browser or a thief ends with them. A page that asks for its
    own live part is not activity: an unattended run page logs out too.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.user.is_authenticated:
            now = int(time.time())
            # A session that predates these keys, or was made by the login just before, begins now.
            started = request.session.setdefault("started_at", now)
            seen = request.session.setdefault("seen_at", now)
            if now - started >= settings.SESSION_COOKIE_AGE or now - seen >= settings.SESSION_IDLE_SECONDS:
                logout(request)
            elif now - seen >= SEEN_STEP_SECONDS and not request.path.endswith("/live/"):
                request.session["seen_at"] = now
        return self.get_response(request)
