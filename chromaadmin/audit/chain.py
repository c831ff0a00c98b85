"""How an entry is sealed: its canonical bytes and their HMAC."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

# The order is part of the seal; a field may be added at the end only together with a new version number.
SEALED = (
    "seq", "at", "actor_name", "actor_ref", "ip", "action", "object_kind", "object_id", "object_name",
    "instance_id", "run_id", "detail_json", "reason", "prev_hash",
)  # fmt: skip
VERSION = "chromaadmin-audit-1"


def canonical(entry: Mapping[str, Any]) -> bytes:
    """The sealed fields as one byte string: a JSON list, so that no two entries can share it."""
    values = [VERSION]
    for name in SEALED:
        value = entry[name]
        if isinstance(value, datetime):
            value = value.astimezone(UTC).isoformat(timespec="microseconds")
        values.append(value)
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def seal(entry: Mapping[str, Any]) -> str:
    """HMAC-SHA256 of an entry, as 64 hexadecimal digits."""
    return hmac.new(settings.CHROMAADMIN_AUDIT_KEY.encode(), canonical(entry), hashlib.sha256).hexdigest()
