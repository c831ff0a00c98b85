"""The real chromadb in processes of their own: makes stores, writes to them, and says what one holds.

``python -m tests.torture.chroma serve`` imports chromadb once and forks for every request, so that each request meets a
Chroma that has never opened a store before. A forked child opens the store, answers with one JSON line and ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = {
    # name: (records, records deleted afterwards, space)
    "alpha": (1150, 300, "cosine"),
    "gamma": (1080, 0, "l2"),
    "small": (40, 0, "l2"),
}


class Chroma:
    """A server of fresh Chroma processes."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.chroma", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            text=True,
            env=os.environ | {"ANONYMIZED_TELEMETRY": "False"},
        )

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()

    def _ask(self, **request: object) -> Any:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def make(self, path: Path) -> None:
        """A new store as ``SPECIFICATION`` says."""
        self._ask(do="make", path=str(path))

    def digest(self, path: Path) -> dict[str, dict[str, object]]:
        """Per collection: count, SHA-256 over all records with vectors, how many of 50 records find themselves."""
        found: dict[str, dict[str, object]] = self._ask(do="digest", path=str(path))
        return found

    def add(self, path: Path, collection: str, prefix: str, count: int) -> None:
        """Add records through the client."""
        self._ask(do="add", path=str(path), collection=collection, prefix=prefix, count=count)

    def delete_collection(self, path: Path, collection: str) -> None:
        """Delete a collection through the client."""
        self._ask(do="delete", path=str(path), collection=collection)

    @staticmethod
    def hold(path: Path, *, wait: bool = True) -> subprocess.Popen[str]:
        """A process that opens the store, loads every index, and keeps them open until its standard input ends.

        A line "COLLECTION PREFIX COUNT" makes it add records, answered by a line "done".
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.chroma", "hold", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert process.stdout
        if wait:
            assert process.stdout.readline() == "open\n"
        return process


def _client(path: str) -> Any:
    import chromadb

    return chromadb.PersistentClient(path=path, settings=chromadb.Settings(anonymized_telemetry=False))


def _make(path: str) -> None:
    import numpy as np

    client = _client(path)
    generator = np.random.default_rng(7)
    for name, (count, deleted, space) in SPECIFICATION.items():
        collection = client.create_collection(
            name, configuration={"hnsw": {"space": space, "sync_threshold": 500, "batch_size": 100}}
        )
        for start in range(0, count, 250):
            ids = [f"{name}-{number}" for number in range(start, min(start + 250, count))]
            collection.add(
                ids=ids,
                embeddings=generator.normal(size=(len(ids), 8)).astype("float32"),
                documents=[f"document {text}" for text in ids],
                metadatas=[{"n": number} for number in range(len(ids))],
            )
        if deleted:
            collection.delete(ids=[f"{name}-{number}" for number in range(deleted)])


def _digest(path: str) -> dict[str, dict[str, object]]:
    client = _client(path)
    found: dict[str, dict[str, object]] = {}
    for collection in client.list_collections():
        got = collection.get(include=["embeddings", "documents", "metadatas"])
        order = sorted(range(len(got["ids"])), key=lambda index: got["ids"][index])
        sha = hashlib.sha256()
        for index in order:
            vector = got["embeddings"][index].astype("float32").tobytes()
            record = (got["ids"][index], got["documents"][index], got["metadatas"][index], vector.hex())
            sha.update(json.dumps(record, sort_keys=True).encode())
        probe = order[:: max(1, len(order) // 50)]
        hits = 0
        if probe:
            answer = collection.query(query_embeddings=[got["embeddings"][index] for index in probe], n_results=1)
            hits = sum(
                got["ids"][index] == ids[0] for index, ids in zip(probe, answer["ids"], strict=True) if ids
            ) / len(probe)
        found[collection.name] = {"count": collection.count(), "sha256": sha.hexdigest(), "self_hits": hits}
    return found


def _add(path: str, collection: str, prefix: str, count: int) -> None:
    _add_to(_client(path).get_collection(collection), prefix, count)


def _add_to(target: Any, prefix: str, count: int) -> None:
    import numpy as np

    generator = np.random.default_rng(len(prefix) + count)
    for start in range(0, count, 250):
        ids = [f"{prefix}-{number}" for number in range(start, min(start + 250, count))]
        target.add(
            ids=ids,
            embeddings=generator.normal(size=(len(ids), 8)).astype("float32"),
            documents=[f"document {text}" for text in ids],
        )


def _serve() -> None:
    import chromadb  # noqa: F401 - so that the forks need not

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 0
            try:
                answer: dict[str, object] = {"value": _perform(request)}
            except BaseException as error:
                answer, status = {"error": f"{type(error).__name__}: {error}"}, 1
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            sys.stdout.write(json.dumps({"error": f"Chroma died with signal {os.WTERMSIG(status)}"}) + "\n")
            sys.stdout.flush()


def _perform(request: dict[str, Any]) -> object:
    do, path = request["do"], request["path"]
    if do == "make":
        return _make(path)
    if do == "digest":
        return _digest(path)
    if do == "add":
        return _add(path, request["collection"], request["prefix"], request["count"])
    return _client(path).delete_collection(request["collection"])


def _hold(path: str) -> None:
    client = _client(path)
    for collection in client.list_collections():
        collection.query(query_embeddings=[[0.0] * 8], n_results=1)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name, prefix, count = line.split()
        _add_to(client.get_collection(name), prefix, int(count))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        _hold(sys.argv[2])
    else:
        _serve()
