"""A JSON text of Chroma's tables in which single members change, every byte outside of them kept; and its undo."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.errors import FieldInvalid, NothingToUndo, PlanChanged, UnsupportedVersion, VerificationFailed
from ops.plan import Change, StepScope
from ops.store.conditions import Condition
from ops.store.configuration import loaded, member, replaced
from ops.store.persist_dir import PersistDir
from ops.store.sqlite import sqlite_errors
from ops.store.text import encoded, visible

if TYPE_CHECKING:
    from ops.store.trash import UndoRecord

Place = tuple[str, ...]
PURGE: Place = ("automatically_purge",)
TEXT = "text"  # what an undo record of a step of rows is of


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Where texts of one kind stand: how one is read, and replaced while it is what was read."""

    read: str
    write: str


_COLUMNS: Mapping[str, _Column] = {
    "schema_str": _Column(
        read="SELECT schema_str FROM collections WHERE id = CAST(?1 AS TEXT)",
        write="UPDATE collections SET schema_str = CAST(?1 AS TEXT)"
        " WHERE id = CAST(?2 AS TEXT) AND schema_str = CAST(?3 AS TEXT)",
    ),
    "config_json_str": _Column(
        read="SELECT config_json_str FROM collections WHERE id = CAST(?1 AS TEXT)",
        write="UPDATE collections SET config_json_str = CAST(?1 AS TEXT)"
        " WHERE id = CAST(?2 AS TEXT) AND config_json_str = CAST(?3 AS TEXT)",
    ),
    "queue_config": _Column(
        read="SELECT config_json_str FROM embeddings_queue_config WHERE id = CAST(?1 AS INTEGER)",
        write="UPDATE embeddings_queue_config SET config_json_str = CAST(?1 AS TEXT)"
        " WHERE id = CAST(?2 AS INTEGER) AND config_json_str = CAST(?3 AS TEXT)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One such text: ``kind`` names its column, ``key`` its row, ``title`` both for people."""

    kind: str
    key: str
    title: str
    text: str

    @classmethod
    def read(cls, store: PersistDir, kind: str, key: str, title: str) -> Setting | None:
        """The text as it stands now; None without such a row, or where it is NULL."""
        with sqlite_errors(store.database_path):
            row = store.db.execute(_COLUMNS[kind].read, (encoded(key),)).fetchone()
        if row is None or row[0] is None:
            return None
        if not isinstance(row[0], str):
            raise FieldInvalid(where=title, value="no text", expected="a JSON text")
        loaded(row[0], title)
        return cls(kind=kind, key=key, title=title, text=row[0])

    @classmethod
    def of_queue(cls, store: PersistDir, operation: str) -> Setting:
        """The configuration of the WAL. Raises UNSUPPORTED_VERSION before 0.5.6, FIELD_INVALID without its row."""
        if not store.schema.has("embeddings_queue_config"):
            why = "before 0.5.6 the WAL has no configuration"
            raise UnsupportedVersion(releases=store.schema.releases, operation=operation, why=why)
        with sqlite_errors(store.database_path):
            row = store.db.execute("SELECT id FROM embeddings_queue_config ORDER BY id LIMIT 1").fetchone()
        found = cls.read(store, "queue_config", str(row[0]), "the configuration of the WAL") if row else None
        if found is None:
            raise FieldInvalid(where="embeddings_queue_config", value="no text", expected="the row that Chroma writes")
        return found

    def member(self, place: Place) -> object:
        """The value at a place; None where there is none."""
        return member(loaded(self.text, self.title), place)

    def edit(self, members: Mapping[Place, object]) -> Edit:
        """The text with other values at these places."""
        text = self.text
        for place, value in members.items():
            text = replaced(text, place, json.dumps(value), self.title)
        return Edit(setting=self, after=text, members=members)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A setting and the text that replaces it; ``members`` are the new values by place (None: absent)."""

    setting: Setting
    after: str
    members: Mapping[Place, object]

    @property
    def condition(self) -> tuple[Condition, ...]:
        """True once the text is there."""
        return (Condition(name=f"{self.setting.kind}_is", values=(self.setting.key, self.after)),)

    @property
    def old(self) -> dict[str, object]:
        """The values before, by place."""
        return {json.dumps(place): self.setting.member(place) for place in self.members}

    @property
    def new(self) -> dict[str, str]:
        """The values after as JSON, by place: what ``verify_setting`` asks for."""
        return {json.dumps(place): json.dumps(value) for place, value in self.members.items()}

    @property
    def digest(self) -> str:
        """What an approval of the edit holds: the members, before and after."""
        return json.dumps([self.old, self.new])

    @property
    def facts(self) -> dict[str, str]:
        """What takes it back."""
        setting = self.setting
        return {
            "of": TEXT,
            "kind": setting.kind,
            "key": setting.key,
            "text": setting.text,
            "text_after": self.after,
            "old": json.dumps(self.old),
            "new": json.dumps(self.new),
        }

    def apply(self, connection: sqlite3.Connection) -> None:
        """Replace the text in the caller's transaction; raises PLAN_CHANGED when it is another by now."""
        setting = self.setting
        values = (encoded(self.after), encoded(setting.key), encoded(setting.text))
        if connection.execute(_COLUMNS[setting.kind].write, values).rowcount != 1:
            raise PlanChanged(what=f"{setting.title} was changed meanwhile")


@dataclass(frozen=True, kw_only=True)
class TextUndo:
    """A changed text to put back: byte for byte while it is what the run left, else the members that it changed."""

    record: UndoRecord
    edit: Edit
    exact: bool

    @classmethod
    def of(cls, store: PersistDir, record: UndoRecord) -> TextUndo:
        """Raises NOTHING_TO_UNDO for a record of another kind, and where the text is gone or was changed again."""
        facts = record.facts

        def nothing(why: str) -> NothingToUndo:
            return NothingToUndo(run_id=record.run_id, why=why)

        if facts.get("of") != TEXT or facts.get("kind") not in _COLUMNS:
            raise nothing(f"{record.operation} can not be taken back by itself")
        title = visible(record.title)
        now = Setting.read(store, facts["kind"], facts["key"], title)
        if now is None:
            raise nothing(f"{title} is gone")
        old = {_place(place): value for place, value in json.loads(facts["old"]).items()}
        new = {_place(place): json.loads(value) for place, value in json.loads(facts["new"]).items()}
        if now.text == facts["text_after"]:
            return cls(record=record, edit=Edit(setting=now, after=facts["text"], members=old), exact=True)
        if all(now.member(place) == value for place, value in old.items()):
            raise nothing(f"{title} is as it was before already")
        if any(now.member(place) != value for place, value in new.items()):
            raise nothing(f"{title} was changed again since")
        if None in old.values():
            raise nothing(f"{title} was changed elsewhere since, and had no such member before")
        return cls(record=record, edit=now.edit(old), exact=False)

    @property
    def name(self) -> str:
        """For people."""
        return visible(self.record.title)

    @property
    def scope(self) -> StepScope:
        """The step of an undo."""
        return StepScope(subject=self.record.subject, title=self.record.title, digest=self.edit.digest)

    @property
    def sentence(self) -> str:
        """What happens."""
        how = "byte for byte" if self.exact else "in the members that the run changed"
        return f"The configuration of {self.name} becomes again what it was, {how}."

    @property
    def warning(self) -> str:
        """Nothing to say."""
        return ""

    @property
    def changes(self) -> tuple[Change, ...]:
        """One row for each member."""
        return changes_of(self.edit, self.name)

    def written_bytes(self, _store: PersistDir) -> int:
        """The new text."""
        return len(encoded(self.edit.after))


@dataclass(frozen=True, kw_only=True)
class ReadSetting:
    """A setting that was read back, and the process that looked."""

    members: int
    pid: int


def changes_of(edit: Edit, name: str) -> tuple[Change, ...]:
    """One row for each member, for people."""
    old = edit.setting
    return tuple(
        Change(what=f"{name}: {place[-1]}", now=_shown(old.member(place)), after=_shown(value))
        for place, value in edit.members.items()
    )


def verify_setting(*, path: str, kind: str, key: str, members: Mapping[str, str]) -> ReadSetting:
    """Read the members back, not the whole text: a running Chroma may write its own part of it meanwhile.

    Raises VERIFICATION_FAILED.
    """
    with PersistDir.open(path) as store:
        found = Setting.read(store, kind, key, kind)
        if found is None:
            raise VerificationFailed(why=f"{kind} of {visible(key)} is gone")
        for place, value in members.items():
            if found.member(_place(place)) != json.loads(value):
                raise VerificationFailed(why=f"{_place(place)[-1]} is not {value}")
        return ReadSetting(members=len(members), pid=os.getpid())


def _place(text: str) -> Place:
    return tuple(json.loads(text))


def _shown(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)
