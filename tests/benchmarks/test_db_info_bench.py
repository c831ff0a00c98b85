"""`db info` against the `info` of chromadb-ops, each on 50,000 vectors of 384 dimensions in a store of its release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environments
from tests.benchmarks.measured import Measured, measured

VECTORS, DIMENSION, ROUNDS = 50_000, 384, 3

WRITE = """
import sys, chromadb, numpy as np
path, vectors, dimension = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(5)
collection = chromadb.PersistentClient(path=path).create_collection("big", metadata={"hnsw:sync_threshold": 5_000})
for start in range(0, vectors, 5_000):
    collection.add(
        ids=[f"r{number}" for number in range(start, start + 5_000)],
        embeddings=rng.normal(size=(5_000, dimension)).astype(np.float32),
    )
"""

THEIRS = """
import json, sys
from chroma_ops.db_info import info
found = info(sys.argv[1])
print(json.dumps({"count": found["collection_count"]}))
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory, str(environments.python("chops")))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory, sys.executable)


def written(places: pytest.TempPathFactory, python: str) -> Path:
    path = places.mktemp("bench") / "store"
    subprocess.run([python, "-c", WRITE, str(path), str(VECTORS), str(DIMENSION)], check=True)
    return path


@pytest.mark.benchmark
def test_info_takes_a_fraction_of_the_time_and_memory(ours: Path, theirs: Path) -> None:
    """It reads header and id map; the other one opens the store with chromadb and loads the index."""
    python = str(environments.python("chops"))
    mine: list[Measured] = []
    other: list[Measured] = []
    for _ in range(ROUNDS):
        mine.append(measured([sys.executable, "-m", "ops", "db", "info", str(ours), "--json"]))
        other.append(measured([python, "-c", THEIRS, str(theirs)]))
    (collection,) = json.loads(mine[0].output)["result"]["collections"]
    assert (collection["records"], collection["hnsw"]["elements"], collection["hnsw"]["labels"]) == (VECTORS,) * 3
    assert json.loads(other[0].output.splitlines()[-1]) == {"count": 1}
    fast, slow = min(run.seconds for run in mine), min(run.seconds for run in other)
    small, large = max(run.peak_sum_bytes for run in mine), min(run.peak_sum_bytes for run in other)
    print(
        f"\ndb info {fast:.2f} s, {small / 1e6:.0f} MB; chromadb-ops {slow:.2f} s, {large / 1e6:.0f} MB"
        f" ({slow / fast:.1f} × the time, {large / small:.1f} × the memory)"
    )
    assert fast < slow
    assert small < large
