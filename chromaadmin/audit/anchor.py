"""The head of the trail, noted outside the database, so that a cut tail shows.

A file in the data directory, one line per note, each sealed with the audit key. It stops someone who can edit the
database and nothing else; against someone with the files as well only a copy off the host helps.
"""

import hashlib
import hmac
import json
import os
from pathlib import Path

from django.conf import settings

from chromaadmin.audit.models import AuditEntry

NAME = "audit.anchors"


def note() -> int:
    """Append the present head when it is new; returns its number, 0 for an empty trail."""
    head = AuditEntry.objects.order_by("-seq").values_list("seq", "hash").first()
    if head is None:
        return 0
    seq, entry_hash = head
    known = read()
    # A trail that is shorter than what was noted is evidence: nothing may be noted over it.
    if seq > max(known, default=0):
        line = json.dumps({"seq": seq, "hash": entry_hash, "seal": _seal(seq, entry_hash)}) + "\n"
        descriptor = os.open(_file(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return int(seq)


def read() -> dict[int, str]:
    """Number to hash of every note whose seal holds; torn and foreign lines are passed over."""
    try:
        text = _file().read_text("ascii", "replace")
    except FileNotFoundError:
        return {}
    found: dict[int, str] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            seq, entry_hash, seal = int(entry["seq"]), str(entry["hash"]), str(entry["seal"])
        except (ValueError, KeyError, TypeError):
            continue
        if hmac.compare_digest(seal, _seal(seq, entry_hash)):
            found[seq] = entry_hash
    return found


def _file() -> Path:
    return Path(settings.CHROMAADMIN_HOME) / NAME


def _seal(seq: int, entry_hash: str) -> str:
    message = f"chromaadmin-audit-anchor-1:{seq}:{entry_hash}".encode()
    return hmac.new(settings.CHROMAADMIN_AUDIT_KEY.encode(), message, hashlib.sha256).hexdigest()
