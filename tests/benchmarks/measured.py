"""Runs a program and measures it from outside: seconds and private memory of it and of all it started."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``cpu_s`` is processor time of all processes, ``peak_bytes`` the greatest RssAnon of any one of them,
    ``peak_sum_bytes`` of all together at one time.
    """

    output: bytes
    seconds: float
    cpu_s: float
    peak_bytes: int
    peak_sum_bytes: int


def measured(command: list[str], *, environment: Mapping[str, str] | None = None) -> Measured:
    """Run the command to its end; an exit status other than 0 fails with what it wrote."""
    started, used = time.monotonic(), _used_s()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    peak = peak_sum = 0
    while process.poll() is None:
        sizes = [anonymous_bytes(pid) for pid in tree(process.pid)]
        peak, peak_sum = max(peak, *sizes), max(peak_sum, sum(sizes))
        time.sleep(0.02)
    seconds = time.monotonic() - started
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode() + output.decode()
    return Measured(output=output, seconds=seconds, cpu_s=_used_s() - used, peak_bytes=peak, peak_sum_bytes=peak_sum)


def _used_s() -> float:
    """Processor time of all children that ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                for child in children.read().split():
                    yield from tree(int(child))


def anonymous_bytes(pid: int) -> int:
    """``RssAnon``: private memory, without mapped files; 0 for a process that ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
