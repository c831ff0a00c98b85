"""Asking for runs: plans, approvals, rights, confirmations; what is refused leaves nothing behind."""

from dataclasses import replace
from datetime import timedelta

import pytest
import time_machine
from django.core import signing
from django.utils import timezone
from django_q.models import OrmQ

from chromaadmin.accounts.models import Role
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances.services import register_directory
from chromaadmin.runs import approvals
from chromaadmin.runs.errors import (
    ApprovalInvalid,
    AttestationMissing,
    NameNotTyped,
    NotAllowed,
    NotCancellable,
    PlanRefused,
    ReasonMissing,
)
from chromaadmin.runs.models import MaintenanceRun, RedeemedApproval, State
from chromaadmin.runs.permissions import may_run
from chromaadmin.runs.services import cancel_run, preview_run, request_run
from ops.errors import ApprovalRequired, IdentityChanged
from ops.params import parse
from ops.plan import Check
from ops.registry import all_operations, operation_class

pytestmark = pytest.mark.django_db
SALT = "chromaadmin.runs.approval"


class TestReads:
    def test_need_no_plan(self, admin, instance, info, django_capture_on_commit_callbacks):
        with django_capture_on_commit_callbacks(execute=True):
            run = request_run(admin, instance, info)
        assert (run.state, run.number, run.effect, run.plan) == (State.QUEUED, 1, "read", None)
        assert list(OrmQ.objects.values_list("key", "payload")) == [("host-testhost", str(run.pk))]
        entry = AuditEntry.objects.get(action="run.requested")
        assert (entry.actor, entry.run_id, entry.instance_id) == (admin, str(run.pk), str(instance.pk))
        assert entry.detail["parameters"] == info.to_json()

    def test_are_numbered_without_gaps(self, admin, instance, info):
        assert [request_run(admin, instance, info).number for _ in range(3)] == [1, 2, 3]


class TestApproval:
    def test_of_a_plan(self, admin, instance, rebuild):
        plan, approval = preview_run(admin, instance, rebuild)
        assert not MaintenanceRun.objects.exists(), "nothing is stored when a plan is shown"
        run = request_run(admin, instance, rebuild, approval=approval, attest_unused=True)
        assert run.scope_digest == plan.digest
        assert run.approval["kind"] == "plan"
        assert run.heavy
        run.refresh_from_db()
        assert run.seal == approvals.seal(run)

    def test_is_needed(self, admin, instance, rebuild):
        with pytest.raises(ApprovalRequired):
            request_run(admin, instance, rebuild)
        with pytest.raises(ApprovalRequired):
            request_run(admin, instance, rebuild, approve_value=True)  # the page's door never approves a value

    def test_is_used_once(self, admin, instance, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        request_run(admin, instance, rebuild, approval=approval, attest_unused=True)
        with pytest.raises(ApprovalInvalid, match="used already"):
            request_run(admin, instance, rebuild, approval=approval, attest_unused=True)
        assert MaintenanceRun.objects.count() == RedeemedApproval.objects.count() == 1

    def test_expires(self, admin, instance, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        with time_machine.travel(timezone.now() + timedelta(minutes=29, seconds=50)):
            approvals.verify(approval, admin, instance, rebuild)
        with (
            time_machine.travel(timezone.now() + timedelta(minutes=30, seconds=5)),
            pytest.raises(ApprovalInvalid, match="30 minutes"),
        ):
            request_run(admin, instance, rebuild, approval=approval, attest_unused=True)

    def test_is_somebodys(self, admin, person, instance, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        other = person("other", Role.OPERATOR)
        with pytest.raises(ApprovalInvalid, match="somebody else"):
            request_run(other, instance, rebuild, approval=approval, attest_unused=True)

    def test_is_for_one_instance(self, admin, instance, make_store, rebuild):
        twin = register_directory("twin", make_store(), "staging")
        approval = preview_run(admin, twin, rebuild)[1]
        with pytest.raises(ApprovalInvalid, match="another instance"):
            request_run(admin, instance, rebuild, approval=approval, attest_unused=True)

    @pytest.mark.parametrize(
        "changed", [{"m": 25}, {"num_threads": 2}, {"ef_construction": 300}, {"collection": ["docs", "x"]}]
    )
    def test_is_for_these_parameters(self, admin, instance, rebuild, changed):
        approval = preview_run(admin, instance, rebuild)[1]
        other = parse(operation_class("hnsw_rebuild"), {**rebuild.to_json(), **changed})
        with pytest.raises(ApprovalInvalid, match="parameters"):
            request_run(admin, instance, other, approval=approval, attest_unused=True)

    def test_is_signed(self, admin, instance, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        forged = [
            "", "x", approval[:-2], approval[:40] + "A" + approval[41:], approval.replace(":", "."),
            signing.dumps({"user": str(admin.pk)}, salt="another"),
            signing.dumps(signing.loads(approval, salt=SALT), key="guess", salt=SALT),
        ]  # fmt: skip
        for text in forged[1:]:
            with pytest.raises(ApprovalInvalid):
                request_run(admin, instance, rebuild, approval=text, attest_unused=True)
        assert not MaintenanceRun.objects.exists()

    def test_is_not_given_for_a_refused_plan(self, admin, instance, rebuild):
        plan, _ = preview_run(admin, instance, rebuild)
        refused = replace(plan, checks=(*plan.checks, Check(state="refused", sentence="It is open elsewhere.")))
        with pytest.raises(PlanRefused, match="open elsewhere"):
            request_run(
                admin, instance, rebuild, approval=approvals.sign(admin, instance, rebuild, refused), attest_unused=True
            )

    def test_needs_the_attestation_that_the_plan_asks_for(self, admin, instance, rebuild):
        plan, _ = preview_run(admin, instance, rebuild)
        attest = Check(state="attest", sentence="Nobody else may have it open.", code="IN_USE_UNKNOWN")
        approval = approvals.sign(admin, instance, rebuild, replace(plan, checks=(*plan.checks, attest)))
        with pytest.raises(AttestationMissing):
            request_run(admin, instance, rebuild, approval=approval)
        run = request_run(admin, instance, rebuild, approval=approval, attest_unused=True)
        assert run.options["attest_unused"] is True
        assert AuditEntry.objects.get(action="run.requested").detail["options"]["attest_unused"] is True


class TestProduction:
    @pytest.fixture
    def instance(self, store):
        return register_directory("orders", store, "production")

    def test_needs_the_name_and_a_reason(self, admin, instance, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        asked = {"approval": approval, "attest_unused": True}
        for typed in ("", "Orders", "orders ", "order"):
            with pytest.raises(NameNotTyped):
                request_run(admin, instance, rebuild, typed_name=typed, reason="why", **asked)
        with pytest.raises(ReasonMissing):
            request_run(admin, instance, rebuild, typed_name="orders", reason="  ", **asked)
        run = request_run(admin, instance, rebuild, typed_name="orders", reason="OPS-1", **asked)
        assert AuditEntry.objects.get(run_id=run.pk).reason == "OPS-1"

    def test_a_read_needs_neither(self, admin, instance, info):
        assert request_run(admin, instance, info).state == State.QUEUED


class TestRights:
    @pytest.mark.parametrize("role", [None, Role.VIEWER, Role.AUDITOR, Role.APPROVER])
    def test_who_may_not(self, person, instance, info, rebuild, role):
        user = person("somebody", role)
        for operation in (info, rebuild):
            assert not may_run(user, operation, instance)
            with pytest.raises(NotAllowed):
                request_run(user, instance, operation)
            with pytest.raises(NotAllowed):
                preview_run(user, instance, operation)
        assert not MaintenanceRun.objects.exists()

    @pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
    def test_who_may_by_instance_and_tag(self, person, instance, make_store, info, role):
        foreign = register_directory("foreign", make_store(), "staging", ("bank",))
        for user in (person("one", role, instance=instance), person("two", role, tag="shop")):
            assert request_run(user, instance, info).state == State.QUEUED
            with pytest.raises(NotAllowed):
                request_run(user, foreign, info)

    def test_a_disabled_account_has_none(self, admin, instance, info):
        admin.is_active = False
        with pytest.raises(NotAllowed, match="disabled"):
            request_run(admin, instance, info)

    def test_nobody_has_none(self, instance, info):
        with pytest.raises(NotAllowed):
            request_run(None, instance, info)

    def test_a_permission_adds_one_operation_where_one_may_look(self, person, instance, make_store, info, rebuild):
        from django.contrib.auth.models import Permission, User

        user = person("viewer", Role.VIEWER, instance=instance)
        user.user_permissions.add(Permission.objects.get(codename="run_db_info"))
        user = User.objects.get(pk=user.pk)
        assert may_run(user, info, instance)
        assert not may_run(user, rebuild, instance)
        assert not may_run(user, info, register_directory("foreign", make_store(), "staging"))

    def test_every_operation_has_its_permission(self):
        from django.contrib.auth.models import Permission

        names = Permission.objects.filter(content_type__app_label="runs", codename__startswith="run_")
        assert {name.codename for name in names} == {f"run_{cls.name}" for cls in all_operations()}

    def test_runs_are_seen_where_the_instance_is(self, admin, person, instance, info):
        run = request_run(admin, instance, info)
        assert MaintenanceRun.objects.for_user(person("a", Role.VIEWER, instance=instance)).get() == run
        assert not MaintenanceRun.objects.for_user(person("b")).exists()
        assert not MaintenanceRun.objects.for_user(None).exists()
        disabled = person("c", Role.ADMIN)
        disabled.is_active = False
        assert not MaintenanceRun.objects.for_user(disabled).exists()


class TestAnotherDirectory:
    def test_is_refused_at_every_door(self, admin, instance, store, make_store, rebuild):
        approval = preview_run(admin, instance, rebuild)[1]
        store.rename(store.with_name("away"))
        make_store().rename(store)
        with pytest.raises(IdentityChanged):
            preview_run(admin, instance, rebuild)
        assert approval


class TestCancelling:
    def test_a_waiting_run_ends_at_once(self, admin, instance, info):
        run = cancel_run(admin, request_run(admin, instance, info))
        assert (run.state, run.effect_on_store, run.started_at) == (State.CANCELLED, "none", None)
        assert AuditEntry.objects.filter(action="run.cancelled", run_id=run.pk).count() == 1
        with pytest.raises(NotCancellable):
            cancel_run(admin, run)

    def test_is_for_who_asked_and_who_may_run_it(self, admin, person, instance, info):
        operator = person("op", Role.OPERATOR, instance=instance)
        own = request_run(operator, instance, info)
        others = request_run(admin, instance, info)
        with pytest.raises(NotAllowed):
            cancel_run(person("viewer", Role.VIEWER), own)
        assert cancel_run(operator, others).state == State.CANCELLED
        assert cancel_run(operator, own).state == State.CANCELLED
