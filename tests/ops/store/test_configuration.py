"""Where the configuration of an index stands, what it says, and that a change touches nothing else."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import FieldInvalid, PlanChanged
from ops.store.configuration import HnswConfiguration, changed_text, effective, write
from ops.store.hnsw import PlainDirectory, read_header
from ops.store.persist_dir import PersistDir
from ops.store.sysdb import Collection, select_collections, vector_segment


def collection_of(store: PersistDir, name: str) -> Collection:
    (found,) = select_collections(store, names=[name])
    return found


def with_text(**texts: str | None) -> Collection:
    """A collection as it is read, with other texts of its configuration."""
    return Collection(
        id="5507ae4b-fe3a-4ff1-a1e7-837cd0e0234b",
        name="it",
        tenant="default_tenant",
        database="default_database",
        database_id="00000000-0000-0000-0000-000000000000",
        dimension=8,
        config_json_str=texts.get("config_json_str"),
        schema_str=texts.get("schema_str"),
        metadata={},
        segments=(),
    )


def schema_text(hnsw: str, *, space: str = '"l2"') -> str:
    return (
        '{"defaults":{"hnsw":{"ef_search":1}},"keys":{"#embedding":{"float_list":{"vector_index":'
        f'{{"enabled":true,"config":{{"space":{space},"hnsw":{hnsw}}}}}}}}}}}}}'
    )


def test_of_a_collection_of_1_5_the_schema_decides(small: Path) -> None:
    with PersistDir.open(small) as store:
        alpha = collection_of(store, "alpha")
        found = effective(store, alpha)
    assert found.authority == "schema_str"
    assert found.raw == alpha.schema_str
    assert found.configuration.space == "cosine"
    assert (found.configuration.sync_threshold, found.configuration.batch_size) == (1000, 100)
    assert (found.configuration.max_neighbors, found.configuration.ef_construction) == (16, 100)


def test_of_an_index_that_exists_the_header_decides_m_and_ef_construction(small: Path) -> None:
    with PersistDir.open(small) as store:
        alpha = collection_of(store, "alpha")
        header = read_header(PlainDirectory(small / vector_segment(store, alpha).id), collection="alpha")
        found = effective(store, alpha, replace(header, m=7, ef_construction=33))
        assert (found.configuration.max_neighbors, found.configuration.ef_construction) == (7, 33)
        assert (found.stored.max_neighbors, found.stored.ef_construction) == (16, 100)
        nothing = effective(store, alpha, replace(header, m=7, elements=0))
        assert nothing.configuration.max_neighbors == 16


def test_without_a_schema_the_vector_index_of_config_json_str_decides(small: Path) -> None:
    text = '{"vector_index":{"hnsw":{"space":"ip","ef_search":77,"max_neighbors":9}},"embedding_function":null}'
    with PersistDir.open(small) as store:
        found = effective(store, with_text(config_json_str=text))
    assert found.authority == "config_json_str"
    assert found.configuration == HnswConfiguration(space="ip", ef_search=77, max_neighbors=9)


def test_without_both_the_metadata_of_the_segment_decides(small: Path) -> None:
    database = sqlite3.connect(small / "chroma.sqlite3")
    (segment,) = database.execute(
        "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection"
        " WHERE c.name = 'alpha' AND s.scope = 'VECTOR'"
    ).fetchone()
    database.execute("UPDATE collections SET schema_str = NULL, config_json_str = ? WHERE name = 'alpha'", (OLD,))
    database.executemany(
        "INSERT INTO segment_metadata (segment_id, key, str_value, int_value, float_value) VALUES (?, ?, ?, ?, ?)",
        [
            (segment, "hnsw:space", "cosine", None, None),
            (segment, "hnsw:M", None, 8, None),
            (segment, "hnsw:resize_factor", None, None, 1.5),
        ],
    )
    database.commit()
    database.close()
    with PersistDir.open(small) as store:
        found = effective(store, collection_of(store, "alpha"))
        assert found.authority == "segment_metadata"
        assert json.loads(found.raw)["segment_metadata"]["hnsw:M"] == 8
        assert found.configuration == HnswConfiguration(space="cosine", max_neighbors=8, resize_factor=1.5)
        alpha = collection_of(store, "alpha")
    connection = sqlite3.connect(small / "chroma.sqlite3")
    write(connection, alpha, segment, found, {"space": "l2", "ef_search": 40, "resize_factor": 2.0})
    connection.commit()
    connection.close()
    with PersistDir.open(small) as store:
        now = effective(store, collection_of(store, "alpha")).configuration
    assert now == HnswConfiguration(space="l2", max_neighbors=8, resize_factor=2.0, ef_search=40)


OLD = '{"hnsw_configuration":{"space":"l2","ef_construction":100,"M":16,"_type":"HNSWConfigurationInternal"}}'


@pytest.mark.parametrize(
    "hnsw",
    [
        '{"ef_search":"many"}',
        '{"ef_search":0}',
        '{"ef_search":-5}',
        '{"max_neighbors":1.5}',
        '{"batch_size":true}',
        '{"resize_factor":0}',
        '{"resize_factor":"1"}',
        '{"resize_factor":1e999}',
        '{"sync_threshold":99999999999}',
    ],
)
def test_a_value_of_a_wrong_kind_is_named(small: Path, hnsw: str) -> None:
    with PersistDir.open(small) as store, pytest.raises(FieldInvalid, match="schema_str of it holds"):
        effective(store, with_text(schema_str=schema_text(hnsw)))


@pytest.mark.parametrize("text", ["", "{broken", "[]", "null", "[" * 100_000, '{"a":' * 50_000])
def test_a_text_that_is_no_object_is_named(small: Path, text: str) -> None:
    with PersistDir.open(small) as store, pytest.raises(FieldInvalid):
        effective(store, with_text(schema_str=text))


def test_an_unknown_space_is_named(small: Path) -> None:
    with PersistDir.open(small) as store, pytest.raises(FieldInvalid, match="l2 or cosine or ip"):
        effective(store, with_text(schema_str=schema_text("{}", space='"manhattan"')))


def test_a_change_keeps_every_other_byte(small: Path) -> None:
    with PersistDir.open(small) as store:
        alpha = collection_of(store, "alpha")
    text = changed_text(alpha, "schema_str", {"ef_search": 321, "space": "ip"})
    assert alpha.schema_str is not None
    head, _, tail = alpha.schema_str.rpartition('"#embedding"')
    assert text == head + '"#embedding"' + tail.replace('"ef_search":100', '"ef_search":321').replace("cosine", "ip")
    assert text.count("321") == 1
    assert '"space":"cosine"' in text, "the defaults, which Chroma does not ask, stay"


def test_strange_spacing_and_escapes_stay_as_they_are() -> None:
    text = schema_text('{ "ef_search" :\n 5 , "unknown\\u0041" : [1, {"ef_search":2}, "}\\""], "max_neighbors":\t16 }')
    changed = changed_text(with_text(schema_str=text), "schema_str", {"max_neighbors": 24, "ef_search": 6})
    assert changed == text.replace(":\n 5 ,", ":\n 6 ,").replace(":\t16 ", ":\t24 ")


@pytest.mark.parametrize("hnsw", ["{}", '{"a":1}', '{ "a" : {"b":[]} }'])
def test_a_missing_member_is_added_at_the_end(hnsw: str) -> None:
    text = schema_text(hnsw)
    changed = changed_text(with_text(schema_str=text), "schema_str", {"ef_search": 7})
    wanted = json.loads(text)
    wanted["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]["ef_search"] = 7
    assert json.loads(changed) == wanted
    assert changed.replace(',"ef_search":7', "").replace('"ef_search":7', "") == text


@pytest.mark.parametrize("text", [schema_text("null"), schema_text('"x"'), '{"keys":{}}', '{"keys":{"#embedding":7}}'])
def test_where_the_place_does_not_exist_nothing_is_guessed(text: str) -> None:
    with pytest.raises(FieldInvalid):
        changed_text(with_text(schema_str=text), "schema_str", {"ef_search": 7})


def test_a_key_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(FieldInvalid, match="twice"):
        changed_text(with_text(schema_str=schema_text('{"ef_search":1,"ef_search":2}')), "schema_str", {"ef_search": 7})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(
    st.dictionaries(st.text(), JSON, max_size=5),
    st.dictionaries(st.text(), JSON, max_size=5),
    st.sampled_from([None, 1, 4]),
    st.integers(1, 2**31 - 1),
)
def test_any_text_differs_in_the_one_value_only(
    around: dict[str, object], inside: dict[str, object], indent: int | None, value: int
) -> None:
    document = dict(around)
    document["vector_index"] = {**around, "hnsw": {**inside, "ef_search": 5}}
    text = json.dumps(document, indent=indent)
    changed = changed_text(with_text(config_json_str=text), "config_json_str", {"ef_search": value})
    document["vector_index"]["hnsw"]["ef_search"] = value  # type: ignore[index]
    assert changed == json.dumps(document, indent=indent)


def test_a_write_is_refused_when_the_text_was_changed_meanwhile(small: Path) -> None:
    with PersistDir.open(small) as store:
        alpha = collection_of(store, "alpha")
        segment, found = vector_segment(store, alpha).id, effective(store, alpha)
    connection = sqlite3.connect(small / "chroma.sqlite3")
    connection.execute("UPDATE collections SET schema_str = replace(schema_str, '1000', '1001')")
    with pytest.raises(PlanChanged):
        write(connection, alpha, segment, found, {"ef_search": 5})
    connection.close()
