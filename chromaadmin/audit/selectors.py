"""Reading the audit trail: entries for pages, and the proof that nobody changed them."""

import hmac
import time
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from chromaadmin.audit import anchor
from chromaadmin.audit.chain import SEALED, seal
from chromaadmin.audit.models import GENESIS, AuditEntry

PROBLEMS_SHOWN = 100
TRIGGERS = ("audit_entry_insert", "audit_entry_update", "audit_entry_actor", "audit_entry_delete")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One place where the chain does not hold.

    ``kind`` is edited, missing, order, tail or unguarded; ``seq`` the entry where it shows (0 for the whole trail).
    """

    seq: int
    kind: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The answer of ``verify()``. ``tail`` says how far a cut tail could have been noticed."""

    intact: bool
    entries: int
    head_seq: int
    head_hash: str
    head_at: datetime | None
    problems: tuple[Problem, ...]
    problem_count: int
    guarded: bool
    tail: str
    duration_s: float


def entries() -> QuerySet[AuditEntry]:
    """All entries, newest first."""
    return AuditEntry.objects.select_related("actor")


def entries_of_run(run_id: object) -> QuerySet[AuditEntry]:
    """The entries of one run in the order they happened."""
    return AuditEntry.objects.filter(run_id=str(run_id)).order_by("seq")


def entries_of_instance(instance_id: object) -> QuerySet[AuditEntry]:
    """The entries of one instance, newest first."""
    return AuditEntry.objects.filter(instance_id=str(instance_id))


def verify() -> Verification:
    """Walk the whole chain, in constant memory.

    Finds every edited, deleted, inserted and reordered entry. An entry cut off at the end leaves a shorter chain that
    is whole in itself: that shows against an anchor only (see ``anchor``), and ``tail`` says what was there to compare.
    """
    began = time.monotonic()
    problems: list[Problem] = []
    count = expected = 0
    previous = GENESIS
    anchors = anchor.read()
    last_at: datetime | None = None

    rows = AuditEntry.objects.order_by("seq").values(*SEALED, "hash")
    for row in rows.iterator(chunk_size=2000):
        count += 1
        expected += 1
        seq = row["seq"]
        if seq != expected:
            gap = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            problems.append(Problem(seq=seq, kind="missing", sentence=f"Before entry {seq}, {gap} missing."))
            expected = seq
        elif row["prev_hash"] != previous:
            problems.append(
                Problem(seq=seq, kind="order", sentence=f"Entry {seq} does not follow the entry that stands before it.")
            )
        if not hmac.compare_digest(seal(row), row["hash"]):
            problems.append(Problem(seq=seq, kind="edited", sentence=f"Entry {seq} is not what was recorded."))
        known = anchors.get(seq)
        if known is not None and known != row["hash"]:
            problems.append(
                Problem(
                    seq=seq, kind="edited", sentence=f"Entry {seq} is another one than was noted outside the database."
                )
            )
        previous, last_at = row["hash"], row["at"]

    noted = max(anchors, default=0)
    if noted > expected:
        problems.append(
            Problem(
                seq=expected,
                kind="tail",
                sentence=f"The trail ends at entry {expected}, but entry {noted} was noted outside the database.",
            )
        )
    guarded = triggers_present()
    if not guarded:
        problems.append(
            Problem(seq=0, kind="unguarded", sentence="The triggers that refuse changes are missing from the database.")
        )
    return Verification(
        intact=not problems,
        entries=count,
        head_seq=expected,
        head_hash=previous if count else "",
        head_at=last_at,
        problems=tuple(problems[:PROBLEMS_SHOWN]),
        problem_count=len(problems),
        guarded=guarded,
        tail=_tail(noted, expected),
        duration_s=round(time.monotonic() - began, 3),
    )


def triggers_present() -> bool:
    """Whether the database still refuses changes of entries by itself."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_auditentry'")
        else:
            cursor.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit_auditentry'::regclass"
                " AND NOT tgisinternal AND tgenabled <> 'D'"
            )
        present = {name for (name,) in cursor.fetchall()}
    return set(TRIGGERS) <= present


def _tail(noted: int, head: int) -> str:
    place = settings.CHROMAADMIN_HOME / anchor.NAME
    if not noted:
        return "A cut tail can not be told: no entry has been noted outside the database yet."
    return (
        f"Entry {noted} was noted in {place}, outside the database but on this host; entries after it"
        f" ({max(0, head - noted)}) could be cut off unnoticed, and so could all by someone who changes that file too."
        " An anchor off this host is not set up."
    )
