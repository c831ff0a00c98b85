"""Writing the audit trail: ``record()`` appends one entry inside the caller's transaction."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import connection, transaction
from django.utils import timezone

from chromaadmin.audit.chain import seal
from chromaadmin.audit.models import GENESIS, AuditEntry

# Any number, the same in every process: the advisory lock that orders writers on PostgreSQL.
_LOCK = 0x43_41_55_44
_SECRET_WORDS = ("password", "secret", "token", "authorization", "cookie", "approval")


def record(
    action: str,
    *,
    actor: AbstractBaseUser | AnonymousUser | None = None,
    actor_name: str = "",
    ip: str | None = None,
    kind: str = "",
    object_id: object = "",
    object_name: str = "",
    instance_id: object = "",
    run_id: object = "",
    detail: Mapping[str, Any] | None = None,
    reason: str = "",
) -> AuditEntry:
    """Append one entry and return it; it is committed or rolled back with what it tells of.

    ``action`` is ``subject.verb`` (``run.requested``). ``actor_name`` defaults to the user's name, and to ``system``
    without a user. ``detail`` must be JSON and may not have a key that sounds like a secret (ValueError).
    """
    with transaction.atomic():
        serialise()
        head = AuditEntry.objects.order_by("-seq").values_list("seq", "hash").first()
        seq, prev_hash = (head[0] + 1, head[1]) if head else (1, GENESIS)
        user = actor if isinstance(actor, AbstractBaseUser) else None
        entry = AuditEntry(
            seq=seq,
            # The order is that of seq; a clock that was set back is recorded as it is.
            at=timezone.now(),
            actor=user,  # type: ignore[misc]  # the configured user model
            actor_name=_text(actor_name or (user.get_username() if user else "system"), 200),
            actor_ref=str(user.pk) if user else "",
            ip=_text(ip or "", 64),
            action=_text(action, 80),
            object_kind=_text(kind, 40),
            object_id=_text(str(object_id), 80),
            object_name=_text(object_name, 300),
            instance_id=_text(str(instance_id or ""), 40),
            run_id=_text(str(run_id or ""), 40),
            detail_json=_detail(detail or {}),
            reason=_text(reason, 4000),
            prev_hash=prev_hash,
        )
        entry.hash = seal(vars(entry))
        entry.save(force_insert=True)
    return entry


def serialise() -> None:
    """Let one transaction at a time append: the order of the chain is the order of commits.

    On SQLite every transaction is IMMEDIATE and this does nothing; on PostgreSQL it is an advisory lock until COMMIT.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _text(value: str, limit: int) -> str:
    """Text every database can store, cut to its column: NUL and lone surrogates are written as escapes."""
    safe = value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def _detail(detail: Mapping[str, Any]) -> str:
    _refuse_secrets(detail)
    return json.dumps(detail, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_secrets(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if any(word in str(key).lower() for word in _SECRET_WORDS):
                raise ValueError(f"{key} does not belong into the audit trail")
            _refuse_secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_secrets(item)
