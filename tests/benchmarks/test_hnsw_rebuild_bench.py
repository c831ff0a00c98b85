"""`hnsw rebuild` against the bare library: time and memory for 40,000 live vectors and 10,000 tombstones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measured import measured

LIVE, DEAD, DIMENSION, M, EF_CONSTRUCTION, THREADS = 40_000, 10_000, 384, 32, 100, 2
ROUNDS = 2

WRITE = """
import sys, chromadb, numpy as np
path, live, dead, dimension = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(5)
collection = chromadb.PersistentClient(path=path).create_collection(
    "big", configuration={"hnsw": {"space": "l2", "sync_threshold": 10_000}}
)
for start in range(0, live + dead, 5_000):
    collection.add(
        ids=[f"r{number}" for number in range(start, start + 5_000)],
        embeddings=rng.normal(size=(5_000, dimension)).astype(np.float32),
    )
gone = [f"r{number}" for number in rng.choice(live + dead, dead, replace=False)]
for start in range(0, dead, 5_000):
    collection.delete(ids=gone[start : start + 5_000])
"""

BARE = """
import sys, time, hnswlib, numpy as np
path, m, ef_construction, threads = sys.argv[1], *map(int, sys.argv[2:])
vectors = np.load(path)
index = hnswlib.Index(space="l2", dim=vectors.shape[1])
index.init_index(len(vectors), M=m, ef_construction=ef_construction)
started, used = time.monotonic(), time.process_time()
index.add_items(vectors, np.arange(1, len(vectors) + 1), num_threads=threads)
print(time.monotonic() - started, time.process_time() - used)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "store"
    subprocess.run([sys.executable, "-c", WRITE, str(path), *map(str, (LIVE, DEAD, DIMENSION))], check=True)
    return path


@pytest.fixture(scope="module")
def vectors(store: Path) -> Path:
    import numpy as np

    from ops.store.hnsw import IndexFiles
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import select_collections, vector_segment

    with PersistDir.open(store) as opened:
        (collection,) = select_collections(opened, names=["big"])
        directory = opened.segment_directory(vector_segment(opened, collection).id)
        assert directory is not None
        with IndexFiles.open(directory, collection="big") as files:
            live = files.vectors(files.live_slots())
    assert live.shape == (LIVE, DIMENSION)
    np.save(store.parent / "vectors.npy", live)
    return store.parent / "vectors.npy"


@pytest.mark.benchmark
def test_a_rebuild_takes_little_more_time_and_memory_than_the_library_alone(store: Path, vectors: Path) -> None:
    """With staging, syncs and verification: time ≤ 1.3 × bare add_items, RssAnon ≤ 1.5 × the new index + 40 MB."""
    bare, ours, bare_cpu, ours_cpu, peaks, sums, size_bytes = [], [], [], [], [], [], 0
    for number in range(ROUNDS):
        alone = measured([sys.executable, "-c", BARE, str(vectors), *map(str, (M, EF_CONSTRUCTION, THREADS))])
        seconds, cpu_s = map(float, alone.output.split())
        bare.append(seconds)
        bare_cpu.append(cpu_s)
        copy = store.parent / f"copy-{number}"
        shutil.copytree(store, copy)
        words = f"hnsw rebuild {copy} -c big --m {M} --ef-construction {EF_CONSTRUCTION} --num-threads {THREADS}"
        run = measured([sys.executable, "-m", "ops", *words.split(), "--yes", "--json"])
        answer = json.loads(run.output)
        assert answer["status"] == "succeeded", answer
        (rebuilt,) = answer["result"]["collections"]
        assert rebuilt["verified"]["vectors_equal"] == rebuilt["vectors"] == LIVE
        size_bytes = rebuilt["after"]["size_bytes"]
        ours.append(run.seconds)
        ours_cpu.append(run.cpu_s)
        peaks.append(run.peak_bytes)
        sums.append(run.peak_sum_bytes)
        shutil.rmtree(copy)
    print(
        f"\nbare add_items {min(bare):.1f} s; hnsw rebuild {min(ours):.1f} s, {min(ours) / min(bare):.2f} ×"
        f" (processor time {min(bare_cpu):.1f} s and {min(ours_cpu):.1f} s, {min(ours_cpu) / min(bare_cpu):.2f} ×);"
        f" RssAnon at most {max(peaks) / 1e6:.0f} MB in one process, {max(sums) / 1e6:.0f} MB in all;"
        f" new index {size_bytes / 1e6:.0f} MB"
    )
    assert min(ours) <= 1.3 * min(bare)
    assert max(peaks) <= 1.5 * size_bytes + 40e6
