"""`manage.py run_operation` and `recover`, as processes beside a real cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chromaadmin.accounts.models import Role
from chromaadmin.audit.models import AuditEntry
from chromaadmin.instances.services import register_directory
from chromaadmin.runs.models import MaintenanceRun

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def manage(processes):
    def call(*arguments: str) -> tuple[int, Any, str]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", *arguments], env=processes.environment, cwd=ROOT,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout) if "--json" in arguments else done.stdout
        return done.returncode, answer, done.stderr

    return call


@pytest.fixture
def jobs(processes):
    return processes.cluster("host-testhost")


class TestRunOperation:
    def test_a_read_and_a_write_through_the_queue(self, instance, manage, jobs):
        status, answer, _ = manage("run_operation", "db", "info", "orders", "--wait", "--json")
        assert (status, answer["state"], answer["status"]) == (0, "succeeded", "succeeded")
        assert answer["result"]["collections"][0]["records"] == 400
        assert answer["plan"] is None
        status, answer, _ = manage(
            "run_operation", "hnsw", "rebuild", "orders", "-c", "docs", "--m", "24", "--yes", "--attest-unused",
            "--reason", "OPS-7", "--wait", "--json",
        )  # fmt: skip
        assert (status, answer["state"], answer["effect_on_store"]) == (0, "succeeded", "complete")
        run = MaintenanceRun.objects.get(pk=answer["run_id"])
        assert run.approval["kind"] == "value"
        entry = AuditEntry.objects.get(run_id=run.pk, action="run.requested")
        assert "command line" in entry.actor_name
        assert (entry.detail["approved"], entry.reason) == ("value", "OPS-7")

    def test_bounds_are_kept(self, instance, manage, jobs):
        status, answer, _ = manage(
            "run_operation", "hnsw", "rebuild", "orders", "-c", "docs", "--yes", "--attest-unused", "--max-bytes", "5",
            "--wait", "--json",
        )  # fmt: skip
        assert (status, answer["state"], answer["error"]["code"]) == (3, "refused", "BOUNDS_EXCEEDED")

    def test_without_a_terminal_and_without_yes_it_refuses(self, instance, manage):
        status, answer, _ = manage("run_operation", "hnsw", "rebuild", "orders", "-c", "docs", "--json")
        assert (status, answer["error"]["code"]) == (3, "APPROVAL_REQUIRED")
        assert not MaintenanceRun.objects.exists()

    def test_dry_run_stores_nothing(self, instance, manage):
        status, answer, _ = manage("run_operation", "hnsw", "rebuild", "orders", "-c", "docs", "--dry-run", "--json")
        assert (status, answer["status"], answer["run_id"]) == (0, "succeeded", None)
        assert answer["plan"]["scope"]["operation"] == "hnsw_rebuild"
        assert not MaintenanceRun.objects.exists()

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("db", "nothing", "orders"), "UNKNOWN_OPERATION"), (("db", "info", "other"), "NO_SUCH_INSTANCE"),
            (("db", "info", "orders", "--nonsense"), "BAD_PARAMETERS"), (("db", "info"), "BAD_PARAMETERS"),
            (("hnsw", "rebuild", "orders", "-c", "docs", "--m", "x", "--yes"), "BAD_PARAMETERS"),
            (("db", "info", "orders", "--user", "nobody"), "BAD_PARAMETERS"),
        ],
    )  # fmt: skip
    def test_bad_usage_is_told_as_json(self, instance, manage, arguments, code):
        status, answer, _ = manage("run_operation", *arguments, "--json")
        assert (status, answer["status"], answer["error"]["code"]) == (2, "refused", code)

    def test_as_an_account_with_its_rights(self, instance, person, manage):
        person("viewer", Role.VIEWER)
        person("operator", Role.OPERATOR)
        status, answer, _ = manage("run_operation", "db", "info", "orders", "--user", "viewer", "--json")
        assert (status, answer["error"]["code"]) == (3, "NOT_ALLOWED")
        status, answer, _ = manage("run_operation", "db", "info", "orders", "--user", "operator", "--json")
        assert (status, answer["state"]) == (0, "queued")
        assert MaintenanceRun.objects.get().requested_by.username == "operator"


class TestRecover:
    def test_settles_what_was_lost_and_three_times_is_once(
        self, admin, slow_instance, slow_rebuild, approved, processes, manage, until
    ):
        run = approved(admin, slow_instance, slow_rebuild)
        worker = processes.worker(run)

        def building() -> bool:
            run.refresh_from_db()
            return run.progress.get("phase") == "build"

        until(building)
        os.kill(worker.pid, 9)
        worker.wait()
        status, answer, _ = manage("recover", "--json")
        assert status == 0
        assert [(each["run_id"], each["state"], each["effect_on_store"]) for each in answer["runs"]] == [
            (str(run.pk), "failed", "none")
        ]
        for _ in range(2):
            status, answer, _ = manage("recover", "--json")
            assert (status, answer["runs"], answer["settled"]) == (0, [], True)
        assert AuditEntry.objects.filter(run_id=run.pk, action="run.finished").count() == 1

    def test_with_nothing_lost(self, manage, store):
        register_directory("x", store, "staging")
        status, answer, _ = manage("recover", "--json")
        assert (status, answer["runs"], answer["instances"][0]["problem"]) == (0, [], "")
