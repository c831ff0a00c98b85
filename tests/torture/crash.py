"""Runs a process under strace: lists its write-class system calls below a directory, and kills or fails it at one."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STRACE = shutil.which("strace")
CALLS = (
    "write,writev,pwrite64,sendfile,copy_file_range,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,mkdir,"
    "mkdirat,rmdir,ftruncate,fallocate,fchmod,fchown,fsetxattr,fremovexattr,link,linkat,symlink,symlinkat,openat"
)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)\)\s+= (-?\d+)(.*)$")
_UNFINISHED = re.compile(r"^(\d+)\s+(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)\)\s+= (-?\d+)(.*)$")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One system call: the ``ordinal``-th of its ``name`` in its process, counted from 1 over all of them."""

    pid: int
    name: str
    ordinal: int
    arguments: str
    result: int

    @property
    def point(self) -> tuple[str, int]:
        """What an injection names."""
        return self.name, self.ordinal


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a process ended: exit status (negative: signal) and its last line as JSON, if it is."""

    status: int
    answer: dict[str, object]
    output: str


def run(arguments: list[str], *, strace: list[str] | None = None, env: dict[str, str] | None = None) -> Finished:
    """Run ``python ARGUMENTS`` from the project's root, under strace when options for it are given."""
    command = [sys.executable, *arguments]
    if strace is not None:
        assert STRACE is not None, "strace is needed"
        # Not --seccomp-bpf: with it strace 6.1 lets the signals of an injection fall away.
        command = [STRACE, "-f", "-qq", *strace, *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"} | (env or {}),
    )
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        answer = {}
    return Finished(status=done.returncode, answer=answer, output=done.stdout + done.stderr)


def trace(arguments: list[str], log: Path) -> tuple[Finished, list[Call]]:
    """Run to the end and list every call of ``CALLS``, in order."""
    finished = run(arguments, strace=["-y", "-s", "0", "-o", str(log), "-e", f"trace={CALLS}"])
    return finished, parse(log)


def parse(log: Path) -> list[Call]:
    """The calls of a log that strace wrote with -f and -y."""
    calls: list[Call] = []
    counts: dict[tuple[int, str], int] = {}
    waiting: dict[tuple[int, str], str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if match := _UNFINISHED.match(line):
            waiting[(int(match[1]), match[2])] = match[3]
            continue
        if match := _RESUMED.match(line):
            pid, name = int(match[1]), match[2]
            arguments, result = waiting.pop((pid, name), "") + match[3], int(match[4])
        elif match := _LINE.match(line):
            pid, name, arguments, result = int(match[1]), match[2], match[3], int(match[4])
        else:
            continue
        counts[(pid, name)] = counts.get((pid, name), 0) + 1
        calls.append(Call(pid=pid, name=name, ordinal=counts[(pid, name)], arguments=arguments, result=result))
    return calls


def writing(calls: list[Call], below: Path) -> list[Call]:
    """The calls of the first process that change something below a directory; opens only when they may create."""
    main = calls[0].pid
    return [
        call
        for call in calls
        if call.pid == main
        and str(below) in call.arguments
        and (call.name != "openat" or "O_CREAT" in call.arguments or "O_TRUNC" in call.arguments)
    ]


def kill_at(arguments: list[str], point: tuple[str, int], log: Path) -> Finished:
    """Run and kill the process (SIGKILL) as it enters the call."""
    name, ordinal = point
    options = ["-o", str(log), "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={ordinal}"]
    return run(arguments, strace=options)


def fail_at(arguments: list[str], point: tuple[str, int], error: str, log: Path, *, ever: bool = False) -> Finished:
    """Run and let the call fail with an error (ENOSPC, EIO); with ``ever``, every later one of its name too."""
    name, ordinal = point
    when = f"{ordinal}+" if ever else str(ordinal)
    options = ["-o", str(log), "-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={when}"]
    return run(arguments, strace=options)


@dataclass(frozen=True, kw_only=True)
class State:
    """What a probe that knows nothing of Chroma Admin's code sees of a store.

    ``vector`` maps the name of a collection to its vector segment, ``ef`` to the ef_search of its configuration.
    """

    vector: dict[str, str]
    ef: dict[str, int]
    directories: frozenset[str]
    journal: bool
    strays: tuple[str, ...]


def state(path: Path) -> State:
    """Look at a store with plain sqlite3 and ``os.listdir``; a hot journal must be gone by then."""
    connection = sqlite3.connect(f"file:{path}/chroma.sqlite3?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT c.name, s.id, c.schema_str FROM collections c JOIN segments s ON s.collection = c.id "
            "WHERE s.scope = 'VECTOR'"
        ).fetchall()
        watermarked = {row[0] for row in connection.execute("SELECT segment_id FROM max_seq_id")}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    vector = {name: segment for name, segment, _ in rows}
    directories = frozenset(name for name in os.listdir(path) if UUID.fullmatch(name))
    persisted = {segment for segment in vector.values() if segment in watermarked}
    assert persisted <= directories, f"a current index has no directory: {persisted - directories}"
    for segment in persisted:
        assert len(os.listdir(path / segment)) == 5, f"{segment} is not whole"
    return State(
        vector=vector,
        ef={name: _ef(text) for name, _, text in rows},
        directories=directories,
        journal=(path / "chroma.sqlite3-journal").exists(),
        strays=_strays(path, set(vector.values())),
    )


def _ef(text: str) -> int:
    config = json.loads(text)["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
    return int(config["hnsw"].get("ef_search", 100))


def _strays(path: Path, current: set[str]) -> tuple[str, ...]:
    """What should not be there when nothing is running: the trash of committed runs and kept outcomes should."""
    found = [
        name
        for name in os.listdir(path)
        if name not in current and name not in ("chroma.sqlite3", "chroma.sqlite3-journal", ".chromaadmin")
    ]
    root = path / ".chromaadmin"
    if root.exists():
        known = {"lock", "intent-lock", "intents", "stage", "trash", "done"}
        found += [f".chromaadmin/{name}" for name in os.listdir(root) if name not in known]
        for part in ("intents", "stage"):
            if (root / part).exists():
                found += [f"{part}/{name}" for name in os.listdir(root / part)]
        for part in ("trash", "done"):
            found += [str(file.relative_to(root)) for file in (root / part).rglob(".*")]
        found += [str(run.relative_to(root)) for run in (root / "trash").glob("*") if not os.listdir(run)]
    return tuple(sorted(found))
