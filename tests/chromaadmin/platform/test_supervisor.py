"""The supervisor with small processes: restarts, order of stopping, output."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from chromaadmin.platform.supervisor import BACKOFF_SECONDS, Service, _Process
from chromaadmin.settings.config import BASE_DIR


@contextmanager
def supervised(tmp_path: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a Supervisor over the services that `body` names; killed when the test leaves it running."""
    script = tmp_path / "supervise.py"
    script.write_text(
        "import sys\n"
        "from chromaadmin.platform.supervisor import Service, Supervisor, python\n"
        f"{textwrap.dedent(body)}\n"
        "sys.exit(Supervisor(services, write=lambda line: print(line, flush=True)).run())\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(BASE_DIR)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip("\n"))
        if wanted in line:
            return seen
    raise AssertionError(f"{wanted!r} never came: {seen}")


def test_output_is_prefixed_and_made_printable(tmp_path: Path) -> None:
    with supervised(
        tmp_path,
        r"""
        services = [Service(name="a", command=python("-c", "print('one\\x1b[31m\\rtwo'); import time; time.sleep(60)"))]
        """,
    ) as process:
        assert lines_until(process, "one")[-1] == r"      a | one\x1b[31m\rtwo"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_stages_are_stopped_in_their_order(tmp_path: Path) -> None:
    with supervised(
        tmp_path,
        """
        code = (
            "import signal, sys, time\\n"
            "def end(*_): time.sleep(float(sys.argv[1])); print('ended', flush=True); sys.exit(0)\\n"
            "signal.signal(signal.SIGTERM, end)\\n"
            "print('ready', flush=True)\\n"
            "while True: time.sleep(0.1)\\n"
        )
        services = [
            Service(name="late", command=python("-c", code, "0"), stage=1),
            Service(name="early", command=python("-c", code, "0.7"), stage=0),
        ]
        """,
    ) as process:
        lines_until(process, "ready")
        lines_until(process, "ready")
        process.send_signal(signal.SIGINT)
        said = [line for line in lines_until(process, "Stopped.") if "ended" in line]
        assert said == ["  early | ended", "   late | ended"]
        assert process.wait(timeout=20) == 0


def test_what_ends_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, 'services = [Service(name="a", command=python("-c", "raise SystemExit(3)"))]') as process:
        lines_until(process, "a ended with status 3; it is started again in 1 s.")
        lines_until(process, "a ended with status 3; it is started again in 2 s.")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


PARENT = """
import subprocess, sys
subprocess.run([sys.executable, sys.argv[1]])
"""
SUPERVISOR = """
from chromaadmin.platform import lifeline
from chromaadmin.platform.supervisor import Service, Supervisor, python
lifeline.follow_parent()
code = (
    "import os, time\\n"
    "from chromaadmin.platform import lifeline\\n"
    "lifeline.attach()\\n"
    "print(os.getpid())\\n"
    "time.sleep(60)\\n"
)
service = Service(name="a", command=python("-c", code))
Supervisor([service], write=lambda line: print(line, flush=True)).run()
"""


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected by init does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "supervisor.py"
    script.write_text(SUPERVISOR)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(script)],
        env=os.environ | {"PYTHONPATH": str(BASE_DIR)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        service = int(parent.stdout.readline().rpartition("|")[2])
        assert lives(service)
        parent.kill()
        # The output ends when the supervisor has ended; its lifeline then ends the service.
        assert parent.stdout.read() == ""
    deadline = time.monotonic() + 5
    while lives(service):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_waits_grow_and_begin_anew_after_a_steady_run(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(Service(name="a", command=[sys.executable, "-c", ""]))
    read_end, write_end = os.pipe()
    now = time.monotonic()
    try:
        waits = []
        for ran_seconds in (*[0] * 8, 3600):
            monkeypatch.setattr(time, "monotonic", lambda: now)
            process.start(read_end)
            monkeypatch.setattr(time, "monotonic", lambda ran=ran_seconds: now + ran)
            waits.append(process.ended())
        assert tuple(waits[:6]) == BACKOFF_SECONDS
        assert waits[6:] == [30, 30, 1]
    finally:
        os.close(read_end)
        os.close(write_end)
