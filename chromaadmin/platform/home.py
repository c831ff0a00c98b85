"""The data directory of one installation: its layout, its keys, and the lock that lets one `up` run on it."""

import base64
import fcntl
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class HomeInUse(Exception):
    """Another `up` runs on the same data directory."""

    def __init__(self, home: Path, pid: int | None) -> None:
        self.home = home
        self.pid = pid
        super().__init__(f"{home} is in use by another `manage.py up`" + (f" (PID {pid})." if pid else "."))


@dataclass(frozen=True, kw_only=True)
class Home:
    """Paths below `CHROMAADMIN_HOME`. Everything in it is readable by its owner alone."""

    path: Path

    @classmethod
    def prepare(cls, path: Path) -> Self:
        """The data directory, made with mode 0700 when it is missing.

        Raises PermissionError when the directory belongs to somebody else: keys must not be kept there.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to user {status.st_uid}, not to this one.")
        if status.st_mode & 0o077:
            path.chmod(0o700)
        home = cls(path=path)
        for folder in (home.keys, home.runs, home.cache, home.static):
            folder.mkdir(mode=0o700, exist_ok=True)
        return home

    @property
    def database(self) -> Path:
        return self.path / "chromaadmin.sqlite3"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def runs(self) -> Path:
        """One folder per run: log, plan, result, evidence."""
        return self.path / "runs"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def static(self) -> Path:
        return self.path / "static"

    @property
    def backups(self) -> Path:
        """Copies of the SQLite file, made before migrations."""
        return self.path / "backups"

    @property
    def lock_file(self) -> Path:
        return self.path / "up.lock"

    def key(self, name: str) -> str:
        """The key `name`: 256 bits from the system's generator in URL-safe base64, made at first use."""
        return self.key_lines(name)[0]

    def key_lines(self, name: str, *, size_bytes: int = 32) -> tuple[str, ...]:
        """Every line of a key file, newest first: an operator rotates a key by writing a new first line.

        A missing file is made with one key of `size_bytes`; 32 is what Fernet takes.
        """
        file = self.keys / name
        self._create_once(file, size_bytes)
        lines = tuple(line.strip() for line in file.read_text("ascii").splitlines() if line.strip())
        if not lines:
            raise ValueError(f"The key file {file} is empty.")
        return lines

    @staticmethod
    def _create_once(file: Path, size_bytes: int) -> None:
        """Several processes may start together: the key is written aside and linked, so one wins with a whole file."""
        if file.exists():
            return
        draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(base64.urlsafe_b64encode(secrets.token_bytes(size_bytes)) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(draft, file)
            except FileExistsError:
                return
            directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        finally:
            draft.unlink()

    def lock(self) -> "HomeLock":
        """Take the lock of `up`; raises HomeInUse with the other's PID."""
        return HomeLock.take(self)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free


class HomeLock:
    """An flock on `<home>/up.lock`; the kernel releases it however the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Home) -> Self:
        descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise HomeInUse(home.path, int(owner) if owner.isdigit() else None) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
