"""Index files of real stores, read, searched, built anew, and damaged in every way that must be noticed."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import IndexHeaderInvalid, IndexTorn, IndexUnreadable, OpsError, SparseFile, VectorsDiffer
from ops.progress import Progress
from ops.store import hnsw
from ops.store.hnsw import HEADER, LENGTH, LEVEL0, LINK_LISTS, Header, IndexFiles, PlainDirectory, read_header
from ops.store.hnsw_build import Source, build
from ops.store.hnsw_search import GraphSearch, exact_knn
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import select_collections, vector_segment

FIELDS = {  # offset in header.bin and struct code
    "version": (0, "<i"),
    "offset_level0": (4, "<Q"),
    "capacity": (12, "<Q"),
    "elements": (20, "<Q"),
    "slot_bytes": (28, "<Q"),
    "label_offset": (36, "<Q"),
    "data_offset": (44, "<Q"),
    "max_level": (52, "<i"),
    "entrypoint": (56, "<I"),
    "max_m": (60, "<Q"),
    "max_m0": (68, "<Q"),
    "m": (76, "<Q"),
    "mult": (84, "<d"),
    "ef_construction": (92, "<Q"),
}


def index_of(path: Path, name: str) -> Path:
    with PersistDir.open(path) as store:
        (collection,) = select_collections(store, names=[name])
        return path / vector_segment(store, collection).id


@pytest.fixture
def alpha(small: Path) -> Path:
    """A cosine index of 2,000 vectors without tombstones."""
    return index_of(small, "alpha")


@pytest.fixture
def holed(churned: Path) -> Path:
    """An l2 index with tombstones."""
    return index_of(churned, "churned")


def opened(path: Path, dimension: int | None = 8) -> IndexFiles:
    return IndexFiles.open(PlainDirectory(path), collection="it", dimension=dimension)


def library(path: Path, files: IndexFiles, scratch: Path, space: str) -> hnswlib.Index:
    """hnswlib's own view of a copy; it opens its files for writing."""
    shutil.copytree(path, scratch)
    index = hnswlib.Index(space=space, dim=files.header.dimension)
    index.load_index(str(scratch), is_persistent_index=True, max_elements=files.header.elements)
    index.close_file_handles()
    return index


# --- reading


def test_a_header_packs_to_the_bytes_it_was_parsed_from(alpha: Path, holed: Path) -> None:
    for path in (alpha, holed):
        data = (path / HEADER).read_bytes()
        assert Header.parse(data, collection="it", dimension=8).pack() == data


def test_vectors_labels_and_tombstones_are_those_the_library_reads(holed: Path, tmp_path: Path) -> None:
    files = opened(holed)
    index = library(holed, files, tmp_path / "copy", "l2")
    slots = files.live_slots()
    labels = files.labels()
    assert sorted(labels.tolist()) == sorted(index.get_ids_list())
    assert 0 < files.deleted().sum() < files.header.elements
    assert len(slots) == files.header.elements - files.deleted().sum()
    assert (np.diff(labels[slots].astype(np.int64)) > 0).all()
    theirs = np.array(index.get_items(labels[slots]), dtype=np.float32)
    assert (files.vectors(slots).view(np.uint32) == theirs.view(np.uint32)).all()
    for label in labels[files.deleted()][:5]:
        with pytest.raises(RuntimeError):
            index.get_items([label])


def test_a_cosine_index_holds_unit_vectors_and_norms(alpha: Path, tmp_path: Path) -> None:
    files = opened(alpha)
    index = library(alpha, files, tmp_path / "copy", "cosine")
    slots = files.live_slots()
    vectors = files.vectors(slots)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    theirs = np.array(index.get_items(files.labels()[slots]), dtype=np.float32)
    assert (vectors * files.norms()[slots][:, None] == theirs).all()


@pytest.mark.parametrize("blocks", [1, 7, 64, 100_000])
def test_the_slot_map_counts_every_slot_once(holed: Path, blocks: int) -> None:
    files = opened(holed)
    found = files.slot_map(blocks)
    assert len(found) == min(blocks, files.header.elements)
    assert sum(block.tombstones for block in found) == files.deleted().sum()
    assert sum(block.live + block.tombstones for block in found) == files.header.elements


def test_an_index_before_its_first_persist_is_sound(small: Path) -> None:
    files = opened(index_of(small, "beta"))
    assert files.header.elements == 0
    assert files.slot_map(10) == ()
    assert len(files.live_slots()) == 0
    files.check_graph()


# --- search


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_exact_search_is_that_of_a_plain_comparison(alpha: Path, space: str) -> None:
    files = opened(alpha)
    slots = files.live_slots()
    vectors = files.vectors(slots).astype(np.float64)
    queries = files.vectors(slots[:20])
    labels, distances = exact_knn(files, queries, 7, space)
    for query, found, far in zip(queries.astype(np.float64), labels, distances, strict=True):
        wanted = ((vectors - query) ** 2).sum(axis=1) if space == "l2" else 1 - vectors @ query
        order = np.argsort(wanted)[:7]
        assert found.tolist() == files.labels()[slots[order]].tolist()
        assert np.allclose(far, wanted[order], atol=1e-5)


def test_exact_search_never_answers_with_a_tombstone(holed: Path) -> None:
    files = opened(holed)
    dead = np.flatnonzero(files.deleted())[:5]
    labels, _ = exact_knn(files, files.vectors(dead), 10_000, "l2")
    assert labels.shape == (5, len(files.live_slots()))
    assert not np.isin(labels, files.labels()[files.deleted()]).any()


@pytest.mark.parametrize("ef", [1, 2, 10, 100])
def test_the_graph_search_finds_exactly_what_the_library_finds(holed: Path, tmp_path: Path, ef: int) -> None:
    files = opened(holed)
    index = library(holed, files, tmp_path / "copy", "l2")
    index.set_ef(ef)
    slots = files.live_slots()
    labels, _ = index.knn_query(files.vectors(slots), k=1)
    search = GraphSearch(files, files.check_graph(), "l2")
    ours = [search.finds_itself(int(slot), ef) for slot in slots]
    assert ours == (labels[:, 0] == files.labels()[slots]).tolist()
    assert any(ours)
    assert ef > 2 or not all(ours), "an ef this small misses some, else the test shows nothing"


# --- building


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_a_built_index_holds_the_same_bits_and_loads_in_the_library(holed: Path, tmp_path: Path, space: str) -> None:
    files = opened(holed)
    source = Source(files=files, slots=files.live_slots(), old_space="l2", space=space)
    target = tmp_path / "new"
    target.mkdir()
    build(target, source, m=5, ef_construction=40, threads=2, progress=Progress())
    new = opened(target)
    new.check_graph()
    slots = new.live_slots()
    assert (new.header.m, new.header.ef_construction) == (5, 40)
    assert new.header.elements == new.header.capacity == source.count
    assert new.labels()[slots].tolist() == list(range(1, source.count + 1))
    assert (new.vectors(slots).view(np.uint32) == files.vectors(source.slots).view(np.uint32)).all()
    assert not new.norms().any()
    index = library(target, new, tmp_path / "copy", space)
    labels, _ = index.knn_query(new.vectors(slots[:100]), k=1)
    exact, _ = exact_knn(new, new.vectors(slots[:100]), 1, space)
    assert (labels == exact).mean() >= 0.95


def test_a_cosine_index_keeps_unit_vectors_and_norms_to_the_bit(alpha: Path, tmp_path: Path) -> None:
    files = opened(alpha)
    source = Source(files=files, slots=files.live_slots(), old_space="cosine", space="cosine")
    target = tmp_path / "new"
    target.mkdir()
    build(target, source, m=16, ef_construction=100, threads=2, progress=Progress())
    new = opened(target)
    slots = new.live_slots()
    assert (new.vectors(slots).view(np.uint32) == files.vectors(source.slots).view(np.uint32)).all()
    assert (new.norms()[slots].view(np.uint32) == files.norms()[source.slots].view(np.uint32)).all()


def test_converted_to_cosine_and_back_a_component_is_off_by_at_most_the_stated_error(holed: Path) -> None:
    files = opened(holed)
    there = Source(files=files, slots=files.live_slots(), old_space="l2", space="cosine")
    units, norms = there.read(slice(0, there.count))
    raw = files.vectors(there.slots)
    assert np.allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    assert np.max(np.abs(units * norms[:, None] - raw) / np.abs(raw)) <= 2.4e-7


def test_an_index_without_vectors_is_built_of_zeros(holed: Path, tmp_path: Path) -> None:
    files = opened(holed)
    none = files.live_slots()[:0]
    build(
        tmp_path,
        Source(files=files, slots=none, old_space="l2", space="l2"),
        m=16,
        ef_construction=10,
        threads=1,
        progress=Progress(),
    )
    new = opened(tmp_path)
    new.check_graph()
    assert (new.header.elements, new.header.ef_construction) == (0, 16)
    assert not any((tmp_path / LEVEL0).read_bytes())


def test_a_vector_that_is_no_number_is_refused_with_its_label(holed: Path) -> None:
    files = opened(holed)
    slot = int(files.live_slots()[3])
    label = int(files.labels()[slot])
    patch(holed / LEVEL0, slot * files.header.slot_bytes + files.header.data_offset, struct.pack("<f", float("nan")))
    again = opened(holed)
    source = Source(files=again, slots=again.live_slots(), old_space="l2", space="l2")
    with pytest.raises(VectorsDiffer) as refused:
        source.read(slice(0, 10))
    assert refused.value.details["labels"] == (label,)


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_norm_that_says_nothing_stands_in_the_way_of_raw_vectors_only(alpha: Path, norm: float) -> None:
    patch(alpha / LENGTH, 4 * 17, struct.pack("<f", norm))
    files = opened(alpha)
    slots = files.live_slots()
    Source(files=files, slots=slots, old_space="cosine", space="cosine").read(slice(0, 2000))
    with pytest.raises(VectorsDiffer):
        Source(files=files, slots=slots, old_space="cosine", space="l2").read(slice(0, 2000))


# --- damage


def patch(file: Path, offset: int, data: bytes) -> None:
    with open(file, "r+b") as writable:
        writable.seek(offset)
        writable.write(data)


HEADER_DAMAGE = [
    ("version", 0),
    ("version", 2),
    ("offset_level0", 8),
    ("capacity", 2**63),
    ("capacity", 1999),
    ("elements", 1_000_000),
    ("elements", 2**63),
    ("slot_bytes", 0),
    ("slot_bytes", 173),
    ("label_offset", 2**62),
    ("label_offset", 0),
    ("data_offset", 2**64 - 1),
    ("max_level", -1),
    ("max_level", 2**31 - 1),
    ("entrypoint", 2000),
    ("entrypoint", 2**32 - 1),
    ("max_m", 17),
    ("max_m0", 33),
    ("m", 2**31),
    ("m", 0),
    ("m", 1),
    ("mult", float("nan")),
    ("mult", 0.0),
    ("ef_construction", 0),
    ("ef_construction", 2**40),
]


@pytest.mark.parametrize(("name", "value"), HEADER_DAMAGE)
def test_a_header_that_claims_what_can_not_be_is_refused(alpha: Path, name: str, value: float) -> None:
    offset, code = FIELDS[name]
    patch(alpha / HEADER, offset, struct.pack(code, value))
    with pytest.raises(IndexHeaderInvalid):
        opened(alpha)


def test_an_index_of_another_dimension_is_refused(alpha: Path) -> None:
    with pytest.raises(IndexHeaderInvalid, match="8 dimensions, the collection has 9"):
        opened(alpha, dimension=9)


@given(st.binary(max_size=220))
def test_no_bytes_of_a_header_raise_anything_else(data: bytes) -> None:
    with pytest.raises((IndexTorn, IndexHeaderInvalid)):
        Header.parse(data, collection="it")


@given(st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), st.integers(0, 2**64 - 1)), max_size=4))
def test_a_header_that_is_accepted_is_consistent(changes: list[tuple[str, int]]) -> None:
    header = Header(
        capacity=2048,
        elements=2000,
        slot_bytes=172,
        label_offset=164,
        data_offset=132,
        max_level=3,
        entrypoint=7,
        m=16,
        ef_construction=100,
    )
    data = bytearray(header.pack())
    for name, value in changes:
        offset, code = FIELDS[name]
        size = struct.calcsize(code)
        data[offset : offset + size] = value.to_bytes(8, "little")[:size]
    try:
        parsed = Header.parse(bytes(data), collection="it")
    except OpsError:
        return
    assert parsed.pack() == bytes(data)
    assert parsed.elements <= parsed.capacity
    assert parsed.entrypoint < max(parsed.elements, 1) or parsed.entrypoint == hnsw.NO_ENTRYPOINT


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def doubled(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


def longer(file: Path) -> None:
    with open(file, "ab") as end:
        end.write(b"\1\0\0")


@pytest.mark.parametrize("damage", [halved, emptied, doubled, longer, os.unlink])
@pytest.mark.parametrize("name", [HEADER, LEVEL0, LENGTH, LINK_LISTS])
def test_a_file_of_a_wrong_size_is_torn(alpha: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(alpha / name)
    with pytest.raises(IndexTorn) as refused:
        opened(alpha).check_graph()
    assert refused.value.details["file"] == name


@pytest.mark.parametrize("name", [LEVEL0, LENGTH, LINK_LISTS])
def test_a_file_that_claims_terabytes_is_called_sparse(alpha: Path, name: str) -> None:
    os.truncate(alpha / name, 2_500_000_000_000)
    with pytest.raises(SparseFile) as refused:
        opened(alpha)
    assert refused.value.details["apparent"] == 2_500_000_000_000


def test_the_first_allocation_is_no_damage_while_there_are_fewer_elements(small: Path) -> None:
    beta = index_of(small, "beta")
    assert (beta / LENGTH).stat().st_size == 400
    header = read_header(PlainDirectory(beta), collection="beta")
    sizes = {name: hnsw.FileSize(size_bytes=0, allocated_bytes=0) for name in (LEVEL0, LENGTH, LINK_LISTS)}
    for slots, sound in ((0, True), (99, False), (100, True), (101, False), (1000, True)):
        sizes[LEVEL0] = hnsw.FileSize(size_bytes=slots * header.slot_bytes, allocated_bytes=slots * header.slot_bytes)
        sizes[LENGTH] = hnsw.FileSize(size_bytes=slots * 4, allocated_bytes=slots * 4)
        if sound:
            hnsw.check_sizes(header, sizes, collection="beta")
        else:
            with pytest.raises(IndexTorn):
                hnsw.check_sizes(header, sizes, collection="beta")


def test_links_that_lead_nowhere_are_found_before_anything_follows_them(alpha: Path) -> None:
    files = opened(alpha)
    patch(alpha / LEVEL0, 1234 * files.header.slot_bytes + 4, struct.pack("<I", 2000))
    with pytest.raises(IndexUnreadable, match="level 0"):
        opened(alpha).check_graph()


def test_more_neighbours_than_fit_are_found(alpha: Path) -> None:
    patch(alpha / LEVEL0, 0, struct.pack("<H", 33))
    with pytest.raises(IndexUnreadable):
        opened(alpha).check_graph()


def test_an_upper_link_to_an_element_that_is_not_up_there_is_found(alpha: Path) -> None:
    files = opened(alpha)
    levels = files.check_graph()
    below = levels.of_slot.index(0)
    place = next(place for place in levels.places if int(files.link_words()[place]) & 0xFFFF)
    for target, sentence in ((below, "not on that level"), (2**31, "beyond its last element")):
        patch(alpha / LINK_LISTS, 4 * (place + 1), struct.pack("<I", target))
        with pytest.raises(IndexUnreadable, match=sentence):
            opened(alpha).check_graph()


def test_an_entry_point_below_the_highest_level_is_found(alpha: Path) -> None:
    levels = opened(alpha).check_graph()
    offset, code = FIELDS["entrypoint"]
    patch(alpha / HEADER, offset, struct.pack(code, levels.of_slot.index(0)))
    with pytest.raises(IndexUnreadable, match="entry point"):
        opened(alpha).check_graph()


def test_a_size_field_of_garbage_tears_the_link_lists(alpha: Path) -> None:
    patch(alpha / LINK_LISTS, 0, struct.pack("<I", 0xDEADBEEF))
    with pytest.raises(IndexTorn):
        opened(alpha).check_graph()


def test_two_live_slots_with_one_label_are_found(alpha: Path) -> None:
    files = opened(alpha)
    label = int(files.labels()[5])
    patch(alpha / LEVEL0, 6 * files.header.slot_bytes + files.header.label_offset, struct.pack("<Q", label))
    with pytest.raises(IndexUnreadable, match="two live slots"):
        opened(alpha).live_slots()


def test_a_symbolic_link_is_not_followed(alpha: Path, tmp_path: Path) -> None:
    shutil.copy(alpha / LEVEL0, tmp_path / "elsewhere")
    (alpha / LEVEL0).unlink()
    (alpha / LEVEL0).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        opened(alpha)
