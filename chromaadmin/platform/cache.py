"""A cache of small JSON files, shared by the processes of one host.

Django's own shared caches keep pickles: whoever could write to the database or to the cache directory would run code in
the web process. Here a value is data and nothing else, and `add` is atomic, which the lock-out of allauth relies on.
"""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache


class JsonFileCache(BaseCache):
    """One file per key below LOCATION, replaced by rename; values must be JSON."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._directory = Path(location)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        file = self._file(key, version)
        try:
            entry = json.loads(file.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return default
        if _expired(entry):
            file.unlink(missing_ok=True)
            return default
        return entry["value"]

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._write(self._file(key, version), value, timeout)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        with self._lock():
            if self.has_key(key, version):
                return False
            self.set(key, value, timeout, version)
            return True

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        with self._lock():
            missing = object()
            value = self.get(key, missing, version)
            if value is missing:
                return False
            self.set(key, value, timeout, version)
            return True

    def delete(self, key: str, version: int | None = None) -> bool:
        try:
            self._file(key, version).unlink()
        except FileNotFoundError:
            return False
        return True

    def has_key(self, key: str, version: int | None = None) -> bool:
        missing = object()
        return self.get(key, missing, version) is not missing

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        with self._lock():
            return super().incr(key, delta, version)

    def clear(self) -> None:
        for file in self._directory.glob("*.json"):
            file.unlink(missing_ok=True)

    def _file(self, key: str, version: int | None) -> Path:
        return self._directory / f"{hashlib.sha256(self.make_and_validate_key(key, version).encode()).hexdigest()}.json"

    def _write(self, file: Path, value: Any, timeout: Any) -> None:
        content = json.dumps({"expires_at": self.get_backend_timeout(timeout), "value": value}).encode()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            self._cull()
        draft = file.with_suffix(f".{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        draft.replace(file)

    def _cull(self) -> None:
        """Keep the number of files bounded: first what has expired goes, then the oldest."""
        files = list(self._directory.glob("*.json"))
        if len(files) < self._max_entries:
            return
        aged = []
        for file in files:
            try:
                if _expired(json.loads(file.read_bytes())):
                    file.unlink(missing_ok=True)
                else:
                    aged.append((file.stat().st_mtime_ns, file))
            except (FileNotFoundError, json.JSONDecodeError):
                continue
        for _, file in sorted(aged)[: max(0, len(aged) - self._max_entries + 1)]:
            file.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _expired(entry: dict[str, Any]) -> bool:
    expires_at = entry["expires_at"]
    return expires_at is not None and expires_at <= time.time()
