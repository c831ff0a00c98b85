"""A real browser, the whole application as `manage.py up` starts it, and stores that Chroma itself wrote."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "correct horse battery staple 9"


class Application:
    """One `manage.py up` on a home of its own, with everything it starts."""

    def __init__(self, home: Path, roots: Path, password_file: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHROMAADMIN_", "DJANGO_"))}
        self.environment = kept | {
            "CHROMAADMIN_HOME": str(home), "CHROMAADMIN_BIND": "127.0.0.1:0", "CHROMAADMIN_ROOTS": str(roots),
            "CHROMAADMIN_ADMIN_PASSWORD_FILE": str(password_file),
        }  # fmt: skip
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "up"], env=self.environment, cwd=home.parent, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def address(self) -> str:
        found = re.search(r"runs at (http://\S+)/ ", self.output)
        return found[1] if found else ""

    def wait_until_ready(self, seconds: float = 150) -> None:
        end = time.monotonic() + seconds
        while not (self.address and self.output.count(" running.") >= 2):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, f"not ready within {seconds} s:\n{self.output}"
            time.sleep(0.1)

    def python(self, code: str, *arguments: str) -> None:
        """Run code beside the application, on its database."""
        command = [sys.executable, "-W", "ignore", "-c", f"import sys, django; django.setup()\n{code}", *arguments]
        environment = self.environment | {
            "DJANGO_SETTINGS_MODULE": "chromaadmin.settings.base",
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run(command, env=environment, check=True, cwd=ROOT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.reader.join(timeout=10)


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    (tmp_path / "stores").mkdir(exist_ok=True)
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD)
    running = Application(tmp_path / "home", tmp_path / "stores", password_file)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.end()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's chromium, headless; without it these tests are skipped."""
    if not CHROMIUM.exists():
        reason = f"there is no {CHROMIUM}: no test in a real browser (apt-get install chromium)"
        print(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), headless=True, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`content policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));"""


class Visitor:
    """One person's browser. ``complaints`` are console errors, script errors and violations of the content policy."""

    def __init__(self, chromium: Any, address: str, pictures: Path) -> None:
        self.context = chromium.new_context(viewport={"width": 1440, "height": 900}, base_url=address)
        self.context.add_init_script(_VIOLATIONS)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.pictures = pictures
        pictures.mkdir(exist_ok=True)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.type}: {message.text}")

    def sign_in(self, name: str, password: str = PASSWORD) -> None:
        self.page.goto("/")
        self.page.locator("input[name=login]").fill(name)
        self.page.locator("input[name=password]").fill(password)
        self.page.locator("button[type=submit]").first.click()
        self.page.wait_for_selector("nav#nav")

    def picture(self, name: str) -> None:
        self.page.screenshot(path=str(self.pictures / f"{name}.png"), full_page=True)


@pytest.fixture
def visit(chromium: Any, application: Application, tmp_path: Path) -> Iterator[Callable[[], Visitor]]:
    visitors: list[Visitor] = []

    def make() -> Visitor:
        visitors.append(Visitor(chromium, application.address, tmp_path / "pictures"))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()


class ChromaChild:
    """The real chromadb, in a process of its own per question: it never shares one with the application or the test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, code: str, **given: Any) -> Any:
        """Run code with ``client``, ``numpy`` and ``given``; what it binds to ``answer`` comes back."""
        program = (
            "import json, sys, chromadb, numpy\nfrom chromadb.config import Settings\ngiven = json.load(sys.stdin)\n"
            "client = chromadb.PersistentClient(path=sys.argv[1], settings=Settings(anonymized_telemetry=False))\n"
            f"answer = None\n{code}\nprint(json.dumps(answer))\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(self.path)], input=json.dumps(given), text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def chroma(tmp_path: Path) -> ChromaChild:
    path = tmp_path / "stores" / "team"
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    return ChromaChild(path)
