"""Changing accounts: the first administrator, people, their roles. Every change is audited."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.utils import timezone

from chromaadmin.accounts.models import Role, RoleGrant, Scope, SetupToken
from chromaadmin.accounts.rights import Right, may
from chromaadmin.audit.services import record, serialise

SETUP_LINK_LIFE = timedelta(minutes=30)


class SetupRefused(Exception):
    """The setup link does not open anything; one sentence for every reason, so that nothing can be learned from it."""

    def __init__(self) -> None:
        super().__init__("This link is not valid. Start `manage.py up` again for a new one.")


def administrator_exists() -> bool:
    """Whether somebody can log in and manage everything."""
    return _users().filter(is_active=True, is_superuser=True).exists()


def issue_setup_link() -> str | None:
    """The path of a one-time link (30 minutes, single use) for the first administrator; None when there is one.

    Earlier links stop working. The token is in the returned path only; the database keeps its hash.
    """
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        serialise()
        if administrator_exists():
            return None
        SetupToken.objects.filter(used_at=None).delete()
        SetupToken.objects.create(token_hash=_hash(token), expires_at=timezone.now() + SETUP_LINK_LIFE)
        record("setup.link_issued", kind="setup")
    return f"/setup/{token}/"


def setup_link_opens(token: str) -> bool:
    """Whether the form behind a link should be shown."""
    return _open_tokens(token).exists() and not administrator_exists()


def redeem_setup_token(token: str, username: str, password: str, *, ip: str | None = None) -> User:
    """Make the first administrator, once.

    Raises SetupRefused for an unknown, expired, used or superseded token, ValidationError (``username`` or
    ``password``) when the fields will not do; then the link stays open.
    """
    with transaction.atomic():
        serialise()
        if administrator_exists() or not _open_tokens(token).update(used_at=timezone.now()):
            raise SetupRefused
        user = _new_user(username, password, is_superuser=True)
        record(
            "user.created", actor=user, ip=ip, kind="user", object_id=user.pk, object_name=user.get_username(),
            detail={"administrator": True, "by": "setup link"},
        )  # fmt: skip
    return user


def ensure_admin_from_file(user: str, path: Path | str) -> bool:
    """Make administrator ``user`` with the password in the file at ``path`` unless an administrator exists.

    Returns True when one was made. The password of an existing account is never changed. Raises ValidationError for a
    password that is too weak, OSError when the file can not be read.
    """
    password = Path(path).read_text("utf-8").rstrip("\r\n")
    with transaction.atomic():
        serialise()
        if administrator_exists():
            return False
        made = _new_user(user, password, is_superuser=True)
        record(
            "user.created", kind="user", object_id=made.pk, object_name=made.get_username(),
            detail={"administrator": True, "by": "password file"},
        )  # fmt: skip
    return True


def create_user(username: str, password: str, *, by: User, email: str = "", ip: str | None = None) -> User:
    """A new account without any role. Raises PermissionDenied, ValidationError."""
    _require_team(by)
    with transaction.atomic():
        user = _new_user(username, password, email=email)
        record("user.created", actor=by, ip=ip, kind="user", object_id=user.pk, object_name=user.get_username())
    return user


def set_active(user: User, active: bool, *, by: User, ip: str | None = None) -> None:
    """Disable or enable an account. A disabled one has no right from the next question on, and its sessions are dead.

    Raises PermissionDenied, and ValidationError for the last administrator.
    """
    _require_team(by)
    with transaction.atomic():
        serialise()
        if not active and user.is_superuser and not _other_administrators(user):
            raise ValidationError("The last administrator can not be disabled.")
        _users().filter(pk=user.pk).update(is_active=active)
        user.is_active = active
        record(
            "user.enabled" if active else "user.disabled",
            actor=by, ip=ip, kind="user", object_id=user.pk, object_name=user.get_username(),
        )  # fmt: skip


def grant_role(
    user: User,
    role: Role | str,
    *,
    by: User,
    instance_id: UUID | None = None,
    tag: str = "",
    ip: str | None = None,
) -> RoleGrant:
    """Give ``user`` a role on one instance, on a tag, or, with neither, on everything. Twice is once."""
    _require_team(by)
    scope = Scope.INSTANCE if instance_id else Scope.TAG if tag else Scope.EVERYTHING
    with transaction.atomic():
        serialise()
        grant, made = RoleGrant.objects.get_or_create(
            user=user, role=Role(role), scope=scope, instance_id=instance_id, tag=tag, defaults={"granted_by": by}
        )
        if made:
            _record_grant("role.granted", grant, by, ip)
    return grant


def revoke_role(grant: RoleGrant, *, by: User, ip: str | None = None) -> None:
    """Take a role away; runs that wait in the queue are refused when they are claimed."""
    _require_team(by)
    with transaction.atomic():
        serialise()
        if RoleGrant.objects.filter(pk=grant.pk).delete()[0]:
            _record_grant("role.revoked", grant, by, ip)


def forget_instance(instance_id: UUID) -> None:
    """Remove the grants on an instance that is being removed; called in the same transaction."""
    RoleGrant.objects.filter(instance_id=instance_id).delete()


def prune() -> int:
    """Remove setup tokens that can no longer be used; returns how many."""
    return SetupToken.objects.filter(expires_at__lt=timezone.now()).delete()[0]


def grants_of(user: User) -> Iterable[RoleGrant]:
    """The roles of one person."""
    return RoleGrant.objects.filter(user=user).order_by("scope", "role")


def _record_grant(action: str, grant: RoleGrant, by: User, ip: str | None) -> None:
    record(
        action, actor=by, ip=ip, kind="user", object_id=grant.user_id, object_name=grant.user.get_username(),
        instance_id=grant.instance_id or "",
        detail={"role": grant.role, "scope": grant.scope, "tag": grant.tag},
    )  # fmt: skip


def _users() -> Any:
    return get_user_model()._default_manager


def _other_administrators(user: User) -> bool:
    return bool(_users().filter(is_active=True, is_superuser=True).exclude(pk=user.pk).exists())


def _open_tokens(token: str) -> Any:
    return SetupToken.objects.filter(token_hash=_hash(token), used_at=None, expires_at__gt=timezone.now())


def _hash(token: str) -> str:
    # The token has 256 random bits: a plain hash can not be searched.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _new_user(username: str, password: str, *, is_superuser: bool = False, email: str = "") -> User:
    model = get_user_model()
    # The pages are the admin site's, whose door asks for is_staff; what somebody may do there is decided by roles.
    user = model(username=username, email=email, is_staff=True, is_superuser=is_superuser)
    user.full_clean(exclude=["password"])
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from error
    user.set_password(password)
    user.save(force_insert=True)
    return user


def _require_team(by: User) -> None:
    if not may(by, Right.MANAGE_TEAM):
        raise PermissionDenied("Managing the team needs the role Admin over everything.")
