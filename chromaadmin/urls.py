"""The addresses of the application: accounts by allauth, probes, and everything else below the admin site."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

from chromaadmin.health import healthz, readyz

# One login view only: the admin's own would have no lock-out and no second factor.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("accounts/", include("allauth.urls")),
    path("", admin.site.urls),
]
