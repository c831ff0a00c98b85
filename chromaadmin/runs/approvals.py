"""Approvals: a signed statement that one person saw one plan of one operation on one instance; 30 minutes, once.

Nothing is stored when a plan is shown. The approval carries the plan itself (signed, compressed), because what was
approved must not be read anew from a store that goes on changing.
"""

import json
import secrets
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.core import signing
from django.utils.crypto import salted_hmac

from chromaadmin.instances.models import Instance
from chromaadmin.runs.errors import ApprovalInvalid
from chromaadmin.runs.models import MaintenanceRun
from ops.codec import DecodeError, from_json, to_json
from ops.operation import Operation
from ops.plan import Plan

LIFE = timedelta(minutes=30)
_SALT = "chromaadmin.runs.approval"


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A verified approval."""

    plan: Plan
    nonce: str


def sign(user: User, instance: Instance, operation: Operation[object], plan: Plan) -> str:
    """The approval of ``plan`` as text for a form's hidden field."""
    return signing.dumps(
        {
            "user": str(user.pk),
            "instance": str(instance.pk),
            "operation": operation.name,
            "parameters": operation.canonical(),
            "digest": plan.digest,
            "plan": to_json(plan),
            "nonce": secrets.token_urlsafe(24),
        },
        salt=_SALT,
        compress=True,
    )


def verify(text: str, user: User, instance: Instance, operation: Operation[object]) -> Approval:
    """The approval in ``text`` when it is ours, fresh, and of exactly this person, instance and operation value.

    Raises ApprovalInvalid that says what is wrong. That it was not used before is the caller's to find out, in the
    transaction that uses it.
    """
    try:
        claims = signing.loads(text, salt=_SALT, max_age=LIFE)
    except signing.SignatureExpired:
        raise ApprovalInvalid(why="it is older than 30 minutes") from None
    except signing.BadSignature:
        raise ApprovalInvalid(why="it was not signed here") from None
    for name, value, why in (
        ("user", str(user.pk), "it was given to somebody else"),
        ("instance", str(instance.pk), "it is for another instance"),
        ("operation", operation.name, "it is for another operation"),
        ("parameters", operation.canonical(), "the parameters are not those of the plan"),
    ):
        if claims.get(name) != value:
            raise ApprovalInvalid(why=why)
    try:
        plan = from_json(Plan, claims["plan"], "plan")
    except DecodeError:
        # Signed by an older version of the program.
        raise ApprovalInvalid(why="its plan was made by another version of Chroma Admin") from None
    if plan.digest != claims["digest"]:
        raise ApprovalInvalid(why="its plan was made by another version of Chroma Admin")
    return Approval(plan=plan, nonce=claims["nonce"])


def seal(run: MaintenanceRun) -> str:
    """HMAC over what a run was asked to do: a row that was written or changed by hand has none that holds."""
    asked = json.dumps(
        [
            str(run.pk), run.operation, run.effect, run.parameters, str(run.instance_id), run.instance_path,
            str(run.requested_by_id), run.requested_by_name, run.door, run.options, run.plan, run.scope_digest,
            run.approval, run.queue, str(run.undo_of_id),
        ],
        sort_keys=True, separators=(",", ":"),
    )  # fmt: skip
    return salted_hmac(
        "chromaadmin.runs.seal", asked, secret=settings.CHROMAADMIN_AUDIT_KEY, algorithm="sha256"
    ).hexdigest()
