"""The stores in this directory, written by the real releases: `python tests/data/make.py [NAME…]` makes them anew.

A name is a release, or two with an arrow (`0.6.3-1.5.9`): written by the first, then opened and written to by the
second. Each store has the same five collections, in which everything happens that leaves a trace in the files:

- `by-cosine`: documents and metadata, tombstones persisted, updates, a tail in the WAL, parameters that are no defaults
- `by-l2`: tombstones persisted, re-added ids, nothing above the watermark but what the last batch left
- `by-ip`: no documents, a tail of adds, updates and deletes in the WAL
- `fresh`: never persisted
- `by-cosine` once more in the database prod of the tenant acme (from 0.4.15 on), with default parameters of the graph

This file also runs inside those environments (`--write`), so it needs nothing but the standard library there.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = (
    "0.4.3",
    "0.4.14",
    "0.4.24",
    "0.5.0",
    "0.5.5",
    "0.5.23",
    "0.6.3",
    "1.0.21",
    "1.3.7",
    "1.5.9",
    "0.4.24-1.5.9",
    "0.6.3-1.5.9",
    "1.0.21-1.5.9",
)

# Names of Chroma 1.x; releases before it take them as metadata with these keys.
KEYS = {
    "space": "hnsw:space",
    "max_neighbors": "hnsw:M",
    "ef_construction": "hnsw:construction_ef",
    "ef_search": "hnsw:search_ef",
    "batch_size": "hnsw:batch_size",
    "sync_threshold": "hnsw:sync_threshold",
}


def write(path: str, upgrade: bool) -> None:
    """Write the store, or write to one that another release has written; runs inside the release."""
    import chromadb
    import numpy as np
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=path)
    client = chromadb.PersistentClient(path=path, settings=settings)
    new = int(chromadb.__version__.split(".")[0]) >= 1
    rng = np.random.default_rng(20240424 + upgrade)

    def made(name, metadata=None, **values):
        if new:
            return client.create_collection(name, metadata=metadata, configuration={"hnsw": values})
        return client.create_collection(
            name, metadata={**(metadata or {}), **{KEYS[key]: value for key, value in values.items()}}
        )

    def put(collection, verb, prefix, numbers, dimension, texts):
        numbers = list(numbers)
        rows = (rng.normal(size=(len(numbers), dimension)) * 2).astype("f4").tolist()
        more = {}
        if texts:
            more["documents"] = [f"{verb} text number {j} of {prefix} ünï" for j in numbers]
            more["metadatas"] = [{"n": j, "f": j / 4, "s": f"é{j % 7}", **yes(j % 2 == 0)} for j in numbers]
        getattr(collection, verb)(ids=[f"{prefix}{j}" for j in numbers], embeddings=rows, **more)

    def yes(value):
        return {} if chromadb.__version__ == "0.4.3" else {"b": value}  # booleans from 0.4.4 on

    def remove(collection, prefix, numbers):
        collection.delete(ids=[f"{prefix}{j}" for j in numbers])

    if upgrade:
        # One persist in `by-cosine`, so that its id map gets the form of the new release; the rest stays in the WAL.
        for start in range(500, 560, 20):
            put(client.get_collection("by-cosine"), "add", "c", range(start, start + 20), 8, True)
        put(client.get_collection("by-l2"), "upsert", "l", range(6), 6, True)
        remove(client.get_collection("by-ip"), "i", (3, 5))
        return

    values = {"space": "cosine", "max_neighbors": 8, "ef_construction": 60, "ef_search": 40}
    cosine = made("by-cosine", {"kind": "text"}, **values, batch_size=20, sync_threshold=40)
    for start in range(0, 160, 20):
        put(cosine, "add", "c", range(start, start + 20), 8, True)
    remove(cosine, "c", range(0, 60, 3))
    put(cosine, "update", "c", range(61, 81, 2), 8, True)
    for start in range(160, 240, 20):
        put(cosine, "upsert", "c", range(start, start + 20), 8, True)
    put(cosine, "add", "c", (0, 3, 6, 301, 302), 8, True)
    cosine.update(ids=["c1"], metadatas=[{"n": -1}])
    remove(cosine, "c", (100, 101))

    l2 = made("by-l2", space="l2", batch_size=10, sync_threshold=20)
    for start in range(0, 120, 10):
        put(l2, "add", "l", range(start, start + 10), 6, True)
    remove(l2, "l", range(0, 120, 4))
    put(l2, "add", "l", range(0, 40, 4), 6, True)
    put(l2, "add", "l", range(200, 220), 6, True)

    ip = made("by-ip", space="ip", max_neighbors=4, batch_size=10, sync_threshold=30)
    for start in range(0, 90, 10):
        put(ip, "add", "i", range(start, start + 10), 4, False)
    remove(ip, "i", range(20))
    put(ip, "add", "i", range(100, 112), 4, False)
    put(ip, "update", "i", (40, 41), 4, False)
    remove(ip, "i", (50,))

    put(made("fresh", space="l2"), "add", "f", range(12), 5, True)

    if not hasattr(chromadb, "AdminClient"):  # before 0.4.15
        return
    admin = chromadb.AdminClient(settings)
    admin.create_tenant("acme")
    admin.create_database("prod", tenant="acme")
    client.set_tenant("acme", "prod")
    other = made("by-cosine", space="cosine", batch_size=10, sync_threshold=20)
    for start in range(0, 40, 10):
        put(other, "add", "p", range(start, start + 10), 3, True)


def make(name: str) -> Path:
    """Make one store and pack it; returns the archive."""
    # Not importable where this file runs as a program of another release.
    sys.path.insert(0, str(HERE.parents[1]))
    from tests import environments

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        for step, release in enumerate(name.split("-")):
            python = environments.python(release)
            command = [str(python), __file__, "--write", str(path), json.dumps(step > 0)]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"], "HOME": folder}
            )
            if done.returncode:
                raise SystemExit(f"Chroma {release} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        archive = HERE / f"{name}.tar.xz"
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for file in sorted(path.rglob("*")):
                tar.add(file, str(file.relative_to(path)), recursive=False, filter=_plain)
    return archive


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 1_700_000_000
    return entry


def main(arguments: list) -> int:
    """Make what is named, or everything."""
    if arguments[:1] == ["--write"]:
        write(arguments[1], json.loads(arguments[2]))
        return 0
    for name in arguments or NAMES:
        archive = make(name)
        print(f"{archive.name}: {archive.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
