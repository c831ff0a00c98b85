"""What `up` does before it starts anything: database, static files, first administrator."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from chromaadmin.accounts import services as accounts
from chromaadmin.platform.home import Home
from chromaadmin.settings.config import Config

KEPT_BACKUPS = 5


def prepare(home: Home) -> Iterator[str]:
    """Migrate the database and collect static files where needed; yields sentences about what was done."""
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        if connection.vendor == "sqlite" and executor.loader.applied_migrations:
            yield f"The database was copied to {back_up(home)} before its migrations."
        call_command("migrate", interactive=False, verbosity=0)
        yield f"{len(waiting)} migrations were applied."
    stamp = home.static / ".stamp"  # in the directory itself: whoever removes the one removes the other
    fingerprint = static_fingerprint()
    if not (stamp.exists() and stamp.read_text() == fingerprint):
        call_command("collectstatic", interactive=False, clear=True, verbosity=0)
        stamp.write_text(fingerprint)
        yield "Static files were collected."


def back_up(home: Home) -> Path:
    """A consistent copy of the SQLite file by SQLite's backup API; the newest KEPT_BACKUPS are kept."""
    home.backups.mkdir(mode=0o700, exist_ok=True)
    target = home.backups / f"chromaadmin-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite3"
    with closing(sqlite3.connect(home.database)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    target.chmod(0o600)
    for old in sorted(home.backups.glob("chromaadmin-*.sqlite3"))[:-KEPT_BACKUPS]:
        old.unlink()
    return target


def static_fingerprint() -> str:
    """Changes with every static file's name, size or time, of this project and of the libraries."""
    files = []
    for finder in get_finders():
        for name, storage in finder.list([]):
            status = Path(storage.path(name)).stat()
            files.append((name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()


def first_administrator(config: Config) -> str | None:
    """Make sure somebody can log in: from the password file when one is named, else by a one-time link.

    Returns the link's path, or None when an administrator exists already.
    """
    if config.admin_password_file is not None:
        accounts.ensure_admin_from_file(config.admin_user, config.admin_password_file)
        return None
    link: str | None = accounts.issue_setup_link()
    return link
