"""`manage.py up` as a user starts it: a real process tree on a fresh home and a free port."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from chromaadmin.settings.config import BASE_DIR

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]


PREPARE = """
import django
django.setup()
from django.conf import settings
from chromaadmin.platform.preparation import prepare
list(prepare(settings.HOME))
"""


def clean_environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHROMAADMIN_", "DJANGO_"))}
    return kept | {"CHROMAADMIN_HOME": str(home), "CHROMAADMIN_BIND": "127.0.0.1:0"}


class Application:
    """One `manage.py up`, its output, and what can be seen of its processes from outside."""

    def __init__(self, home: Path, *options: str, **environment: str) -> None:
        self.home = home
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(BASE_DIR / "manage.py"), "up", *options],
            env=clean_environment(home) | environment,
            cwd=home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, what: str, condition: Callable[[], object], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s:\n{self.output}"
            time.sleep(0.1)

    def wait_until_ready(self) -> None:
        self.wait_for("the start", lambda: self.address or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        self.wait_for("both clusters", lambda: self.output.count(" running.") >= 2)

    @property
    def address(self) -> str | None:
        found = re.search(r"runs at (http://\S+)/ ", self.output)
        return found[1] if found else None

    def get(self, path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.address}{path}", timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tree(self) -> list[psutil.Process]:
        """Every process that was started with this home, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("CHROMAADMIN_HOME") == str(self.home) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def main_of(self, service: str) -> psutil.Process:
        """The main process of a cluster, by the queue in its environment."""
        children = psutil.Process(self.process.pid).children()
        (main,) = (p for p in children if p.environ().get("Q_CLUSTER_NAME", "").startswith(service))
        return main

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        # Its output ends when the last process of the tree has ended.
        self._reader.join(timeout=20)
        assert not self._reader.is_alive(), f"Left behind: {self.tree()}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database and static files are ready, to be copied by tests that look at something else."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    environment = clean_environment(home) | {"DJANGO_SETTINGS_MODULE": "chromaadmin.settings.base"}
    subprocess.run([sys.executable, "-c", PREPARE], env=environment, cwd=BASE_DIR, check=True)
    return home


@pytest.fixture
def start_prepared(start: Callable[..., Application], prepared: Path, tmp_path: Path) -> Callable[..., Application]:
    shutil.copytree(prepared, tmp_path / "home")
    return start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Application]]:
    started: list[Application] = []

    def begin(*options: str, home: str = "home", **environment: str) -> Application:
        started.append(Application(tmp_path / home, *options, **environment))
        return started[-1]

    yield begin
    for application in started:
        application.clean_up()


def test_a_fresh_home_serves_pages_and_its_data_is_found_again(start: Callable[..., Application]) -> None:
    first = start("--demo")
    first.wait_until_ready()
    assert first.get("/healthz")[0] == 200
    assert first.get("/readyz") == (200, '{"status": "ready"}')
    status, page = first.get("/accounts/login/")
    assert status == 200
    assert 'name="password"' in page
    # Static files are served, with the hash of their content in the name.
    sheet = re.search(r'href="(/static/[^"]+\.[0-9a-f]{12}\.css)"', page)
    assert sheet
    assert first.get(sheet[1])[0] == 200
    assert re.search(r"first administrator within 30 minutes: http://127\.0\.0\.1:\d+/setup/\S{43}", first.output)
    assert (first.home / "demo/store/chroma.sqlite3").is_file()
    assert first.home.stat().st_mode & 0o777 == 0o700
    loose = [path for path in first.home.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
    assert loose == []

    second = start()
    assert second.process.wait(timeout=60) != 0
    second.wait_for("the refusal", lambda: f"PID {first.process.pid}" in second.output)
    assert first.get("/healthz")[0] == 200

    assert first.stop() == 0
    first.wait_for("the end of every process", lambda: not first.tree(), 5)
    assert "Stopped." in first.output

    third = start("--demo")
    third.wait_until_ready()
    assert "migrations were applied" not in third.output
    assert "demo store was" not in third.output
    assert third.get("/readyz")[0] == 200
    with closing(sqlite3.connect(third.home / "chromaadmin.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM instances_instance").fetchall() == [(1,)]
    assert third.stop() == 0


def test_a_password_file_makes_the_administrator_and_no_link(start: Callable[..., Application], tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    application = start(
        "--no-jobs", "--no-console", CHROMAADMIN_ADMIN_PASSWORD_FILE=str(secret), CHROMAADMIN_ADMIN_USER="grace"
    )
    application.wait_for("the start", lambda: application.address)
    assert "/setup/" not in application.output
    with closing(sqlite3.connect(application.home / "chromaadmin.sqlite3")) as database:
        rows = database.execute("SELECT username, is_superuser, is_active, password FROM auth_user").fetchall()
    assert [row[:3] for row in rows] == [("grace", 1, 1)]
    assert "correct horse" not in rows[0][3]
    assert "correct horse" not in application.output
    assert application.stop() == 0


def test_kill_9_leaves_no_process(start_prepared: Callable[..., Application]) -> None:
    application = start_prepared()
    application.wait_until_ready()
    # Main process, gunicorn and its worker, two clusters of main process, sentinel, monitor, pusher and workers.
    application.wait_for("the whole tree", lambda: len(application.tree()) >= 16)
    application.process.kill()
    application.process.wait(timeout=10)
    application.wait_for("the end of every process", lambda: not application.tree(), 5)


def test_what_dies_is_started_again_without_its_orphans(start_prepared: Callable[..., Application]) -> None:
    application = start_prepared()
    application.wait_until_ready()
    main = application.main_of("console")
    orphans = main.children(recursive=True)
    assert len(orphans) >= 4
    main.kill()
    application.wait_for("the orphans' end", lambda: not any(orphan.is_running() for orphan in orphans), 10)
    application.wait_for("the restart", lambda: application.output.count(" running.") >= 3)
    assert "console ended with signal 9; it is started again in 1 s." in application.output
    assert application.main_of("console").pid != main.pid
    assert application.stop() == 0


def test_a_worker_killed_while_it_waits_does_not_freeze_its_cluster(start_prepared: Callable[..., Application]) -> None:
    application = start_prepared("--no-web", "--no-jobs")
    application.wait_for("the cluster", lambda: " running." in application.output)
    (sentinel,) = application.main_of("console").children()
    worker = min(sentinel.children(), key=lambda process: process.create_time())
    before = {process.pid for process in sentinel.children()}
    worker.kill()
    application.wait_for("new queues", lambda: "the cluster gets new queues" in application.output)
    application.wait_for(
        "new processes", lambda: len(now := {process.pid for process in sentinel.children()}) == 3 and not now & before
    )
    # A drain sends every worker a message through the queue: it ends only when the queue works.
    assert application.stop() == 0


def test_the_second_ctrl_c_aborts(start_prepared: Callable[..., Application]) -> None:
    application = start_prepared()
    application.wait_until_ready()
    application.process.send_signal(signal.SIGINT)
    application.wait_for("the drain", lambda: "Stopping console" in application.output)
    application.process.send_signal(signal.SIGINT)
    assert application.process.wait(timeout=5) == 1
    application.wait_for("the end of every process", lambda: not application.tree(), 5)


def test_an_address_in_use_is_told_before_anything_is_made(start_prepared: Callable[..., Application]) -> None:
    first = start_prepared()
    first.wait_until_ready()
    assert first.address
    other = start_prepared(home="other", CHROMAADMIN_BIND=first.address.removeprefix("http://"))
    assert other.process.wait(timeout=60) == 1
    other.wait_for("the reason", lambda: "Set CHROMAADMIN_BIND to another." in other.output)
    assert not (other.home / "chromaadmin.sqlite3").exists()
    assert first.stop() == 0
