"""``wal config``: the purge setting changes, the rest of its text stays, and Chroma follows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.errors import BadParameters
from ops.execute import preview
from ops.operations.wal_config import WalConfig
from ops.params import parse
from tests.ops import stores
from tests.ops.operations.test_run_undo import ops, undo
from tests.ops.store.changes import SETTING
from tests.ops.store.flips import rows

ON = '{"automatically_purge":true,"_type":"EmbeddingsQueueConfigurationInternal"}'
ENTRIES = "SELECT count(*) FROM embeddings_queue"
MORE = """
alpha = client.get_collection("alpha")
for i in range(0, 2000, 250):
    alpha.add(ids=[f"more{j}" for j in range(i, i + 250)], embeddings=vectors(250))
print(alpha.count())
"""


def config(path: Path, purge: str) -> dict[str, object]:
    return ops("wal", "config", str(path), "--purge", purge, "--yes")


def test_off_and_chroma_keeps_every_entry(small: Path, make_store: object) -> None:
    before = stores.reopen(small)
    assert rows(small, SETTING) == [(ON,)]
    result = config(small, "off")["result"]
    assert isinstance(result, dict)
    assert (result["before"], result["after"], result["changed"]) == ("auto", "off", True)
    assert rows(small, SETTING) == [(ON.replace("true", "false"),)]
    assert stores.reopen(small) == before
    assert stores.write_through_client(small, MORE).strip() == "4500"
    assert rows(small, ENTRIES) == [(1202 + 2000,)]
    other = make_store(stores.SMALL)  # type: ignore[operator]
    stores.write_through_client(other, MORE)
    assert rows(other, ENTRIES)[0][0] < 1202 + 2000  # type: ignore[operator]


def test_the_same_again_is_skipped(small: Path) -> None:
    result = config(small, "auto")["result"]
    assert result == {"before": "auto", "after": "auto", "changed": False, "expires_at": None}
    assert preview(parse(WalConfig, {"purge": "auto"}), str(small)).scope.steps == ()


def test_undo(small: Path) -> None:
    run_id = str(config(small, "off")["run_id"])
    undo(small, run_id)
    assert rows(small, SETTING) == [(ON,)]
    answer = ops("undo", str(small), "--run", run_id, "--yes", status=3)
    assert answer["error"]["code"] == "NOTHING_TO_UNDO"  # type: ignore[index]


def test_the_plan_shows_old_and_new(small: Path) -> None:
    plan = preview(parse(WalConfig, {"purge": "off"}), str(small))
    assert plan.headline == "Automatic purge goes from auto to off."
    assert [(change.now, change.after) for change in plan.changes] == [("true", "false")]
    assert "grows" in plan.warnings[0]


def test_other_words_are_refused() -> None:
    for given in ({}, {"purge": "manual"}, {"purge": True}):
        with pytest.raises(BadParameters):
            parse(WalConfig, given)
