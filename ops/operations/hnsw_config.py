"""The operation ``hnsw config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ops.child import call
from ops.errors import BadParameters, FieldInvalid, UnsupportedVersion
from ops.operation import ROWS_PHASES, Effect, Needs, Operation, Report, operation
from ops.params import param
from ops.plan import Change, Estimate, Plan, Scope, StepScope
from ops.quantities import count
from ops.selection import SelectsCollections
from ops.store.configuration import PLACES, effective
from ops.store.setting import Edit, Setting, changes_of, verify_setting
from ops.store.sysdb import collection as find_collection
from ops.store.sysdb import vector_segment
from ops.store.text import encoded, visible

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import Collection

RUNTIME = ("ef_search", "num_threads", "resize_factor", "batch_size", "sync_threshold")
_UNDO = "The old text is kept for 7 days; an undo puts it back byte for byte while nothing else changed it."
_LIVE = "A Chroma that has the collection loaded goes on with the old values until it is restarted."


@dataclass(frozen=True, kw_only=True)
class ConfiguredCollection:
    """One collection: the values that changed, before and after, as text; ``authority`` is where they stand."""

    id: str
    name: str
    authority: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class HnswConfigResult:
    """The collections that changed, and the names of those that had these values already."""

    collections: tuple[ConfiguredCollection, ...]
    unchanged: tuple[str, ...]


@operation(effect=Effect.WRITE, needs=Needs.LIVE)
class HnswConfig(SelectsCollections, Operation[HnswConfigResult]):
    """Change runtime parameters of an HNSW index.

    Changes the configuration where this release reads it, and nothing else of it: members that are not named here, and
    their form, stay byte for byte. A value that is there already is skipped. No file of the index is touched. A Chroma
    that runs uses the new values after its next start. M, ef_construction and the space need a rebuild.
    """

    phases = ROWS_PHASES

    ef_search: int | None = param(
        None, help="Care taken by a query.", minimum=1, maximum=100_000, aliases=("search_ef",)
    )
    num_threads: int | None = param(None, help="Threads of a query or build.", minimum=1, maximum=1024)
    resize_factor: float | None = param(
        None, help="By how much Chroma lets a full index grow.", minimum=1.0, maximum=100.0, advanced=True
    )
    batch_size: int | None = param(
        None, help="Vectors that Chroma holds back before it adds them.", minimum=2, maximum=10_000_000, advanced=True
    )
    sync_threshold: int | None = param(
        None, help="Entries of the WAL after which Chroma persists the index.", minimum=2, maximum=100_000_000
    )

    def check(self) -> dict[str, str]:
        """Something changes, and no collection that nobody named."""
        bad = super().check()
        if not (self.collection or self.collection_id):
            bad.setdefault("collection", "Name at least one collection.")
        if not self._asked:
            bad.setdefault("ef_search", "Give at least one value that is to change.")
        return bad

    def plan(self, store: PersistDir) -> Plan:
        """Reads the configurations; no file of an index."""
        chosen = self.selected(store)
        if not chosen:
            raise BadParameters({"skip": "It leaves out every collection that is named."}, "hnsw config")
        edits = {found.id: edit for found in chosen if (edit := self._edit(store, found)) is not None}
        changed = [found for found in chosen if found.id in edits]
        return Plan(
            headline=_headline(len(changed), len(chosen)),
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=tuple(
                    StepScope(
                        subject=found.id,
                        title=visible(found.name),
                        segment_id=vector_segment(store, found).id,
                        digest=edits[found.id].digest,
                    )
                    for found in changed
                ),
            ),
            estimate=Estimate(
                rows=len(changed), written_bytes=sum(len(encoded(edit.after)) for edit in edits.values())
            ),
            changes=tuple(change for found in changed for change in changes_of(edits[found.id], visible(found.name))),
            undo=_UNDO,
            warnings=(_LIVE,) if changed and store.users().state != "free" else (),
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> HnswConfigResult:
        """One transaction per collection."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        touched = {step.subject for step in plan.scope.steps}
        unchanged = tuple(found.name for found in self.selected(store) if found.id not in touched)
        done = tuple(self._change(store, step) for step in store.writer.steps(plan, progress))
        return HnswConfigResult(collections=done, unchanged=unchanged)

    def report(self, result: HnswConfigResult) -> Report:
        """Old and new values."""
        return Report(
            headline=_headline(len(result.collections), len(result.collections) + len(result.unchanged), "was"),
            changes=tuple(
                Change(what=f"{visible(found.name)}: {name}", now=found.before.get(name), after=value)
                for found in result.collections
                for name, value in found.after.items()
            ),
            verified="Each value was read back by another process." if result.collections else "",
            undo=_UNDO if result.collections else "",
            notes=(_LIVE,) if result.collections else (),
        )

    @property
    def _asked(self) -> dict[str, int | float]:
        return {name: value for name in RUNTIME if (value := getattr(self, name)) is not None}

    def _edit(self, store: PersistDir, found: Collection) -> Edit | None:
        """What changes; None when nothing does."""
        configured = effective(store, found)
        changes = configured.stored.changes(replace(configured.stored, **self._asked))  # type: ignore[arg-type]
        if not changes:
            return None
        if configured.authority not in PLACES:
            why = "it keeps the parameters in rows of their own"
            raise UnsupportedVersion(releases=store.schema.releases, operation="hnsw config", why=why)
        title = f"the {configured.authority} of {visible(found.name)}"
        setting = Setting.read(store, configured.authority, found.id, title)
        if setting is None:
            raise FieldInvalid(where=title, value="nothing", expected="a JSON text")
        return setting.edit({PLACES[configured.authority][name]: value for name, value in changes.items()})

    def _change(self, store: PersistDir, step: StepScope) -> ConfiguredCollection:
        found = find_collection(store, step.subject)
        edit = self._edit(store, found)
        assert edit is not None  # noqa: S101 - planned under the lock a moment ago
        setting = edit.setting
        changed = store.writer.change(
            step,
            collection=found,
            apply=edit.apply,
            condition=edit.condition,
            undo_facts=edit.facts,
            verify=lambda: _verify(store, edit),
        )
        rows = changes_of(edit, "")
        return ConfiguredCollection(
            id=found.id,
            name=found.name,
            authority=setting.kind,
            before={place[-1]: row.now for place, row in zip(edit.members, rows, strict=True) if row.now is not None},
            after={place[-1]: row.after or "" for place, row in zip(edit.members, rows, strict=True)},
            expires_at=changed.expires_at,
        )


def _verify(store: PersistDir, edit: Edit) -> None:
    setting = edit.setting
    call(verify_setting, path=str(store.path), kind=setting.kind, key=setting.key, members=edit.new)


def _headline(changed: int, chosen: int, verb: str = "is") -> str:
    if not changed:
        return "Nothing to change: these values are there already."
    verb = verb if changed == 1 else {"is": "are", "was": "were"}[verb]
    rest = f"; {count(chosen - changed)} had these values already" if chosen > changed else ""
    return f"The configuration of {count(changed, 'collection')} {verb} changed{rest}. No file of an index is touched."
