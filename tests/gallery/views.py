"""Sample values for every part of the design system, as the pictures of the design have them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import TemplateDoesNotExist
from django.utils.html import format_html

NAV = [
    {"key": "fleet", "label": "Fleet", "url": "/gallery/fleet/", "icon": "fleet"},
    {"key": "instances", "label": "Instances", "url": "/gallery/instance/", "icon": "instances", "count": "9"},
    {"key": "runs", "label": "Runs", "url": "/gallery/run/", "icon": "runs", "count": "1 live"},
    {"key": "audit", "label": "Audit", "url": "/gallery/audit/", "icon": "audit", "apart": True},
    {"key": "team", "label": "Team", "url": "/gallery/components/", "icon": "team", "apart": True},
]


class Parameters(forms.Form):
    """A form with every kind of field."""

    ef_search = forms.IntegerField(label="ef_search", help_text="Candidates per query. Can change later.")
    max_neighbors = forms.IntegerField(label="max_neighbors (M)", min_value=2)
    space = forms.ChoiceField(label="space", choices=[("cosine", "cosine"), ("l2", "l2"), ("ip", "ip")])
    backup = forms.BooleanField(label="Back up first", required=False, help_text="A new one adds about 6 min.")
    vacuum = forms.BooleanField(label="Vacuum afterwards", required=False)
    reason = forms.CharField(label="Reason", widget=forms.Textarea(attrs={"rows": 2}), required=False)
    source = forms.MultipleChoiceField(
        label="Sources",
        choices=[("slots", "Slots"), ("wal", "WAL")],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )

    def clean_max_neighbors(self) -> int:
        value: int = self.cleaned_data["max_neighbors"]
        return value


def error_text(form: forms.Form) -> forms.Form:
    """Give the sentence of the picture to the field with the small number."""
    form.fields["max_neighbors"].error_messages = {}
    form.is_valid()
    form.errors["max_neighbors"] = form.error_class(["At least 2. Chroma itself uses 16."])
    return form


def _trend(start: float, end: float, phase: float) -> list[float]:
    return [start + (end - start) * i / 23 + (end - start) * 0.06 * math.sin(i * 1.7 + phase) for i in range(24)]


def _fleet(now: datetime) -> list[dict[str, Any]]:
    rows = [
        (
            "rag-prod-eu",
            "critical",
            "production",
            "vec-eu-1",
            format_html("1,847 of 96,204 records in <b>{}</b> have no reachable vector.", "support-tickets"),
            3,
            38.4e9,
            23,
            4812377,
            412008,
            4,
            6,
            "running",
        ),
        (
            "catalog-prod",
            "error",
            "production",
            "vec-eu-2",
            "3,204 of 1,120,450 documents are missing from the full-text index.",
            1,
            21.7e9,
            8,
            1120450,
            1902,
            9,
            11,
            "",
        ),
        (
            "recs-prod",
            "unknown",
            "production",
            "recs.internal:8000",
            "The server has not answered since 02:14; nothing below is newer than that.",
            0,
            54.1e9,
            41,
            6204118,
            None,
            24,
            58,
            "",
        ),
        (
            "search-staging",
            "warning",
            "staging",
            "vec-st-1",
            "1,284,310 consumed WAL entries (2.1 GB) can be cleaned.",
            2,
            17.9e9,
            35,
            1902664,
            1284310,
            48,
            4,
            "",
        ),
        (
            "hr-assistant",
            "warning",
            "production",
            "vec-eu-1",
            "No backup has been proven for 12 days.",
            1,
            3.2e9,
            4,
            208311,
            640,
            288,
            6,
            "",
        ),
        (
            "support-bot",
            "healthy",
            "production",
            "vec-us-1",
            "All 43 checks passed.",
            0,
            9.8e9,
            12,
            1340092,
            312,
            3,
            6,
            "",
        ),
        ("docs-dev", "healthy", "development", "gpu-dev-3", "All 43 checks passed.", 0, 212e6, 3, 18204, 0, 120, 6, ""),
    ]
    names = [
        "name",
        "state",
        "environment",
        "host",
        "sentence",
        "more",
        "size",
        "collections",
        "records",
        "wal",
        "backup",
        "checked",
        "run",
    ]
    out = []
    for index, row in enumerate(rows):
        one = dict(zip(names, row, strict=True))
        one["stale"] = one["state"] == "unknown"
        one["trend"] = _trend(10, 20, index)
        one["backup_at"] = now - timedelta(hours=row[10])
        one["checked_at"] = now - timedelta(minutes=row[11])
        out.append(one)
    return out


def samples() -> dict[str, Any]:
    """Everything the gallery's templates show."""
    now = datetime.now(UTC)
    form = error_text(Parameters({"ef_search": "100", "max_neighbors": "1", "space": "cosine", "backup": "on"}))
    days = [now - timedelta(days=90 - i) for i in range(0, 91, 3)]
    fortnights = [now - timedelta(days=161 - 14.6 * i) for i in range(12)]
    slots: list[float | None] = []
    for i in range(644 + 62):
        share = min(1.0, max(0.0, (i / 640) ** 1.3 + 0.35 * math.sin(i * 12.9898) * (1 - (i / 706) ** 3)))
        slots.append(round(share, 2))
    slots += [None] * (736 - len(slots))
    phase_rows = [
        ("Requested", "done", "operator-1, with a reason", "03:00:58", False),
        ("Claimed", "done", "by worker host-vec-eu-1", 0.2, False),
        ("Checked again", "done", "plan digest 5f0c 91ae is still the same", 1.1, False),
        ("Locked", "done", "the directory, exclusively", "0.0 s", False),
        ("Backed up", "done", "backup of 23:10 accepted as proven", 0.4, False),
        ("Building", "now", "379,738 of 612,480 vectors", 271, False),
        ("Verifying", "todo", "ids, vectors bit by bit, recall", "about 1 min 50 s", True),
        ("Swapping", "todo", "one SQLite commit, 4 rows", "about 2 s", False),
        ("Reading back", "todo", "by a second process", "about 20 s", False),
        ("Reported", "todo", "", "", False),
    ]
    log = [
        ("03:01:00", "claimed by host-vec-eu-1, child pid 88121", ""),
        ("03:01:01", "plan digest 5f0c91ae matches the approved plan", ""),
        ("03:01:02", "read 612,480 live vectors, 425,632 tombstones skipped", ""),
        ("03:02:40", "rate fell to 1,187/s while db backup read from the same disk", "warning"),
        ("03:05:34", "379,738 of 612,480, memory 3.9 GB", ""),
    ]
    return {
        "now": now,
        "earlier": now - timedelta(minutes=6),
        "unbound": Parameters(initial={"space": "cosine"}, prefix="new"),
        "approval": Parameters(prefix="approval"),
        "form": form,
        "fleet": _fleet(now),
        "fleet_states": [("critical", 1), ("error", 1), ("warning", 4), ("unknown", 1), ("healthy", 2)],
        "environments": [
            {"key": "", "label": "All", "count": 9},
            {"key": "production", "label": "Production", "count": 5},
            {"key": "staging", "label": "Staging", "count": 2},
        ],
        "instance_tabs": [
            {"key": "", "label": "Overview"},
            {"key": "collections", "label": "Collections", "count": 23},
            {"key": "wal", "label": "WAL", "count": 412008},
            {"key": "full-text", "label": "Full-text"},
            {"key": "files", "label": "Files", "count": 71},
            {"key": "runs", "label": "Runs", "count": 208},
        ],
        "facts": [
            ("Indexed", "94,357"),
            ("Live", "96,204"),
            ("Readable from the slots", "1,801"),
            ("Only from documents", "46"),
        ],
        "lost_ids": ["tkt-2026-081174", "tkt-2026-081175", "tkt-2026-081180", "tkt-2026-081191"],
        "about": [
            ("Owner", "Legal search team"),
            ("Open in", "run 4821, nothing else"),
            ("File system", "ext4, 118.2 GB free"),
            ("Memory", None),
            ("Your role", "operator"),
        ],
        "days": days,
        "size_series": [
            {"label": "HNSW", "values": [17 + 7 * i / 30 for i in range(31)]},
            {"label": "SQLite", "values": [11.2 + 2 * i / 30 for i in range(31)]},
            {"label": "WAL", "values": [0.6 + 1.1 * i / 30 for i in range(31)]},
        ],
        "fortnights": fortnights,
        "recall_series": [
            {
                "label": "recall@10, left axis",
                "values": [0.991, 0.99, 0.988, 0.984, 0.979, 0.971, 0.962, 0.957, 0.944, 0.933, 0.926, 0.914],
            },
            {
                "label": "tombstone share, right axis",
                "values": [2, 4, 6, 9, 13, 17, 21, 25, 29, 34, 38, 41],
                "axis": "right",
            },
        ],
        "slots": slots,
        "groups": [
            {
                "title": "Read",
                "meaning": "changes no byte of the directory",
                "items": [
                    {"name": "db check", "help": "Run the doctor again", "url": "#a"},
                    {"name": "hnsw recall", "help": "Compare with exact search", "url": "#b"},
                ],
            },
            {
                "title": "Write",
                "meaning": "rebuildable; you approve the plan first; waits for run 4821",
                "items": [
                    {"name": "hnsw rebuild", "help": "New index beside the old, swapped atomically", "url": "#c"},
                    {"name": "fts rebuild", "help": "From the metadata, never from the index", "url": "#d"},
                ],
            },
            {
                "title": "Destructive",
                "meaning": "type the name; a second person where a rule says so",
                "items": [
                    {"name": "wal clean", "help": "Delete consumed entries", "url": "#e"},
                    {
                        "name": "db restore",
                        "help": "Over this instance, from a proven backup",
                        "reason": "You need the role approver on rag-prod-eu.",
                    },
                ],
            },
        ],
        "plan": SimpleNamespace(
            headline="The index of legal-contracts-v3 is rebuilt from 612,480 live vectors; 425,632 tombstones go, "
            "and no record changes.",
            estimate=SimpleNamespace(
                rows=4,
                written_bytes=2_710_000_000,
                needed_bytes=2_980_000_000,
                free_bytes=118_200_000_000,
                freed_now_bytes=None,
                freed_at_expiry_bytes=1_780_000_000,
                shortest_s=540,
                longest_s=720,
            ),
            changes=[
                SimpleNamespace(what=w, now=n, after=a)
                for w, n, a in [
                    ("Index on disk", "4.49 GB", "2.71 GB"),
                    ("Slots", "1,038,112", "612,480"),
                    ("Tombstones", "425,632", "0"),
                    ("max_neighbors", "16", "24"),
                    ("Records", "612,480", "unchanged"),
                    ("Old index", None, "in trash"),
                ]
            ],
            checks=[
                SimpleNamespace(
                    state="passed", sentence="118.2 GB free on /srv, 2.98 GB needed, on the same file system", code=""
                ),
                SimpleNamespace(
                    state="passed", sentence="The schema is exactly Chroma 1.5; no triggers, no views", code=""
                ),
                SimpleNamespace(
                    state="attest", sentence="Other hosts and containers cannot be seen from here", code=""
                ),
                SimpleNamespace(
                    state="refused", sentence="chroma run, pid 2214, has it open for writing", code="in-use"
                ),
            ],
        ),
        "commands": [
            (
                "Command line",
                "python -m ops hnsw rebuild /srv/chroma/rag-prod-eu \\\n    --tenant legal --database eu "
                "--collection legal-contracts-v3 \\\n    --m 24 --ef-construction 200 --backup",
            ),
            ("Audited command", "python manage.py run hnsw_rebuild rag-prod-eu --collection legal-contracts-v3"),
        ],
        "phases": [dict(zip(("label", "state", "detail", "time", "commit"), row, strict=True)) for row in phase_rows],
        "log": [dict(zip(("at", "text", "level"), row, strict=True)) for row in log],
        "rate": [10, 80, 110, 120, 130, 128, 133, 130, 131, 134, 130, 131],
        "hostile": "a\u202egpj.exe\x1b[31m<script>alert(1)</script>\udce9\n",
        "long_id": "7c1e9a04-52f3-4b6e-9d0b-e1f6a2c38b57",
        "document": (
            "Neither party's aggregate liability under this Agreement shall exceed the fees paid in the twelve months "
            "preceding the event giving rise to the claim.\n\nThis clause does not limit liability for death, personal "
            "injury, or any other loss that cannot be excluded by law."
        ),
    }


def page(request: HttpRequest, name: str) -> HttpResponse:
    """One page of the gallery."""
    context = {
        **samples(),
        "nav": NAV,
        "nav_foot": ["3 of 3 workers alive"],
        "search_url": "/gallery/components/",
        "user": SimpleNamespace(is_authenticated=True, get_username=lambda: "operator-1"),
        "user_role": "operator",
        "environment": "" if name in {"components", "fleet", "audit", "empty"} else "production",
    }
    try:
        return render(request, f"gallery/{name}.html", context)
    except TemplateDoesNotExist as gone:
        raise Http404 from gone


def error(request: HttpRequest, code: int) -> HttpResponse:
    """An error page as Django would render it."""
    return render(request, f"{code}.html", {"exception": "", "request_path": request.path}, status=code)


def setup(request: HttpRequest) -> HttpResponse:
    """The page of the first administrator."""
    return render(request, "setup/first_administrator.html", {"form": UserCreationForm()})
