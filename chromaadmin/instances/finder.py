"""Where is my data? Looks for persist directories below the allowed roots: by name only, bounded, following no link."""

import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

DATABASE = "chroma.sqlite3"
OWN = ".chromaadmin"
MAX_DEPTH = 8
MAX_ENTRIES = 50_000
MAX_FOUND = 100
DEADLINE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class FoundStore:
    """A directory with a file called chroma.sqlite3; ``registered_as`` is the name of its instance, if any."""

    path: str
    registered_as: str = ""

    @property
    def address(self) -> str:
        """The query that probes it; empty for a path that is no text, which no form can send."""
        try:
            return f"?{urlencode({'path': self.path})}"
        except UnicodeEncodeError:
            return ""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found. ``stopped`` says why it did not see everything, empty when it did."""

    stores: tuple[FoundStore, ...]
    directories: int
    stopped: str = ""
    unreadable: int = 0


def find_stores(roots: Iterable[Path], registered: dict[str, str], *, deadline_s: float = DEADLINE_S) -> Search:
    """Breadth first through the roots, so that what lies near comes before a limit is met.

    ``registered`` maps real paths to names. Opens directories only; a directory that is a store is not descended into,
    because its segments hold no other one.
    """
    end = time.monotonic() + deadline_s
    waiting = deque((os.fspath(root), 0) for root in roots)
    stores: list[FoundStore] = []
    directories = entries = unreadable = 0
    stopped = ""
    while waiting and not stopped:
        path, depth = waiting.popleft()
        directories += 1
        try:
            below, is_store, seen = _look(path, MAX_ENTRIES - entries)
        except OSError:
            unreadable += 1
            continue
        entries += seen
        if is_store:
            stores.append(FoundStore(path=path, registered_as=registered.get(path, "")))
        elif depth < MAX_DEPTH:
            waiting.extend((child, depth + 1) for child in below)
        stopped = _why_stop(len(stores), entries, end)
    return Search(
        stores=tuple(sorted(stores, key=lambda one: one.path)),
        directories=directories,
        stopped=stopped,
        unreadable=unreadable,
    )


def _look(path: str, limit: int) -> tuple[list[str], bool, int]:
    """The directories in ``path``, whether it is a store, and how many entries were looked at."""
    below: list[str] = []
    is_store = False
    seen = 0
    with os.scandir(path) as entries:
        for entry in entries:
            seen += 1
            if entry.name == DATABASE and entry.is_file(follow_symlinks=False):
                is_store = True
            elif entry.name != OWN and entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            if seen >= limit:
                break
    return sorted(below), is_store, seen


def _why_stop(found: int, entries: int, end: float) -> str:
    if found >= MAX_FOUND:
        return f"The search stopped at {MAX_FOUND} stores; give a path for others."
    if entries >= MAX_ENTRIES:
        return f"The search stopped after {MAX_ENTRIES:,} directory entries."
    if time.monotonic() > end:
        return f"The search stopped after {DEADLINE_S:.0f} s."
    return ""
