"""The gallery's pages, stock admin pages of users, and allauth's: what the design has to hold for."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.urls import include, path

from tests.gallery.views import NAV, error, page, setup


class GallerySite(admin.AdminSite):
    """Stock admin pages with the navigation that the product's site gives to every page."""

    site_title = site_header = "Chroma Admin"

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "nav": NAV, "nav_current": "team", "user_role": "admin"}


site = GallerySite(name="admin")
site.register(User, UserAdmin)
site.register(Group, GroupAdmin)

urlpatterns = [
    path("gallery/error/<int:code>/", error, name="gallery_error"),
    path("gallery/setup/", setup, name="gallery_setup"),
    path("gallery/<slug:name>/", page, name="gallery"),
    path("accounts/", include("allauth.urls")),
    path("", site.urls),
]
