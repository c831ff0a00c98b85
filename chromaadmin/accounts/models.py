"""Roles per person and place, and the one-time tokens that make the first administrator."""

from django.conf import settings
from django.db import models
from django.db.models import Q


class Role(models.TextChoices):
    """The five roles; what each may do stands in ``rights.ROLE_RIGHTS``."""

    VIEWER = "viewer", "Viewer"
    OPERATOR = "operator", "Operator"
    APPROVER = "approver", "Approver"
    ADMIN = "admin", "Admin"
    AUDITOR = "auditor", "Auditor"


class Scope(models.TextChoices):
    """Where a role holds."""

    EVERYTHING = "everything", "Everything"
    INSTANCE = "instance", "One instance"
    TAG = "tag", "Instances with a tag"


class RoleGrant(models.Model):
    """One role of one person in one place.

    ``instance_id`` is the id of an Instance and no foreign key: accounts know nothing of instances. A grant on an
    instance that is gone gives nothing.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="role_grants")
    role = models.CharField(max_length=20, choices=Role)
    scope = models.CharField(max_length=20, choices=Scope)
    instance_id = models.UUIDField(null=True, blank=True)
    tag = models.CharField(max_length=60, blank=True)
    granted_at = models.DateTimeField(auto_now_add=True)
    granted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["user_id", "role", "pk"]
        constraints = [
            models.CheckConstraint(
                name="accounts_grant_scope",
                condition=(
                    Q(scope=Scope.EVERYTHING, instance_id__isnull=True, tag="")
                    | Q(scope=Scope.INSTANCE, instance_id__isnull=False, tag="")
                    | (Q(scope=Scope.TAG, instance_id__isnull=True) & ~Q(tag=""))
                ),
            ),
            # NULLs count as different, so an instance and no instance are two rules.
            models.UniqueConstraint(
                fields=["user", "role", "scope", "tag"],
                condition=Q(instance_id__isnull=True),
                name="accounts_grant_once",
            ),
            models.UniqueConstraint(
                fields=["user", "role", "instance_id"],
                condition=Q(instance_id__isnull=False),
                name="accounts_grant_once_per_instance",
            ),
        ]

    def __str__(self) -> str:
        where = {"everything": "everything", "instance": str(self.instance_id), "tag": f"tag {self.tag}"}[self.scope]
        return f"{self.get_role_display()} of {where}"


class SetupToken(models.Model):
    """A one-time link for the first administrator; only the SHA-256 of its 256-bit token is kept."""

    token_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"Setup link until {self.expires_at:%Y-%m-%d %H:%M}"
