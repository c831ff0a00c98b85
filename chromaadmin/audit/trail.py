"""The audit trail as a page shows it: who may read what, filters, the state of the chain as it was verified last."""

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db.models import Max, Min, Q, QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils import timezone

from chromaadmin.audit import anchor
from chromaadmin.audit.chain import seal
from chromaadmin.audit.models import GENESIS, AuditEntry
from chromaadmin.audit.selectors import Verification, verify
from chromaadmin.audit.services import record
from chromaadmin.listing import Dropdown, address, dropdown
from chromaadmin.templatetags.formats import short_hash, utc

VERIFIED = "audit.verified"
OFFERED = 60
_LONG = 60  # what is longer stands in the detail of the entry
DAYS = (("1", "24 hours"), ("7", "7 days"), ("30", "30 days"), ("365", "365 days"))

User = AbstractBaseUser | AnonymousUser
Readable = Callable[[User], QuerySet[AuditEntry] | None]

_readable: list[Readable] = []


@dataclass(frozen=True, kw_only=True)
class LastVerified:
    """What the last verification found; ``entry`` is where that stands in the trail itself."""

    intact: bool
    entries: int
    problems: tuple[str, ...]
    problem_count: int
    tail: str
    at: datetime
    by: str
    seq: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry as a line of the page; ``differences`` only for the one that is open."""

    entry: AuditEntry
    sentence: str
    when: str
    url: str
    instance_name: str
    instance_url: str
    run_url: str
    differences: list["Difference"] | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One line of an entry's detail; ``was`` is None where there was nothing before."""

    name: str
    was: str | None
    now: str


def readable_by(policy: Readable) -> Readable:
    """Say who may read which entries: None for nobody's business, else the entries. Audit itself knows no roles."""
    _readable[:] = [policy]
    return policy


def entries_for(request: HttpRequest) -> QuerySet[AuditEntry]:
    """The entries that the user of ``request`` may read; raises PermissionDenied without the right to any."""
    found = _readable[0](request.user) if _readable else None
    if found is None:
        raise PermissionDenied("Reading the audit trail needs the role auditor or admin.")
    return found


def filtered(entries: QuerySet[AuditEntry], query: QueryDict) -> QuerySet[AuditEntry]:
    """The entries an address asks for; unknown values find nothing, they are not passed over."""
    for parameter, column in (
        ("instance", "instance_id"),
        ("action", "action"),
        ("actor", "actor_name"),
        ("run", "run_id"),
    ):
        if value := query.get(parameter):
            entries = entries.filter(**{column: value})
    if (days := query.get("days", "")).isdecimal():
        entries = entries.filter(at__gte=timezone.now() - timedelta(days=min(int(days), 36500)))
    if text := query.get("q", "").strip():
        found = Q(actor_name__icontains=text) | Q(object_name__icontains=text) | Q(reason__icontains=text)
        found |= Q(action__icontains=text) | Q(object_id=text) | Q(hash__istartswith=text.replace(" ", ""))
        if text.isascii() and text.isdigit() and len(text) < 19:
            found |= Q(seq=int(text))
        entries = entries.filter(found)
    return entries


def dropdowns(entries: QuerySet[AuditEntry], query: QueryDict) -> tuple[Dropdown, ...]:
    """What the filters offer, from the entries themselves: names stay when their instance or account is gone."""
    return (
        dropdown(query, "instance", instance_names(entries)),
        dropdown(query, "action", _distinct(entries, "action")),
        dropdown(query, "actor", _distinct(entries, "actor_name")),
        dropdown(query, "days", DAYS, label="last", nothing="any time"),
    )


def instance_names(entries: QuerySet[AuditEntry]) -> list[tuple[str, str]]:
    """Id and last known name of every instance the entries tell of."""
    newest = entries.filter(object_kind="instance").exclude(instance_id="").order_by().values("instance_id")
    last = newest.annotate(last=Max("seq")).values("last")
    named = AuditEntry.objects.filter(seq__in=last).order_by("object_name").values_list("instance_id", "object_name")
    return list(named[:OFFERED])


def verify_now(user: User, *, ip: str | None) -> Verification:
    """Walk the whole chain, note its head outside the database, and record what was found."""
    found = verify()
    if found.intact:
        anchor.note()
    record(
        VERIFIED,
        actor=user,
        ip=ip,
        kind="audit",
        object_name="audit trail",
        detail={
            "intact": found.intact,
            "entries": found.entries,
            "head": found.head_hash,
            "problem_count": found.problem_count,
            "problems": [problem.sentence for problem in found.problems[:20]],
            "tail": found.tail,
        },
    )
    return found


def last_verified() -> LastVerified | None:
    """The newest verification whose own seal holds; None when there was none."""
    for entry in AuditEntry.objects.filter(action=VERIFIED).order_by("-seq")[:3]:
        if not _sealed(entry):
            continue
        detail = entry.detail
        return LastVerified(
            intact=bool(detail.get("intact")),
            entries=int(detail.get("entries", 0)),
            problems=tuple(detail.get("problems", ())),
            problem_count=int(detail.get("problem_count", 0)),
            tail=str(detail.get("tail", "")),
            at=entry.at,
            by=entry.actor_name,
            seq=entry.seq,
        )
    return None


def seals_hold(entries: list[AuditEntry]) -> bool:
    """Whether just these entries are what was recorded, each behind the one that stands before it in the trail."""
    before = {
        seq + 1: entry_hash
        for seq, entry_hash in AuditEntry.objects.filter(seq__in=[entry.seq - 1 for entry in entries]).values_list(
            "seq", "hash"
        )
    }
    before.setdefault(1, GENESIS)
    return bool(entries) and all(_sealed(entry) and before.get(entry.seq) == entry.prev_hash for entry in entries)


def summary(entries: QuerySet[AuditEntry]) -> dict[str, Any]:
    """How many entries the user may read, since when, the head of the whole trail, refusals of seven days."""
    head = AuditEntry.objects.order_by("-seq").first()
    first = entries.aggregate(first=Min("at"))["first"]
    week = entries.filter(at__gte=timezone.now() - timedelta(days=7))
    return {
        "count": entries.count(),
        "since_sentence": f"since {utc(first, 'date')}" if first else "none yet",
        "head": head,
        "head_sentence": f"{head.action}, {utc(head.at, 'time')}" if head else "",
        "refused": week.filter(action="run.finished", detail_json__contains='"state":"refused"').count(),
    }


def rows(shown: list[AuditEntry], readable: QuerySet[AuditEntry], query: QueryDict) -> list[Row]:
    """The entries of one page with the names of their instances; ``?open=`` names the one whose detail is shown."""
    names = dict(instance_names(readable))
    opened, today = query.get("open", ""), timezone.now().date()
    found = []
    for entry in shown:
        is_open = str(entry.seq) == opened
        found.append(
            Row(
                entry=entry,
                sentence=sentence(entry),
                when="time" if entry.at.date() == today else "",
                url=address(query, open=None if is_open else entry.seq, **_place(query)),
                instance_name=names.get(entry.instance_id, ""),
                instance_url=reverse("admin:instance", args=[entry.instance_id]) if entry.instance_id else "",
                run_url=reverse("admin:run", args=[entry.run_id]) if entry.run_id else "",
                differences=differences(entry) if is_open else None,
            )
        )
    return found


def _place(query: QueryDict) -> dict[str, str]:
    """The page of the list on which an entry is opened."""
    return {name: str(query[name]) for name in ("after", "before") if name in query}


def sentence(entry: AuditEntry, *, of_its_run: bool = False) -> str:
    """What happened, in one line: the object, what the detail says first, the reason.

    ``of_its_run``: the line stands on the page of the run, which is not named again.
    """
    parts = _of_run(entry, of_its_run) if entry.object_kind == "run" else [_what(entry, entry.detail)]
    if entry.reason:
        parts.append(f"“{entry.reason}”")
    return ", ".join(part for part in parts if part)


def differences(entry: AuditEntry) -> list[Difference]:
    """The detail line by line; ``was_x`` beside ``x``, or ``[was, now]``, become a difference."""
    detail = entry.detail
    before = detail["before"] if isinstance(detail.get("before"), dict) else {}
    after = detail["after"] if isinstance(detail.get("after"), dict) else {}
    rows = [
        Difference(name=name, was=_plain(before.get(name)), now=_plain(value) or "") for name, value in after.items()
    ]
    rows += [Difference(name=name, was=_plain(value), now="") for name, value in before.items() if name not in after]
    for name, value in detail.items():
        if (name in ("before", "after") and isinstance(value, dict)) or (name == "run" and entry.run_id):
            continue  # shown as differences, and as a link
        rows += _lines(name, value)
    return rows


def _lines(name: str, value: object) -> list[Difference]:
    if isinstance(value, dict):
        if set(value) == {"was", "now"}:
            return [Difference(name=name, was=_plain(value["was"]), now=_plain(value["now"]) or "")]
        given = {inner: _plain(one) for inner, one in value.items() if one not in (None, "", [], {})}
        return [Difference(name=f"{name}, {inner}", was=None, now=text or "—") for inner, text in given.items()]
    return [Difference(name=name, was=None, now=_plain(value) or "—")]


def _plain(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(one) or "—" for one in value) or "none"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value)


def _what(entry: AuditEntry, detail: dict[str, Any]) -> str:
    plain = {name: _plain(value) or "" for name, value in detail.items() if not isinstance(value, dict)}
    shown = [f"{name.replace('_', ' ')} {text}" for name, text in plain.items() if text and len(text) < _LONG]
    return ", ".join([entry.object_name, *shown[:3]]) if entry.object_name else ", ".join(shown[:4])


def _of_run(entry: AuditEntry, of_its_run: bool) -> list[str]:
    """The words of an entry about a run, from the keys that its detail has."""
    detail = entry.detail
    parts = [] if of_its_run else [f"{entry.object_name}, run {detail.get('run', '')}"]
    if state := detail.get("state"):
        parts.append(str(state).replace("_", " "))
    if "step" in detail:
        parts.append(f"step {detail['step']} of {detail.get('of', '?')}")
    if plan := detail.get("plan"):
        parts.append(f"plan {short_hash(plan)}")
    if of_its_run and "pid" in detail:
        parts.append(f"worker process {detail['pid']}")
    if (effect := detail.get("effect_on_store")) and of_its_run:
        parts.append(f"effect on the store: {effect}")
    if error := detail.get("error"):
        parts.append(str(error.get("code") if isinstance(error, dict) else error))
    return parts


def _sealed(entry: AuditEntry) -> bool:
    return hmac.compare_digest(seal(vars(entry)), entry.hash)


def _distinct(entries: QuerySet[AuditEntry], column: str) -> list[tuple[str, str]]:
    values = entries.order_by(column).values_list(column, flat=True).distinct()[:OFFERED]
    return [(value, value) for value in values]
