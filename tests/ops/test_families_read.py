"""The WAL's and the index's READ operations on a store of every release, and where writing its WAL is refused."""

import uuid
from pathlib import Path

import pytest

from ops.execute import execute
from ops.params import parse
from ops.registry import operation_class
from ops.store.persist_dir import PersistDir
from tests.ops import stores

NAMES = sorted(path.name.removesuffix(".tar.xz") for path in stores.DATA.glob("*.tar.xz"))


def run(name: str, store: Path, **parameters: object):
    operation = parse(operation_class(name), parameters)
    return execute(operation, str(store), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_release_is_read_without_a_change(name, tmp_path):
    store = stores.unpacked(name, tmp_path / "store")
    before = stores.manifest(store)
    with PersistDir.open(store) as opened:
        entries = opened.db.execute("SELECT count(*) FROM embeddings_queue").fetchone()[0]
        collections = opened.db.execute("SELECT count(*) FROM collections").fetchone()[0]
    waiting = run("wal_info", store)
    assert waiting.error is None
    assert sum(found.entries for found in waiting.result.collections) == entries
    indexes = run("hnsw_info", store, verbose=True)
    assert indexes.error is None
    assert len(indexes.result.collections) == collections
    exported = run("wal_export", store, output=str(tmp_path / "wal.jsonl"))
    assert exported.error is None
    assert len((tmp_path / "wal.jsonl").read_text().splitlines()) == entries
    assert stores.manifest(store) == before


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("1.5.9")])
@pytest.mark.parametrize("operation", ["wal_commit", "wal_clean"])
def test_the_wal_of_older_releases_is_not_written(name, operation, tmp_path):
    store = stores.unpacked(name, tmp_path / "store")
    before = {path: entry[-1] for path, entry in stores.manifest(store).items()}
    ended = run(operation, store)
    assert (ended.status, ended.error.code, ended.effect_on_store) == ("refused", "UNSUPPORTED_VERSION", "none")
    after = {path: entry[-1] for path, entry in stores.manifest(store).items() if ".chromaadmin" not in path}
    assert after == before
