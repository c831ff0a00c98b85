"""Pages of runs in a test client: forms, plans, approvals, rights, the list, one run; every write is a POST."""

import json
import re
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from chromaadmin.accounts.models import Role
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances.models import Instance
from chromaadmin.instances.services import register_directory
from chromaadmin.runs import engine, folder
from chromaadmin.runs.models import MaintenanceRun, State
from chromaadmin.runs.services import request_run

pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = "a\u202eb<script>alert(1)</script>\x07"


def address(name, *arguments):
    return reverse(f"admin:{name}", args=arguments)


def form_address(instance, operation="hnsw_rebuild"):
    return address("operation", instance.pk, operation)


def hidden(page, name):
    found = re.search(rf'name="approve-{name}" value="([^"]*)"', page.content.decode())
    return unescape(found[1]) if found else None


def plan_page(client, instance, **parameters):
    return client.post(form_address(instance), {"collection": "docs", "m": "24"} | parameters)


def approve(client, instance, page, **answers):
    sent = {"approve-parameters": hidden(page, "parameters"), "approve-approval": hidden(page, "approval")}
    sent |= {f"approve-{name}": value for name, value in ({"attest_unused": "on"} | answers).items()}
    return client.post(address("operation_approve", instance.pk, "hnsw_rebuild"), sent)


@pytest.fixture
def admin_client(admin):
    client = Client()
    client.force_login(admin)
    return client


@pytest.fixture
def production(instance):
    Instance.objects.filter(pk=instance.pk).update(environment="production")
    instance.refresh_from_db()
    return instance


def digest(path):
    return {one: (one.stat().st_mtime_ns, one.read_bytes()) for one in sorted(path.rglob("*")) if one.is_file()}


class TestForm:
    def test_is_filled_from_the_address(self, admin_client, instance):
        page = admin_client.get(form_address(instance), {"m": "32", "collection": "docs"})
        assert page.status_code == 200
        assert page.context["form"]["m"].value() == "32"
        assert "Make the plan…" in page.content.decode()

    def test_offers_the_collections_of_the_store_and_what_holds_now(self, admin_client, instance):
        form = admin_client.get(form_address(instance)).context["form"]
        (_, (docs, label)) = form.fields["collection_id"].choices
        assert label == "docs  ·  default_tenant / default_database"
        form = admin_client.get(form_address(instance), {"collection_id": docs}).context["form"]
        assert form.current["m"] == "16"
        assert form.about == "400 records, 0 tombstones"

    def test_tells_what_stands_in_the_way_of_reading_the_store(self, admin_client, instance, store):
        store.rename(store.with_name("moved"))
        page = admin_client.get(form_address(instance))
        assert page.status_code == 200
        assert page.context["asking"].error.code == "MISSING"
        assert "MISSING" in page.content.decode()

    def test_an_unknown_operation_is_not_found(self, admin_client, instance):
        assert admin_client.get(form_address(instance, "no_such")).status_code == 404

    def test_an_instance_of_others_is_not_found(self, person, instance, make_store):
        mine = register_directory("mine", make_store(), "staging")
        client = Client()
        client.force_login(person("o", Role.OPERATOR, instance=mine))
        assert client.get(form_address(mine)).status_code == 200
        for method in (client.get, client.post):
            assert method(form_address(instance)).status_code == 404
        assert client.post(address("operation_approve", instance.pk, "hnsw_rebuild")).status_code == 404

    def test_says_why_somebody_may_not(self, person, instance):
        client = Client()
        client.force_login(person("v", Role.VIEWER, instance=instance))
        page = client.get(form_address(instance))
        assert page.status_code == 200
        assert "needs a role you do not have there" in page.content.decode()
        assert "Make the plan" not in page.content.decode()
        posted = plan_page(client, instance)
        assert posted.context["asking"].plan is None
        assert posted.context["asking"].error.code == "NOT_ALLOWED"


class TestPlan:
    def test_is_shown_and_stores_nothing(self, admin_client, instance, store):
        before = digest(store)
        page = plan_page(admin_client, instance)
        text = page.content.decode()
        assert page.status_code == 200
        assert "The index of docs is rebuilt from" in text
        assert "nothing has changed yet" in text
        assert re.search(r"max_neighbors</th>\s*<td[^>]*>16</td>\s*<td[^>]*>24</td>", text)
        assert "python -m ops hnsw rebuild" in text
        assert "manage.py run_operation hnsw rebuild orders" in text
        assert re.search(r'<a class="btn" href="[^"]*" autofocus[^>]*>\s*Cancel', text), "Cancel has the focus"
        assert not MaintenanceRun.objects.exists()
        assert not AuditEntry.objects.filter(action__startswith="run.").exists()
        assert digest(store) == before

    def test_bad_parameters_stand_at_their_fields(self, admin_client, instance):
        page = admin_client.post(form_address(instance), {"m": "1", "ef_construction": "x"})
        errors = page.context["form"].errors
        assert set(errors) >= {"m", "ef_construction"}
        assert "below the least value" in str(errors["m"])
        assert page.context["asking"].plan is None

    def test_an_error_of_the_store_is_a_note_with_code_and_hint(self, admin_client, instance):
        page = plan_page(admin_client, instance, collection="nothing")
        assert page.status_code == 422
        text = page.content.decode()
        assert "COLLECTION_NOT_FOUND" in text
        assert "No collection of this store is called nothing." in text
        assert "Traceback" not in text

    def test_hostile_parameters_are_shown_as_escapes(self, admin_client, instance):
        text = plan_page(admin_client, instance, collection=HOSTILE).content.decode()
        assert "<script>alert" not in text
        # What was typed stands in its field as it was typed; what the page says of it shows every character.
        assert "a\\u202eb&lt;script&gt;" in text


class TestApproval:
    def test_makes_a_run(self, admin_client, instance):
        answer = approve(admin_client, instance, plan_page(admin_client, instance), reason="OPS-1")
        run = MaintenanceRun.objects.get()
        assert answer.url == address("run", run.pk)
        assert (run.state, run.reason, run.parameters["m"], run.requested_by_name) == (
            State.QUEUED,
            "OPS-1",
            24,
            "admin",
        )
        assert AuditEntry.objects.get(action="run.requested").ip == "127.0.0.1"

    def test_a_double_click_makes_one(self, admin_client, instance):
        page = plan_page(admin_client, instance)
        approve(admin_client, instance, page)
        second = approve(admin_client, instance, page)
        assert MaintenanceRun.objects.count() == 1
        assert second.context["asking"].error.code == "APPROVAL_INVALID"
        assert "it was used already" in second.content.decode()

    def test_production_wants_name_and_reason(self, admin_client, production):
        page = plan_page(admin_client, production)
        form = page.context["asking"].approval
        assert form.asks_name
        wrong = approve(admin_client, production, page, typed_name="order", reason="OPS-1")
        assert not MaintenanceRun.objects.exists()
        assert "typed exactly" in str(wrong.context["asking"].approval.errors["typed_name"])
        assert wrong.context["asking"].approval["reason"].value() == "OPS-1", "what was right is kept"
        silent = approve(admin_client, production, wrong, typed_name="orders", reason="")
        assert "needs a reason" in str(silent.context["asking"].approval.errors["reason"])
        assert approve(admin_client, production, silent, typed_name="orders", reason="OPS-1").status_code == 302
        assert MaintenanceRun.objects.get().reason == "OPS-1"

    def test_only_of_the_plan_that_was_shown(self, admin_client, instance):
        page = plan_page(admin_client, instance)
        sent = {
            "approve-parameters": hidden(page, "parameters").replace('"m":24', '"m":48'),
            "approve-approval": hidden(page, "approval"), "approve-attest_unused": "on",
        }  # fmt: skip
        answer = admin_client.post(address("operation_approve", instance.pk, "hnsw_rebuild"), sent)
        assert answer.context["asking"].error.code == "APPROVAL_INVALID"
        assert not MaintenanceRun.objects.exists()

    @pytest.mark.parametrize("parameters", ["", "no json", "[]", '{"m": 1}', '{"no_such": 1}', '{"m": "\\u0000"}'])
    def test_what_was_changed_on_its_way_is_told(self, admin_client, instance, parameters):
        page = plan_page(admin_client, instance)
        sent = {"approve-parameters": parameters, "approve-approval": hidden(page, "approval")}
        answer = admin_client.post(address("operation_approve", instance.pk, "hnsw_rebuild"), sent)
        assert answer.status_code == 422
        assert not MaintenanceRun.objects.exists()

    def test_of_somebody_else_is_worth_nothing(self, admin_client, person, instance):
        page = plan_page(admin_client, instance)
        other = Client()
        other.force_login(person("o", Role.OPERATOR, instance=instance))
        assert approve(other, instance, page).context["asking"].error.code == "APPROVAL_INVALID"

    def test_is_by_post_with_a_token(self, admin, instance):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(admin)
        for url in (form_address(instance), address("operation_approve", instance.pk, "hnsw_rebuild")):
            assert strict.post(url, {"collection": "docs"}).status_code == 403
        assert strict.get(address("operation_approve", instance.pk, "hnsw_rebuild")).status_code == 405


class TestReads:
    def test_run_at_once(self, admin_client, instance):
        page = admin_client.get(form_address(instance, "db_info"))
        assert "Reads only; it starts at once." in page.content.decode()
        answer = admin_client.post(form_address(instance, "db_info"), {})
        run = MaintenanceRun.objects.get()
        assert answer.url == address("run", run.pk)
        assert (run.effect, run.plan) == ("read", None)


@pytest.fixture
def done(admin, instance, info):
    """A run that has ended, with result, log and audit entries: what the worker does, in this process."""
    run = request_run(admin, instance, info, reason="look <b>here</b>")
    engine.execute(str(run.pk))
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED, run.error
    return run


class TestOneRun:
    def test_waiting(self, admin_client, admin, instance, info):
        run = request_run(admin, instance, info)
        page = admin_client.get(address("run", run.pk))
        text = page.content.decode()
        assert f'hx-get="{address("run_live", run.pk)}"' in text
        assert "Nothing has been started yet." in text
        assert "Cancel run…" in text
        live = admin_client.get(address("run_live", run.pk), headers={"HX-Request": "true"})
        assert 'id="run-live"' in live.content.decode()
        assert 'id="run-phases" hx-swap-oob="true"' in live.content.decode()
        unchanged = admin_client.get(address("run_live", run.pk), {"log": page.context["log_mark"]})
        assert unchanged.status_code == 204, "a log that has not grown is not drawn anew"

    def test_before_and_after_the_commit_point(self, admin_client, admin, instance, rebuild, approved):
        run = approved(admin, instance, rebuild)
        MaintenanceRun.objects.filter(pk=run.pk).update(state=State.RUNNING, started_at=run.requested_at)
        assert "Nothing visible has changed yet." in admin_client.get(address("run", run.pk)).content.decode()
        MaintenanceRun.objects.filter(pk=run.pk).update(allowed_at=run.requested_at)
        after = admin_client.get(address("run", run.pk)).content.decode()
        assert "Nothing visible has changed yet." not in after
        assert "The commit point is passed." in after

    def test_finished(self, admin_client, done):
        page = admin_client.get(address("run", done.pk))
        text = page.content.decode()
        assert done.report["headline"] in unescape(text)
        assert "look &lt;b&gt;here&lt;/b&gt;" in text
        assert "hx-get" not in text.partition("<main")[2], "a finished run asks for nothing any more"
        assert page.context["chain_holds"]
        assert "Chain intact" in text
        assert [row["entry"].action for row in page.context["entry_rows"]] == [
            "run.requested",
            "run.started",
            "run.finished",
        ]
        assert admin_client.get(address("run_live", done.pk)).headers["HX-Refresh"] == "true"

    def test_files(self, admin_client, done):
        result = admin_client.get(address("run_file", done.pk, "result.json"))
        assert result.headers["Content-Disposition"] == f'attachment; filename="run-{done.number}-result.json"'
        assert result.headers["X-Content-Type-Options"] == "nosniff"
        assert result.json() == (done.result or folder.read_json(done.pk, "result.json"))
        log = admin_client.get(address("run_log", done.pk))
        assert "claimed by worker" in b"".join(log.streaming_content).decode()
        assert admin_client.get(address("run_file", done.pk, "plan.json")).status_code == 404, "a READ has no plan"
        for name in ("log.jsonl", "seal", "..%2F..%2Faudit.key", "result.json.bak"):
            assert admin_client.get(f"/runs/{done.pk}/files/{name}").status_code == 404

    def test_of_others_is_not_found(self, person, done, make_store):
        client = Client()
        mine = register_directory("mine", make_store(), "staging")
        client.force_login(person("o", Role.ADMIN, instance=mine))
        for name in ("run", "run_live", "run_log"):
            assert client.get(address(name, done.pk)).status_code == 404
        assert client.get(address("run_file", done.pk, "result.json")).status_code == 404
        assert client.post(address("run_cancel", done.pk)).status_code == 404

    @pytest.mark.parametrize(
        ("state", "effect", "kind", "words"),
        [
            (State.REFUSED, "none", "warn", "It was refused; nothing was tried."),
            (State.CANCELLED, "none", "neutral", "It was cancelled."),
            (State.FAILED, "partial", "bad", "A part of it is in the store and stays there."),
            (State.ERRORED, "unknown", "bad", "What it did to the store is not known"),
            (State.NEEDS_OPERATOR, "complete", "bad", "A person has to look at the store."),
        ],
    )
    def test_how_it_ended_is_told_honestly(
        self, admin_client, admin, instance, rebuild, approved, state, effect, kind, words
    ):
        run = approved(admin, instance, rebuild)
        error = {
            "code": "SOME_CODE",
            "message": "It did not work.",
            "hint": "Look again.",
            "details": {"path": HOSTILE},
        }
        MaintenanceRun.objects.filter(pk=run.pk).update(
            state=state, effect_on_store=effect, error=error, started_at=run.requested_at, finished_at=run.requested_at
        )
        page = admin_client.get(address("run", run.pk))
        text = page.content.decode()
        assert page.context["note"].kind == kind
        assert words in f"{page.context['note'].title} {page.context['note'].text}"
        assert all(one in text for one in ("SOME_CODE", "It did not work.", "Look again.", "a\\u202eb&lt;script&gt;"))
        assert "<script>alert" not in text


class TestUndo:
    @pytest.fixture
    def rebuilt(self, admin, instance, rebuild, approved):
        run = approved(admin, instance, rebuild)
        engine.execute(str(run.pk))
        run.refresh_from_db()
        assert run.state == State.SUCCEEDED, run.error
        return run

    def test_from_the_result_to_the_state_before(self, admin_client, rebuilt, instance):
        page = admin_client.get(address("run", rebuilt.pk))
        undo = page.context["undo"]
        assert undo.url == f"{form_address(instance, 'run_undo')}?run_id={rebuilt.pk}"
        assert undo.path
        assert undo.until > rebuilt.finished_at
        assert "Verified by a process other than the one that wrote it." in page.content.decode()
        form = admin_client.get(undo.url).context["form"]
        assert form["run_id"].value() == str(rebuilt.pk)
        plan = admin_client.post(form_address(instance, "run_undo"), {"run_id": str(rebuilt.pk)})
        sent = {f"approve-{name}": hidden(plan, name) for name in ("parameters", "approval")}
        answer = admin_client.post(
            address("operation_approve", instance.pk, "run_undo"), sent | {"approve-attest_unused": "on"}
        )
        back = MaintenanceRun.objects.get(operation="run_undo")
        assert answer.url == address("run", back.pk)
        assert back.undo_of == rebuilt
        assert "is about to undo it" in admin_client.get(address("run", rebuilt.pk)).context["undo"].reason
        engine.execute(str(back.pk))
        back.refresh_from_db()
        assert back.state == State.SUCCEEDED, back.error
        after = admin_client.get(address("run", rebuilt.pk)).context["undo"]
        assert (after.url, after.reason) == ("", f"Run {back.number} has undone it.")

    def test_the_same_is_asked_for_again(self, admin_client, rebuilt, instance):
        url = admin_client.get(address("run", rebuilt.pk)).context["again"]
        form = admin_client.get(url).context["form"]
        assert (form["m"].value(), form["collection"].value()) == ("24", "docs")


class TestCancel:
    def test_takes_it_out_of_the_queue(self, admin_client, admin, instance, info):
        run = request_run(admin, instance, info)
        assert admin_client.get(address("run_cancel", run.pk)).status_code == 405
        answer = admin_client.post(address("run_cancel", run.pk), follow=True)
        run.refresh_from_db()
        assert run.state == State.CANCELLED
        assert "was taken out of the queue" in answer.content.decode()

    def test_of_a_finished_run_is_told(self, admin_client, done):
        answer = admin_client.post(address("run_cancel", done.pk), follow=True)
        assert "can not be cancelled: it has ended" in answer.content.decode()

    def test_needs_the_right(self, person, admin, instance, info):
        run = request_run(admin, instance, info)
        client = Client()
        client.force_login(person("v", Role.VIEWER, instance=instance))
        assert "Who asked for it may cancel it" in client.get(address("run", run.pk)).content.decode()
        client.post(address("run_cancel", run.pk))
        run.refresh_from_db()
        assert run.state == State.QUEUED


class TestList:
    @pytest.fixture
    def runs(self, admin, person, instance, info):
        other = person("operator-1", Role.OPERATOR, instance=instance)
        made = [
            request_run(admin if number % 2 else other, instance, info, reason=f"OPS-{number}") for number in range(120)
        ]
        MaintenanceRun.objects.filter(number__lte=100).update(state=State.SUCCEEDED)
        MaintenanceRun.objects.filter(number=100).update(state=State.FAILED)
        return made

    def numbers(self, page):
        return [row["run"].number for row in page.context["rows"]]

    def test_pages_by_key(self, admin_client, runs):
        url, seen = address("runs"), []
        page = admin_client.get(url)
        assert page.context["listed"].newer is None
        while True:
            seen += self.numbers(page)
            if page.context["listed"].older is None:
                break
            page = admin_client.get(url, {"after": page.context["listed"].older})
        assert seen == list(range(120, 0, -1))
        back = admin_client.get(url, {"before": page.context["listed"].newer})
        assert self.numbers(back) == list(range(70, 20, -1))

    @pytest.mark.parametrize("key", ["x", "-1", "9" * 30, "", "１"])
    def test_an_odd_key_shows_something(self, admin_client, runs, key):
        assert admin_client.get(address("runs"), {"after": key}).status_code == 200

    def test_filters(self, admin_client, runs):
        def found(**query):
            page = admin_client.get(address("runs"), query)
            return page.context["found"].total

        assert found() == 120
        assert found(state="live") == 20
        assert found(state="failed") == 1
        assert found(state="no_such") == 0
        assert found(by="operator-1") == 60
        assert found(by="nobody") == 0
        assert found(instance="orders", operation="db_info") == 120
        assert found(q="OPS-119") == 1
        assert found(q="db info") == 120
        assert found(days="7") == 120
        assert {one.label: one.count for one in admin_client.get(address("runs")).context["found"].segments} == {
            "All": 120, "Live": 20, "Succeeded": 99, "Failed": 1, "Refused": 0, "Cancelled": 0,
        }  # fmt: skip

    def test_shows_only_what_may_be_seen(self, person, runs, make_store):
        client = Client()
        client.force_login(person("o", Role.VIEWER, instance=register_directory("mine", make_store(), "staging")))
        page = client.get(address("runs"))
        assert page.context["found"].total == 0
        assert not any("orders" in option.label for one in page.context["found"].dropdowns for option in one.options)

    def test_costs_the_same_for_one_and_for_many(self, admin_client, runs, django_assert_max_num_queries):
        with django_assert_max_num_queries(20):
            admin_client.get(address("runs"))


def test_no_page_writes_when_it_is_only_looked_at(admin_client, instance, done):
    before = (
        MaintenanceRun.objects.count(),
        AuditEntry.objects.count(),
        json.dumps(MaintenanceRun.objects.get().result),
    )
    for url in (
        form_address(instance), form_address(instance, "db_info"), address("runs"), address("run", done.pk),
        address("run_live", done.pk), address("run_log", done.pk),
    ):  # fmt: skip
        assert admin_client.get(url).status_code == 200
    assert before == (
        MaintenanceRun.objects.count(), AuditEntry.objects.count(), json.dumps(MaintenanceRun.objects.get().result)
    )  # fmt: skip


def test_every_page_wants_a_login(client, instance, done):
    for url in (form_address(instance), address("runs"), address("run", done.pk), address("run_log", done.pk)):
        assert client.get(url).status_code == 302
