"""The gallery's pages, stock admin pages of users, and allauth's: what the design has to hold for."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.urls import include, path

from tests.gallery.views import NAV, error, page, setup


class GallerySite(admin.AdminSite):
    """Stock admin pages with the navigation that the product's site gives to every page."""

    site_title = site_header = "Chroma Admin"

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "nav": NAV, "nav_current": "team", "user_role": "admin"}


class People(admin.ModelAdmin):
    """Every kind of widget that Django's admin has; its own UserAdmin would register with the product's site."""

    list_display = ("username", "email", "first_name", "is_staff", "last_login")
    list_filter = ("is_staff", "is_active")
    search_fields = ("username", "email")
    search_help_text = "User name or address"
    ordering = ("username",)
    filter_horizontal = ("user_permissions",)
    raw_id_fields = ("groups",)
    readonly_fields = ("last_login",)
    fieldsets = (
        (None, {"fields": ("username", ("first_name", "last_name"), "email")}),
        (
            "Rights",
            {"fields": ("is_active", "is_staff", "groups", "user_permissions"), "description": "Who may do what."},
        ),
        ("Dates", {"fields": ("last_login", "date_joined"), "classes": ("collapse",)}),
    )


class Membership(admin.TabularInline):
    model = User.groups.through
    extra = 1


class Groups(admin.ModelAdmin):
    inlines = (Membership,)
    filter_horizontal = ("permissions",)


site = GallerySite(name="admin")
site.register(User, People)
site.register(Group, Groups)

urlpatterns = [
    path("gallery/error/<int:code>/", error, name="gallery_error"),
    path("gallery/setup/", setup, name="gallery_setup"),
    path("gallery/<slug:name>/", page, name="gallery"),
    path("accounts/", include("allauth.urls")),
    path("", site.urls),
]
