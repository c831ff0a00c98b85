"""Whether somebody may run an operation on an instance; asked by menu, page, service, worker and commit gate alike."""

from dataclasses import dataclass
from typing import Any

from django.apps.registry import Apps
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin

from chromaadmin.accounts.rights import Right, may
from chromaadmin.instances.models import Instance
from ops.operation import Effect, Operation, title
from ops.registry import all_operations

RIGHT_OF_EFFECT = {
    Effect.READ: Right.RUN_READ,
    Effect.WRITE: Right.RUN_WRITE,
    Effect.EDIT: Right.RUN_EDIT,
    Effect.DESTRUCTIVE: Right.RUN_DESTRUCTIVE,
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Yes or no, and why as a sentence (empty for yes)."""

    allowed: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.allowed


ALLOWED = Decision(allowed=True)


def may_run(
    user: AbstractBaseUser | AnonymousUser | None,
    operation: Operation[Any] | type[Operation[Any]],
    instance: Instance | None,
) -> Decision:
    """Whether ``user`` may run ``operation`` (a value, or a class for the effect it declares) on ``instance``.

    The role on the instance decides by effect; the permission ``runs.run_<operation>`` adds that one operation to
    whoever may see the instance.
    """
    if instance is None:
        return Decision(allowed=False, reason="The instance is no longer registered.")
    if user is None or not user.is_authenticated:
        return Decision(allowed=False, reason="Nobody is logged in.")
    if not user.is_active:
        return Decision(allowed=False, reason=f"The account {user.get_username()} is disabled.")
    effect = operation.declared.effect if isinstance(operation, type) else operation.effect
    if may(user, RIGHT_OF_EFFECT[effect], instance):
        return ALLOWED
    own = isinstance(user, PermissionsMixin) and user.has_perm(f"runs.run_{operation.name}")
    if own and may(user, Right.VIEW, instance):
        return ALLOWED
    return Decision(
        allowed=False,
        reason=f"Running {effect.value} operations on {instance.name} needs a role you do not have there.",
    )


def make_permissions(apps: Apps | None = None, using: str = "default", **_: Any) -> None:
    """One permission ``run_<operation>`` per operation, made after every migrate; those of gone operations go."""
    from django.apps import apps as global_apps

    registry = apps or global_apps
    try:
        permission = registry.get_model("auth", "Permission")
        content_type = registry.get_model("contenttypes", "ContentType")
    except LookupError:
        return
    kind, _made = content_type.objects.using(using).get_or_create(app_label="runs", model="maintenancerun")
    wanted = {f"run_{cls.name}": f"Can run {title(cls)}"[:255] for cls in all_operations()}
    rows = permission.objects.using(using).filter(content_type=kind, codename__startswith="run_")
    rows.exclude(codename__in=wanted).delete()
    present = dict(rows.values_list("codename", "name"))
    permission.objects.using(using).bulk_create(
        permission(content_type=kind, codename=codename, name=name)
        for codename, name in wanted.items()
        if codename not in present
    )
