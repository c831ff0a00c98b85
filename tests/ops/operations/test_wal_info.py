"""``wal info``: entries, kinds, gaps and orphan topics, counted by hand on real stores."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from ops.codec import from_json
from ops.operations import wal_info
from ops.operations.wal_info import CollectionWal, WalInfo, WalInfoResult
from ops.params import parse
from ops.progress import Progress
from ops.store.persist_dir import PersistDir
from tests.ops import stores
from tests.ops.store.flips import rows


def info(path: Path, **given: object) -> WalInfoResult:
    with PersistDir.open(path) as store:
        return parse(WalInfo, given).run(store, None, Progress())


def of(result: WalInfoResult, name: str) -> CollectionWal:
    (found,) = [entry for entry in result.collections if entry.name == name]
    return found


def test_a_real_store(small: Path) -> None:
    found = info(small)
    assert [entry.name for entry in found.collections] == ["alpha", "beta", "gamma"]
    gaps = {entry.name: (entry.entries, entry.gap.metadata, entry.gap.vector) for entry in found.collections}
    assert gaps == {"alpha": (501, 0, 500), "beta": (300, 0, None), "gamma": (401, 0, 400)}
    assert of(found, "gamma").kinds == {"add": 1, "update": 0, "upsert": 0, "delete": 400}
    alpha = of(found, "alpha")
    assert alpha.oldest is not None
    assert alpha.newest is not None
    assert (alpha.oldest.seq_id, alpha.newest.seq_id) == (2000, 2500)
    assert alpha.oldest.at is not None
    assert rows(small, "SELECT DISTINCT topic FROM embeddings_queue ORDER BY 1") == sorted(
        (entry.topic,) for entry in found.collections
    )
    statement = "SELECT count(*), sum(coalesce(length(vector), 0) + coalesce(length(metadata), 0) + length(id))"
    assert rows(small, f"{statement} FROM embeddings_queue") == [(found.entries, found.size_bytes)]
    assert found.size_bytes == sum(entry.size_bytes for entry in found.collections)
    assert (found.newest_seq, found.automatically_purge, found.orphan_topics) == (4400, True, ())


def test_kinds_of_every_sort(small: Path) -> None:
    code = """
beta = client.get_collection("beta")
beta.update(ids=["b1", "b2"], metadatas=[{"x": 1}, {"x": 2}])
beta.upsert(ids=["b3", "new"], embeddings=vectors(2))
beta.delete(ids=["b4"])
"""
    stores.write_through_client(small, code)
    assert of(info(small), "beta").kinds == {"add": 300, "update": 2, "upsert": 2, "delete": 1}


def test_a_collection_without_entries_has_its_topic(types: Path) -> None:
    found = of(info(types), "void")
    assert (found.entries, found.oldest, found.newest) == (0, None, None)
    assert found.topic == f"persistent://default/default/{found.id}"


def test_all_tenants_and_narrowing(tenants: Path) -> None:
    assert {(entry.tenant, entry.database, entry.entries) for entry in info(tenants).collections} == {
        ("default_tenant", "default_database", 5),
        ("acme", "prod", 7),
        ("acme", "prod", 1),
        ("acme", "stage", 9),
    }
    narrowed = info(tenants, collection=["docs"], tenant="acme", database="prod")
    assert [entry.entries for entry in narrowed.collections] == [7]
    assert narrowed.orphan_topics == ()


def test_orphan_topics_and_two_topics_of_one_collection(small: Path) -> None:
    connection = sqlite3.connect(small / "chroma.sqlite3")
    owner = rows(small, "SELECT id FROM collections WHERE name = 'alpha'")[0][0]
    insert = "INSERT INTO embeddings_queue (operation, topic, id) VALUES (?, ?, 'x')"
    connection.execute(insert, (0, "persistent://default/default/11111111-2222-4333-8444-555555555555"))
    connection.execute(insert, (3, "nonsense"))
    connection.execute(insert, (9, f"persistent://other/other/{owner}"))
    connection.commit()
    connection.close()
    found = info(small)
    assert {(topic.collection_id, topic.entries) for topic in found.orphan_topics} == {
        ("11111111-2222-4333-8444-555555555555", 1),
        (None, 1),
    }
    alpha = of(found, "alpha")
    assert (alpha.entries, alpha.gap.vector, alpha.gap.metadata, alpha.kinds["unknown"]) == (502, 501, 1, 1)
    assert alpha.newest is not None
    assert alpha.newest.seq_id == 4403


def test_every_field_says_what_it_is() -> None:
    for kind in (getattr(wal_info, name) for name in ("EntryPlace", "GapInfo", "CollectionWal", "WalInfoResult")):
        assert all(field.metadata["help"].endswith(".") for field in fields(kind)), kind


def test_the_command_line(small: Path) -> None:
    command = [sys.executable, "-m", "ops", "wal", "info", str(small), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=stores.ROOT, check=True)
    answer = json.loads(done.stdout)
    assert (answer["operation"], answer["status"]) == ("wal_info", "succeeded")
    assert from_json(WalInfoResult, answer["result"]) == info(small)
