"""What a process that did not write a new index finds in it, and that it misses nothing that was changed in it."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops.child import call
from ops.errors import OpsError, RemoteError, VerificationFailed
from ops.progress import Progress
from ops.store.hnsw import HEADER, ID_MAP, LENGTH, LEVEL0, LINK_LISTS, IndexFiles, PlainDirectory
from ops.store.persist_dir import PersistDir
from ops.store.rebuild import Rebuild
from ops.store.sysdb import select_collections
from ops.store.verify import StagedIndex, verify_committed, verify_staged


class Staged:
    """A new index of a collection in a directory beside its store, and what `verify_staged` is told of it."""

    def __init__(self, store_path: Path, name: str, stage: Path, *, space: str = "", m: int = 16) -> None:
        stage.mkdir()
        self.path, self.stage = store_path, stage
        with PersistDir.open(store_path) as store:
            (collection,) = select_collections(store, names=[name])
            work = Rebuild.of(
                store,
                collection.id,
                lambda old: replace(old, space=space or old.space, max_neighbors=m, ef_construction=60),
            )
            work.build(stage, Progress())
        self.collection_id = collection.id
        self.count = work.vectors
        self.wanted = work.wanted
        self.told = StagedIndex(
            old_segment_id=work.segment.id,
            stage_directory=str(stage),
            old_space=work.found.configuration.space,
            space=work.wanted.space,
            m=m,
            ef_construction=60,
            ef=100,
        )

    def verify(self) -> object:
        return verify_staged(path=str(self.path), collection_id=self.collection_id, staged=self.told)

    def files(self) -> IndexFiles:
        return IndexFiles.open(PlainDirectory(self.stage), collection="staged")

    def patch(self, name: str, offset: int, data: bytes) -> None:
        with open(self.stage / name, "r+b") as writable:
            writable.seek(offset)
            writable.write(data)

    def change_id_map(self, change: Callable[[dict[str, object]], None]) -> None:
        data = pickle.loads((self.stage / ID_MAP).read_bytes())  # noqa: S301 - written by this test
        change(data)
        (self.stage / ID_MAP).write_bytes(pickle.dumps(data, 3))


@pytest.fixture
def plain(churned: Path, tmp_path: Path) -> Staged:
    return Staged(churned, "churned", tmp_path / "stage")


@pytest.fixture
def cosine(small: Path, tmp_path: Path) -> Staged:
    return Staged(small, "alpha", tmp_path / "stage")


def test_a_sound_index_passes_in_a_process_of_its_own(plain: Staged) -> None:
    found = call(verify_staged, path=str(plain.path), collection_id=plain.collection_id, staged=plain.told)
    assert found.pid != os.getpid()
    assert (found.ids_equal, found.vectors_equal, found.converted) == (plain.count, plain.count, False)
    assert found.sample == min(1000, plain.count)
    assert found.self_hit_before is not None
    assert found.self_hit_after >= found.self_hit_before - 0.01 > 0.9


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_a_converted_index_is_compared_with_the_conversion(small: Path, tmp_path: Path, space: str) -> None:
    staged = Staged(small, "alpha", tmp_path / "stage", space=space)
    found = verify_staged(path=str(staged.path), collection_id=staged.collection_id, staged=staged.told)
    assert (found.converted, found.vectors_equal) == (True, 2000)


def one_bit_of_a_vector(staged: Staged) -> None:
    header = staged.files().header
    place = 77 * header.slot_bytes + header.data_offset + 9
    byte = (staged.stage / LEVEL0).read_bytes()[place]
    staged.patch(LEVEL0, place, bytes([byte ^ 1]))


def two_vectors_exchanged(staged: Staged) -> None:
    header = staged.files().header
    size = 4 * header.dimension
    first, second = header.data_offset, header.slot_bytes + header.data_offset
    data = (staged.stage / LEVEL0).read_bytes()
    staged.patch(LEVEL0, first, data[second : second + size])
    staged.patch(LEVEL0, second, data[first : first + size])


def two_labels_exchanged(staged: Staged) -> None:
    files = staged.files()
    first, second = files.labels()[:2].tolist()
    staged.patch(LEVEL0, files.header.label_offset, struct.pack("<Q", second))
    staged.patch(LEVEL0, files.header.slot_bytes + files.header.label_offset, struct.pack("<Q", first))


def a_tombstone(staged: Staged) -> None:
    staged.patch(LEVEL0, 2, b"\x01")


def a_link_to_nowhere(staged: Staged) -> None:
    staged.patch(LEVEL0, 4, struct.pack("<I", 2**31))


def a_cut_file(staged: Staged) -> None:
    os.truncate(staged.stage / LINK_LISTS, (staged.stage / LINK_LISTS).stat().st_size - 4)


def another_header(staged: Staged) -> None:
    staged.patch(HEADER, 92, struct.pack("<Q", 61))


def a_counter_that_is_too_low(staged: Staged) -> None:
    staged.change_id_map(lambda data: data.update(total_elements_added=5))


def two_ids_exchanged(staged: Staged) -> None:
    def change(data: dict[str, object]) -> None:
        to_id, to_label = data["label_to_id"], data["id_to_label"]
        assert isinstance(to_id, dict)
        assert isinstance(to_label, dict)
        to_id[1], to_id[2] = to_id[2], to_id[1]
        to_label[to_id[1]], to_label[to_id[2]] = 1, 2

    staged.change_id_map(change)


def an_id_with_another_name(staged: Staged) -> None:
    def change(data: dict[str, object]) -> None:
        to_id, to_label = data["label_to_id"], data["id_to_label"]
        assert isinstance(to_id, dict)
        assert isinstance(to_label, dict)
        del to_label[to_id[3]]
        to_id[3] = "somebody else"
        to_label["somebody else"] = 3

    staged.change_id_map(change)


def no_id_map(staged: Staged) -> None:
    (staged.stage / ID_MAP).unlink()


def a_graph_without_links(staged: Staged) -> None:
    header = staged.files().header
    for slot in range(header.elements):
        staged.patch(LEVEL0, slot * header.slot_bytes, b"\0\0")


@pytest.mark.parametrize(
    "change",
    [
        one_bit_of_a_vector,
        two_vectors_exchanged,
        two_labels_exchanged,
        a_tombstone,
        a_link_to_nowhere,
        a_cut_file,
        another_header,
        a_counter_that_is_too_low,
        two_ids_exchanged,
        an_id_with_another_name,
        no_id_map,
        a_graph_without_links,
    ],
)
def test_whatever_was_changed_is_found(plain: Staged, change: Callable[[Staged], None]) -> None:
    plain.verify()
    change(plain)
    with pytest.raises(OpsError):
        plain.verify()


def test_one_bit_of_a_norm_is_found(cosine: Staged) -> None:
    cosine.verify()
    norms = cosine.files().norms()
    assert (norms > 0).all()
    cosine.patch(LENGTH, 4 * 1999, struct.pack("<f", np.nextafter(norms[1999], np.float32(np.inf))))
    with pytest.raises(VerificationFailed, match="1 of 2000 vectors or norms"):
        cosine.verify()


def test_a_failure_in_the_child_keeps_its_code(plain: Staged) -> None:
    one_bit_of_a_vector(plain)
    with pytest.raises(RemoteError) as failed:
        call(verify_staged, path=str(plain.path), collection_id=plain.collection_id, staged=plain.told)
    assert failed.value.code == "VERIFICATION_FAILED"


def test_the_rows_must_point_to_the_new_index_with_the_new_configuration(plain: Staged) -> None:
    with pytest.raises(VerificationFailed, match="points to segment"):
        verify_committed(
            path=str(plain.path),
            collection_id=plain.collection_id,
            segment_id="00000000-0000-4000-8000-000000000000",
            expected=plain.wanted,
        )
    with pytest.raises(VerificationFailed, match="labels are not 1 to"):  # the old index still has tombstones
        verify_committed(
            path=str(plain.path),
            collection_id=plain.collection_id,
            segment_id=plain.told.old_segment_id,
            expected=plain.wanted,
        )


def test_a_configuration_that_was_not_committed_is_found(small: Path) -> None:
    """An index fresh from Chroma has labels 1..n without tombstones, so only the configuration is wrong here."""
    with PersistDir.open(small) as store:
        (collection,) = select_collections(store, names=["alpha"])
        work = Rebuild.of(store, collection.id, lambda old: old)
    told = {"path": str(small), "collection_id": collection.id, "segment_id": work.segment.id}
    found = verify_committed(**told, expected=work.wanted)
    assert (found.elements, found.labels, found.authority) == (2000, 2000, "schema_str")
    with pytest.raises(VerificationFailed, match="ef_search in schema_str"):
        verify_committed(**told, expected=replace(work.wanted, ef_search=99))
