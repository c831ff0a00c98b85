"""Fixtures of the crash tests: one small real store a session, a fresh Chroma for every question, copies to break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.torture import crash
from tests.torture.chroma import Chroma


@pytest.fixture(scope="session")
def chroma() -> Iterator[Chroma]:
    server = Chroma()
    yield server
    server.close()


@pytest.fixture(scope="session")
def original(chroma: Chroma, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "store"
    path.mkdir()
    chroma.make(path)
    return path


@pytest.fixture
def fresh(original: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the store, each at the same path, so that a run does the same system calls every time."""
    path = tmp_path / "store"

    def make() -> Path:
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(original, path)
        return path

    return make


@pytest.fixture
def log(tmp_path: Path) -> Path:
    if crash.STRACE is None:
        pytest.skip("strace is not installed")
    return tmp_path / "strace.log"
