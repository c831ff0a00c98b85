"""The id map: genuine files read, hostile ones refused without running, allocating or waiting."""

import array
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import IndexMetadataMissing, OpsError, PickleForbidden, PickleLimit, PickleTorn
from ops.store import id_map
from ops.store.id_map import IdMap, IdMapReader, IdMapSummary
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores


@pytest.fixture
def reader() -> Iterator[IdMapReader]:
    made = IdMapReader()
    yield made
    made.close()


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "executed"


def summary(reader: IdMapReader, content: bytes, place: Path) -> IdMapSummary:
    return _with(reader.summary, content, place)  # type: ignore[no-any-return]


def whole(reader: IdMapReader, content: bytes, place: Path) -> IdMap:
    return _with(reader.read, content, place)  # type: ignore[no-any-return]


def _with(ask, content: bytes, place: Path):  # type: ignore[no-untyped-def]
    path = place / "map.pickle"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return ask(fd, "map.pickle")
    finally:
        os.close(fd)


def class_form(state: dict[str, object]) -> bytes:
    """The file that Chroma before 1.0 writes."""
    return f"c{corpus.MODULE}\n{corpus.CLASS}\n".encode().join(
        (b"\x80\x03", b")\x81" + pickle.dumps(state, 3)[2:-1] + b"b.")
    )


def test_files_of_chroma(opened: PersistDir, reader: IdMapReader) -> None:
    directory = opened.segment_directory(corpus.index_of(opened.path).name)
    assert directory is not None
    found = id_map.read(opened.id_maps, directory, "alpha")
    assert found.form == "dict"
    assert dict(zip(found.ids, found.labels, strict=True)) == {f"a{number}": number + 1 for number in range(2000)}
    told = id_map.read_summary(opened.id_maps, directory, "alpha")
    assert told == IdMapSummary(
        form="dict",
        total_elements_added=2000,
        dimensionality=None,
        max_seq_id=None,
        labels=2000,
        max_label=2000,
        inverse=True,
    )


def test_missing_file(opened: PersistDir) -> None:
    directory = opened.segment_directory(corpus.index_of(opened.path, "beta").name)
    assert directory is not None
    with pytest.raises(IndexMetadataMissing):
        id_map.read_summary(opened.id_maps, directory, "beta")


def test_the_form_before_1_0(reader: IdMapReader, tmp_path: Path) -> None:
    state = {
        "dimensionality": 8,
        "total_elements_added": 3,
        "max_seq_id": 17,
        "id_to_label": {"x": 3, "y": 1},
        "label_to_id": {3: "x", 1: "y"},
        "id_to_seq_id": {"x": 4, "y": 5},
    }
    found = whole(reader, class_form(state), tmp_path)
    assert (found.form, found.dimensionality, found.max_seq_id, found.total_elements_added) == ("class", 8, 17, 3)
    assert (found.ids, found.labels.tolist(), found.inverse) == (["x", "y"], [3, 1], True)


@pytest.mark.parametrize(
    "backwards", [{1: "a"}, {1: "b", 2: "a"}, {1: "a", 3: "b"}, {1: "a", 2: "b", 3: "c"}, {}], ids=str
)
def test_maps_that_disagree_are_told_not_refused(
    reader: IdMapReader, tmp_path: Path, backwards: dict[int, str]
) -> None:
    content = pickle.dumps({"total_elements_added": 2, "id_to_label": {"a": 1, "b": 2}, "label_to_id": backwards}, 3)
    assert not summary(reader, content, tmp_path).inverse


def test_a_label_given_twice(reader: IdMapReader, tmp_path: Path) -> None:
    content = pickle.dumps({"total_elements_added": 2, "id_to_label": {"a": 1, "b": 1}, "label_to_id": {1: "a"}}, 3)
    found = summary(reader, content, tmp_path)
    assert (found.labels, found.inverse) == (2, False)


IDS = st.lists(st.text(st.characters(), max_size=30), unique=True, max_size=40)


@given(ids=IDS, labels=st.data())
def test_entries_survive_the_way_between_processes(ids: list[str], labels: st.DataObject) -> None:
    numbers = array.array("q", labels.draw(st.lists(st.integers(0, 2**63 - 1), min_size=len(ids), max_size=len(ids))))
    assert id_map.unpack_entries(id_map.pack_entries(numbers, ids), len(ids)) == (numbers, ids)


def test_what_is_written_is_read_back(reader: IdMapReader, tmp_path: Path) -> None:
    ids = ["a", "ü", "日本", "😀", "", "\ud800", "x" * 100_000]
    made = IdMap(
        form="dict",
        total_elements_added=9,
        dimensionality=None,
        max_seq_id=None,
        labels=array.array("q", range(1, 8)),
        ids=ids,
    )
    assert whole(reader, id_map.dump(made), tmp_path) == made


def test_chroma_reads_what_is_written(small: Path) -> None:
    """The file of alpha, written again by us: the client finds every vector through it."""
    before = stores.reopen(small)["alpha"]
    with PersistDir.open(small) as store:
        directory = store.segment_directory(corpus.index_of(small).name)
        assert directory is not None
        content = id_map.dump(id_map.read(store.id_maps, directory, "alpha"))
        path = directory.path / id_map.FILE_NAME
    assert path.read_bytes() != content  # the order of the ids is another, so this is really ours
    path.write_bytes(content)
    assert stores.reopen(small)["alpha"] == before


HOSTILE = corpus.hostile_pickles(Path("/nonexistent/canary"))


def test_there_are_enough_hostile_files() -> None:
    assert len(HOSTILE) >= 60
    assert len({entry.name for entry in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda number: HOSTILE[number].name)
def test_hostile_file(reader: IdMapReader, canary: Path, tmp_path: Path, number: int) -> None:
    entry = corpus.hostile_pickles(canary)[number]
    id_map_of = class_form({"total_elements_added": 0, "id_to_label": {}, "label_to_id": {}})
    assert summary(reader, id_map_of, tmp_path).form == "class"  # the child runs before the clock does
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with pytest.raises((PickleForbidden, PickleLimit, PickleTorn)) as caught:
        summary(reader, entry.content, tmp_path)
    took = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert caught.value.code == entry.code
    assert not canary.exists()
    assert min(took, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) <= 1.0
    assert took < 10  # also when the machine is busy
    assert summary(reader, id_map_of, tmp_path).labels == 0  # the next file is read as if nothing had been


def test_the_canary_would_sing(canary: Path, tmp_path: Path) -> None:
    """The hostile files do run their command where nothing stops them, so their silence above means something."""
    entry = next(entry for entry in corpus.hostile_pickles(canary) if entry.name == "REDUCE os.system")
    (tmp_path / "map").write_bytes(entry.content)
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "map"], check=True)
    assert canary.exists()
    canary.unlink()


def test_a_loop_is_ended_by_processor_time(reader: IdMapReader, tmp_path: Path) -> None:
    """Keys with one hash: a small file that would take minutes."""
    step = 2**61 - 1
    keys = b"".join(b"\x8a\x0a" + (step * (number + 1)).to_bytes(10, "little") + b"N" for number in range(60_000))
    started = time.process_time()
    with pytest.raises(PickleLimit, match="SIGPROF"):
        summary(reader, b"\x80\x03}(" + keys + b"u.", tmp_path)
    assert time.process_time() - started < 1


def test_memory_is_limited(reader: IdMapReader, tmp_path: Path) -> None:
    """A file of 3 MB whose list would take 24 GB."""
    content = b"\x80\x03](" + b"N" * 1000 + b"e" + (b"0](" + b"N" * 1000 + b"e") * 10
    assert summary_code(reader, content + b".", tmp_path) == "PICKLE_TORN"
    limit = id_map.memory_limit_bytes(9)
    assert limit == 256 * 2**20 + 12 * 9
    assert id_map.memory_limit_bytes(2**40) == 4 * 2**30
    bomb = b"\x80\x02Nr" + (60_000_000).to_bytes(4, "little") + b"."
    assert summary_code(reader, bomb, tmp_path) == "PICKLE_LIMIT"


def summary_code(reader: IdMapReader, content: bytes, place: Path) -> str:
    with pytest.raises(OpsError) as caught:
        summary(reader, content, place)
    return caught.value.code


def test_the_child_can_not_write_or_start_processes(reader: IdMapReader, tmp_path: Path) -> None:
    summary(reader, class_form({"total_elements_added": 0, "id_to_label": {}, "label_to_id": {}}), tmp_path)
    assert reader._child is not None
    limits = Path(f"/proc/{reader._child.pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert (found["Max file size"], found["Max processes"], found["Max core file size"]) == ("0", "0", "0")
    assert Path(f"/proc/{reader._child.pid}/environ").read_bytes() == b""


def test_a_killed_child_is_replaced(reader: IdMapReader, tmp_path: Path) -> None:
    content = class_form({"total_elements_added": 0, "id_to_label": {}, "label_to_id": {}})
    summary(reader, content, tmp_path)
    assert reader._child is not None
    os.kill(reader._child.pid, signal.SIGTERM)
    reader._child.wait()
    with pytest.raises(OpsError, match="SIGTERM"):
        summary(reader, content, tmp_path)
    assert summary(reader, content, tmp_path).labels == 0


def test_the_child_ends_with_its_reader(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from ops.store.id_map import IdMapReader\n"
        "reader = IdMapReader(); fd = os.open(sys.argv[1], os.O_RDONLY); reader.summary(fd, 'map')\n"
        "print(reader._child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "map"
    path.write_bytes(class_form({"total_elements_added": 0, "id_to_label": {}, "label_to_id": {}}))
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(stores.ROOT)], stdout=subprocess.PIPE, text=True, check=False
    )
    pid = int(done.stdout)
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_many_ids(reader: IdMapReader, tmp_path: Path) -> None:
    ids = [f"record-number-{number}" for number in range(300_000)]
    made = IdMap(
        form="dict",
        total_elements_added=len(ids),
        dimensionality=None,
        max_seq_id=None,
        labels=array.array("q", range(1, len(ids) + 1)),
        ids=ids,
    )
    content = id_map.dump(made)
    assert summary(reader, content, tmp_path).labels == 300_000
    assert whole(reader, content, tmp_path) == made
