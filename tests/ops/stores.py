"""Real stores, written by the real chromadb in a child process, kept on disk between runs and copied for each test.

The client is never imported in the test process: two SQLite libraries in one process lose each other's locks.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CACHE = ROOT / ".pytest_cache" / "stores"
DEFAULT = (("default_tenant", "default_database"),)

_PRELUDE = """
import sys, chromadb, numpy as np
from chromadb.config import Settings
path = sys.argv[1]
client = chromadb.PersistentClient(path=path, settings=Settings(anonymized_telemetry=False))
rng = np.random.default_rng(1)
def vectors(count, dimension=8):
    return rng.normal(size=(count, dimension)).astype("f4")
def hnsw(**values):
    return {"hnsw": values}
"""

# alpha: 2000 of 2500 persisted, 500 in the WAL, documents, arrays. beta: never persisted. gamma: deletes in the WAL.
SMALL = """
settings = hnsw(space="cosine", sync_threshold=1000, batch_size=100)
alpha = client.create_collection("alpha", configuration=settings, metadata={"k": "v"})
for i in range(0, 2500, 250):
    js = range(i, i + 250)
    alpha.add(ids=[f"a{j}" for j in js], embeddings=vectors(250), documents=[f"doc {j}" for j in js],
              metadatas=[{"n": j, "tags": ["x", "y"]} for j in js])
beta = client.create_collection("beta")
beta.add(ids=[f"b{j}" for j in range(300)], embeddings=vectors(300))
gamma = client.create_collection("gamma")
for i in range(0, 1200, 300):
    gamma.add(ids=[f"g{j}" for j in range(i, i + 300)], embeddings=vectors(300))
gamma.delete(ids=[f"g{j}" for j in range(0, 800, 2)])
"""

# Tombstones that were persisted: 1200 added, 600 deleted, 500 added, so that the index is written again.
CHURNED = """
churned = client.create_collection("churned", configuration=hnsw(space="l2", sync_threshold=100, batch_size=50))
def add(i):
    js = range(i, i + 100)
    churned.add(ids=[f"c{j}" for j in js], embeddings=vectors(100), documents=[f"text {j}" for j in js])
for i in range(0, 1200, 100):
    add(i)
churned.delete(ids=[f"c{j}" for j in range(0, 1200, 2)])
for i in range(1200, 1700, 100):
    add(i)
"""

# The same name in three databases of two tenants, and a tenant without a collection.
TENANTS = """
admin = chromadb.AdminClient(Settings(is_persistent=True, persist_directory=path, anonymized_telemetry=False))
admin.create_tenant("acme")
admin.create_tenant("nobody")
admin.create_database("prod", tenant="acme")
admin.create_database("stage", tenant="acme")
for tenant, database, count in (("default_tenant", "default_database", 5), ("acme", "prod", 7), ("acme", "stage", 9)):
    client.set_tenant(tenant, database)
    docs = client.create_collection("docs", metadata={"in": database})
    docs.add(ids=[f"{database}-{j}" for j in range(count)], embeddings=vectors(count, 4))
client.set_tenant("acme", "prod")
client.create_collection("only-prod").add(ids=["x"], embeddings=vectors(1, 4))
"""

# Every type of metadata, ids and documents of many scripts, and a collection with nothing in it.
TYPES = """
mixed = client.create_collection("mixed", metadata={"text": "é", "whole": 7, "real": 0.5, "yes": True})
mixed.add(
    ids=["plain", "with space", "ünïcode", "日本語", "😀", "a/b?c=d&e", "'; DROP TABLE embeddings; --",
         "<b>x</b>", "z" * 500],
    embeddings=vectors(9, 3),
    documents=["one", "two\\nlines", "drei", "四", "cinq 😀", "", "<script>alert(1)</script>", "\\u202edesrever",
               "long " * 400],
    metadatas=[{"s": "text", "i": 1, "f": 1.5, "b": True}, {"b": False}, {"tags": ["a", "b", "c"]}, {"nums": [3, 1, 2]},
               {"reals": [0.5, 1.5]}, {"bools": [True, False]}, {"i": -(2**62)}, {"s": "x" * 2000}, {"f": 1e300}],
)
client.create_collection("void")
"""

EMPTY = ""


@dataclass(frozen=True)
class ObservedCollection:
    """What a client sees of a collection: ids in order, by id the rest, and the answers to ten queries.

    ``queries`` holds for each of the first ten ids its ten nearest (id, distance); the embeddings are raw float32.
    """

    ids: tuple[str, ...]
    documents: Mapping[str, str | None]
    metadatas: Mapping[str, Mapping[str, object]]
    embeddings: Mapping[str, bytes]
    queries: tuple[tuple[tuple[str, float], ...], ...]


@dataclass(frozen=True)
class Observed:
    """What the real chromadb says of a store; collections by (tenant, database, name)."""

    collections: Mapping[tuple[str, str, str], ObservedCollection]

    def __getitem__(self, name: str) -> ObservedCollection:
        """The collection of that name in the default database."""
        return self.collections[(*DEFAULT[0], name)]


def made(script: str, python: str = sys.executable, chroma: str = "") -> Path:
    """The store that ``script`` writes, made at its first use. Read only: copy it to work on it (``copy_of``)."""
    chroma = chroma or version("chromadb")
    key = hashlib.sha256(f"{chroma}\n{_PRELUDE}\n{script}".encode()).hexdigest()[:20]
    CACHE.mkdir(parents=True, exist_ok=True)
    store = CACHE / key
    descriptor = os.open(CACHE / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not store.exists():
            fresh = Path(tempfile.mkdtemp(dir=CACHE))
            _run(_PRELUDE + script, str(fresh), python=python)
            fresh.rename(store)
    finally:
        os.close(descriptor)
    return store


def copy_of(script: str, place: Path, python: str = sys.executable) -> Path:
    """A copy of a store that a test may change; ``place`` is made."""
    shutil.copytree(made(script, python), place, symlinks=True)
    place.chmod(0o755)
    return place


def unpacked(name: str, place: Path) -> Path:
    """A store of ``tests/data``, written by the release (or by two, one after the other) of that name."""
    place.mkdir()
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place


def write_through_client(path: Path, code: str, python: str = sys.executable) -> str:
    """Run ``code`` on the store in a child with a real ``client``, ``np`` and ``vectors(count, dimension)``.

    Returns what it printed.
    """
    return _run(_PRELUDE + code, str(path), python=python)


def reopen(path: Path, *, databases: tuple[tuple[str, str], ...] = DEFAULT, python: str = sys.executable) -> Observed:
    """Open a COPY of the store with the real chromadb in a new child; opening may change a store."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        shutil.copytree(path, copy, symlinks=True)
        answer = _run(_PRELUDE + _OBSERVE, str(copy), json.dumps(databases), python=python)
    found = {}
    for entry in json.loads(answer):
        found[(entry["tenant"], entry["database"], entry["name"])] = ObservedCollection(
            ids=tuple(entry["ids"]),
            documents=dict(zip(entry["ids"], entry["documents"], strict=True)),
            metadatas=dict(zip(entry["ids"], entry["metadatas"], strict=True)),
            embeddings={
                identifier: base64.b64decode(vector)
                for identifier, vector in zip(entry["ids"], entry["embeddings"], strict=True)
            },
            queries=tuple(
                tuple((identifier, distance) for identifier, distance in answer) for answer in entry["queries"]
            ),
        )
    return Observed(collections=found)


_OBSERVE = """
import base64, json
found = []
for tenant, database in json.loads(sys.argv[2]):
    client.set_tenant(tenant, database)
    for collection in client.list_collections():
        if isinstance(collection, str):  # of 0.6
            collection = client.get_collection(str(collection))
        got = collection.get(include=["documents", "metadatas", "embeddings"])
        rows = np.asarray(got["embeddings"], dtype="<f4").reshape(len(got["ids"]), -1 if got["ids"] else 0)
        queries = []
        if got["ids"]:
            near = collection.query(query_embeddings=rows[:10].tolist(), n_results=10, include=["distances"])
            queries = [list(zip(ids, ds)) for ids, ds in zip(near["ids"], near["distances"])]
        found.append({"tenant": tenant, "database": database, "name": collection.name, "ids": got["ids"],
                      "documents": got["documents"] or [None] * len(got["ids"]),
                      "metadatas": [m or {} for m in got["metadatas"] or [None] * len(got["ids"])],
                      "embeddings": [base64.b64encode(row.tobytes()).decode() for row in rows], "queries": queries})
print(json.dumps(found))
"""


def manifest(path: Path) -> dict[str, tuple[object, ...]]:
    """Name, inode, size, times but access, and SHA-256 of everything below a directory: what reading may not change."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(os.fsencode(path)):
        for name in (b".", *directories, *files):
            place = os.path.join(folder, name)
            status = os.lstat(place)
            digest = ""
            if name in files and os.path.isfile(place) and not os.path.islink(place) and status.st_size < 1 << 30:
                with open(place, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[os.fsdecode(place)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)
    return found


def _run(code: str, *arguments: str, python: str) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "ANONYMIZED_TELEMETRY": "False"},
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"chromadb ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout
