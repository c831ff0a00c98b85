"""Parameters: declared once, parsed from text and from JSON, all bad fields reported at once."""

import pytest

from ops.errors import BadParameters
from ops.operation import Effect, Operation, operation, title, words
from ops.params import param, parameters, parse


@operation(effect=Effect.WRITE)
class Paint(Operation[None]):
    """Paint a wall.

    With a brush.
    """

    walls: tuple[str, ...] = param(help="Which ones.", short="w", split=True)
    colour: str = param("white", help="With what.", choices=("white", "red"))
    coats: int | None = param(None, help="How many.", minimum=1, maximum=3)
    share: float = param(1.0, help="How much of it.", minimum=0, maximum=1)
    varnish: bool = param(False, help="Afterwards.")

    def check(self):
        return {"varnish": "Red paint takes no varnish."} if self.varnish and self.colour == "red" else {}


def test_text_and_json_give_the_same_value():
    from_text = parse(Paint, {"walls": ["a,b", "c"], "coats": "2", "share": "0.5", "varnish": "on"})
    from_json = parse(Paint, {"walls": ["a", "b", "c"], "coats": 2, "share": 0.5, "varnish": True})
    assert from_text == from_json == Paint(walls=("a", "b", "c"), coats=2, share=0.5, varnish=True)


def test_a_value_survives_its_own_json():
    value = Paint(walls=("a",), coats=3)
    assert parse(Paint, value.to_json()) == value


def test_every_bad_field_is_reported_at_once():
    with pytest.raises(BadParameters) as caught:
        parse(Paint, {"coats": "many", "share": 2, "colour": "blue", "varnish": "perhaps", "ladder": 1})
    fields = caught.value.details["fields"]
    assert set(fields) == {"walls", "coats", "share", "colour", "varnish", "ladder"}
    assert fields["coats"] == "'many' is not a whole number."
    assert fields["share"] == "2 is above the greatest value, 1."
    assert fields["walls"] == "This parameter is required."


@pytest.mark.parametrize("coats", [0, 4, True, 1.5, "1.5", "1e3", []])
def test_what_is_not_a_whole_number_within_bounds_is_refused(coats):
    with pytest.raises(BadParameters):
        parse(Paint, {"walls": "a", "coats": coats})


@pytest.mark.parametrize("share", ["nan", "inf", "", "x", True])
def test_what_is_not_a_finite_number_is_refused(share):
    with pytest.raises(BadParameters):
        parse(Paint, {"walls": "a", "share": share})


def test_contradictions_between_fields_are_reported():
    with pytest.raises(BadParameters, match="no varnish"):
        parse(Paint, {"walls": "a", "colour": "red", "varnish": True})


def test_nul_characters_are_refused():
    with pytest.raises(BadParameters, match="NUL"):
        parse(Paint, {"walls": "a\0b"})


def test_empty_text_means_not_given():
    assert parse(Paint, {"walls": "a", "coats": ""}).coats is None


def test_the_declaration_can_be_read():
    assert [parameter.name for parameter in parameters(Paint)] == ["walls", "colour", "coats", "share", "varnish"]
    assert parameters(Paint)[0].required
    assert parameters(Paint)[2].optional
    assert title(Paint) == "Paint a wall"
    assert Paint(walls=("a",)).effect is Effect.WRITE


def test_words_of_a_name():
    class Named:
        name = "db_upgrade_rehearsal"

    assert words(Named) == ("db", "upgrade-rehearsal")
