"""Executing runs with real children, workers that are killed, and a real queue cluster."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Task

from chromaadmin.accounts.models import Role, RoleGrant
from chromaadmin.audit.models import AuditEntry
from chromaadmin.audit.selectors import verify
from chromaadmin.instances.services import register_directory
from chromaadmin.runs import approvals, beats, engine, folder, recovery
from chromaadmin.runs.broker import RunBroker
from chromaadmin.runs.models import Beat, MaintenanceRun, State
from chromaadmin.runs.recovery import mark_lost, recover_host, recover_run
from chromaadmin.runs.services import cancel_run, request_run
from chromaadmin.runs.supervisor import birth, is_alive

pytestmark = pytest.mark.django_db(transaction=True)


def actions(run: MaintenanceRun) -> list[str]:
    return list(AuditEntry.objects.filter(run_id=run.pk).order_by("seq").values_list("action", flat=True))


def current_segment(path: Path) -> str:
    """The vector segment that the store says is current, read without any code of ours."""
    with closing(sqlite3.connect(f"file:{path / 'chroma.sqlite3'}?mode=ro", uri=True)) as database:
        return str(database.execute("SELECT id FROM segments WHERE scope = 'VECTOR'").fetchone()[0])


def stray(path: Path) -> list[str]:
    """Staged files, intents, outcomes and directories of no segment."""
    left = [
        str(file.relative_to(path))
        for part in ("stage", "intents", "done")
        for file in (path / ".chromaadmin" / part).glob("*")
    ]
    segment = current_segment(path)
    return left + [each.name for each in path.iterdir() if each.is_dir() and each.name not in (segment, ".chromaadmin")]


def now(run: MaintenanceRun) -> MaintenanceRun:
    run.refresh_from_db()
    return run


def in_thread(run: MaintenanceRun) -> threading.Thread:
    def work() -> None:
        engine.execute(str(run.pk))
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def building(run: MaintenanceRun) -> bool:
    return now(run).progress.get("phase") == "build"


class TestOneRun:
    def test_from_request_to_audit_row(self, admin, instance, rebuild, approved):
        path = Path(instance.path)
        before = current_segment(path)
        run = approved(admin, instance, rebuild, reason="OPS-1")
        engine.execute(str(run.pk))
        now(run)
        assert (run.state, run.effect_on_store, run.error) == (State.SUCCEEDED, "complete", None)
        assert actions(run) == ["run.requested", "run.started", "store.committed", "run.finished"]
        assert current_segment(path) != before
        assert [phase["state"] for phase in run.phases] == ["done"] * len(run.phases)
        assert run.report["headline"]
        assert None not in (run.result, run.allowed_at, run.finished_at)
        assert not stray(path)
        files = {file.name for file in folder.path_of(run.pk).iterdir()}
        assert files == {"log.jsonl", "plan.json", "result.json"}
        assert oct(folder.path_of(run.pk).stat().st_mode)[-3:] == "700"
        assert any("commit of docs allowed" in line.text for line in folder.read_log(run.pk))
        assert verify().intact

    def test_a_read_leaves_the_directory_as_it_was(self, admin, instance, info):
        def manifest() -> list[Any]:
            return sorted(
                (str(file), (status := file.lstat()).st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                for file in (Path(instance.path), *Path(instance.path).rglob("*"))
            )

        before = manifest()
        run = request_run(admin, instance, info)
        engine.execute(str(run.pk))
        assert (now(run).state, run.effect_on_store) == (State.SUCCEEDED, "none")
        assert run.result["collections"][0]["name"] == "docs"
        assert actions(run) == ["run.requested", "run.started", "run.finished"]
        assert manifest() == before

    def test_an_expected_failure_is_told_with_code_and_hint(self, admin, instance, info):
        run = request_run(admin, instance, info)
        Path(instance.path, "chroma.sqlite3").write_bytes(b"")
        engine.execute(str(run.pk))
        assert (now(run).state, run.error["code"], run.effect_on_store) == (State.REFUSED, "SQLITE_EMPTY", "none")
        assert run.error["hint"]
        assert actions(run) == ["run.requested", "run.started", "run.refused", "run.finished"]

    def test_a_changed_store_is_not_touched(self, admin, instance, rebuild, approved):
        first, second = (approved(admin, instance, rebuild) for _ in range(2))
        engine.execute(str(first.pk))
        segment = current_segment(Path(instance.path))
        engine.execute(str(second.pk))
        assert (now(second).state, second.error["code"]) == (State.REFUSED, "PLAN_CHANGED")
        assert current_segment(Path(instance.path)) == segment

    def test_another_directory_is_not_touched(self, admin, instance, make_store, rebuild, approved):
        run = approved(admin, instance, rebuild)
        path = Path(instance.path)
        path.rename(path.with_name("away"))
        make_store().rename(path)
        before = current_segment(path)
        engine.execute(str(run.pk))
        assert (now(run).state, run.error["code"]) == (State.REFUSED, "IDENTITY_CHANGED")
        assert current_segment(path) == before


class TestClaim:
    def test_five_deliveries_are_one_execution(self, admin, instance, rebuild, approved):
        run = approved(admin, instance, rebuild)
        threads = [in_thread(run) for _ in range(5)]
        for thread in threads:
            thread.join()
        engine.execute(str(run.pk))
        assert now(run).state == State.SUCCEEDED
        assert actions(run).count("run.started") == 1
        assert actions(run).count("store.committed") == 1

    def test_only_one_of_many_claims_has_it(self, admin, instance, info):
        run = request_run(admin, instance, info)
        leases: list[Any] = []

        def claim() -> None:
            leases.append(engine.claim(run.pk))
            connection.close()

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in leases) == 1
        assert actions(run) == ["run.requested", "run.started"]

    def test_one_writer_per_instance(self, admin, instance, rebuild, approved):
        first, second = (approved(admin, instance, rebuild) for _ in range(2))
        assert engine.claim(first.pk)
        assert engine.claim(second.pk) is None
        assert now(second).state == State.QUEUED, "it waits"
        with pytest.raises(IntegrityError), transaction.atomic():
            MaintenanceRun.objects.filter(pk=second.pk).update(state=State.RUNNING)
        MaintenanceRun.objects.filter(pk=first.pk).update(state=State.LOST)
        assert engine.claim(second.pk) is None, "a lost run counts until it is recovered"

    def test_one_heavy_run_per_host_reads_beside_it(self, admin, instance, make_store, rebuild, info, approved):
        other = register_directory("other", make_store(), "staging")
        first, second = approved(admin, instance, rebuild), approved(admin, other, rebuild)
        assert engine.claim(first.pk)
        assert engine.claim(second.pk) is None
        assert engine.claim(request_run(admin, instance, info).pk)

    def test_who_waited_is_rung_at_the_end(self, admin, instance, make_store, rebuild, approved):
        other = register_directory("other", make_store(), "staging")
        first, second = approved(admin, instance, rebuild), approved(admin, other, rebuild)
        OrmQ.objects.all().delete()
        engine.execute(str(first.pk))
        assert list(OrmQ.objects.values_list("payload", flat=True)) == [str(second.pk)]


class TestRightsAreAskedAgain:
    @pytest.mark.parametrize("withdrawn", ["grant", "account"])
    def test_withdrawn_after_queueing_means_no_execution(self, person, instance, info, withdrawn):
        user = person("op", Role.OPERATOR)
        run = request_run(user, instance, info)
        if withdrawn == "grant":
            RoleGrant.objects.all().delete()
        else:
            type(user).objects.filter(pk=user.pk).update(is_active=False)
        engine.execute(str(run.pk))
        assert (now(run).state, run.error["code"], run.started_at) == (State.REFUSED, "NOT_ALLOWED", None)
        assert actions(run) == ["run.requested", "run.refused"]
        assert not folder.path_of(run.pk).exists()

    def test_a_deleted_account_or_instance_means_no_execution(self, person, instance, info):
        user = person("op", Role.OPERATOR)
        first = request_run(user, instance, info)
        user.delete()
        engine.execute(str(first.pk))
        assert now(first).state == State.REFUSED
        second = request_run(person("op2", Role.OPERATOR), instance, info)
        instance.delete()
        engine.execute(str(second.pk))
        assert now(second).state == State.REFUSED
        assert second.instance_name == "orders"

    @pytest.mark.parametrize("withdrawn", ["grant", "account", "cancel"])
    def test_withdrawn_while_it_builds_means_no_commit(self, person, slow_instance, approved, withdrawn, until):
        from ops.params import parse
        from ops.registry import operation_class

        user = person("op", Role.OPERATOR)
        operation = parse(
            operation_class("hnsw_rebuild"), {"collection": ["docs"], "ef_construction": 1500, "num_threads": 1}
        )
        run = approved(user, slow_instance, operation)
        before = current_segment(Path(slow_instance.path))
        thread = in_thread(run)
        until(lambda: building(run))
        if withdrawn == "grant":
            RoleGrant.objects.all().delete()
        elif withdrawn == "account":
            type(user).objects.filter(pk=user.pk).update(is_active=False)
        else:
            cancel_run(user, run)
        thread.join()
        assert (now(run).state, run.effect_on_store) == (State.CANCELLED, "none")
        assert run.error["code"] == ("CANCELLED" if withdrawn == "cancel" else "GATE_CLOSED")
        assert current_segment(Path(slow_instance.path)) == before
        assert "store.committed" not in actions(run)
        assert not stray(Path(slow_instance.path))


class TestForgery:
    @pytest.mark.parametrize(
        "change",
        [
            {"operation": "db_info", "effect": "read"}, {"parameters": {"collection": ["docs"], "m": 99}},
            {"instance_path": "/"}, {"options": {"undo": "none"}}, {"plan": None, "approval": {"kind": "value"}},
            {"requested_by": None, "door": "command"}, {"seal": ""},
        ],
    )  # fmt: skip
    def test_a_changed_row_is_not_executed(self, admin, instance, rebuild, approved, change):
        run = approved(admin, instance, rebuild)
        MaintenanceRun.objects.filter(pk=run.pk).update(**change)
        engine.execute(str(run.pk))
        assert (now(run).state, run.error["code"]) == (State.REFUSED, "SEAL_BROKEN")
        assert actions(run) == ["run.requested", "run.refused"]

    def test_a_copied_row_is_not_executed(self, admin, instance, info):
        run = request_run(admin, instance, info)
        genuine = run.seal
        copy = MaintenanceRun.objects.get(pk=run.pk)
        copy.pk, copy.number = None, 99
        copy.id = uuid4()
        copy.save(force_insert=True)
        engine.execute(str(copy.pk))
        assert now(copy).state == State.REFUSED
        assert approvals.seal(run) == genuine

    def test_rows_that_name_functions_or_hold_pickles_are_refused(self, admin, instance, info, tmp_path, settings):
        from django_q.signing import SignedPackage

        canary = tmp_path / "canary"

        class Bomb:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {canary}",)

        package = {"id": "a" * 32, "name": "x", "func": "os.system", "args": (f"touch {canary}",), "kwargs": {}}
        waiting = request_run(admin, instance, info)
        awaiting = request_run(admin, instance, info)
        MaintenanceRun.objects.filter(pk=awaiting.pk).update(state=State.AWAITING_APPROVAL)
        OrmQ.objects.all().delete()
        payloads = [
            SignedPackage.dumps(package), SignedPackage.dumps(Bomb()), SignedPackage.dumps({**package, "args": Bomb()}),
            "chromaadmin.runs.engine.execute", "os.system", "", "{}", "00000000-0000-0000-0000-000000000000",
            str(waiting.pk) + " x", "\x00\ud7ff" * 50, json.dumps(str(waiting.pk)),
        ]  # fmt: skip
        for payload in payloads:
            OrmQ.objects.create(key="host-testhost", payload=payload, lock=timezone.now() - timedelta(seconds=5))
        OrmQ.objects.create(key="host-testhost", payload=str(awaiting.pk), lock=timezone.now() - timedelta(seconds=5))
        Beat.objects.create(key=beats.HOST, begun_at=timezone.now(), ended_at=timezone.now())
        broker = RunBroker(list_key="host-testhost")
        for _ in range(3):
            assert not broker.dequeue()
        assert not OrmQ.objects.exists()
        assert AuditEntry.objects.filter(action="queue.row_refused").count() == len(payloads)
        assert not canary.exists()
        assert verify().intact

    def test_the_broker_takes_ids_only(self, settings):
        broker = RunBroker(list_key="host-testhost")
        with pytest.raises(ValueError, match="badly formed"):
            broker.enqueue("anything else")
        assert not OrmQ.objects.exists()


class TestKilled:
    def test_child_killed_while_building(self, admin, slow_instance, slow_rebuild, approved, until):
        run = approved(admin, slow_instance, slow_rebuild)
        before = current_segment(Path(slow_instance.path))
        thread = in_thread(run)
        until(lambda: building(run))
        os.kill(run.child_pid, signal.SIGKILL)
        thread.join()
        assert (now(run).state, run.effect_on_store) == (State.ERRORED, "none")
        assert "killed by SIGKILL (out of memory?) while it was at “Building" in run.error["message"]
        assert current_segment(Path(slow_instance.path)) == before
        assert not stray(Path(slow_instance.path))
        assert actions(run)[-1] == "run.finished"

    def test_child_killed_after_the_gate(self, admin, instance, rebuild, approved, until):
        """Wherever it dies after the gate has opened, the row says what the store says."""
        seen = set()
        for _ in range(4):
            run = approved(admin, instance, rebuild)
            before = current_segment(Path(instance.path))
            thread = in_thread(run)
            until(lambda run=run: now(run).allowed_at)
            if len(seen) % 2:
                until(lambda before=before: current_segment(Path(instance.path)) != before)
            os.killpg(run.child_pid, signal.SIGKILL)
            thread.join()
            committed = current_segment(Path(instance.path)) != before
            assert now(run).effect_on_store == ("complete" if committed else "none")
            assert run.state == State.ERRORED
            assert not stray(Path(instance.path))
            seen.add(committed)
        assert seen

    def test_worker_killed(self, admin, slow_instance, slow_rebuild, info, approved, processes, until):
        run = approved(admin, slow_instance, slow_rebuild)
        before = current_segment(Path(slow_instance.path))
        worker = processes.worker(run)
        until(lambda: building(run), what="building")
        child, born = run.child_pid, run.child_birth
        assert is_alive(child, born)
        worker.kill()
        worker.wait()
        began = time.monotonic()
        until(lambda: not is_alive(child, born), 1.0, "the child is gone within a second")
        assert time.monotonic() - began < 1.0
        assert now(run).state == State.RUNNING
        assert mark_lost() == [run.pk]
        assert (now(run).state, run.effect_on_store) == (State.LOST, "unknown")
        engine.execute(str(run.pk))
        assert now(run).state == State.LOST, "a started run is never executed again"
        assert [each.pk for each in recover_host()] == [run.pk]
        assert (now(run).state, run.effect_on_store, run.error["code"]) == (State.FAILED, "none", "LOST")
        assert actions(run) == ["run.requested", "run.started", "run.lost", "run.recovered", "run.finished"]
        assert current_segment(Path(slow_instance.path)) == before
        assert not stray(Path(slow_instance.path))
        assert mark_lost() == recover_host() == []
        engine.execute(str(run.pk))
        assert actions(run).count("run.started") == 1
        nxt = request_run(admin, slow_instance, info)
        engine.execute(str(nxt.pk))
        assert now(nxt).state == State.SUCCEEDED

    def test_worker_killed_after_the_commit(self, admin, instance, rebuild, approved, processes, until):
        run = approved(admin, instance, rebuild)
        before = current_segment(Path(instance.path))
        worker = processes.worker(run)
        until(lambda: current_segment(Path(instance.path)) != before)
        worker.kill()
        worker.wait()
        if now(run).state == State.SUCCEEDED:
            pytest.skip("the run had ended before the kill")
        until(lambda: not is_alive(now(run).child_pid, run.child_birth), 1.0)
        engine.tick()
        assert (now(run).state, run.effect_on_store, run.error) == (State.SUCCEEDED, "complete", None)
        assert "recovery" in run.note
        assert not stray(Path(instance.path))

    def test_worker_stopped_past_its_lease_and_woken(
        self, admin, slow_instance, slow_rebuild, approved, processes, until
    ):
        run = approved(admin, slow_instance, slow_rebuild)
        before = current_segment(Path(slow_instance.path))
        worker = processes.worker(run)
        until(lambda: building(run))
        os.kill(worker.pid, signal.SIGSTOP)
        assert mark_lost() == []
        # The lease runs out: as if the heartbeat were that old.
        MaintenanceRun.objects.filter(pk=run.pk).update(
            heartbeat_at=timezone.now() - timedelta(seconds=recovery.LEASE_S + 1)
        )
        assert mark_lost() == [run.pk]
        child, born = run.child_pid, run.child_birth
        assert recover_run(now(run))
        assert not is_alive(child, born)
        os.kill(worker.pid, signal.SIGCONT)
        worker.wait(20)
        assert (now(run).state, run.effect_on_store) == (State.FAILED, "none")
        assert current_segment(Path(slow_instance.path)) == before
        assert "store.committed" not in actions(run)
        assert actions(run).count("run.finished") == 1

    def test_a_store_that_can_not_be_recovered_yet_keeps_the_run_lost(self, admin, instance, rebuild, approved):
        run = approved(admin, instance, rebuild)
        MaintenanceRun.objects.filter(pk=run.pk).update(state=State.LOST, lease_token=uuid4(), worker_host="testhost")
        path = Path(instance.path)
        path.rename(path.with_name("away"))
        assert recover_host() == []
        assert now(run).state == State.LOST
        assert "MISSING" in run.note
        path.with_name("away").rename(path)
        assert [each.pk for each in recover_host()] == [run.pk]
        assert now(run).state == State.FAILED


class TestCancel:
    def test_while_it_builds(self, admin, slow_instance, slow_rebuild, approved, until):
        run = approved(admin, slow_instance, slow_rebuild)
        thread = in_thread(run)
        until(lambda: building(run))
        began = time.monotonic()
        cancel_run(admin, run)
        thread.join()
        assert time.monotonic() - began < 5
        assert (now(run).state, run.effect_on_store, run.error["code"]) == (State.CANCELLED, "none", "CANCELLED")
        assert actions(run) == ["run.requested", "run.started", "run.cancel_requested", "run.finished"]
        assert run.cancel_requested_by_name == "admin"
        assert not stray(Path(slow_instance.path))

    def test_a_child_that_does_not_listen_is_killed(
        self, admin, slow_instance, slow_rebuild, approved, until, monkeypatch
    ):
        monkeypatch.setattr(engine, "GRACE_S", 1.0)
        run = approved(admin, slow_instance, slow_rebuild)
        thread = in_thread(run)
        until(lambda: building(run))
        os.kill(run.child_pid, signal.SIGSTOP)
        cancel_run(admin, run)
        thread.join()
        assert (now(run).state, run.effect_on_store) == (State.CANCELLED, "none")
        assert "killed by SIGKILL" in run.error["message"]
        assert "out of memory" not in run.error["message"]

    def test_deadline(self, admin, slow_instance, slow_rebuild, approved):
        run = approved(admin, slow_instance, slow_rebuild, deadline_at=timezone.now() + timedelta(seconds=3))
        engine.execute(str(run.pk))
        assert (now(run).state, run.error["code"], run.effect_on_store) == (State.FAILED, "DEADLINE", "none")


class TestTick:
    def test_rings_for_runs_nobody_heard_of(self, admin, instance, info):
        run = request_run(admin, instance, info)
        OrmQ.objects.all().delete()
        engine.tick()
        assert not OrmQ.objects.exists(), "it may still be on its way"
        MaintenanceRun.objects.filter(pk=run.pk).update(requested_at=timezone.now() - timedelta(minutes=1))
        engine.tick()
        engine.tick()
        assert list(OrmQ.objects.values_list("payload", flat=True)) == [str(run.pk)]

    def test_refreshes_samples_and_notes_the_head(self, instance, settings):
        type(instance).objects.update(checked_at=None)
        engine.tick()
        instance.refresh_from_db()
        assert instance.checked_at is not None
        assert verify().tail.startswith("Entry ")
        assert engine.last_tick() is None or engine.last_tick() <= timezone.now()

    def test_is_claimed_once_a_minute_and_not_twice(self):
        Beat.objects.all().delete()
        assert beats.claim("x", after_s=60)
        assert not beats.claim("x", after_s=0), "the one before still works"
        beats.end("x")
        assert not beats.claim("x", after_s=60)
        Beat.objects.update(begun_at=timezone.now() - timedelta(seconds=61))
        claims: list[bool] = []

        def claim() -> None:
            claims.append(beats.claim("x", after_s=60))
            connection.close()

        threads = [threading.Thread(target=claim) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert claims.count(True) == 1
        Beat.objects.update(begun_at=timezone.now() - timedelta(hours=1), ended_at=None)
        assert beats.claim("x", after_s=60), "one that died is given up"

    def test_the_console_hands_it_out(self):
        Beat.objects.all().delete()
        from django_q.signing import SignedPackage

        ((ack, package),) = RunBroker(list_key="console").dequeue()
        assert ack is None
        assert SignedPackage.loads(package)["func"] == "chromaadmin.runs.engine.tick"
        assert RunBroker(list_key="host-testhost").dequeue() is None


class TestRealCluster:
    def test_executes_what_is_asked_and_nothing_else(
        self, admin, instance, info, rebuild, approved, processes, until, tmp_path
    ):
        from django_q.signing import SignedPackage

        canary = tmp_path / "canary"
        evil = {"id": "a" * 32, "name": "x", "func": "os.system", "args": (f"touch {canary}",), "kwargs": {}}
        OrmQ.objects.create(key="host-testhost", payload=SignedPackage.dumps(evil), lock=timezone.now())
        Schedule.objects.create(
            func="os.system", args=f"('touch {canary}',)", schedule_type="O", cluster="host-testhost"
        )
        jobs = processes.cluster("host-testhost")
        reads = [request_run(admin, instance, info) for _ in range(3)]
        write = approved(admin, instance, rebuild)
        for run in reads * 3 + [write] * 3:  # every message many times
            OrmQ.objects.create(key="host-testhost", payload=str(run.pk), lock=timezone.now())
        for run in [*reads, write]:
            until(lambda run=run: not now(run).is_live, 60, f"{run} ends")
        assert [now(run).state for run in reads] == [State.SUCCEEDED] * 3
        assert now(write).state == State.SUCCEEDED
        for run in [*reads, write]:
            assert actions(run).count("run.started") == 1
            assert actions(run).count("run.finished") == 1
        until(lambda: not OrmQ.objects.exists(), 20, "the queue is empty")
        assert AuditEntry.objects.filter(action="queue.row_refused").count() == 1
        assert not canary.exists()
        assert not Task.objects.exists(), "no result is kept as a pickle"
        os.kill(jobs.pid, signal.SIGTERM)
        assert jobs.wait(30) == 0
        assert verify().intact

    def test_recovers_what_was_lost_while_it_was_away(
        self, admin, slow_instance, slow_rebuild, approved, processes, until
    ):
        run = approved(admin, slow_instance, slow_rebuild)
        OrmQ.objects.all().delete()
        worker = processes.worker(run)
        until(lambda: building(run))
        worker.kill()
        worker.wait()
        processes.cluster("console")
        until(lambda: not now(run).is_live, 40, "the run is settled")
        assert (run.state, run.effect_on_store) == (State.FAILED, "none")


class TestProcessIdentity:
    def test_tells_a_process_from_a_later_one(self):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            born = birth(process.pid)
            assert is_alive(process.pid, born)
            assert not is_alive(process.pid, born + "1")
            assert not is_alive(process.pid, "")
            process.kill()
            time.sleep(0.2)
            assert not is_alive(process.pid, born), "a process that waits to be reaped is dead"
        assert birth(process.pid) == ""


class TestWatch:
    def test_several_steps_show_the_phases_of_the_present_one(self):
        keys = ("check", "build", "commit")
        declared = [
            {"key": key, "label": key, "commit": key == "commit", "state": "to_come", "started_at": None,
             "finished_at": None, "detail": ""}
            for key in keys
        ]  # fmt: skip
        watch = engine.Watch(phases=declared)
        for key in keys:
            watch.phase(key, key)
        watch.phase("build", "Building")
        assert [(phase["key"], phase["state"]) for phase in watch.phases] == [
            ("check", "done"), ("build", "now"), ("commit", "to_come"),
        ]  # fmt: skip
        watch.phase("extra", "Not declared")
        assert [phase["key"] for phase in watch.phases] == ["check", "build", "extra", "commit"]
        for _ in range(100):
            for key in keys:
                watch.phase(key, key)
        assert len(watch.phases) == 4
        watch.ended(well=True)
        assert watch.phases[-1]["state"] == "done"

    def test_rate_and_time_left(self):
        watch = engine.Watch(phases=[])
        watch.phase("build", "Building")
        watch.advance({"done": 0, "total": 100, "unit": "vectors"})
        assert watch.progress["rate"] is None, "unknown, not 0"
        time.sleep(0.6)
        watch.advance({"done": 30, "total": 100, "unit": "vectors"})
        assert 30 < watch.progress["rate"] < 55
        assert 1.2 < watch.progress["eta_s"] < 2.4
