"""The operation ``run undo``: back as it was, or rebuilt when Chroma has written since, and never twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.errors import BadParameters, NothingToUndo
from ops.execute import preview
from ops.operations.run_undo import RunUndo
from ops.params import parse
from tests.ops import stores
from tests.ops.store.flips import rows, vector_segment_of
from tests.ops.store.test_recovery import ROOT

ALL = "SELECT name, config_json_str, schema_str FROM collections ORDER BY name"


def ops(*arguments: str, status: int = 0) -> dict[str, object]:
    """What the command line answers."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", *arguments, "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def rebuild(path: Path, *options: str) -> str:
    """Rebuild alpha and answer the run's id."""
    return str(ops("hnsw", "rebuild", str(path), "-c", "alpha", "--yes", *options)["run_id"])


def undo(path: Path, run_id: str) -> dict[str, object]:
    return ops("run", "undo", str(path), "--run", run_id, "--yes")


def steps(answer: dict[str, object]) -> list[dict[str, object]]:
    return answer["result"]["steps"]  # type: ignore[index,no-any-return]


def vectors(path: Path) -> dict[str, object]:
    """Ids, documents, metadata and vectors; the queries depend on the graph."""
    found = stores.reopen(path).collections
    return {str(key): (value.ids, value.documents, value.metadatas, value.embeddings) for key, value in found.items()}


def files(path: Path) -> dict[str, bytes]:
    directory = path / vector_segment_of(path, "alpha")
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_undo_and_undo_of_undo(small: Path) -> None:
    before, old, index, texts = vectors(small), vector_segment_of(small, "alpha"), files(small), rows(small, ALL)
    run_id = rebuild(small, "--m", "32", "--ef-search", "77", "--num-threads", "1")
    new, new_index, new_texts = vector_segment_of(small, "alpha"), files(small), rows(small, ALL)
    assert new_texts != texts
    plan = preview(RunUndo(run_id=run_id), str(small))
    assert "comes back out of the trash" in plan.headline
    assert plan.warnings == ()

    answer = undo(small, run_id)
    assert [step["how"] for step in steps(answer)] == ["swapped back"]
    assert vector_segment_of(small, "alpha") == old
    assert (files(small), rows(small, ALL), vectors(small)) == (index, texts, before)

    again = undo(small, str(answer["run_id"]))
    assert [step["how"] for step in steps(again)] == ["swapped back"]
    assert vector_segment_of(small, "alpha") == new
    assert (files(small), rows(small, ALL), vectors(small)) == (new_index, new_texts, before)

    third = undo(small, str(again["run_id"]))
    assert (files(small), rows(small, ALL)) == (index, texts)
    assert third["status"] == "succeeded"


def test_when_chroma_has_written_since_it_is_a_rebuild(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    header = files(small)["header.bin"]
    run_id = rebuild(small, "--m", "32", "--ef-search", "77")
    code = "client.get_collection('alpha').add(ids=[f'late{j}' for j in range(700)], embeddings=vectors(700))"
    stores.write_through_client(small, code)
    before = vectors(small)
    plan = preview(RunUndo(run_id=run_id), str(small))
    assert "is rebuilt from the vectors of today" in plan.headline
    assert "Chroma has written since" in plan.warnings[0]

    answer = undo(small, run_id)
    assert [step["how"] for step in steps(answer)] == ["rebuilt with the old parameters"]
    assert vector_segment_of(small, "alpha") != old
    assert vectors(small) == before
    assert files(small)["header.bin"][60:] != b""
    # M and ef_construction are those of the old header again
    assert files(small)["header.bin"][-24:] == header[-24:]
    assert '"ef_search":77' not in str(rows(small, ALL)).replace(" ", "")


def test_twice_is_refused(small: Path) -> None:
    run_id = rebuild(small)
    undo(small, run_id)
    answer = ops("undo", str(small), "--run", run_id, "--yes", status=3)
    assert answer["error"]["code"] == "NOTHING_TO_UNDO"  # type: ignore[index]


def test_what_was_replaced_again_is_not_undone(small: Path) -> None:
    first = rebuild(small)
    rebuild(small, "--m", "24")
    with pytest.raises(NothingToUndo, match="replaced again"):
        preview(RunUndo(run_id=first), str(small))


def test_what_nobody_knows(small: Path) -> None:
    with pytest.raises(NothingToUndo):
        preview(RunUndo(run_id="11111111-2222-4333-8444-555555555555"), str(small))
    with pytest.raises(BadParameters):
        parse(RunUndo, {"run_id": "../../etc"})
    with pytest.raises(BadParameters):
        parse(RunUndo, {})


def test_a_deleted_collection_is_not_undone(small: Path) -> None:
    run_id = rebuild(small)
    stores.write_through_client(small, "client.delete_collection('alpha')")
    with pytest.raises(NothingToUndo, match="gone"):
        preview(RunUndo(run_id=run_id), str(small))


def test_an_emptied_trash_means_a_rebuild(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    run_id = rebuild(small, "--m", "32")
    shutil.rmtree(small / ".chromaadmin" / "trash" / run_id / old)
    before = vectors(small)
    answer = undo(small, run_id)
    assert [step["how"] for step in steps(answer)] == ["rebuilt with the old parameters"]
    assert vectors(small) == before


def test_an_index_left_in_place_comes_back_too(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    run_id = rebuild(small, "--m", "32")
    (small / ".chromaadmin" / "trash" / run_id / old).rename(small / old)
    answer = undo(small, run_id)
    assert [step["how"] for step in steps(answer)] == ["swapped back"]
    assert vector_segment_of(small, "alpha") == old


def test_a_damaged_index_in_the_trash_is_not_brought_back(small: Path) -> None:
    old = vector_segment_of(small, "alpha")
    run_id = rebuild(small, "--m", "32")
    new, before = vector_segment_of(small, "alpha"), vectors(small)
    waiting = small / ".chromaadmin" / "trash" / run_id / old
    (waiting / "data_level0.bin").write_bytes((waiting / "data_level0.bin").read_bytes()[:-100])
    answer = ops("run", "undo", str(small), "--run", run_id, "--yes", status=3)
    assert answer["error"]["code"] == "INDEX_TORN"  # type: ignore[index]
    assert vector_segment_of(small, "alpha") == new
    assert waiting.exists()
    assert vectors(small) == before


def test_two_collections_come_back_together(small: Path) -> None:
    before, texts = vectors(small), rows(small, ALL)
    segments = [vector_segment_of(small, name) for name in ("alpha", "gamma")]
    answer = ops("hnsw", "rebuild", str(small), "-c", "alpha", "-c", "gamma", "--m", "32", "--yes")
    undone = undo(small, str(answer["run_id"]))
    assert [step["how"] for step in steps(undone)] == ["swapped back", "swapped back"]
    assert [vector_segment_of(small, name) for name in ("alpha", "gamma")] == segments
    assert (vectors(small), rows(small, ALL)) == (before, texts)
