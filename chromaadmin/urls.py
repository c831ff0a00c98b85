"""The addresses of the application: accounts by allauth, probes, the setup link, and everything else below the site."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from chromaadmin.accounts.urls import urlpatterns as accounts
from chromaadmin.health import healthz, readyz

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("accounts/", include("allauth.urls")),
    *accounts,
    path("", admin.site.urls),
]

handler400 = "chromaadmin.dashboard.errors.bad_request"
handler403 = "chromaadmin.dashboard.errors.permission_denied"
handler404 = "chromaadmin.dashboard.errors.not_found"
handler500 = "chromaadmin.dashboard.errors.server_error"
