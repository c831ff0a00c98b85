"""`manage.py up`: set everything up and run it: web server, console cluster, jobs cluster of this host."""

import argparse
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.db import connections

from chromaadmin.platform import demo, lifeline, preparation
from chromaadmin.platform.home import Home, HomeInUse
from chromaadmin.platform.supervisor import Service, Supervisor, python
from chromaadmin.settings.config import BASE_DIR, Config

READY_WITHIN_SECONDS = 90


class Command(BaseCommand):
    help = "Set up the data directory and run the whole application until Ctrl-C."
    # The database may not be migrated yet; `check` runs below, after the migrations.
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="Make a Chroma store to look at and register it.")
        parser.add_argument("--no-web", action="store_true", help="Start no web server.")
        parser.add_argument("--no-console", action="store_true", help="Start no console cluster (schedules, probes).")
        parser.add_argument("--no-jobs", action="store_true", help="Start no jobs cluster: no run is executed here.")

        parser.add_argument(
            "--with-parent", action="store_true", help="End at once when the process that started this one has ended."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["with_parent"]:
            lifeline.follow_parent()
        os.umask(0o077)
        home: Home = settings.HOME
        try:
            lock = home.lock()
        except HomeInUse as refusal:
            raise CommandError(f"{refusal} One `up` at a time uses a data directory.") from None
        try:
            # Before anything is changed: an address in use is told at once.
            with closing(_listen(settings.CONFIG)) as listener:
                code = self._run(home, listener, options)
        except KeyboardInterrupt:
            raise CommandError("Stopped before everything was set up; the next start goes on from here.") from None
        finally:
            lock.release()
        if code:
            sys.exit(code)

    def _run(self, home: Home, listener: socket.socket, options: dict[str, Any]) -> int:
        config: Config = settings.CONFIG
        for sentence in preparation.prepare(home):
            self._say(sentence)
        call_command("check", fail_level="ERROR")
        roots = list(config.roots)
        if options["demo"]:
            roots.append(demo.root(home).resolve())
            settings.CHROMAADMIN_ROOTS = tuple(roots)
            for sentence in demo.ensure(home):
                self._say(sentence)
        try:
            setup_path = preparation.first_administrator(config)
        except (OSError, ValidationError) as refusal:
            reason = " ".join(refusal.messages) if isinstance(refusal, ValidationError) else str(refusal)
            raise CommandError(f"CHROMAADMIN_ADMIN_PASSWORD_FILE makes no administrator: {reason}") from None
        connections.close_all()

        address = f"http://{_shown_host(config)}:{listener.getsockname()[1]}"
        if not options["no_web"]:
            threading.Thread(target=self._announce, args=(address, setup_path), daemon=True).start()
        environment = {
            "CHROMAADMIN_HOME": str(home.path),
            "CHROMAADMIN_ROOTS": os.pathsep.join(map(str, roots)),
            "DJANGO_SETTINGS_MODULE": "chromaadmin.settings.base",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(BASE_DIR), os.environ.get("PYTHONPATH")])),
        }
        manage = str(BASE_DIR / "manage.py")
        clusters = {"console": settings.CONSOLE_QUEUE, "jobs": settings.JOBS_QUEUE}
        services = [
            Service(
                name=name,
                command=python(manage, "qcluster"),
                environment=environment | {"Q_CLUSTER_NAME": queue},
            )
            for name, queue in clusters.items()
            if not options[f"no_{name}"]
        ]
        if not options["no_web"]:
            # Drained last: a run that is being finished can still be watched and cancelled.
            services.append(
                Service(
                    name="web",
                    command=python(
                        "-m", "gunicorn",
                        "--config", "python:chromaadmin.platform.gunicorn_conf",
                        "--bind", f"fd://{listener.fileno()}",
                    ),
                    environment=environment,
                    descriptors=(listener.fileno(),),
                    stage=1,
                )
            )  # fmt: skip
        return Supervisor(services, write=self._say).run()

    def _announce(self, address: str, setup_path: str | None) -> None:
        """Say where the pages are once they answer."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        # No proxy of the environment stands between this process and its own child.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            try:
                with opener.open(f"{address}/healthz", timeout=10):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        else:
            self._say("The web server does not answer yet; its messages are above.")
            return
        self._say(f"Chroma Admin runs at {address}/ (data in {settings.HOME.path}). Ctrl-C stops it.")
        if setup_path:
            self._say(f"Create the first administrator within 30 minutes: {address}{setup_path}")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _listen(config: Config) -> socket.socket:
    """The web server's socket, held here so that a restart of gunicorn refuses nobody."""
    family = socket.AF_INET6 if ":" in config.bind_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.bind_host, config.bind_port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"The address {config.bind} can not be used: {error.strerror}. Set CHROMAADMIN_BIND to another."
        ) from None
    return listener


def _shown_host(config: Config) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.bind_host, config.bind_host)  # noqa: S104 - compared only
    return f"[{host}]" if ":" in host else host
