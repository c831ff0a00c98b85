"""Real stores, accounts and registered instances for tests of the application."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from chromaadmin.audit import anchor

# Runs in a process of its own: chromadb and sqlite3 never share a process with a store.
_MAKE = """
import sys
import chromadb, numpy
from chromadb.config import Settings
path, records, dimensions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = chromadb.PersistentClient(path=path, settings=Settings(anonymized_telemetry=False))
hnsw = {"space": "l2", "batch_size": 100, "sync_threshold": 200}
docs = client.create_collection("docs", configuration={"hnsw": hnsw}, embedding_function=None)
random = numpy.random.default_rng(1)
for start in range(0, records, 200):
    count = min(200, records - start)
    docs.add(
        ids=[f"r{number}" for number in range(start, start + count)],
        embeddings=random.normal(size=(count, dimensions)).astype("float32").tolist(),
        documents=[f"document {number}" for number in range(start, start + count)],
    )
"""


@pytest.fixture(autouse=True)
def _no_anchor_of_another_test() -> None:
    """The database is emptied after a test, the file beside it is not."""
    (Path(settings.CHROMAADMIN_HOME) / anchor.NAME).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    made: dict[tuple[int, int], Path] = {}

    def template(records: int, dimensions: int) -> Path:
        if (records, dimensions) not in made:
            path = tmp_path_factory.mktemp("template") / "store"
            command = [sys.executable, "-W", "ignore", "-c", _MAKE, str(path), str(records), str(dimensions)]
            subprocess.run(command, check=True)
            made[records, dimensions] = path
        return made[records, dimensions]

    return template


@pytest.fixture
def make_store(_templates: Callable[[int, int], Path], tmp_path: Path) -> Callable[..., Path]:
    """A store of its own with the collection `docs`, written by Chroma's own client; `records` × `dimensions`."""
    count = 0

    def make(records: int = 400, dimensions: int = 16) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"store{count}"
        shutil.copytree(_templates(records, dimensions), path)
        return path

    return make


@pytest.fixture
def store(make_store: Callable[..., Path]) -> Path:
    """A small store."""
    return make_store()
