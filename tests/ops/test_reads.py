"""What pages read: right on sound stores, bounded and harmless on malformed ones."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import pytest

from ops import reads
from ops.codec import from_json, hints, to_json
from ops.errors import BadParameters, CollectionNotFound, OpsError
from ops.store import sysdb
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores

pytestmark = pytest.mark.filterwarnings("error")


def id_of(store: PersistDir, name: str) -> str:
    return sysdb.select_collections(store, names=(name,))[0].id


class TestOverview:
    def test_counts_and_sizes(self, opened: PersistDir) -> None:
        page = reads.overview(opened)
        assert (page.tenants, page.databases, page.collections, page.records) == (1, 1, 3, 2500 + 300 + 800)
        assert page.release.releases == "1.5.0–1.5.9"
        assert page.release.writable
        assert page.newest_seq == page.highest_watermark == 4400
        assert page.automatically_purge is True
        assert page.problems == page.orphans == ()
        assert page.size_bytes == sum(file.stat().st_size for file in opened.path.rglob("*") if file.is_file())

    def test_a_watermark_ahead_of_the_wal_is_a_problem(self, small: Path) -> None:
        corpus._changed("DELETE FROM embeddings_queue")(small, small)
        with PersistDir.open(small) as store:
            assert [problem.code for problem in reads.overview(store).problems] == ["WAL_UNSAFE"]

    def test_orphans_are_listed_and_records_of_theirs_not_counted(self, small: Path) -> None:
        stores.write_through_client(small, "client.delete_collection('gamma')")
        with PersistDir.open(small) as store:
            page = reads.overview(store)
        assert len(page.orphans) == 1
        assert page.orphans[0].size_bytes > 100_000
        assert page.records == 2800


class TestCollections:
    def test_pages_by_key(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            seen = []
            after = None
            while True:
                page = reads.collections(store, limit=1, after=after)
                seen += [(row.name, row.tenant, row.database, row.records) for row in page.collections]
                after = page.after
                if after is None:
                    break
            assert page.total == 4
        assert sorted(seen) == [
            ("docs", "acme", "prod", 7),
            ("docs", "acme", "stage", 9),
            ("docs", "default_tenant", "default_database", 5),
            ("only-prod", "acme", "prod", 1),
        ]

    def test_narrowed_and_searched(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            assert len(reads.collections(store, tenant="acme").collections) == 3
            assert len(reads.collections(store, tenant="acme", database="stage").collections) == 1
            assert [row.name for row in reads.collections(store, search="PROD").collections] == ["only-prod"]
            assert reads.collections(store, search="%").collections == ()

    def test_figures_of_the_index(self, churned: Path) -> None:
        with PersistDir.open(churned) as store:
            (row,) = reads.collections(store).collections
        assert row.elements is not None
        assert row.labels is not None
        assert row.tombstones == row.elements - row.labels > 500
        assert row.fragmentation == pytest.approx(row.tombstones / row.elements)
        assert row.problems == ()

    def test_a_cursor_that_is_none(self, opened: PersistDir) -> None:
        for word in ("x", "AAAA", "é", "AAAAAXQ=", "AAAAA3RhMA=="):
            with pytest.raises(BadParameters):
                reads.collections(opened, after=word)

    def test_one_collection(self, opened: PersistDir) -> None:
        page = reads.collection(opened, collection_id=id_of(opened, "alpha"))
        assert page.metadata == {"k": "v"}
        assert {(row.scope, row.watermark, row.gap) for row in page.segments} == {
            ("VECTOR", 2000, 500),
            ("METADATA", 2500, 0),
        }
        assert page.configuration is not None
        assert (page.configuration.space, page.configuration.sync_threshold) == ("cosine", 1000)
        assert page.authority == "schema_str"
        with pytest.raises(CollectionNotFound):
            reads.collection(opened, collection_id="none")

    def test_tenants_and_databases(self, tenants: Path) -> None:
        corpus._changed("INSERT INTO databases VALUES ('d', 'lost', 'gone')")(tenants, tenants)
        with PersistDir.open(tenants) as store:
            page = reads.tenants_and_databases(store)
        found = {row.id: (row.exists, [(d.name, d.collections) for d in row.databases]) for row in page.tenants}
        assert found == {
            "default_tenant": (True, [("default_database", 1)]),
            "acme": (True, [("prod", 2), ("stage", 1)]),
            "nobody": (True, []),
            "gone": (False, [("lost", 0)]),
        }


class TestRecords:
    def test_forwards_and_backwards_agree_with_a_client(self, opened: PersistDir, small: Path) -> None:
        identifier = id_of(opened, "alpha")
        seen: list[str] = []
        after = None
        while True:
            page = reads.records(opened, collection_id=identifier, after=after, limit=200)
            seen += [row.id for row in page.records]
            if (after := page.after) is None:
                break
        assert page.total == len(seen) == 2500
        back: list[str] = []
        while True:
            back[:0] = [row.id for row in page.records]
            if page.before is None:
                break
            page = reads.records(opened, collection_id=identifier, before=page.before, limit=200)
        assert back == seen == sorted(stores.reopen(small)["alpha"].ids)

    def test_where_a_record_lives(self, opened: PersistDir) -> None:
        identifier = id_of(opened, "alpha")
        rows = {
            row.id: row
            for word in ("a1999", "a2000")
            for row in reads.records(opened, collection_id=identifier, search_id=word).records
        }
        assert {key: row.where for key, row in rows.items()} == {"a1999": "indexed", "a2000": "in WAL"}
        beta = reads.records(opened, collection_id=id_of(opened, "beta"))
        assert {row.where for row in beta.records} == {"in WAL"}

    def test_search_is_by_the_beginning_of_the_id(self, opened: PersistDir) -> None:
        identifier = id_of(opened, "alpha")
        page = reads.records(opened, collection_id=identifier, search_id="a249", limit=4)
        assert [row.id for row in page.records] == ["a249", "a2490", "a2491", "a2492"]
        more = reads.records(opened, collection_id=identifier, search_id="a249", after=page.after, limit=100)
        assert [row.id for row in more.records] == [f"a249{digit}" for digit in range(3, 10)]
        assert more.after is None
        assert reads.records(opened, collection_id=identifier, search_id="%").records == ()

    def test_types_as_the_client_gives_them(self, types: Path) -> None:
        observed = stores.reopen(types)["mixed"]
        with PersistDir.open(types) as store:
            identifier = id_of(store, "mixed")
            page = reads.records(store, collection_id=identifier)
            assert {row.id for row in page.records} == set(observed.ids)
            for row in page.records:
                one = reads.record(store, collection_id=identifier, key=row.key)
                assert one is not None
                assert one == reads.record(store, collection_id=identifier, record_id=row.id)
                told = {
                    key: list(value) if isinstance(value, tuple) else value for key, value in one.row.metadata.items()
                }
                assert told == observed.metadatas[row.id]
                assert one.row.problems == ()
                document = observed.documents[row.id]
                assert one.row.document == (document or "").replace("\u202e", "\\u202e")
                assert one.row.document_chars == len(document or "")
                assert row.document is not None
                assert len(row.document) <= 310

    def test_one_record_and_its_wal_entries(self, opened: PersistDir) -> None:
        alpha, gamma = id_of(opened, "alpha"), id_of(opened, "gamma")
        old = reads.record(opened, collection_id=alpha, record_id="a0")
        new = reads.record(opened, collection_id=alpha, record_id="a2400")
        assert old is not None
        assert new is not None
        assert (old.where, old.label, old.wal) == ("indexed", 1, ())
        assert (new.where, new.label, [entry.operation for entry in new.wal]) == ("in WAL", None, ["add"])
        assert reads.record(opened, collection_id=gamma, record_id="g0") is None

    def test_a_vector_that_is_nowhere(self, small: Path) -> None:
        corpus._changed("DELETE FROM embeddings_queue WHERE id = 'a2400'")(small, small)
        with PersistDir.open(small) as store:
            one = reads.record(store, collection_id=id_of(store, "alpha"), record_id="a2400")
        assert one is not None
        assert one.where == "missing"


class TestSegment:
    def test_churned_index(self, churned: Path) -> None:
        with PersistDir.open(churned) as store:
            page = reads.segment(store, collection_id=id_of(store, "churned"))
        assert page.counted
        assert page.live == page.labels
        assert page.elements == sum(block.live + block.tombstones for block in page.slot_map)
        assert page.tombstones is not None
        assert page.tombstones > 500
        assert page.verdicts == ()
        assert {row.name: bool(row.holds) for row in page.files} == dict.fromkeys(
            (corpus.HEADER, corpus.LEVEL0, corpus.LENGTH, corpus.LINK_LISTS, corpus.ID_MAP), True
        )
        values = {row.name: row.value for row in page.parameters}
        assert (values["space"], values["max_neighbors"], values["sync_threshold"]) == ("l2", 16, 100)

    def test_never_persisted(self, opened: PersistDir) -> None:
        page = reads.segment(opened, collection_id=id_of(opened, "beta"))
        assert (page.state, page.elements, page.labels, page.wal_gap, page.verdicts) == ("empty", 0, 0, None, ())

    def test_never_written(self, types: Path) -> None:
        with PersistDir.open(types) as store:
            page = reads.segment(store, collection_id=id_of(store, "void"))
        assert (page.state, page.elements, page.dimension, page.verdicts) == ("absent", 0, None, ())


class TestProbe:
    def test_sound_store(self, opened: PersistDir) -> None:
        found = reads.probe(opened)
        assert found.can_be_written
        assert (found.collections, found.records) == (3, 3600)
        assert (found.device, found.inode) == (os.stat(opened.path).st_dev, os.stat(opened.path).st_ino)
        assert found.users.state in ("free", "unknown")

    def test_a_process_that_has_it_open(self, small: Path) -> None:
        code = "import sys, time; f = open(sys.argv[1], 'r+b'); print('open', flush=True); time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(small / "chroma.sqlite3")], stdout=subprocess.PIPE
        ) as writer:
            try:
                assert writer.stdout is not None
                writer.stdout.readline()
                with PersistDir.open(small) as store:
                    users = reads.probe(store).users
            finally:
                writer.kill()
        assert users.state == "used"
        assert [process.pid for process in users.processes] == [writer.pid]


PAGES: tuple[Callable[..., object], ...] = (
    reads.overview,
    reads.probe,
    reads.tenants_and_databases,
    reads.collections,
)
COLLECTION_PAGES: tuple[Callable[..., object], ...] = (reads.collection, reads.records, reads.segment)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield scratch, stores.copy_of(stores.SMALL, tmp_path / "store")
    for folder, _directories, _files in os.walk(tmp_path):
        os.chmod(folder, 0o700)


@pytest.mark.parametrize("row", corpus.rows(), ids=str)
def test_malformed_directory(row: corpus.Row, base: tuple[Path, Path]) -> None:
    """Every page of every malformed directory: an expected error or a page, in time, and no byte changed."""
    path = row.build(*base)
    before = stores.manifest(path) if path.is_dir() else {}
    codes: dict[str, set[str]] = {"open": set(), "write": set(), "collection": set(), "segment": set(), "pages": set()}
    for page in PAGES:
        _look(path, page, codes)
    try:
        with PersistDir.open(path, deadline_s=2.0) as store:
            store.schema.require_writable("hnsw rebuild")
            store.require_writable("hnsw rebuild")
    except OpsError as error:
        codes["write"].add(error.code)
    assert (stores.manifest(path) if path.is_dir() else {}) == before
    if row.at == "nowhere":
        assert codes["open"] == codes["write"] == codes["pages"] == set()
    else:
        assert codes[row.at] & set(row.codes), codes


def _look(path: Path, page: Callable[..., object], codes: dict[str, set[str]]) -> None:
    started = time.monotonic()
    try:
        with PersistDir.open(path, deadline_s=2.0) as store:
            store.db.execute("SELECT 1").fetchall()
            _round_trip(page, _page_or_code(lambda: page(store), codes))
            found = _page_or_code(lambda: reads.collections(store), codes)
            if page is not reads.collections or found is None:
                return
            assert isinstance(found, reads.CollectionsPage)
            for row in found.collections:
                codes["collection"] |= {problem.code for problem in row.problems if row.name == "alpha"}
                for of_one in COLLECTION_PAGES:
                    answer = _page_or_code(partial(of_one, store, collection_id=row.id), codes)
                    _round_trip(of_one, answer)
                    if isinstance(answer, reads.SegmentPage) and row.name == "alpha":
                        codes["segment"] |= {verdict.code for verdict in answer.verdicts}
                    if isinstance(answer, reads.RecordsPage) and answer.records:
                        one = reads.record(store, collection_id=row.id, key=answer.records[0].key)
                        _round_trip(reads.record, one)
    except OpsError as error:
        codes["open"].add(error.code)
    finally:
        assert time.monotonic() - started < 5


def _page_or_code(call: Callable[[], object], codes: dict[str, set[str]]) -> object:
    try:
        return call()
    except OpsError as error:
        codes["pages"].add(error.code)
        return None


def _round_trip(page: Callable[..., object], answer: object) -> None:
    """What a reader child sends must survive the way, and what is shown must be encodable."""
    if answer is None:
        return
    assert from_json(hints(page)["return"], json.loads(json.dumps(to_json(answer)))) == answer
    for name, text in _texts(answer):
        if name in ("shown", "sentence", "document", "path"):
            text.encode("utf-8")


def _texts(value: object) -> Iterator[tuple[str, str]]:
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            item = getattr(value, field.name)
            if isinstance(item, str):
                yield field.name, item
            elif isinstance(item, tuple):
                for part in item:
                    yield from _texts(part)
            else:
                yield from _texts(item)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
class TestAnotherUser:
    """Rights mean nothing to root, so these look at the store as the user nobody."""

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        place = Path(stores.tempfile.mkdtemp())
        place.chmod(0o755)
        yield stores.copy_of(stores.SMALL, place / "store")
        for folder, _directories, _files in os.walk(place):
            os.chmod(folder, 0o700)
        shutil.rmtree(place)

    def look(self, path: Path) -> dict[str, object]:
        code = (
            "import json, os, sys; sys.path.insert(0, sys.argv[2])\n"
            "from ops.errors import OpsError\nfrom ops import reads\nfrom ops.store.persist_dir import PersistDir\n"
            "def look():\n"
            "    try:\n"
            "        with PersistDir.open(sys.argv[1]) as store:\n"
            "            found = reads.probe(store)\n"
            "            return {'records': found.records, 'codes': [p.code for p in found.problems]}\n"
            "    except OpsError as error:\n"
            "        return {'codes': [error.code]}\n"
            "look()  # loads all modules: the interpreter's own files may be closed to that user\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "print(json.dumps(look()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(stores.ROOT)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def test_d5_unreadable(self, public: Path) -> None:
        assert self.look(corpus.unreadable_directory(public)) == {"codes": ["UNREADABLE"]}

    def test_d6_read_only(self, public: Path) -> None:
        before = stores.manifest(corpus.read_only_directory(public))
        assert self.look(public) == {"records": 3600, "codes": ["READ_ONLY"]}
        assert stores.manifest(public) == before


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_reading_makes_no_write_call_below_the_store(churned: Path, tmp_path: Path) -> None:
    """All pages under strace: no call that could change a file or directory of the store."""
    log = tmp_path / "strace.log"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from ops import reads\nfrom ops.store.persist_dir import PersistDir\n"
        "with PersistDir.open(sys.argv[1]) as store:\n"
        "    reads.overview(store); reads.probe(store); reads.tenants_and_databases(store)\n"
        "    for row in reads.collections(store).collections:\n"
        "        for page in (reads.collection, reads.records, reads.segment):\n"
        "            page(store, collection_id=row.id)\n"
    )
    calls = (
        "openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,truncate,ftruncate,utimensat,chmod"
    )
    arguments = [sys.executable, "-B", "-c", code, str(churned), str(stores.ROOT)]
    subprocess.run(["strace", "-f", "-y", "-o", log, "-e", f"trace={calls}", *arguments], check=True, timeout=120)
    lines = [line for line in log.read_text(errors="replace").splitlines() if str(churned) in line]
    assert lines
    writing = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "unlink", "rename", "mkdir", "truncate", "utimens", "chmod")
    assert [line for line in lines if any(word in line for word in writing)] == []


@pytest.mark.parametrize(
    ("name", "identifier", "where"),
    [("alpha", "a7", "indexed"), ("alpha", "a2400", "in WAL"), ("gamma", "g1", "indexed")],
)
def test_a_record_shows_the_first_components_as_the_client_returns_them(small, name, identifier, where):
    expected = struct.unpack("<8f", stores.reopen(small)[name].embeddings[identifier])
    with PersistDir.open(small) as store:
        (found,) = (entry for entry in sysdb.collections(store) if entry.name == name)
        record = reads.record(store, collection_id=found.id, record_id=identifier)
    assert record.where == where
    assert record.vector_head == pytest.approx(expected, abs=3e-7)
    assert record.norm is None if where == "in WAL" else record.norm == pytest.approx(math.hypot(*expected), rel=1e-6)
