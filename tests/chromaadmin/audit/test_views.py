"""The page of the audit trail: who reads what, filters, detail, verification, and files that no spreadsheet runs."""

import csv
import io
import json

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.audit.export import cell
from chromaadmin.audit.models import AuditEntry
from chromaadmin.audit.services import record
from chromaadmin.instances.models import Instance
from chromaadmin.instances.services import register_directory

pytestmark = pytest.mark.django_db

AUDIT = "admin:audit"
PAYLOADS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "  =1", "\u00a0=1", "\ufeff=1",
    "＝1", "|calc", '=HYPERLINK("http://x","y")',
]  # fmt: skip
HOSTILE = "a\u202eb<script>alert(1)</script>\x07"


@pytest.fixture
def admin():
    return User.objects.create_superuser("admin", password="x")


@pytest.fixture
def browser(admin):
    client = Client()
    client.force_login(admin)
    return client


def signed_in(name, role=None, instance=None):
    user = User.objects.create_user(name, is_staff=True)
    if role:
        scope = Scope.INSTANCE if instance else Scope.EVERYTHING
        RoleGrant.objects.create(user=user, role=role, scope=scope, instance_id=instance.pk if instance else None)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def two(make_store):
    return [register_directory(name, make_store(), "staging") for name in ("orders", "papers")]


class TestWhoReads:
    @pytest.mark.parametrize("role", [None, Role.VIEWER, Role.OPERATOR, Role.APPROVER])
    def test_not_without_the_right(self, role):
        client = signed_in("somebody", role)
        assert client.get(reverse(AUDIT)).status_code == 403
        assert client.post(reverse("admin:audit_verify")).status_code == 403
        assert client.get(reverse("admin:audit_export", args=["csv"])).status_code == 403
        assert not AuditEntry.objects.filter(action="audit.verified").exists()

    def test_an_auditor_of_everything(self, two):
        page = signed_in("auditor", Role.AUDITOR).get(reverse(AUDIT))
        assert page.context["total"] == AuditEntry.objects.count() == 2

    def test_an_auditor_of_one_instance_reads_its_entries_only(self, two):
        client = signed_in("auditor", Role.AUDITOR, two[0])
        page = client.get(reverse(AUDIT))
        assert [row.instance_name for row in page.context["rows"]] == ["orders"]
        assert "papers" not in page.content.decode()
        exported = b"".join(client.get(reverse("admin:audit_export", args=["json"])).streaming_content).decode()
        assert "orders" in exported
        assert "papers" not in exported

    def test_is_asked_for_a_login(self, client):
        assert client.get(reverse(AUDIT)).status_code == 302


class TestEntries:
    def test_newest_first_with_filters_and_search(self, browser, admin, two):
        for number in range(60):
            record("thing.done", actor=admin, object_name=f"thing {number}", reason=f"OPS-{number}")

        def shown(**query):
            return browser.get(reverse(AUDIT), query).context

        first = shown()
        assert [row.entry.seq for row in first["rows"]] == list(range(62, 12, -1))
        assert [row.entry.seq for row in shown(after=first["listed"].older)["rows"]] == list(range(12, 0, -1))
        assert shown(action="thing.done")["total"] == 60
        assert shown(actor="admin")["total"] == 60
        assert shown(instance=str(two[0].pk))["total"] == 1
        assert shown(q="OPS-59")["total"] == 1
        assert shown(q="thing 7")["total"] == 1
        assert shown(days="1")["total"] == 62
        assert shown(action="no.such")["total"] == 0
        assert shown(q=AuditEntry.objects.get(seq=5).hash[:8])["total"] == 1

    def test_an_open_one_shows_its_difference(self, browser):
        record("schedule.changed", detail={"before": {"cron": "10 */12"}, "after": {"cron": "10 */6"}, "why": "policy"})
        text = browser.get(reverse(AUDIT), {"open": "1"}).content.decode()
        assert '<s class="mono muted">10 */12</s> <b class="mono">10 */6</b>' in text
        assert "policy" in text
        assert AuditEntry.objects.get().hash in text

    def test_untrusted_text_is_shown_as_escapes(self, browser):
        record("thing.done", actor_name=HOSTILE, object_name=HOSTILE, reason=HOSTILE, detail={HOSTILE: HOSTILE})
        text = browser.get(reverse(AUDIT), {"open": "1"}).content.decode()
        assert "<script>alert" not in text
        assert "\u202e" not in text.partition("<tbody")[2].replace('value="', "")
        assert text.count("a\\u202eb&lt;script&gt;") >= 4


class TestVerification:
    def test_is_unknown_until_somebody_asked(self, browser):
        assert "Not verified" in browser.get(reverse(AUDIT)).content.decode()

    def test_is_kept_in_the_trail(self, browser, two):
        page = browser.post(reverse("admin:audit_verify"), follow=True)
        verified = page.context["verified"]
        assert (verified.intact, verified.entries, verified.by) == (True, 2, "admin")
        assert "Intact" in page.content.decode()
        assert AuditEntry.objects.first().action == "audit.verified"

    def test_tells_of_an_entry_that_was_changed(self, browser, two):
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER audit_entry_update")
            cursor.execute("UPDATE audit_auditentry SET actor_name = 'nobody' WHERE seq = 1")
        page = browser.post(reverse("admin:audit_verify"), follow=True)
        text = page.content.decode()
        assert not page.context["verified"].intact
        assert "Broken" in text
        assert "Entry 1 is not what was recorded." in text

    def test_a_forged_verification_is_not_believed(self, browser, two):
        browser.post(reverse("admin:audit_verify"))
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER audit_entry_update")
            cursor.execute(
                "UPDATE audit_auditentry SET detail_json = replace(detail_json, '\"entries\":2', '\"entries\":9')"
            )
        assert browser.get(reverse(AUDIT)).context["verified"] is None

    def test_is_by_post_with_a_token(self, admin):
        assert signed_in("auditor", Role.AUDITOR).get(reverse("admin:audit_verify")).status_code == 405
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin)
        assert strict.post(reverse("admin:audit_verify")).status_code == 403


class TestExport:
    def rows(self, browser, **query):
        answer = browser.get(reverse("admin:audit_export", args=["csv"]), query)
        assert answer.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode(), newline="")))

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_no_cell_begins_a_formula(self, browser, payload):
        record("thing.done", actor_name=payload, object_name=payload, reason=payload)
        (row,) = self.rows(browser)
        for name in ("actor_name", "object_name", "reason"):
            assert row[name] == f"'{payload}"

    @pytest.mark.parametrize("harmless", ["", "a=b", "2026-11-20", 'x, "y"\nz', "'quoted"])
    def test_other_text_stays_as_it_is(self, harmless):
        assert cell(harmless) == harmless

    def test_filters_hold(self, browser, admin):
        record("thing.done", actor=admin)
        record("other.done", actor=admin)
        assert [row["action"] for row in self.rows(browser, action="other.done")] == ["other.done"]

    def test_json_lines_hold_every_field(self, browser):
        entry = record("thing.done", detail={"a": [1, None]}, reason=HOSTILE.replace("\x07", ""))
        answer = browser.get(reverse("admin:audit_export", args=["json"]))
        (line,) = b"".join(answer.streaming_content).decode().splitlines()
        found = json.loads(line)
        assert (found["seq"], found["detail"], found["hash"]) == (1, {"a": [1, None]}, entry.hash)

    def test_other_kinds_are_not_found(self, browser):
        assert browser.get(reverse("admin:audit_export", args=["xlsx"])).status_code == 404


def test_looking_writes_nothing(browser, two):
    before = list(AuditEntry.objects.values_list("hash", flat=True)), Instance.objects.count()
    browser.get(reverse(AUDIT), {"open": "1"})
    b"".join(browser.get(reverse("admin:audit_export", args=["csv"])).streaming_content)
    assert before == (list(AuditEntry.objects.values_list("hash", flat=True)), Instance.objects.count())
