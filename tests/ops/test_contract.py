"""What holds for every operation, before its author writes a line of tests. A new operation adds an example below."""

import argparse
import dataclasses
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import cli
from ops.errors import ERRORS, BadParameters, Cancelled, OpsError
from ops.execute import execute, preview
from ops.operation import Effect, explanation, title, words
from ops.params import Parameter, parameters, parse
from ops.progress import Progress
from ops.registry import all_operations, operation_class, operation_names
from ops.store.persist_dir import PersistDir
from ops.store.recovery import structure_of
from tests.ops import stores

HERE = Path(__file__).parent


def _rebuilt(store: Path) -> dict[str, object]:
    run_id = str(uuid.uuid4())
    rebuild = parse(operation_class("hnsw_rebuild"), {"collection": ["alpha"], "m": 24})
    assert execute(rebuild, str(store), run_id=run_id, approved=None, allow_unplanned=True).status == "succeeded"
    return {"run_id": run_id}


def _committed(store: Path) -> dict[str, object]:
    commit = parse(operation_class("wal_commit"), {"collection": ["alpha"]})
    ended = execute(commit, str(store), run_id=str(uuid.uuid4()), approved=None, allow_unplanned=True)
    assert ended.status == "succeeded"
    return {}


# Parameters with which each operation does something to the small store (tests.ops.stores.SMALL).
EXAMPLES: dict[str, Callable[[Path], dict[str, object]]] = {
    "db_info": lambda _store: {},
    "hnsw_config": lambda _store: {"collection": ["alpha", "gamma"], "ef_search": 77, "resize_factor": 1.5},
    "hnsw_info": lambda _store: {"verbose": True},
    "hnsw_rebuild": lambda _store: {"collection": ["alpha", "gamma"], "m": 24},
    "run_undo": _rebuilt,
    "wal_config": lambda _store: {"purge": "off"},
    "wal_clean": _committed,
    "wal_commit": lambda _store: {"collection": ["beta", "gamma"]},
    "wal_export": lambda store: {"output": str(store.parent / "wal.jsonl")},
    "wal_info": lambda _store: {},
}

every_operation = pytest.mark.parametrize("cls", all_operations(), ids=operation_names())
every_writer = pytest.mark.parametrize(
    "cls", [cls for cls in all_operations() if cls.declared.effect is not Effect.READ], ids=lambda cls: cls.name
)
every_reader = pytest.mark.parametrize(
    "cls", [cls for cls in all_operations() if cls.declared.effect is Effect.READ], ids=lambda cls: cls.name
)


def value(cls, store):
    return parse(cls, EXAMPLES[cls.name](store))


def run(operation, store, progress=None, **options):
    approved = preview(operation, str(store)).scope if operation.writes else None
    return execute(operation, str(store), run_id=str(uuid.uuid4()), approved=approved, progress=progress, **options)


# --- declarations ---------------------------------------------------------------------------------------------------


@every_operation
def test_it_has_a_title_an_explanation_help_for_each_parameter_and_tests(cls):
    assert title(cls)
    assert explanation(cls), "the docstring is what its page and its help say"
    assert all(parameter.spec.help.endswith(".") for parameter in parameters(cls))
    assert (HERE / "operations" / f"test_{cls.name}.py").exists()
    assert cls.name in EXAMPLES


@every_operation
def test_it_says_whether_it_may_be_repeated(cls):
    assert cls.declared.repeatable == "idempotent" or cls.declared.repeatable in ERRORS


@every_operation
def test_its_words_are_a_subject_and_a_verb(cls):
    subject, verb = words(cls)
    assert f"{subject}_{verb.replace('-', '_')}" == cls.name
    assert subject not in ("internal", "recover")


def test_every_error_has_a_message_a_hint_and_a_code_of_its_own():
    assert all(error.message and error.hint for error in ERRORS.values())
    assert all(code == code.upper() and cls.code == code for code, cls in ERRORS.items())


def examples_of(parameter: Parameter) -> st.SearchStrategy[object]:
    """Values that the parameter accepts."""
    spec = parameter.spec
    if spec.choices:
        single: st.SearchStrategy[object] = st.sampled_from(spec.choices)
    elif parameter.kind is bool:
        single = st.booleans()
    elif parameter.kind is int:
        single = st.integers(int(spec.minimum or 0), int(spec.maximum or 1 << 40))
    elif parameter.kind is float:
        single = st.floats(spec.minimum or 0, spec.maximum or 1e9, allow_nan=False)
    else:
        single = st.text(st.characters(exclude_characters="\0,", exclude_categories=("Cs",)), min_size=1)
    if parameter.many:
        return st.lists(single, max_size=3, unique=True)
    return st.none() | single if parameter.optional else single


@every_operation
@given(data=st.data())
def test_command_line_and_json_give_the_same_value(cls, data):
    chosen = {
        parameter.name: data.draw(examples_of(parameter), label=parameter.name)
        for parameter in parameters(cls)
        if parameter.required or data.draw(st.booleans())
    }
    try:
        expected = parse(cls, chosen)
    except BadParameters:
        return  # a contradiction between two parameters: refused at every door alike
    line = []
    for parameter in parameters(cls):
        given_value = chosen.get(parameter.name)
        if given_value is None:
            continue
        if parameter.kind is bool:
            line.append(parameter.option if given_value else parameter.option.replace("--", "--no-", 1))
        else:
            items = given_value if parameter.many else [given_value]
            line += [f"{parameter.option}={item}" for item in items]
    options = cli.parser_for(cls).parse_args(["/store", *line])
    assert isinstance(options, argparse.Namespace)
    assert parse(cls, cli.given(options, cls)) == expected
    assert parse(cls, json.loads(json.dumps(expected.to_json()))) == expected


# --- what reading and planning may not do ---------------------------------------------------------------------------


@every_reader
def test_reading_changes_no_byte(cls, small):
    operation = value(cls, small)
    before = stores.manifest(small)
    assert run(operation, small).status == "succeeded"
    assert stores.manifest(small) == before


@every_writer
def test_planning_changes_no_byte_and_says_the_same_twice(cls, small):
    operation = value(cls, small)
    before = stores.manifest(small)
    plan = preview(operation, str(small))
    assert preview(operation, str(small)).scope == plan.scope
    assert stores.manifest(small) == before
    assert plan.headline
    assert plan.undo
    assert plan.scope.steps


@every_writer
def test_it_does_nothing_without_an_approval(cls, small):
    operation = value(cls, small)
    before = stores.manifest(small)
    ended = execute(operation, str(small), run_id=str(uuid.uuid4()), approved=None)
    assert (ended.status, ended.error.code, ended.effect_on_store) == ("refused", "APPROVAL_REQUIRED", "none")
    assert stores.manifest(small) == before


@every_writer
def test_it_does_nothing_with_the_approval_of_something_else(cls, small):
    operation = value(cls, small)
    scope = preview(operation, str(small)).scope
    other = dataclasses.replace(scope, parameters="{}")
    before = {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name}
    ended = execute(operation, str(small), run_id=str(uuid.uuid4()), approved=other)
    assert (ended.status, ended.error.code) == ("refused", "PLAN_CHANGED")
    assert {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name} == before


# --- what writing must hold -----------------------------------------------------------------------------------------


@every_writer
def test_after_a_write_every_record_reads_as_before(cls, small):
    operation = value(cls, small)
    if operation.effect is not Effect.WRITE:
        pytest.skip(f"{cls.name} may change records")
    before = stores.reopen(small)
    ended = run(operation, small)
    assert (ended.status, ended.effect_on_store) == ("succeeded", "complete")
    after = stores.reopen(small)
    for name, collection in before.collections.items():
        assert after.collections[name].ids == collection.ids
        assert after.collections[name].documents == collection.documents
        assert after.collections[name].metadatas == collection.metadatas
        assert after.collections[name].embeddings == collection.embeddings


@every_writer
def test_a_closed_gate_leaves_the_store_as_it_was(cls, small):
    operation = value(cls, small)
    before = {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name}
    ended = run(operation, small, gate=lambda _step: "the right was withdrawn")
    assert (ended.status, ended.error.code, ended.effect_on_store) == ("cancelled", "GATE_CLOSED", "none")
    assert {name: entry[-1] for name, entry in stores.manifest(small).items() if ".chromaadmin" not in name} == before


@every_writer
def test_cancelled_at_every_event_the_store_stays_sound(cls, small):
    operation = value(cls, small)
    asked = 0
    while True:
        left = asked

        def cancelled() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        progress = Progress(cancelled=cancelled)
        ended = run(operation, small, progress)
        assert_sound(small)
        if ended.status == "succeeded":
            break
        assert (ended.status, ended.error.code) in (
            ("cancelled", Cancelled.code),
            ("cancelled", "PARTLY_DONE"),
        )
        assert ended.effect_on_store == ("partial" if ended.error.code == "PARTLY_DONE" else "none")
        asked += 1
        if ended.effect_on_store == "partial":
            break
    assert asked > 3 or ended.effect_on_store == "partial"


def assert_sound(path):
    """Every vector segment that is current has a directory with its files, and nothing is left over."""
    with PersistDir.open(path) as store:
        segments = [row[0] for row in store.db.execute("SELECT id FROM segments WHERE scope = 'VECTOR'")]
        assert [structure_of(store, segment) for segment in segments] == [""] * len(segments)
        assert set(store.uuid_directories()) == set(segments)
    assert not list(path.glob(".chromaadmin/stage/*"))
    assert not list(path.glob(".chromaadmin/intents/*"))


@every_writer
def test_run_twice_is_what_it_declares(cls, small):
    operation = value(cls, small)
    assert run(operation, small).status == "succeeded"
    expected = stores.reopen(small)
    try:
        ended = run(operation, small)
        code = ended.error.code if ended.error else ""
    except OpsError as error:
        code = error.code
    assert code == ("" if cls.declared.repeatable == "idempotent" else cls.declared.repeatable)
    after = stores.reopen(small)
    for name, collection in expected.collections.items():
        assert after.collections[name].embeddings == collection.embeddings
