"""``db info``: the figures other programs rely on, on sound and on damaged stores."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from ops.codec import from_json, hints, to_json
from ops.operation import Effect, Needs
from ops.operations.db_info import DbInfo, DbInfoResult, HnswInfo
from ops.params import parse
from ops.progress import Progress
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores


def info(path: Path, **given: object) -> DbInfoResult:
    with PersistDir.open(path) as store:
        return parse(DbInfo, given).run(store, None, Progress())


def index_of(result: DbInfoResult, name: str) -> HnswInfo:
    (found,) = [entry for entry in result.collections if entry.name == name]
    return found.hnsw


def test_it_only_reads() -> None:
    assert DbInfo().effect is Effect.READ
    assert DbInfo.declared.needs is Needs.LIVE


def test_figures_of_a_real_store(small: Path) -> None:
    before = stores.manifest(small)
    found = info(small)
    assert stores.manifest(small) == before
    assert found.chroma.releases == "1.5.0–1.5.9"
    assert found.chroma.migrations == {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}
    assert found.size_bytes == sum(file.stat().st_size for file in small.rglob("*") if file.is_file())
    rows = {entry.name: (entry.dimension, entry.records, entry.wal_entries) for entry in found.collections}
    assert rows == {"alpha": (8, 2500, 501), "beta": (8, 300, 300), "gamma": (8, 800, 401)}
    alpha = index_of(found, "alpha")
    assert (alpha.space, alpha.m, alpha.ef_construction, alpha.ef_search) == ("cosine", 16, 100, 100)
    assert (alpha.elements, alpha.labels, alpha.tombstones, alpha.fragmentation) == (2000, 2000, 0, 0.0)
    assert (alpha.wal_gap, alpha.orphan_labels, alpha.has_metadata, alpha.state) == (500, None, True, "persisted")
    files = [file.stat() for file in corpus.index_of(small).iterdir()]
    assert alpha.size_bytes == sum(file.st_size for file in files)
    assert alpha.allocated_bytes == sum(file.st_blocks * 512 for file in files)
    beta = index_of(found, "beta")
    assert (beta.elements, beta.labels, beta.wal_gap, beta.fragmentation, beta.state) == (0, 0, None, 0.0, "empty")
    assert {(segment.scope, segment.max_seq_id) for entry in found.collections for segment in entry.segments} == {
        ("VECTOR", 2000),
        ("METADATA", 2500),
        ("VECTOR", None),
        ("METADATA", 2800),
        ("VECTOR", 4000),
        ("METADATA", 4400),
    }
    assert found.orphans == ()
    assert (found.wal_entries, found.automatically_purge, found.newest_seq) == (1202, True, 4400)


def test_tombstones_are_counted_and_not_estimated(churned: Path) -> None:
    quick, thorough = index_of(info(churned), "churned"), index_of(info(churned, verbose=True), "churned")
    assert quick.elements is not None
    assert quick.labels is not None
    assert quick.tombstones == quick.elements - quick.labels > 0
    assert quick.fragmentation == quick.tombstones / quick.elements
    assert (quick.orphan_labels, thorough.orphan_labels) == (None, 0)


def test_orphan_labels(small: Path) -> None:
    """An id that is taken out of the id map leaves its live slot behind."""
    from ops.store import id_map

    path = corpus.index_of(small)
    with PersistDir.open(small) as store:
        directory = store.segment_directory(path.name)
        assert directory is not None
        entries = id_map.read(store.id_maps, directory, "alpha")
    entries.ids.pop()
    entries.labels.pop()
    (path / id_map.FILE_NAME).write_bytes(id_map.dump(entries))
    found = index_of(info(small, verbose=True), "alpha")
    assert (found.labels, found.tombstones, found.orphan_labels) == (1999, 1, 1)


def test_all_tenants_and_narrowing(tenants: Path) -> None:
    assert len(info(tenants).collections) == 4
    assert [(entry.name, entry.tenant, entry.database) for entry in info(tenants, skip="docs").collections] == [
        ("only-prod", "acme", "prod")
    ]
    assert len(info(tenants, tenant="acme", database="prod").collections) == 2


def test_privacy_hides_what_users_wrote(tenants: Path) -> None:
    corpus._changed(
        "INSERT INTO collection_metadata SELECT id, 'hnsw:space', 'l2', NULL, NULL, NULL FROM collections",
        "INSERT INTO collection_metadata SELECT id, 'secret', NULL, NULL, NULL, 7 FROM collections",
        "CREATE TABLE secretive (a)",
        "UPDATE segments SET id = 'docs-secret' WHERE rowid = 1",
    )(tenants, tenants)
    text = json.dumps(to_json(info(tenants, privacy=True)))
    for word in ("acme", "prod", "docs", "stage", "default_", "secret", str(tenants)):
        assert word not in text
    assert "hnsw:space" in text
    assert "REF_BROKEN" in text
    shown, hidden = info(tenants), info(tenants, privacy=True)
    assert [entry.id for entry in hidden.collections] == [entry.id for entry in shown.collections]
    assert [entry.records for entry in hidden.collections] == [entry.records for entry in shown.collections]


def test_orphan_directories(small: Path) -> None:
    stores.write_through_client(small, "client.delete_collection('gamma')")
    (found,) = info(small).orphans
    assert Path(found.path).parent == small
    assert found.size_bytes == sum(file.stat().st_size for file in Path(found.path).iterdir())
    (hidden,) = info(small, privacy=True).orphans
    assert hidden.path == Path(found.path).name


@pytest.mark.parametrize(
    "row", [row for row in corpus.rows() if row.at in ("segment", "collection", "nowhere")], ids=str
)
@pytest.mark.parametrize("verbose", [False, True], ids=["quick", "verbose"])
def test_damage_is_described(small: Path, tmp_path: Path, row: corpus.Row, verbose: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = row.build(scratch, small)
    before = stores.manifest(path)
    found = info(path, verbose=verbose)
    assert stores.manifest(path) == before
    assert from_json(DbInfoResult, json.loads(json.dumps(to_json(found)))) == found
    codes = {problem.code for entry in found.collections for problem in entry.hnsw.problems}
    codes |= {problem.partition(":")[0] for entry in found.collections for problem in entry.problems}
    walk_only = row.variant in ("link_lists.bin half", "link_lists.bin doubled")
    if row.codes and not (walk_only and not verbose):
        assert codes & set(row.codes)


def test_every_field_says_what_it_is() -> None:
    seen: set[type] = set()

    def visit(kind: type) -> None:
        if kind in seen or not is_dataclass(kind) or not kind.__module__.endswith("db_info"):
            return
        seen.add(kind)
        for field in fields(kind):
            assert field.metadata.get("help", "").endswith((".", ")")), f"{kind.__name__}.{field.name}"
            for part in (hints(kind)[field.name], *get_args(hints(kind)[field.name])):
                if isinstance(part, type):
                    visit(part)

    visit(DbInfoResult)
    assert len(seen) == 6


def test_the_command_line(small: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops", "db", "info", str(small), "--json"],
        capture_output=True,
        text=True,
        cwd=stores.ROOT,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert (answer["operation"], answer["status"]) == ("db_info", "succeeded")
    assert from_json(DbInfoResult, answer["result"]) == info(small)


def test_it_imports_neither_numpy_nor_chromadb(small: Path) -> None:
    code = (
        "import sys; from ops.operations.db_info import DbInfo; from ops.progress import Progress\n"
        "from ops.store.persist_dir import PersistDir\n"
        "with PersistDir.open(sys.argv[1]) as store: DbInfo().run(store, None, Progress())\n"
        "print(sorted({'numpy', 'chromadb', 'hnswlib', 'django'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small)], capture_output=True, text=True, cwd=stores.ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
