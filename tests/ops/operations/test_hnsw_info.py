"""``hnsw info``: figures that agree with the slots themselves, and damage that is described."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ops.codec import from_json, to_json
from ops.errors import CollectionNotFound
from ops.operations.hnsw_info import HnswInfo, HnswInfoResult, IndexInfo, LinkInfo
from ops.params import parse
from ops.progress import Progress
from ops.store.persist_dir import PersistDir
from tests.ops import corpus, stores


def info(path: Path, **given: object) -> HnswInfoResult:
    with PersistDir.open(path) as store:
        return parse(HnswInfo, given).run(store, None, Progress())


def of(path: Path, name: str, **given: object) -> IndexInfo:
    (found,) = info(path, collection=[name], **given).collections
    return found


def test_a_real_index(small: Path) -> None:
    alpha = of(small, "alpha")
    directory = corpus.index_of(small)
    assert (alpha.collection, alpha.path, alpha.segment) == ("alpha", str(directory), directory.name)
    assert (alpha.space, alpha.m, alpha.ef_construction, alpha.ef_search) == ("cosine", 16, 100, 100)
    assert (alpha.batch_size, alpha.sync_threshold, alpha.resize_factor) == (100, 1000, 1.2)
    assert (alpha.authority, alpha.dimension, alpha.state) == ("schema_str", 8, "persisted")
    assert (alpha.elements, alpha.labels, alpha.tombstones, alpha.fragmentation) == (2000, 2000, 0, 0.0)
    assert (alpha.total_elements_added, alpha.watermark, alpha.links) == (2000, 2000, None)
    assert alpha.size_bytes == sum(file.stat().st_size for file in directory.iterdir())
    assert alpha.memory_bytes is not None
    assert alpha.memory_bytes > alpha.size_bytes


def test_tombstones_are_counted_in_the_slots(churned: Path) -> None:
    found = of(churned, "churned", verbose=True)
    assert found.path is not None
    assert found.elements is not None
    slot = 4 + 8 * 16 + 4 * 8 + 8
    raw = np.fromfile(Path(found.path) / "data_level0.bin", np.uint8)[: found.elements * slot].reshape(-1, slot)
    dead = int((raw[:, 2] & 1).sum())
    assert dead > 0
    assert (found.tombstones, found.fragmentation) == (dead, dead / found.elements)
    assert found.labels == found.elements - dead
    assert found.links is not None
    assert found.links.level0 == int(raw[:, :2].copy().view("<u2").sum())
    assert found.links.per_element == found.links.level0 / found.elements
    assert found.links.levels > 1
    assert 0 < found.links.upper < found.links.level0


def test_an_index_that_was_never_persisted(small: Path) -> None:
    beta = of(small, "beta", verbose=True)
    assert (beta.state, beta.elements, beta.tombstones, beta.fragmentation) == ("empty", 0, 0, 0.0)
    assert beta.links == LinkInfo(level0=0, upper=0, per_element=0.0, levels=0, unlinked=0)


def test_selection(tenants: Path) -> None:
    assert len(info(tenants).collections) == 4
    assert [entry.database for entry in info(tenants, collection=["docs"], tenant="acme", database="stage").collections]
    with pytest.raises(CollectionNotFound):
        info(tenants, collection=["nowhere"])


@pytest.mark.parametrize("row", [row for row in corpus.rows() if row.at == "segment"][::3], ids=str)
def test_damage_is_described(small: Path, tmp_path: Path, row: corpus.Row) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = row.build(scratch, small)
    before = stores.manifest(path)
    found = info(path, verbose=True)
    assert stores.manifest(path) == before
    assert from_json(HnswInfoResult, json.loads(json.dumps(to_json(found)))) == found
    codes = {problem.code for entry in found.collections for problem in entry.problems}
    if row.codes:
        assert codes & set(row.codes)
        assert "damaged" in {entry.state for entry in found.collections}


def test_links_out_of_range_are_no_figures(small: Path) -> None:
    level0 = corpus.index_of(small) / "data_level0.bin"
    data = bytearray(level0.read_bytes())
    data[4:8] = b"\xff\xff\xff\x7f"
    level0.write_bytes(data)
    found = of(small, "alpha", verbose=True)
    assert (found.links, found.tombstones) == (None, 0)
    assert [problem.code for problem in found.problems] == ["INDEX_UNREADABLE"]
    assert of(small, "alpha").problems == ()


def test_every_field_says_what_it_is() -> None:
    for kind in (LinkInfo, IndexInfo, HnswInfoResult):
        assert all(field.metadata["help"].endswith((".", ")")) for field in fields(kind)), kind


def test_the_command_line(small: Path) -> None:
    command = [sys.executable, "-m", "ops", "hnsw", "info", str(small), "-c", "alpha", "-v", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=stores.ROOT, check=True)
    answer = json.loads(done.stdout)
    assert (answer["operation"], answer["status"]) == ("hnsw_info", "succeeded")
    assert from_json(HnswInfoResult, answer["result"]).collections == (of(small, "alpha", verbose=True),)
