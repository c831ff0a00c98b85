"""The folder of a run: its log as JSON lines, its plan, its result; ``<CHROMAADMIN_HOME>/runs/<uuid>/``."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

LOG = "log.jsonl"
MAX_LOG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a run's log; ``source`` is supervisor, operation or stderr."""

    at: datetime
    source: str
    text: str


def path_of(run_id: UUID | str) -> Path:
    """Where the folder is; it exists once the run was started on this host."""
    return Path(settings.CHROMAADMIN_RUNS_DIR) / str(UUID(str(run_id)))


class RunFolder:
    """The folder of a run that is being executed here."""

    def __init__(self, run_id: UUID) -> None:
        self.path = path_of(run_id)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = os.open(
            self.path / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        self._left = MAX_LOG_BYTES - os.fstat(self._log).st_size

    def log(self, source: str, text: str) -> None:
        """Append a line; JSON escapes every control character, so that none can forge another line."""
        if self._left <= 0:
            return
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "source": source, "text": text[:4000]}
        data = json.dumps(line).encode("ascii") + b"\n"
        self._left -= len(data)
        if self._left <= 0:
            data = json.dumps(line | {"text": "The log is full; later lines are not kept."}).encode() + b"\n"
        os.write(self._log, data)

    def write_json(self, name: str, value: Any) -> int:
        """Write one JSON file by rename; returns its size in bytes."""
        data = json.dumps(value, indent=1).encode()
        draft = self.path / f".{name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        draft.rename(self.path / name)
        return len(data)

    def close(self) -> None:
        os.close(self._log)


def read_log(run_id: UUID | str, *, last: int = 500) -> list[LogLine]:
    """The last lines of a run's log, oldest first; empty when there is none on this host."""
    return list(_parsed(_tail(path_of(run_id) / LOG, last)))


def read_json(run_id: UUID | str, name: str) -> Any:
    """A JSON file of the folder, None when there is none on this host."""
    try:
        return json.loads((path_of(run_id) / name).read_bytes())
    except FileNotFoundError:
        return None


def _tail(file: Path, count: int) -> list[bytes]:
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            size = stream.tell()
            # A line has at most some 25 kB after escaping; mostly far less.
            stream.seek(max(0, size - max(count * 400, 65536)))
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return []
    return [line for line in lines if line][-count:]


def _parsed(lines: list[bytes]) -> Iterator[LogLine]:
    for line in lines:
        try:
            entry = json.loads(line)
            yield LogLine(at=datetime.fromisoformat(entry["at"]), source=entry["source"], text=entry["text"])
        except (ValueError, KeyError, TypeError):
            continue  # the first line of a tail is mostly cut
