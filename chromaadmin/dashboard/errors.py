"""The pages of errors: an incident number, a sentence, and nothing about the inside of the program."""

import logging
import secrets

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone

logger = logging.getLogger("chromaadmin.errors")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    return _error(request, 400)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """403; the sentence of a ``PermissionDenied`` is written for people and shown."""
    return _error(request, 403, why=str(exception))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404, the same for what does not exist and for what the user may not know of."""
    return _error(request, 404)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """500, with the number under which the traceback stands in the log."""
    return _error(request, 500)


def _error(request: HttpRequest, status: int, why: str = "") -> HttpResponse:
    incident = f"{secrets.token_hex(4).upper()}-{status}"
    # Django's own record, for a 500 with the traceback, stands beside this line. A setup link is a secret.
    place = "/setup/…" if request.path.startswith("/setup/") else request.path
    logger.log(logging.ERROR if status == 500 else logging.INFO, "incident %s: %s %s", incident, request.method, place)
    context = {"incident": incident, "when": timezone.now(), "exception": why}
    return render(request, f"{status}.html", context, status=status)
