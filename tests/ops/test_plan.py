"""A plan that was approved, compared with the plan of now."""

from dataclasses import replace

import pytest

from ops.errors import PlanChanged
from ops.plan import Scope, StepScope

STEP = StepScope(subject="c1", title="alpha", segment_id="s1", up_to_seq=100, max_rows=10)
APPROVED = Scope(
    operation="wal_clean", parameters="{}", family="1.5", steps=(STEP, replace(STEP, subject="c2", title="beta"))
)


def changed(**step):
    return replace(APPROVED, steps=(replace(STEP, **step), APPROVED.steps[1]))


def test_the_same_scope_is_inside():
    APPROVED.require_inside(APPROVED)


def test_a_smaller_bound_is_inside():
    changed(up_to_seq=90, max_rows=1).require_inside(APPROVED)


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        (replace(APPROVED, operation="db_clean"), "its operation is another"),
        (replace(APPROVED, parameters='{"vacuum":true}'), "its parameters is another"),
        (replace(APPROVED, family="1.0"), "its family is another"),
        (changed(subject="c3", title="gamma"), "gamma was not part of it"),
        (changed(segment_id="s2"), "its segment is another now"),
        (changed(digest="d"), "what it touches is different now"),
        (changed(up_to_seq=101), "reaches further into the WAL"),
        (changed(up_to_seq=None), "reaches further into the WAL"),
        (changed(max_rows=11), "touches more rows"),
        (replace(APPROVED, steps=APPROVED.steps[:1]), "beta is gone"),
    ],
)
def test_anything_else_is_outside(scope, why):
    with pytest.raises(PlanChanged, match=why):
        scope.require_inside(APPROVED)


def test_the_digest_changes_with_every_part_of_the_scope():
    digests = {APPROVED.digest, changed(up_to_seq=1).digest, replace(APPROVED, family="x").digest}
    assert len(digests) == 3
