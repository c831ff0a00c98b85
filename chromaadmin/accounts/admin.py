"""Team: accounts on Django's admin pages. Every change is audited; their roles stand with the instances."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from chromaadmin.accounts import services
from chromaadmin.accounts.doors import client_ip, person
from chromaadmin.accounts.forms import NewUserForm, UserForm
from chromaadmin.accounts.rights import Right, may
from chromaadmin.audit.services import record

User = get_user_model()
PLACE = {"nav_current": "team"}


class TeamAdmin(admin.ModelAdmin):
    """Whoever may manage the team may do so, and nobody else; Django's model permissions have no say."""

    actions = None
    tab = "people"
    right = Right.MANAGE_TEAM  # what the list of addresses says of these pages

    change_list_template = "accounts/change_list.html"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """People and roles are two tabs of one place."""
        tabs = [
            {"key": "people", "label": "People", "url": reverse("admin:auth_user_changelist")},
            {"key": "roles", "label": "Roles", "url": reverse("admin:accounts_rolegrant_changelist")},
        ]
        return super().changelist_view(request, {**PLACE, "team_tabs": tabs, "team_tab": self.tab})

    def changeform_view(
        self, request: HttpRequest, object_id: Any = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().changeform_view(request, object_id, form_url, {**PLACE, **(extra_context or {})})

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return super().delete_view(request, object_id, {**PLACE, **(extra_context or {})})

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """What happened to an account stands in the audit trail, and only there."""
        if not self._may(request):
            raise PermissionDenied
        return redirect("admin:audit")

    def _may(self, request: HttpRequest) -> bool:
        return may(request.user, Right.MANAGE_TEAM)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._may(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:  # type: ignore[override]
        """The audit trail has it; Django's own log would go with the account it names."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:  # type: ignore[override]
        """See ``log_addition``."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:  # type: ignore[override]
        """See ``log_addition``."""


@admin.register(User)
class UserAdmin(TeamAdmin):
    """Accounts. They are disabled and never deleted: runs and the audit trail name them."""

    list_display = ("username", "email", "roles", "is_active", "last_login")
    list_filter = ("is_active",)
    search_fields = ("username", "email")
    ordering = ("username",)
    search_help_text = "User name or address"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("role_grants")

    @admin.display(description="Roles")
    def roles(self, user: Any) -> str:
        if user.is_superuser:
            return "Administrator of everything"
        return "; ".join(str(grant) for grant in user.role_grants.all()) or "none yet"

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return UserForm if change else NewUserForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("email", "is_active") if obj else ("username", "email", "password")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_form(self, request: HttpRequest, form: ModelForm, change: bool) -> Any:
        """A new account is made by the service, so that password rules and audit are those of every other door."""
        if change:
            return super().save_form(request, form, change)
        given = form.cleaned_data
        return services.create_user(
            given["username"],
            given["password"],
            by=person(request),
            email=given["email"],
            ip=client_ip(request),
        )

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        if not change:
            return
        if "email" in form.changed_data:
            User._default_manager.filter(pk=obj.pk).update(email=form.cleaned_data["email"])
            record(
                "user.changed", actor=request.user, ip=client_ip(request), kind="user", object_id=obj.pk,
                object_name=obj.get_username(), detail={"email": [form.initial.get("email", ""), obj.email]},
            )  # fmt: skip
        if "is_active" in form.changed_data:
            wanted = form.cleaned_data["is_active"]
            try:
                services.set_active(obj, wanted, by=person(request), ip=client_ip(request))
            except ValidationError as error:
                obj.is_active = not wanted
                messages.error(request, " ".join(error.messages))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """An account has no related rows on its page."""
