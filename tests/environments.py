"""Environments of other Chroma releases, for fixtures and comparisons: `python tests/environments.py NAME` makes one.

They lie in .envs/NAME, are kept between runs and remade when their line in the table changes. At most two are made at a
time, whoever asks, because each takes some hundred megabytes of downloads.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".envs"
AT_ONCE = 2

# What `pip install` is given. Releases before 1.0 need numpy 1 and, where named, older neighbours.
TABLE: dict[str, tuple[str, ...]] = {
    "chops": ("chromadb==0.6.3", "chromadb-ops==0.1.5", "numpy<2"),
    "0.4.3": ("chromadb==0.4.3", "numpy<2"),
    "0.4.14": ("chromadb==0.4.14", "numpy<2"),
    "0.4.24": ("chromadb==0.4.24", "numpy<2"),
    "0.5.0": ("chromadb==0.5.0", "numpy<2"),
    "0.5.5": ("chromadb==0.5.5", "numpy<2"),
    "0.5.23": ("chromadb==0.5.23", "numpy<2"),
    "0.6.3": ("chromadb==0.6.3", "numpy<2"),
    "1.0.21": ("chromadb==1.0.21",),
    "1.3.7": ("chromadb==1.3.7",),
    # The release that the project itself runs with: where an interpreter has it, no environment is made.
    "1.5.9": ("chromadb==1.5.9",),
}


class EnvironmentFailed(Exception):
    """pip could not make the environment."""


def python(name: str) -> Path:
    """The interpreter of environment `name`, which is made first when it is missing or its requirements changed."""
    requirements = TABLE[name]
    if requirements == (f"chromadb=={_installed()}",):
        return Path(sys.executable)
    folder = ENVIRONMENTS / name
    interpreter = folder / "bin" / "python"
    stamp = folder / ".made-of"
    wanted = "\n".join(requirements) + "\n"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with _locked(ENVIRONMENTS / f"{name}.lock"):
        if not (stamp.exists() and stamp.read_text() == wanted):
            with _one_of(AT_ONCE):
                _make(folder, requirements)
            stamp.write_text(wanted)
    return interpreter


def _installed() -> str:
    """The release of chromadb that this interpreter has; empty without one."""
    try:
        return version("chromadb")
    except PackageNotFoundError:
        return ""


def _make(folder: Path, requirements: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements],
    )
    for step in steps:
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise EnvironmentFailed(f"{' '.join(step)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _one_of(count: int) -> Iterator[None]:
    """Hold one of `count` places; waits until one is free."""
    descriptor = _place(count)
    try:
        yield
    finally:
        os.close(descriptor)


def _place(count: int) -> int:
    while True:
        for place in range(count):
            descriptor = os.open(ENVIRONMENTS / f"place-{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return descriptor
        time.sleep(1)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in TABLE]
    if unknown or not names:
        print(f"usage: python tests/environments.py NAME…   NAME is one of: {', '.join(TABLE)}", file=sys.stderr)
        return 2
    for name in names:
        try:
            print(f"{name}: {python(name)}")
        except EnvironmentFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
