"""The operation ``wal config``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ops.child import call
from ops.operation import ROWS_PHASES, Effect, Needs, Operation, Report, operation
from ops.params import param
from ops.plan import Change, Estimate, Plan, Scope, StepScope
from ops.store import embeddings_queue
from ops.store.setting import PURGE, Edit, Setting, changes_of, verify_setting

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir

TITLE = "the purge setting of the WAL"
_WORDS = {True: "auto", False: "off"}
_UNDO = "The old text is kept for 7 days; an undo puts it back."
_LIVE = "A Chroma that runs may go on with the old setting until it is restarted."
_GROWS = "With purge off the WAL keeps every entry and grows until it is cleaned."


@dataclass(frozen=True, kw_only=True)
class WalConfigResult:
    """The setting: auto or off, before and after; ``before`` is None where the text did not say."""

    before: str | None
    after: str
    changed: bool
    expires_at: datetime | None


@operation(effect=Effect.WRITE, needs=Needs.LIVE)
class WalConfig(Operation[WalConfigResult]):
    """Set whether Chroma purges the WAL.

    auto: Chroma deletes entries that every segment has consumed, when it persists an index. off: it keeps all of them,
    and the WAL grows until it is cleaned. Entries are not touched now. A setting that is there already is skipped. A
    Chroma that runs uses the new setting after its next start.
    """

    phases = ROWS_PHASES

    purge: str = param(help="Whether Chroma deletes consumed entries by itself.", choices=("auto", "off"))

    def plan(self, store: PersistDir) -> Plan:
        """Reads one row."""
        edit = self._edit(store)
        before = _shown(embeddings_queue.automatically_purge(store))
        warnings = (*((_GROWS,) if self.purge == "off" else ()), *((_LIVE,) if store.users().state != "free" else ()))
        return Plan(
            headline=f"Automatic purge goes from {before or 'unknown'} to {self.purge}."
            if edit
            else f"Nothing to change: automatic purge is {self.purge} already.",
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=(StepScope(subject="embeddings_queue_config", title=TITLE, digest=edit.digest),) if edit else (),
            ),
            estimate=Estimate(rows=1 if edit else 0),
            changes=changes_of(edit, "WAL") if edit else (),
            undo=_UNDO,
            warnings=warnings if edit else (),
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> WalConfigResult:
        """One transaction."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        before = _shown(embeddings_queue.automatically_purge(store))
        expires_at = None
        for step in store.writer.steps(plan, progress):
            edit = self._edit(store)
            assert edit is not None  # noqa: S101 - planned under the lock a moment ago
            expires_at = _change(store, step, edit)
        return WalConfigResult(before=before, after=self.purge, changed=expires_at is not None, expires_at=expires_at)

    def report(self, result: WalConfigResult) -> Report:
        """Old and new."""
        if not result.changed:
            return Report(headline=f"Nothing to change: automatic purge is {result.after} already.")
        return Report(
            headline=f"Automatic purge went from {result.before or 'unknown'} to {result.after}.",
            changes=(Change(what="Automatic purge", now=result.before, after=result.after),),
            verified="The setting was read back by another process.",
            undo=_UNDO,
            notes=(_LIVE,),
        )

    def _edit(self, store: PersistDir) -> Edit | None:
        setting, wanted = Setting.of_queue(store, "wal config"), self.purge == "auto"
        return None if setting.member(PURGE) is wanted else setting.edit({PURGE: wanted})


def _change(store: PersistDir, step: StepScope, edit: Edit) -> datetime:
    changed = store.writer.change(
        step,
        collection=None,
        apply=edit.apply,
        condition=edit.condition,
        undo_facts=edit.facts,
        verify=lambda: _verify(store, edit),
    )
    return changed.expires_at


def _verify(store: PersistDir, edit: Edit) -> None:
    setting = edit.setting
    call(verify_setting, path=str(store.path), kind=setting.kind, key=setting.key, members=edit.new)


def _shown(purge: bool | None) -> str | None:
    return None if purge is None else _WORDS[purge]
