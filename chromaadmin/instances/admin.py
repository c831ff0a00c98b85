"""Roles on Django's admin pages: who may do what where. They stand here because a role can name an instance."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest

from chromaadmin.accounts import services
from chromaadmin.accounts.admin import TeamAdmin
from chromaadmin.accounts.doors import client_ip, person
from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.instances.models import Instance, Tag

User = get_user_model()


class RoleGrantForm(forms.ModelForm):
    """A role and where it holds: on everything, on one instance, or on whatever carries a tag."""

    user = forms.ModelChoiceField(User._default_manager.none(), empty_label=None)
    role = forms.ChoiceField(choices=Role.choices)
    scope = forms.ChoiceField(choices=Scope.choices, label="Holds on", initial=Scope.INSTANCE)
    instance = forms.ModelChoiceField(
        Instance.objects.none(), required=False, empty_label="none", help_text="For “One instance”."
    )
    tag = forms.ModelChoiceField(
        Tag.objects.none(),
        required=False,
        empty_label="none",
        to_field_name="name",
        help_text="For “Instances with a tag”.",
    )

    class Meta:
        model = RoleGrant
        fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["user"].queryset = User._default_manager.filter(is_active=True).order_by("username")  # type: ignore[attr-defined]
        self.fields["instance"].queryset = Instance.objects.all()  # type: ignore[attr-defined]
        self.fields["tag"].queryset = Tag.objects.all()  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        wanted = {"instance": "instance", "tag": "tag"}.get(str(given.get("scope")))
        for name in ("instance", "tag"):
            if name == wanted and not given.get(name):
                self.add_error(name, f"Choose the {name} on which the role holds.")
            elif name != wanted:
                given[name] = None
        return given

    def _post_clean(self) -> None:
        """The row is made by the service, which sets the scope's own columns; the half row here is not validated."""


@admin.register(RoleGrant)
class RoleGrantAdmin(TeamAdmin):
    """Roles are given and taken away and never edited, so that the trail says who had which one when."""

    tab = "roles"
    form = RoleGrantForm
    fields = ("user", "role", "scope", "instance", "tag")
    list_display = ("user", "role", "holds_on", "granted_at", "granted_by")
    list_filter = ("role", "scope")
    search_fields = ("user__username", "tag")
    search_help_text = "User name or tag"
    ordering = ("user__username", "role")
    list_select_related = ("user", "granted_by")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="Holds on", ordering="scope")
    def holds_on(self, grant: RoleGrant) -> str:
        if grant.instance_id is not None:
            name = Instance.objects.filter(pk=grant.instance_id).values_list("name", flat=True).first()
            return name or "an instance that is no longer registered"
        return f"tag {grant.tag}" if grant.scope == Scope.TAG else "everything"

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        given = form.cleaned_data
        instance, tag = given.get("instance"), given.get("tag")
        return services.grant_role(
            given["user"],
            given["role"],
            by=person(request),
            instance_id=instance.pk if instance else None,
            tag=tag.name if tag else "",
            ip=client_ip(request),
        )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """``save_form`` has stored it."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """A role has no related rows."""

    def delete_model(self, request: HttpRequest, obj: RoleGrant) -> None:
        services.revoke_role(obj, by=person(request), ip=client_ip(request))
