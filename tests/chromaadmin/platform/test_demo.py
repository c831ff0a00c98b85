"""The demo's store has what its description says, as Chroma itself and its files tell."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from chromaadmin.settings.config import BASE_DIR


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "store"
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "chromaadmin.platform.demo", str(path)], cwd=BASE_DIR, check=True)
    assert time.monotonic() - started < 20
    return path


def rows(store: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{store}/chroma.sqlite3?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_tenants_and_databases(store: Path) -> None:
    assert set(rows(store, "SELECT tenant_id, name FROM databases")) == {
        ("default_tenant", "default_database"),
        ("northwind", "production"),
        ("northwind", "staging"),
        ("research", "library"),
    }
    assert rows(store, "SELECT count(*) FROM embeddings") == [(2512,)]


def test_one_directory_belongs_to_no_segment(store: Path) -> None:
    directories = {path.name for path in store.iterdir() if path.is_dir()}
    segments = {str(row[0]) for row in rows(store, "SELECT id FROM segments WHERE scope = 'VECTOR'")}
    assert len(directories - segments) == 1
    assert segments < directories


def test_the_worn_collection_has_entries_waiting_in_the_wal(store: Path) -> None:
    waiting = rows(
        store,
        "SELECT count(*) FROM embeddings_queue q JOIN collections c ON q.topic LIKE '%' || c.id"
        " JOIN segments s ON s.collection = c.id AND s.scope = 'VECTOR' JOIN max_seq_id m ON m.segment_id = s.id"
        " WHERE c.name = 'support_tickets' AND q.seq_id > m.seq_id",
    )
    assert waiting == [(137,)]


def test_the_worn_index_holds_more_slots_than_records(store: Path) -> None:
    ((segment,),) = rows(
        store,
        "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection"
        " WHERE c.name = 'support_tickets' AND s.scope = 'VECTOR'",
    )
    ((records,),) = rows(
        store,
        "SELECT count(*) FROM embeddings e JOIN segments s ON s.id = e.segment_id JOIN collections c"
        " ON c.id = s.collection WHERE c.name = 'support_tickets'",
    )
    # length.bin holds one 32-bit number per slot of the index.
    slots = (store / str(segment) / "length.bin").stat().st_size // 4
    assert records == 737
    assert slots > 2 * (737 - 137)
