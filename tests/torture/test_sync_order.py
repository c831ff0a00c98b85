"""At the commit point nothing that the commit relies on is unsynced: an auditor over the log of strace."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.test_flip_killed import flip_arguments

_FD = re.compile(r"^\d+<([^>]*)>")
_AT = re.compile(r'(?:AT_FDCWD|\d+)(?:<([^>]*)>)?, "([^"]*)"')
_WRITES = {"write", "writev", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "fallocate", "fchmod", "fchown"}
_ATTRIBUTES = {"fsetxattr", "fremovexattr"}


class Auditor:
    """Follows which files and directories below ``root`` have changes that no fsync has covered."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.dirty: set[str] = set()

    def see(self, call: crash.Call) -> None:
        if call.result < 0:
            return
        if call.name in ("fsync", "fdatasync"):
            self.dirty.discard(self._descriptor(call))
        elif call.name in _WRITES | _ATTRIBUTES:
            self._touch(self._descriptor(call))
        elif (call.name == "openat" and "O_CREAT" in call.arguments) or call.name.startswith("mkdir"):
            (path,) = self._paths(call)
            self._touch(path)
            self._touch(os.path.dirname(path))
        elif call.name.startswith("rename"):
            old, new = self._paths(call)
            self.dirty = {path.replace(old, new, 1) if path.startswith(old) else path for path in self.dirty}
            self._touch(os.path.dirname(old))
            self._touch(os.path.dirname(new))
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            (path,) = self._paths(call)
            self.dirty = {entry for entry in self.dirty if entry != path and not entry.startswith(path + "/")}
            self._touch(os.path.dirname(path))

    def _touch(self, path: str) -> None:
        if path == self.root or path.startswith(self.root + "/"):
            self.dirty.add(path)

    def _descriptor(self, call: crash.Call) -> str:
        match = _FD.match(call.arguments)
        return match[1] if match else ""

    def _paths(self, call: crash.Call) -> list[str]:
        pairs = _AT.findall(call.arguments) or [("", name) for name in re.findall(r'"([^"]*)"', call.arguments)]
        return [os.path.join(base, name) for base, name in pairs]


def is_commit(call: crash.Call) -> bool:
    return call.name == "unlink" and "chroma.sqlite3-journal" in call.arguments and call.result == 0


def unsynced_at_commits(calls: list[crash.Call], path: Path) -> list[set[str]]:
    """For each commit, what was unsynced as it began, apart from the locks, whose contents nothing relies on."""
    auditor, found = Auditor(path), []
    for call in calls:
        if is_commit(call):
            found.append(auditor.dirty - locks(path))
        auditor.see(call)
    return found


def locks(path: Path) -> set[str]:
    return {str(path / ".chromaadmin" / name) for name in ("lock", "intent-lock")}


def paths_in_full(log: Path) -> None:
    """strace was told to cut strings to nothing, which the other tests want; here names are needed."""
    text = log.read_text(errors="replace")
    assert '""...' not in text, "names were cut"


@pytest.fixture
def traced(fresh: Callable[[], Path], log: Path) -> tuple[Path, list[crash.Call]]:
    path = fresh()
    options = ["-y", "-s", "4096", "-o", str(log), "-e", f"trace={crash.CALLS}"]
    finished = crash.run(flip_arguments(path, "alpha", "gamma"), strace=options)
    assert finished.status == 0, finished.output
    paths_in_full(log)
    return path, crash.parse(log)


def test_nothing_is_unsynced_at_the_commit_point(traced: tuple[Path, list[crash.Call]]) -> None:
    path, calls = traced
    assert unsynced_at_commits(calls, path) == [set(), set()]


@pytest.mark.parametrize("name", ["data_level0.bin", "undo-1.json", "intents", "trash"])
def test_the_auditor_finds_a_sync_that_is_left_out(traced: tuple[Path, list[crash.Call]], name: str) -> None:
    path, calls = traced
    first = next(index for index, call in enumerate(calls) if is_commit(call))
    without = [
        call
        for index, call in enumerate(calls)
        if index > first
        or call.name != "fsync"
        or f"{name}>" not in call.arguments.replace(".torn", "").replace("/.", "/")
    ]
    assert any(name in entry for entry in unsynced_at_commits(without, path)[0])


def test_everything_is_synced_at_the_end(traced: tuple[Path, list[crash.Call]]) -> None:
    path, calls = traced
    auditor = Auditor(path)
    for call in calls:
        auditor.see(call)
    assert auditor.dirty <= locks(path)
