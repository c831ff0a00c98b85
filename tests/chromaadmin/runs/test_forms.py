"""One form for every operation: what it collects is what every other door would have made of it."""

import shlex

import pytest
from django.http import QueryDict

from chromaadmin.runs.calls import calls
from chromaadmin.runs.forms import CollectionChoice, OperationForm, configured_values, current_values
from ops.cli import given as given_on_command_line
from ops.cli import parser_for
from ops.operation import Effect, Operation, operation, words
from ops.params import param, parameters, parse
from ops.plan import Change, Plan, Scope
from ops.registry import all_operations, operation_class
from ops.store.configuration import HnswConfiguration

DOCS = CollectionChoice(id="11111111-1111-4111-8111-111111111111", name="docs", tenant="legal", database="eu")
OTHER = CollectionChoice(id="22222222-2222-4222-8222-222222222222", name="docs", tenant="legal", database="us")


@operation(effect=Effect.WRITE)
class Everything(Operation[None]):
    """Every kind of parameter."""

    needed: str = param(help="Needed.")
    text: str = param("x", help="Text.")
    number: int = param(7, help="A number.", minimum=2, maximum=9, unit="ms")
    share: float | None = param(None, help="A share.", minimum=0, maximum=1)
    on: bool = param(True, help="On or off.")
    maybe: bool | None = param(None, help="Yes, no, or as it is.")
    kind: str | None = param(None, help="A kind.", choices=("a", "b"))
    several: tuple[str, ...] = param((), help="Several.", choices=("p", "q", "r"))
    lines: tuple[str, ...] = param((), help="Lines.")
    seldom: int | None = param(None, help="Seldom.", advanced=True)

    def check(self):
        return {"text": "Not this one."} if self.text == "contradiction" else {}


def posted(text):
    return QueryDict(text)


def form_of(data, cls=Everything, **more):
    form = OperationForm(cls, posted(data), **more)
    form.is_valid()
    return form


class TestValues:
    def test_all_kinds(self):
        form = form_of(
            "needed=n&text=&number=3&share=0.5&on=on&maybe=false&kind=b&several=p&several=r&lines=a%0D%0A%0D%0A b"
        )
        assert form.operation == Everything(
            needed="n",
            text="",
            number=3,
            share=0.5,
            on=True,
            maybe=False,
            kind="b",
            several=("p", "r"),
            lines=("a", " b"),
        )

    def test_an_unchecked_box_is_no(self):
        assert form_of("needed=n&number=7").operation.on is False

    def test_what_is_left_empty_keeps_its_value(self):
        value = form_of("needed=n&number=7&share=&maybe=&kind=&seldom=").operation
        assert (value.share, value.maybe, value.kind, value.seldom) == (None, None, None, None)

    @pytest.mark.parametrize(
        ("data", "field", "words_of_it"),
        [
            ("number=7", "needed", "required"),
            ("needed=n&number=", "number", "required"),
            ("needed=n&number=1", "number", "below the least value, 2"),
            ("needed=n&number=10", "number", "above the greatest value, 9"),
            ("needed=n&number=ten", "number", "not a whole number"),
            ("needed=n&number=7&share=nan", "share", "not a number"),
            ("needed=n&number=7&kind=c", "kind", "c"),
            ("needed=n&number=7&text=contradiction", "text", "Not this one."),
            ("needed=n%00&number=7", "needed", "Null"),
        ],
    )
    def test_what_is_wrong_stands_at_its_field(self, data, field, words_of_it):
        form = form_of(data)
        assert form.operation is None
        assert list(form.errors) == [field]
        assert words_of_it in str(form.errors[field])

    def test_all_that_is_wrong_is_told_at_once(self):
        assert set(form_of("number=1&share=2").errors) == {"needed", "number", "share"}

    def test_fields_that_nobody_declared_are_passed_over(self):
        value = form_of("needed=n&number=7&owner=root&is_superuser=1").operation
        assert value == Everything(needed="n", on=False)


class TestFilledFromTheAddress:
    def test_known_names_only(self):
        form = OperationForm(Everything, asked=posted("needed=n&number=5&on=false&several=q&lines=a&lines=b&evil=1"))
        assert {name: form[name].value() for name in ("needed", "number", "on", "several", "lines")} == {
            "needed": "n", "number": "5", "on": False, "several": ["q"], "lines": "a\nb",
        }  # fmt: skip

    def test_nothing_is_judged_before_it_is_sent(self):
        form = OperationForm(Everything, asked=posted("number=many"))
        assert not form.errors
        assert form["number"].value() == "many"

    def test_defaults_stand_in_it(self):
        form = OperationForm(Everything)
        assert (form["number"].value(), form["on"].value(), form["text"].value()) == (7, True, "x")

    def test_what_is_seldom_needed_is_folded_until_it_is_used(self):
        form = OperationForm(Everything)
        assert [row.bound.name for row in form.folded()] == ["seldom"]
        assert not form.folded_open()
        assert OperationForm(Everything, asked=posted("seldom=3")).folded_open()


class TestCollections:
    rebuild = operation_class("hnsw_rebuild")

    def test_are_offered_by_id_with_their_place(self):
        form = OperationForm(self.rebuild, collections=[DOCS, OTHER])
        assert form.fields["collection_id"].choices == [
            ("", "choose a collection"), (DOCS.id, "docs  ·  legal / eu"), (OTHER.id, "docs  ·  legal / us"),
        ]  # fmt: skip

    def test_one_is_chosen(self):
        form = form_of(f"collection_id={DOCS.id}&m=24", self.rebuild, collections=[DOCS, OTHER])
        assert (form.operation.collection_id, form.operation.m) == ((DOCS.id,), 24)
        assert form.chosen_collection() == DOCS.id

    def test_several_are_chosen(self):
        form = form_of(f"collection_id={DOCS.id}&collection_id={OTHER.id}", self.rebuild, collections=[DOCS, OTHER])
        assert form.operation.collection_id == (DOCS.id, OTHER.id)
        assert form.chosen_collection() == ""

    def test_none_is_told_at_the_list(self):
        form = form_of("m=24", self.rebuild, collections=[DOCS])
        assert list(form.errors) == ["collection_id"]

    def test_one_may_be_named_instead(self):
        form = form_of("collection=docs&database=eu", self.rebuild, collections=[DOCS, OTHER])
        assert (form.operation.collection, form.operation.database) == (("docs",), "eu")

    def test_none_means_all_where_the_operation_says_so(self):
        form = form_of("", operation_class("db_info"), collections=[DOCS])
        assert form.operation.collection_id == ()
        assert form.fields["collection_id"].choices[0] == ("", "every collection")

    def test_one_that_the_store_does_not_hold_stays_in_the_list(self):
        gone = "33333333-3333-4333-8333-333333333333"
        form = OperationForm(self.rebuild, asked=posted(f"collection_id={gone}"), collections=[DOCS])
        assert (gone, f"{gone}  ·  not in this store") in form.fields["collection_id"].choices

    def test_hostile_names_are_shown_as_escapes(self):
        name = "a\u202eb\n<script>"
        form = OperationForm(self.rebuild, collections=[CollectionChoice(id="i", name=name, tenant="t", database="d")])
        assert "a\\u202eb\\n<script>" in dict(form.fields["collection_id"].choices)["i"]
        assert "<script>" not in str(form["collection_id"])


class TestValuesThatHoldNow:
    rebuild = operation_class("hnsw_rebuild")

    def rows(self, data, current):
        form = OperationForm(self.rebuild, posted(data), current=current)
        return {row.bound.name: row for row in form.rows() + form.folded()}

    def test_stand_beside_the_fields(self):
        rows = self.rows("m=24", {"m": "16", "ef_search": "100"})
        assert (rows["m"].side, rows["m"].unchanged) == ("now 16", False)
        assert (rows["ef_search"].side, rows["ef_search"].unchanged, rows["ef_search"].placeholder) == (
            "unchanged", True, "100",
        )  # fmt: skip

    def test_are_found_in_a_plan_by_name_label_or_alias(self):
        plan = Plan(
            headline="x", scope=Scope(operation="x", parameters="{}", family="f", steps=()),
            changes=(
                Change(what="max_neighbors", now="16", after="24"),
                Change(what="ef_search", now="100", after="unchanged"),
                Change(what="space", now=None, after="l2"),
            ),
        )  # fmt: skip
        assert current_values(self.rebuild, plan) == {"m": "16", "ef_search": "100"}

    def test_are_found_in_a_configuration(self):
        found = configured_values(self.rebuild, HnswConfiguration(max_neighbors=48))
        assert (found["m"], found["space"], found["sync_threshold"]) == ("48", "l2", "1000")
        assert "num_threads" not in found, "None is as many as cores: no number to show"


class TestTheSameCall:
    """The commands a page shows give the command line the very operation value that the page has."""

    @pytest.mark.parametrize(
        "value",
        [
            parse(operation_class("hnsw_rebuild"), {"collection": ["a b", "--m"], "m": 24, "resize_factor": 1.5}),
            parse(
                operation_class("hnsw_rebuild"), {"collection_id": [DOCS.id], "space": "ip", "tenant": "it's; rm -rf"}
            ),
            parse(operation_class("db_info"), {}),
        ],
    )
    def test_round_trip(self, value):
        (_, command), (_, audited) = calls(value, path="/srv/my store", instance_name="rag-prod-eu")
        arguments = shlex.split(command.replace("\\\n", " "))
        assert arguments[:5] == ["python", "-m", "ops", *words(type(value))]
        parser = parser_for(type(value))
        options = parser.parse_args(arguments[5:])
        assert options.persist_dir == "/srv/my store"
        assert parse(type(value), given_on_command_line(options, type(value))) == value
        assert "rag-prod-eu" in audited

    @pytest.mark.parametrize("cls", all_operations(), ids=lambda cls: cls.name)
    def test_every_operation_has_a_form_with_words(self, cls):
        form = OperationForm(cls)
        assert [field.label and bool(field.help_text) for field in form.fields.values()] == [True] * len(
            parameters(cls)
        )
