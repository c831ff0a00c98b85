"""Rights and roles as data, and the one question that every door asks: ``may(user, right, instance)``."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from chromaadmin.accounts.models import Role, RoleGrant, Scope

User = AbstractBaseUser | AnonymousUser


class Right(StrEnum):
    """What can be permitted. ``run:…`` follow the effect of an operation."""

    VIEW = "view"  # the instance, its figures, its runs
    BROWSE = "browse"  # records, documents, metadata
    RUN_READ = "run:read"
    RUN_WRITE = "run:write"
    RUN_EDIT = "run:edit"
    RUN_DESTRUCTIVE = "run:destructive"
    APPROVE = "approve"
    MANAGE_INSTANCE = "manage:instance"
    MANAGE_TEAM = "manage:team"
    READ_AUDIT = "audit:read"


_VIEWER = frozenset({Right.VIEW, Right.BROWSE})
# A viewer starts no operation, not even a READ: some of them write files on the host or send data away.
ROLE_RIGHTS: dict[str, frozenset[Right]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _VIEWER | {Right.RUN_READ, Right.RUN_WRITE, Right.RUN_EDIT, Right.RUN_DESTRUCTIVE},
    Role.APPROVER: _VIEWER | {Right.APPROVE},
    Role.ADMIN: frozenset(Right),
    # Who asks what happened needs no look at the records themselves.
    Role.AUDITOR: frozenset({Right.VIEW, Right.READ_AUDIT}),
}
# Rights about the installation, not about one instance: only a role over everything gives them.
GLOBAL_RIGHTS = frozenset({Right.MANAGE_TEAM})


class Scoped(Protocol):
    """What ``may`` needs to know of an instance."""

    @property
    def pk(self) -> Any: ...

    @property
    def tag_names(self) -> frozenset[str]: ...


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a user has a right: everywhere, or on these instances and on whatever carries one of these tags."""

    everything: bool
    instance_ids: frozenset[UUID] = frozenset()
    tags: frozenset[str] = frozenset()

    @property
    def nowhere(self) -> bool:
        return not (self.everything or self.instance_ids or self.tags)


NOWHERE = Reach(everything=False)


def may(user: User | None, right: Right | str, instance: Scoped | None = None) -> bool:
    """Whether ``user`` has ``right`` on ``instance``; without one: on everything, as registering a new one needs.

    Nobody, a disabled account and a visitor have no right at all; a superuser has every one.
    """
    reach = reach_of(user, right)
    if reach.everything:
        return True
    if instance is None or right in GLOBAL_RIGHTS:
        return False
    return instance.pk in reach.instance_ids or bool(reach.tags and reach.tags & instance.tag_names)


def may_somewhere(user: User | None, right: Right | str) -> bool:
    """Whether ``user`` has ``right`` on anything at all; menus ask this, services never."""
    return not reach_of(user, right).nowhere


def reach_of(user: User | None, right: Right | str) -> Reach:
    """Where ``user`` has ``right``."""
    right = Right(right)
    if user is None or not user.is_authenticated or not user.is_active:
        return NOWHERE
    if getattr(user, "is_superuser", False):
        return Reach(everything=True)
    roles = [role for role, rights in ROLE_RIGHTS.items() if right in rights]
    grants = RoleGrant.objects.filter(user_id=user.pk, role__in=roles).values_list("scope", "instance_id", "tag")
    everything, instance_ids, tags = False, set(), set()
    for scope, instance_id, tag in grants:
        if scope == Scope.EVERYTHING:
            everything = True
        elif scope == Scope.INSTANCE and instance_id is not None:
            instance_ids.add(instance_id)
        elif scope == Scope.TAG and tag:
            tags.add(tag)
    return Reach(everything=everything, instance_ids=frozenset(instance_ids), tags=frozenset(tags))


def rights_of(user: User | None, instance: Scoped | None = None) -> frozenset[Right]:
    """Every right of ``user`` on ``instance``, for pages that show several buttons."""
    return frozenset(right for right in Right if may(user, right, instance))
