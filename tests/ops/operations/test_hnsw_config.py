"""``hnsw config``: the named members change, every other byte stays, Chroma uses them, and an undo puts them back."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from ops.errors import BadParameters, CollectionNotFound, NothingToUndo
from ops.execute import preview
from ops.operation import Needs
from ops.operations.hnsw_config import HnswConfig
from ops.operations.run_undo import RunUndo
from ops.params import parse
from tests.ops import stores
from tests.ops.operations.test_run_undo import ops, undo
from tests.ops.store.flips import rows

TEXT = "SELECT schema_str FROM collections WHERE name = ?"


def config(path: Path, *options: str) -> dict[str, object]:
    return ops("hnsw", "config", str(path), "-c", "alpha", "--yes", *options)


def text_of(path: Path, name: str = "alpha") -> str:
    return str(rows(path, TEXT, name)[0][0])


def hnsw_of(path: Path, name: str = "alpha") -> dict[str, object]:
    document = json.loads(text_of(path, name))
    return document["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]  # type: ignore[no-any-return]


def changed(path: Path, text: str) -> None:
    connection = sqlite3.connect(path / "chroma.sqlite3")
    connection.execute("UPDATE collections SET schema_str = ? WHERE name = 'alpha'", (text,))
    connection.commit()
    connection.close()


def test_it_may_run_beside_chroma() -> None:
    assert HnswConfig.declared.needs is Needs.LIVE


def test_all_five_and_chroma_reads_them(small: Path) -> None:
    before, old, others = stores.reopen(small), hnsw_of(small), text_of(small, "gamma")
    options = ("--ef-search", "321", "--num-threads", "3", "--resize-factor", "1.7", "--batch-size", "50")
    answer = config(small, *options, "--sync-threshold", "2000")
    new = {"ef_search": 321, "num_threads": 3, "resize_factor": 1.7, "batch_size": 50, "sync_threshold": 2000}
    assert hnsw_of(small) == old | new
    assert text_of(small, "gamma") == others
    (found,) = answer["result"]["collections"]  # type: ignore[index]
    assert found["after"] == {name: json.dumps(value) for name, value in new.items()}
    code = """
import json
alpha = client.get_collection("alpha")
alpha.add(ids=["late"], embeddings=vectors(1))
print(json.dumps({**alpha.configuration["hnsw"], "count": alpha.count()}))
"""
    assert stores.reopen(small) == before
    seen = json.loads(stores.write_through_client(small, code))
    assert {name: seen[name] for name in new if name in seen} == {name: new[name] for name in new if name in seen}
    assert {"ef_search", "resize_factor", "sync_threshold"} <= set(seen)  # the client shows no more of them
    assert seen["count"] == 2501


def test_every_other_byte_stays(small: Path) -> None:
    """Unknown members, spaces, the order and numbers in another form."""
    head, found, rest = text_of(small).rpartition('"ef_search":100')  # the defaults of new keys stand before it
    assert found
    odd = f'{head}"of_tomorrow" : [1.0e2, "é"],\n  "ef_search" :  100{rest}'
    changed(small, odd)
    config(small, "--ef-search", "321")
    assert text_of(small) == f'{head}"of_tomorrow" : [1.0e2, "é"],\n  "ef_search" :  321{rest}'


def test_identical_values_are_skipped(small: Path) -> None:
    text = text_of(small)
    answer = config(small, "--ef-search", "100")
    assert answer["result"] == {"collections": [], "unchanged": ["alpha"]}
    assert text_of(small) == text
    plan = preview(parse(HnswConfig, {"collection": ["alpha", "gamma"], "sync_threshold": 1000}), str(small))
    assert plan.scope.steps == ()
    plan = preview(parse(HnswConfig, {"collection": ["alpha"], "sync_threshold": 1000, "ef_search": 9}), str(small))
    assert [(change.what, change.now, change.after) for change in plan.changes] == [("alpha: ef_search", "100", "9")]


def test_undo_and_undo_of_undo(small: Path) -> None:
    text = text_of(small)
    run_id = str(config(small, "--ef-search", "321", "--num-threads", "3")["run_id"])
    new = text_of(small)
    answer = undo(small, run_id)
    assert [step["how"] for step in answer["result"]["steps"]] == ["put back"]  # type: ignore[index]
    assert text_of(small) == text
    undo(small, str(answer["run_id"]))
    assert text_of(small) == new


def test_an_undo_keeps_what_chroma_added_since(small: Path) -> None:
    run_id = str(config(small, "--ef-search", "321")["run_id"])
    code = "client.get_collection('alpha').add(ids=['k'], embeddings=vectors(1), metadatas=[{'brand_new_key': 1}])"
    stores.write_through_client(small, code)
    since = text_of(small)
    assert "brand_new_key" in since
    undo(small, run_id)
    assert text_of(small) == since.replace('"ef_search":321', '"ef_search":100')


def test_what_can_not_be_undone(small: Path) -> None:
    run_id = str(config(small, "--ef-search", "321")["run_id"])
    config(small, "--ef-search", "5")
    with pytest.raises(NothingToUndo, match="changed again"):
        preview(RunUndo(run_id=run_id), str(small))
    config(small, "--ef-search", "100")
    with pytest.raises(NothingToUndo, match="as it was before"):
        preview(RunUndo(run_id=run_id), str(small))
    stores.write_through_client(small, "client.delete_collection('alpha')")
    with pytest.raises(NothingToUndo, match="gone"):
        preview(RunUndo(run_id=run_id), str(small))


def test_what_is_refused(small: Path) -> None:
    for given in (
        {"collection": ["alpha"]},
        {"ef_search": 5},
        {"collection": ["alpha"], "m": 5},
        {"collection": ["alpha"], "space": "l2"},
        {"collection": ["alpha"], "batch_size": 1},
        {"collection": ["alpha"], "ef_search": 0},
    ):
        with pytest.raises(BadParameters):
            parse(HnswConfig, given)
    with pytest.raises(CollectionNotFound):
        preview(parse(HnswConfig, {"collection": ["nowhere"], "ef_search": 5}), str(small))
