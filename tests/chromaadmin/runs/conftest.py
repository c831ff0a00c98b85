"""Instances on real stores, people with roles, workers and clusters as processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection

from chromaadmin.accounts.models import Role, RoleGrant, Scope
from chromaadmin.instances.models import Instance
from chromaadmin.instances.services import register_directory
from chromaadmin.runs.models import MaintenanceRun
from chromaadmin.runs.services import preview_run, request_run
from ops.params import parse
from ops.registry import operation_class

ROOT = Path(__file__).resolve().parents[3]
EXECUTE = "import sys, django; django.setup(); from chromaadmin.runs import engine; engine.execute(sys.argv[1])"


def wait_for(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """What `condition` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s: {what or condition}")


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("admin", password="x")


@pytest.fixture
def person() -> Callable[..., User]:
    """An account with a role on an instance, on a tag, or on everything."""

    def make(name: str, role: Role | None = None, *, instance: Instance | None = None, tag: str = "") -> User:
        user = User.objects.create_user(name, is_staff=True)
        if role is not None:
            scope = Scope.INSTANCE if instance else Scope.TAG if tag else Scope.EVERYTHING
            RoleGrant.objects.create(
                user=user, role=role, scope=scope, instance_id=instance.pk if instance else None, tag=tag
            )
        return user

    return make


@pytest.fixture
def instance(store: Path) -> Instance:
    return register_directory("orders", store, "staging", ("shop",))


@pytest.fixture
def slow_instance(make_store: Callable[..., Path]) -> Instance:
    """An instance whose rebuild with `SLOW` takes many seconds."""
    return register_directory("slow", make_store(4000, 64), "staging")


@pytest.fixture
def slow_rebuild() -> Any:
    """A rebuild that searches far for every neighbour, on one thread."""
    return parse(
        operation_class("hnsw_rebuild"), {"collection": ["docs"], "ef_construction": 3000, "m": 64, "num_threads": 1}
    )


@pytest.fixture
def rebuild() -> Any:
    return parse(operation_class("hnsw_rebuild"), {"collection": ["docs"], "m": 24})


@pytest.fixture
def info() -> Any:
    return parse(operation_class("db_info"), {})


@pytest.fixture
def approved() -> Callable[..., MaintenanceRun]:
    """A queued run as the page makes one: plan, approval, request."""

    def ask(user: User, instance: Instance, operation: Any, **more: Any) -> MaintenanceRun:
        approval = preview_run(user, instance, operation)[1] if operation.writes else ""
        return request_run(user, instance, operation, approval=approval, attest_unused=True, **more)

    return ask


class Processes:
    """Starts processes of the application on the database of the test and ends them with it."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "CHROMAADMIN_HOME": str(settings.HOME.path),
            "CHROMAADMIN_HOST": settings.CHROMAADMIN_HOST,
            "CHROMAADMIN_TEST_DATABASE": str(connection.settings_dict["NAME"]),
            "DJANGO_SETTINGS_MODULE": "cluster_settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=self.environment | more, cwd=ROOT, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.set_blocking(process.stderr.fileno(), False)
        self.started.append(process)
        return process

    def worker(self, run: MaintenanceRun) -> subprocess.Popen[bytes]:
        """What a worker of the queue does with one message, in a process that can be killed."""
        return self.start("-W", "ignore", "-c", EXECUTE, str(run.pk))

    def cluster(self, queue: str) -> subprocess.Popen[bytes]:
        return self.start("-W", "ignore", "manage.py", "qcluster", "--skip-checks", Q_CLUSTER_NAME=queue)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    running = Processes()
    yield running
    running.end()
