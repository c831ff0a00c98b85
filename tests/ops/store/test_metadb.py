"""Records in pages by key, typed as Chroma types them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import BadParameters
from ops.store import metadb, sysdb
from ops.store.metadb import Caps
from ops.store.persist_dir import PersistDir
from ops.store.text import cursor, keys_of, visible
from tests.ops import corpus, stores


def segment_of(store: PersistDir, name: str) -> str:
    (found,) = sysdb.select_collections(store, names=(name,))
    return sysdb.metadata_segment(store, found).id


def test_counts_and_ids_of_a_client(small: Path) -> None:
    observed = stores.reopen(small)
    with PersistDir.open(small) as store:
        total = metadb.count_all(store)
        for name in ("alpha", "beta", "gamma"):
            segment = segment_of(store, name)
            ids = observed[name].ids
            assert metadb.count_records(store, segment) == total[segment] == len(ids)
            assert list(metadb.live_ids(store, segment)) == sorted(ids)
        assert metadb.count_records(store, "no such segment") == 0


def test_ids_in_chunks(opened: PersistDir, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = segment_of(opened, "alpha")
    whole = list(metadb.live_ids(opened, segment))
    for size in (1, 7, 2500, 2501):
        monkeypatch.setattr(metadb, "_CHUNK", size)
        assert list(metadb.live_ids(opened, segment)) == whole


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_pages_forwards_and_backwards(opened: PersistDir, limit: int) -> None:
    segment = segment_of(opened, "beta")
    forwards: list[str] = []
    page = metadb.records(opened, segment, limit=limit)
    assert page.before is None
    while True:
        forwards += [record.id for record in page.records]
        if page.after is None:
            break
        page = metadb.records(opened, segment, after=page.after, limit=limit)
    backwards = [record.id for record in page.records]
    while page.before is not None:
        page = metadb.records(opened, segment, before=page.before, limit=limit)
        backwards[:0] = [record.id for record in page.records]
    assert forwards == backwards == sorted(f"b{number}" for number in range(300))


def test_types_of_every_kind(types: Path) -> None:
    observed = stores.reopen(types)["mixed"]
    with PersistDir.open(types) as store:
        segment = segment_of(store, "mixed")
        for identifier in observed.ids:
            found = metadb.record(store, segment, identifier)
            assert found is not None
            told = {key: list(v) if isinstance(v, tuple) else v for key, v in found.metadata.items()}
            assert told == observed.metadatas[identifier]
            assert {key: type(v) for key, v in told.items()} == {
                key: type(v) for key, v in observed.metadatas[identifier].items()
            }
            assert found.document == observed.documents[identifier]
            assert found.problems == ()
        assert metadb.record(store, segment, "none") is None


def test_large_values_are_cut(types: Path) -> None:
    with PersistDir.open(types) as store:
        segment = segment_of(store, "mixed")
        caps = Caps(document_chars=10, value_chars=5, keys=1, elements=2)
        found = {record.id: record for record in metadb.records(store, segment, limit=50, caps=caps).records}
    assert found["z" * 500].document == "long long "
    assert found["z" * 500].document_chars == 2000
    assert found["<b>x</b>"].metadata == {"s": "xxxxx…"}
    assert found["ünïcode"].metadata == {"tags": ("a", "b", "…")}
    assert found["plain"].more_keys
    assert len(found["plain"].metadata) == 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE embedding_metadata SET float_value = 'x' WHERE key = 'f'", "FIELD_INVALID: the metadata key f"),
        ("UPDATE embedding_metadata SET int_value = 'x' WHERE key = 'i'", "FIELD_INVALID: the metadata key i"),
        ("UPDATE embedding_metadata SET bool_value = 7 WHERE key = 'b'", "FIELD_INVALID: the metadata key b"),
        ("UPDATE embedding_metadata SET string_value = NULL WHERE key = 's'", "FIELD_INVALID: the metadata key s"),
        ("UPDATE embedding_metadata SET float_value = 9e999 WHERE key = 'f'", "FIELD_INVALID: the metadata key f"),
        (
            "UPDATE embedding_metadata SET string_value = x'ff' WHERE key = 'chroma:document'",
            "FIELD_INVALID: the document",
        ),
        ("UPDATE embeddings SET seq_id = x'112233'", "FIELD_INVALID: seq_id"),
        ("UPDATE embeddings SET embedding_id = CAST(embedding_id AS BLOB)", "FIELD_INVALID: the id"),
    ],
)
def test_wrong_types_are_told(types: Path, statement: str, problem: str) -> None:
    with PersistDir.open(corpus._changed(statement)(types, types)) as store:
        segment = segment_of(store, "mixed")
        page = metadb.records(store, segment, limit=50)
        assert len(page.records) == 9
        assert any(text.startswith(problem) for record in page.records for text in record.problems)
        for record in page.records:
            (key,) = keys_of(record.key, 1)
            again = metadb.record(store, segment, key)
            assert again is not None
            assert again.row_id == record.row_id


def test_ids_that_are_no_text_are_paged_too(types: Path) -> None:
    spoiled = corpus._changed("UPDATE embeddings SET embedding_id = CAST(embedding_id AS BLOB) WHERE id % 2")(
        types, types
    )
    with PersistDir.open(spoiled) as store:
        segment = segment_of(store, "mixed")
        seen: list[int] = []
        after = None
        while True:
            page = metadb.records(store, segment, after=after, limit=2)
            seen += [record.row_id for record in page.records]
            if (after := page.after) is None:
                break
        assert sorted(seen) == list(range(1, 10))
        assert len(list(metadb.live_ids(store, segment))) == 9


def test_cursors_that_are_none(opened: PersistDir) -> None:
    segment = segment_of(opened, "beta")
    for word in ("", "x", "%%", "AAAA", "é"):
        with pytest.raises(BadParameters):
            metadb.records(opened, segment, after=word, limit=1)


KEYS = st.lists(st.one_of(st.binary(max_size=20), st.text(st.characters(exclude_categories=("Cs",)), max_size=20)))


@given(KEYS)
def test_cursors_survive_the_way(keys: list[bytes | str]) -> None:
    word = cursor(*keys)
    assert word.isascii()
    assert keys_of(word, len(keys)) == tuple(keys)


@given(st.text(max_size=50))
def test_what_cursors_are_not(word: str) -> None:
    try:
        keys = keys_of(word, 1)
    except BadParameters:
        return
    assert keys_of(cursor(*keys), 1) == keys


@given(st.text(st.characters(), max_size=300))
def test_visible_text_can_be_shown(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not set(shown) & set("\n\r\x00\x1b\u202e\u2066\u2028")
    if text.isascii() and text.isprintable() and len(text) <= 200:
        assert shown == text


def test_visible_keeps_lines_where_asked() -> None:
    assert visible("a\n\tb\x07", lines=True) == "a\n\tb\\x07"
    assert visible("\udcff\ud800\U000e0001") == "\\xff\\ud800\\U000e0001"
    assert visible("x" * 500) == "x" * 200 + "…"
    assert visible("👩\u200d🔬") == "👩\u200d🔬"
