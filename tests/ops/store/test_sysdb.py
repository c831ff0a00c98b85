"""Tenants, databases, collections and segments, of sound and of spoiled catalogues."""

# ruff: noqa: S608 - the statements are made of constants of this file

from pathlib import Path

import pytest

from ops.errors import CollectionAmbiguous, CollectionNotFound, RefBroken
from ops.store import sysdb
from ops.store.persist_dir import PersistDir
from tests.ops import corpus


def names(found: tuple[sysdb.Collection, ...]) -> list[str]:
    return [f"{entry.tenant}/{entry.database}/{entry.name}" for entry in found]


ALL = ["acme/prod/docs", "acme/stage/docs", "default_tenant/default_database/docs", "acme/prod/only-prod"]


class TestLists:
    def test_all_tenants_and_databases(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            assert {tenant.id for tenant in sysdb.tenants(store)} == {"default_tenant", "acme", "nobody"}
            assert {(d.name, d.tenant) for d in sysdb.databases(store)} == {
                ("default_database", "default_tenant"),
                ("prod", "acme"),
                ("stage", "acme"),
            }
            assert sorted(names(sysdb.collections(store))) == sorted(ALL)
            assert sysdb.counts(store) == sysdb.Counts(tenants=3, databases=3, collections=4, segments=8)
            assert len(sysdb.segment_ids(store)) == 8
            assert sorted(sysdb.collections_by_database(store).values()) == [1, 1, 2]

    def test_tenants_page_by_id(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            first = sysdb.tenants(store, limit=1)
            assert [tenant.id for tenant in (*first, *sysdb.tenants(store, after=first[0].id))] == [
                "acme",
                "default_tenant",
                "nobody",
            ]
            found = sysdb.databases(store)
            assert sysdb.databases(store, after=found[0].id) == found[1:]

    def test_pages_of_collections(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            whole = sysdb.collections(store)
            for size in (1, 2, 3):
                seen: list[sysdb.Collection] = []
                while page := sysdb.collections(store, limit=size, after=seen[-1].cursor if seen else None):
                    seen += page
                assert tuple(seen) == whole

    def test_contents(self, types: Path) -> None:
        with PersistDir.open(types) as store:
            mixed, void = sysdb.collections(store)
            assert mixed.metadata == {"text": "é", "whole": 7, "real": 0.5, "yes": True}
            assert mixed.metadata["yes"] is True
            assert (mixed.dimension, void.dimension) == (3, None)
            assert mixed.schema_str is not None
            assert mixed.problems == void.problems == ()
            assert sysdb.segments(store, mixed.id) == mixed.segments
            assert sysdb.vector_segment(store, mixed).type == sysdb.HNSW_TYPE
            assert sysdb.metadata_segment(store, mixed).type == sysdb.SQLITE_TYPE


class TestSelection:
    def test_by_name_place_and_id(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            (only,) = sysdb.select_collections(store, names=("only-prod",))
            assert names(sysdb.select_collections(store, names=("docs",), tenant="acme", database="stage")) == [ALL[1]]
            assert names(sysdb.select_collections(store, ids=(only.id,))) == [ALL[3]]
            assert names(sysdb.select_collections(store, ids=(only.id,), names=("only-prod",))) == [ALL[3]]

    def test_a_name_in_several_places_is_never_guessed(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            with pytest.raises(CollectionAmbiguous) as caught:
                sysdb.select_collections(store, names=("docs",))
            assert caught.value.details["count"] == 3
            for place in ("acme/prod", "acme/stage", "default_tenant/default_database"):
                assert place in str(caught.value)
            with pytest.raises(CollectionAmbiguous):
                sysdb.select_collections(store, names=("docs",), tenant="acme")

    def test_unknown(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            for wanted in ({"names": ("none",)}, {"ids": ("none",)}, {"names": ("only-prod",), "tenant": "nobody"}):
                with pytest.raises(CollectionNotFound):
                    sysdb.select_collections(store, **wanted)  # type: ignore[arg-type]

    def test_all_but_some(self, tenants: Path) -> None:
        with PersistDir.open(tenants) as store:
            assert sorted(names(sysdb.select_collections(store))) == sorted(ALL)
            assert names(sysdb.select_collections(store, skip=("docs",))) == [ALL[3]]
            assert sorted(names(sysdb.select_collections(store, tenant="acme", skip=("only-prod",)))) == sorted(ALL[:2])
            assert sysdb.select_collections(store, tenant="nobody") == ()

    @pytest.mark.parametrize("name", ["'; DROP TABLE collections; --", "%", "\udcff", "\0", "é" * 1000, ""])
    def test_names_are_bound_never_pasted(self, tenants: Path, name: str) -> None:
        with PersistDir.open(tenants) as store:
            with pytest.raises(CollectionNotFound):
                sysdb.select_collections(store, names=(name,))
            assert sysdb.collections(store, name_contains=name or "\udcff") == ()


class TestSpoiled:
    @pytest.mark.parametrize("row", corpus.rows("Q16", "Q17"), ids=str)
    def test_rows_never_raise(self, small: Path, row: corpus.Row) -> None:
        with PersistDir.open(row.build(small, small)) as store:
            for entry in sysdb.collections(store):
                assert all(problem.startswith(("FIELD_INVALID: ", "REF_BROKEN: ")) for problem in entry.problems)
                for problem in entry.problems:
                    problem.encode("utf-8")

    @pytest.mark.parametrize("value", ["'abc'", "-1", "0", "9223372036854775808", "2147483648", "x'07'", "1.5"])
    def test_dimensions(self, small: Path, value: str) -> None:
        with PersistDir.open(corpus._changed(f"UPDATE collections SET dimension = {value}")(small, small)) as store:
            for entry in sysdb.collections(store):
                assert entry.dimension is None
                assert any("dimension" in problem for problem in entry.problems)

    @pytest.mark.parametrize("row", [row for row in corpus.rows("Q17") if row.at == "segment"], ids=str)
    def test_no_single_vector_segment(self, small: Path, row: corpus.Row) -> None:
        with PersistDir.open(row.build(small, small)) as store:
            (alpha,) = sysdb.select_collections(store, names=("alpha",))
            with pytest.raises(RefBroken):
                sysdb.vector_segment(store, alpha)
            assert sysdb.metadata_segment(store, alpha).scope == "METADATA"

    def test_a_name_that_is_no_utf8_can_be_found(self, small: Path) -> None:
        spoiled = corpus._changed("UPDATE collections SET name = CAST(x'ff41' AS TEXT) WHERE name = 'beta'")(
            small, small
        )
        with PersistDir.open(spoiled) as store:
            (found,) = sysdb.select_collections(store, names=("\udcffA",))
            assert sysdb.collections(store, after=found.cursor, limit=9) == ()
            assert found.place == "default_tenant/default_database/\\xffA"

    def test_large_texts_are_not_taken(self, small: Path) -> None:
        spoiled = corpus._changed(
            "UPDATE collections SET schema_str = printf('%.*c', 5000000, 'x')",
            "INSERT INTO collection_metadata SELECT id, 'big', printf('%.*c', 200000, 'x'), NULL, NULL, NULL "
            "FROM collections",
        )(small, small)
        with PersistDir.open(spoiled) as store:
            for entry in sysdb.collections(store):
                assert entry.schema_str is None
                assert len(str(entry.metadata["big"])) == 65536
                assert len(entry.problems) == 2
