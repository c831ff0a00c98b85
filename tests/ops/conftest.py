"""Stores for tests of ops: each test gets a copy of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.store.persist_dir import PersistDir
from tests.ops import stores


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies the store of a script of ``tests.ops.stores`` for this test."""
    made = iter(range(1000))
    return lambda script: stores.copy_of(script, tmp_path / f"store-{next(made)}")


@pytest.fixture
def small(make_store: Callable[[str], Path]) -> Path:
    """alpha (2000 persisted, 500 in the WAL), beta (never persisted), gamma (400 deletes in the WAL)."""
    return make_store(stores.SMALL)


@pytest.fixture
def churned(make_store: Callable[[str], Path]) -> Path:
    """One collection with persisted tombstones."""
    return make_store(stores.CHURNED)


@pytest.fixture
def tenants(make_store: Callable[[str], Path]) -> Path:
    """Collections called docs in three databases of two tenants."""
    return make_store(stores.TENANTS)


@pytest.fixture
def types(make_store: Callable[[str], Path]) -> Path:
    """Every type of metadata, and ids and documents of many scripts."""
    return make_store(stores.TYPES)


@pytest.fixture
def opened(small: Path) -> Iterator[PersistDir]:
    """The small store, open for reading."""
    with PersistDir.open(small) as store:
        yield store
