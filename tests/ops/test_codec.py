"""Dataclasses to JSON and back."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.codec import DecodeError, canonical, from_json, to_json
from ops.operation import Effect


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    size_bytes: int | None = None
    effect: Effect = Effect.READ


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: tuple[Leaf, ...]
    pair: tuple[int, str]
    counts: dict[str, int]
    share: float
    at: datetime


trees = st.builds(
    Tree,
    leaves=st.lists(
        st.builds(Leaf, name=st.text(), size_bytes=st.none() | st.integers(), effect=st.sampled_from(Effect))
    ).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    counts=st.dictionaries(st.text(), st.integers()),
    share=st.floats(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.just(UTC)),
)


@given(trees)
def test_what_goes_out_comes_back(tree):
    assert from_json(Tree, to_json(tree)) == tree


@given(trees, trees)
def test_canonical_bytes_are_equal_exactly_when_the_values_are(one, other):
    assert (canonical(one) == canonical(other)) == (to_json(one) == to_json(other))


def test_times_are_rfc_3339_in_utc():
    tree = Tree(leaves=(), pair=(1, ""), counts={}, share=1.0, at=datetime(2026, 11, 21, 3, tzinfo=UTC))
    assert to_json(tree)["at"] == "2026-11-21T03:00:00Z"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_without_a_json_form_are_null(number):
    assert to_json(number) is None


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"name": 1}, "value.name must be a str"),
        ({"name": "a", "size_bytes": True}, "value.size_bytes must be a int"),
        ({"name": "a", "effect": "burn"}, "value.effect must be one of"),
        ({"name": "a", "colour": "red"}, "value has no field colour"),
        ({}, "missing 1 required"),
        ([], "value must be an object"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(data, place):
    with pytest.raises(DecodeError, match=place):
        from_json(Leaf, data)


def test_a_value_without_a_json_form_is_a_programming_error():
    with pytest.raises(TypeError):
        to_json(object())
