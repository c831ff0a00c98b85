"""The page behind the one-time link that makes the first administrator; it opens on this host only."""

import ipaddress

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from chromaadmin.accounts import services
from chromaadmin.accounts.doors import Door, client_ip
from chromaadmin.accounts.forms import NewAccountForm


@never_cache
@csrf_protect
@sensitive_post_parameters("password", "again")
@sensitive_variables("token", "password")
def setup(request: HttpRequest, token: str) -> HttpResponseBase:
    """GET shows the form while the link opens, POST makes the administrator; else there is no such page."""
    if refused := setup.door.refuses(request):  # type: ignore[attr-defined]
        return refused
    if not on_this_host(request) or not services.setup_link_opens(token):
        raise Http404
    form = NewAccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        username, password = form.cleaned_data["username"], form.cleaned_data["password"]
        try:
            services.redeem_setup_token(token, username, password, ip=client_ip(request))
        except services.SetupRefused:
            raise Http404 from None
        except ValidationError as error:
            for field, sentences in error.message_dict.items():
                form.add_error(field if field in form.fields else None, sentences)
        else:
            messages.success(request, f"The administrator {username} was made. Sign in with that name.")
            return redirect(settings.LOGIN_URL)
    # The address is a secret. The site's policy, same-origin, tells it to nobody else; a stricter one would make
    # browsers send the form with "Origin: null", which is refused.
    return TemplateResponse(request, "setup/first_administrator.html", {"form": form})


setup.door = Door(methods=("GET", "POST"), where="this host, with the link")  # type: ignore[attr-defined]


def on_this_host(request: HttpRequest) -> bool:
    """Whether the request comes from this machine, and not through a proxy that nobody configured."""
    addresses = {request.META.get("REMOTE_ADDR", "")}
    if settings.ALLAUTH_TRUSTED_PROXY_COUNT:
        addresses = {client_ip(request)}
    elif any(name in request.META for name in ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")):
        return False
    try:
        return all(ipaddress.ip_address(address).is_loopback for address in addresses)
    except ValueError:
        return False
