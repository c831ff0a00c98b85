"""``wal export``: what is written equals the rows, and a file that is not whole never gets its name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.errors import BadParameters, Cancelled, IoFailed, VerificationFailed
from ops.operations.wal_export import WalExport, WalExportResult
from ops.params import parse
from ops.progress import Outlet, Progress
from ops.store import embeddings_queue
from ops.store.persist_dir import PersistDir
from tests.ops import stores
from tests.ops.store.flips import rows

ALL = (
    "SELECT seq_id, operation, q.id, vector, q.metadata, c.name FROM embeddings_queue q "
    "JOIN collections c ON substr(topic, -36) = c.id ORDER BY seq_id"
)


def export(path: Path, *, outlet: Outlet | None = None, **given: object) -> WalExportResult:
    with PersistDir.open(path) as store:
        return parse(WalExport, given).run(store, None, Progress(outlet=outlet or Outlet()))


def lines_of(path: str | Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text("ascii").splitlines()]


def cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops", "wal", "export", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=stores.ROOT, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_every_entry_as_it_lies_in_the_rows(small: Path, tmp_path: Path) -> None:
    found = export(small, output=str(tmp_path / "wal.jsonl"))
    assert (found.expected, found.written, found.read_back) == (1202, 1202, 1202)
    (artifact,) = found.artifacts
    data = Path(artifact).read_bytes()
    assert (found.size_bytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert os.stat(artifact).st_mode & 0o777 == 0o600
    exported = []
    for line in lines_of(artifact):
        vector = line["vector"]
        exported.append(
            (
                line["seq_id"],
                ["add", "update", "upsert", "delete"].index(str(line["operation"])),
                line["id"],
                None if vector is None else array("f", vector).tobytes(),  # type: ignore[arg-type]
                line["metadata"],
                line["collection"],
            )
        )
    stored = [(*row[:4], None if row[4] is None else json.loads(str(row[4])), row[5]) for row in rows(small, ALL)]
    assert exported == stored
    assert [(entry.name, entry.expected, entry.written) for entry in found.collections] == [
        ("alpha", 501, 501),
        ("beta", 300, 300),
        ("gamma", 401, 401),
    ]


def test_selection_and_no_vectors(tenants: Path, tmp_path: Path) -> None:
    place = tmp_path / "wal.jsonl"
    found = export(tenants, output=str(place), collection=["docs"], tenant="acme", database="prod", with_vectors=False)
    assert found.written == 7
    assert {line["id"] for line in lines_of(place)} == {f"prod-{number}" for number in range(7)}
    assert not any({"vector", "vector_base64", "encoding"} & set(line) for line in lines_of(place))


def test_what_json_can_not_say(types: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(types / "chroma.sqlite3")
    changes: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("vector = ?", (array("f", [float("nan"), 1, 2]).tobytes(),)),
        ("encoding = ?, vector = ?", ("INT32", array("i", [1, 2, 3]).tobytes())),
        ("metadata = ?", ("{broken",)),
        ("id = CAST(x'ff' AS TEXT)", ()),
        ("metadata = ?", ('{"x": NaN}',)),
    )
    for number, (change, values) in enumerate(changes, 1):
        connection.execute(f"UPDATE embeddings_queue SET {change} WHERE seq_id = {number}", values)  # noqa: S608
    connection.commit()
    connection.close()
    export(types, output=str(tmp_path / "wal.jsonl"))
    first, second, third, fourth, fifth, *_ = lines_of(tmp_path / "wal.jsonl")
    assert {"vector_base64", "encoding"} <= set(first)
    assert (second["encoding"], "vector" in second) == ("INT32", False)
    assert (third["metadata_text"], fifth["metadata_text"]) == ("{broken", '{"x": NaN}')
    assert str(fourth["id"]).encode("utf-8", "surrogateescape") == b"\xff"


def test_standard_output(small: Path) -> None:
    done = cli(str(small), "-c", "beta")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 300)
    assert all(json.loads(line)["collection"] == "beta" for line in done.stdout.splitlines())
    assert "300 WAL entries" in done.stderr
    for options in ((), ("-o", "-")):
        refused = cli(str(small), "--json", *options)
        assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (2, "BAD_PARAMETERS")


def test_an_existing_file_stays_unless_it_may_be_replaced(small: Path, tmp_path: Path) -> None:
    place = tmp_path / "wal.jsonl"
    place.write_text("mine")
    done = cli(str(small), "-o", str(place), "--json")
    assert (done.returncode, json.loads(done.stdout)["status"], place.read_text()) == (2, "refused", "mine")
    done = cli(str(small), "-o", str(place), "--overwrite", "--json")
    assert (done.returncode, json.loads(done.stdout)["result"]["artifacts"]) == (0, [str(place)])
    assert len(lines_of(place)) == 1202
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(BadParameters, match="no plain file"):
        export(small, output=str(link), overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["link", "store-0", "wal.jsonl"]


@pytest.mark.parametrize("name", ["wal.jsonl", ".chromaadmin-wal.jsonl"])
def test_never_in_the_store(small: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").symlink_to(small)
    before = stores.manifest(small)
    for output in (small / name, tmp_path / "elsewhere" / name, small / ".." / small.name / name):
        with pytest.raises(BadParameters, match="persist directory"):
            export(small, output=str(output))
    with pytest.raises(BadParameters, match="no directory"):
        export(small, output=str(tmp_path / "missing" / name))
    assert stores.manifest(small) == before


def test_through_an_application_files_lie_in_the_folder_of_the_run(small: Path, tmp_path: Path) -> None:
    outlet = Outlet(folder=tmp_path / "files", anywhere=False)
    assert export(small, outlet=outlet).artifacts == (str(tmp_path / "files" / "wal.jsonl"),)
    assert export(small, outlet=outlet, output="mine").artifacts == (str(tmp_path / "files" / "mine"),)
    for output in ("/etc/cron.d/x", "../x", "..", "a/b", ".hidden"):
        with pytest.raises(BadParameters, match="name of a file"):
            export(small, outlet=outlet, output=output)
    with pytest.raises(BadParameters, match="command line"):
        export(small, outlet=Outlet(anywhere=False), output="x")


class Full(io.BytesIO):
    """A stream whose other end has gone away."""

    def write(self, _data: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stream_that_breaks(small: Path) -> None:
    with pytest.raises(IoFailed, match="standard output"):
        export(small, outlet=Outlet(stream=Full()))


def vanish(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    """Chroma purges entries of alpha between the count and the pass."""
    counted = embeddings_queue.count_up_to

    def count_and_purge(store: PersistDir, up_to_seq: int) -> dict[str, int]:
        found = counted(store, up_to_seq)
        connection = sqlite3.connect(small / "chroma.sqlite3")
        connection.execute("DELETE FROM embeddings_queue WHERE seq_id < 2100")
        connection.commit()
        connection.close()
        return found

    monkeypatch.setattr(embeddings_queue, "count_up_to", count_and_purge)


def test_counts_that_differ_are_a_failure(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vanish(monkeypatch, small)
    with pytest.raises(VerificationFailed, match="1202 lines were expected, 1102 written"):
        export(small, output=str(tmp_path / "wal.jsonl"))
    assert os.listdir(tmp_path) == ["store-0"]


def test_cancelled_it_leaves_nothing(small: Path, tmp_path: Path) -> None:
    asked = iter(range(10_000))
    operation: Callable[..., object] = parse(WalExport, {"output": str(tmp_path / "wal.jsonl")}).run
    with PersistDir.open(small) as store, pytest.raises(Cancelled):
        operation(store, None, Progress(cancelled=lambda: next(asked) > 50))
    assert os.listdir(tmp_path) == ["store-0"]


def test_an_interrupted_export_is_not_taken_for_a_whole_one(small: Path, tmp_path: Path) -> None:
    (tmp_path / "wal.jsonl.partial").write_text("half")
    with pytest.raises(BadParameters, match="interrupted"):
        export(small, output=str(tmp_path / "wal.jsonl"))
