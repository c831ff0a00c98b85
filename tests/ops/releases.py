"""The real Chroma of any release, asked about stores: one process per release that forks for every question.

Each question is answered by a process that opens the store anew, without paying for the import again. Standard library
only up to the line that the interpreters of other releases run.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import environments

Places = tuple[tuple[str, str], ...]
PLACES: Places = (("default_tenant", "default_database"), ("acme", "prod"))

_SERVER = r'''
import base64, json, os, sys
import chromadb, numpy as np
from chromadb.config import Settings

def look(client, places):
    found = {}
    for tenant, database in places:
        if hasattr(client, "set_tenant"):  # from 0.4.15 on
            client.set_tenant(tenant, database)
        for collection in client.list_collections():
            if isinstance(collection, str):  # of 0.6
                collection = client.get_collection(str(collection))
            got = collection.get(include=["documents", "metadatas", "embeddings"])
            ids = got["ids"]
            rows = np.asarray(got["embeddings"], dtype="<f4").reshape(len(ids), -1)
            rng = np.random.default_rng(5)
            queries = np.vstack([rows[:: max(1, len(ids) // 10)][:10], rng.normal(size=(5, rows.shape[1]))]).tolist()
            k = min(10, len(ids))
            near = collection.query(query_embeddings=queries, n_results=k, include=["distances"])
            texts = []
            if any(got["documents"] or ()):
                texts = sorted(collection.get(where_document={"$contains": "number 1"})["ids"])
            found["/".join((tenant, database, collection.name))] = {
                "count": collection.count(), "ids": ids, "metadata": collection.metadata,
                "documents": got["documents"], "metadatas": got["metadatas"],
                "embeddings": [base64.b64encode(row.tobytes()).decode() for row in rows], "queries": queries,
                "near": near["ids"], "distances": [list(map(float, far)) for far in near["distances"]], "texts": texts,
            }
    return found

def write(client, places):
    """More than the highest threshold of adds, with updates, deletes and re-adds, in every persisted collection."""
    for tenant, database in places:
        if hasattr(client, "set_tenant"):  # from 0.4.15 on
            client.set_tenant(tenant, database)
        for collection in client.list_collections():
            if isinstance(collection, str):
                collection = client.get_collection(str(collection))
            got = collection.get(include=["embeddings"])
            ids, size = got["ids"], len(got["embeddings"][0])
            rng = np.random.default_rng(77)
            rows = lambda count: (rng.normal(size=(count, size)) * 2).astype("f4").tolist()
            for start in range(0, 75, 25):
                fresh = ["late%d" % j for j in range(start, start + 25)]
                collection.add(ids=fresh, embeddings=rows(25), documents=["late number %d" % j for j in range(25)],
                               metadatas=[{"late": "yes", "n": j} for j in range(25)])
            collection.update(ids=ids[:5], embeddings=rows(5))
            collection.delete(ids=ids[5:10] + ["late0", "late1"])
            collection.upsert(ids=ids[5:7] + ["late1"], embeddings=rows(3))

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        status, reply = 0, None
        try:
            client = chromadb.PersistentClient(path=request["path"], settings=Settings(anonymized_telemetry=False))
            reply = {"value": {"look": look, "write": write}[request["do"]](client, request["places"])}
        except BaseException as error:
            import traceback
            reply, status = {"error": traceback.format_exc()}, 1
        with open(request["answer"], "w") as file:
            json.dump(reply, file)
        os._exit(status)
    _, status = os.waitpid(child, 0)
    sys.stdout.write("%d\n" % status)
    sys.stdout.flush()
'''


@dataclass(frozen=True)
class Seen:
    """What a client sees of one collection: ids in order, by id the rest, and the answers to queries."""

    count: int
    metadata: Mapping[str, object]
    ids: tuple[str, ...]
    documents: Mapping[str, str | None]
    metadatas: Mapping[str, Mapping[str, object]]
    embeddings: Mapping[str, bytes]
    queries: tuple[tuple[tuple[float, ...], tuple[str, ...], tuple[float, ...]], ...]
    texts: tuple[str, ...]


class Release:
    """One release of Chroma."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(environments.python(name)), "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"},
        )

    def look(self, path: Path, places: Places = PLACES) -> dict[str, Seen]:
        """Everything in the store, by tenant/database/name. Opening it may migrate it."""
        return {name: _seen(found) for name, found in self._ask("look", path, places).items()}

    def write(self, path: Path, places: Places = PLACES) -> None:
        """Add, update, delete and add again in every collection."""
        self._ask("write", path, places)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _ask(self, do: str, path: Path, places: Places) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer"
            request = {"do": do, "path": str(path), "places": places, "answer": str(answer)}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            found = json.loads(answer.read_text()) if answer.exists() else {"error": f"it ended with {line!r}"}
        if "error" in found:
            raise AssertionError(f"Chroma {self.name} can not {do}: {found['error']}")
        return found["value"] or {}


@contextmanager
def running() -> Iterator[dict[str, Release]]:
    """Releases by name, each started when it is first asked for by ``started``."""
    found: dict[str, Release] = {}
    try:
        yield found
    finally:
        for release in found.values():
            release.close()


def started(releases: dict[str, Release], name: str) -> Release:
    """The release of that name; raises EnvironmentFailed where it can not be had."""
    if name not in releases:
        releases[name] = Release(name)
    return releases[name]


def _seen(found: dict[str, Any]) -> Seen:
    ids = found["ids"]
    return Seen(
        count=found["count"],
        metadata=found["metadata"] or {},
        ids=tuple(ids),
        documents=dict(zip(ids, found["documents"] or [None] * len(ids), strict=True)),
        metadatas={key: one or {} for key, one in zip(ids, found["metadatas"] or [None] * len(ids), strict=True)},
        embeddings={key: base64.b64decode(row) for key, row in zip(ids, found["embeddings"], strict=True)},
        queries=tuple(
            (tuple(query), tuple(near), tuple(far))
            for query, near, far in zip(found["queries"], found["near"], found["distances"], strict=True)
        ),
        texts=tuple(found["texts"]),
    )
