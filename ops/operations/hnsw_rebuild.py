"""The operation ``hnsw rebuild``."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.child import VERIFY_WITHIN_S, call
from ops.errors import BadParameters, NoSpace
from ops.operation import FLIP_PHASES, Effect, Figure, Operation, Report, operation
from ops.params import param
from ops.plan import Change, Check, Estimate, Plan, Scope, StepScope
from ops.quantities import count, in_bytes, scaled_bytes
from ops.selection import SelectsCollections
from ops.store import configuration as configurations
from ops.store.configuration import HnswConfiguration
from ops.store.live_index import open_live_index
from ops.store.rebuild import IndexFigures, Rebuild, figures
from ops.store.verify import CommittedIndex, VerifiedIndex, verify_committed, verify_staged

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.commit import Flipped
    from ops.store.persist_dir import PersistDir

SPARE_BYTES = 16 << 20  # for the database, its journal and the records of the run
_MEMBERS = {field.name for field in fields(HnswConfiguration)}
_UNDO = (
    "The old index waits in the trash for 7 days. While Chroma has not written since, an undo swaps it back the same"
    " way; afterwards the undo is a rebuild from the vectors of that time with the old parameters."
)


@dataclass(frozen=True, kw_only=True)
class RebuiltCollection:
    """One collection: what its index was and is, who checked it, and where the old one waits."""

    id: str
    name: str
    vectors: int
    before: IndexFigures
    after: IndexFigures
    old_segment_id: str
    segment_id: str
    authority: str
    verified: VerifiedIndex
    read_back: CommittedIndex
    trash_path: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class HnswRebuildResult:
    """All collections that were rebuilt, and the directories that were made."""

    collections: tuple[RebuiltCollection, ...]
    artifacts: tuple[str, ...]


@operation(effect=Effect.WRITE)
class HnswRebuild(SelectsCollections, Operation[HnswRebuildResult]):
    """Rebuild HNSW index.

    Builds a new index beside the old one from the live vectors, checks it, and swaps it in one step.

    Tombstones go. No record changes: ids, documents, metadata and vectors read as before, and entries of the WAL that
    the index has not taken up yet stay to be applied. The old index waits in the trash. A parameter that is not given
    keeps its value; M and ef_construction can only be changed by a rebuild. A change of the space away from cosine
    multiplies the stored unit vectors with their norms, which gives each component back to within 2.4e-7 of itself.
    """

    phases = FLIP_PHASES

    space: str | None = param(None, help="Distance: l2, cosine or ip (inner product).", choices=configurations.SPACES)
    m: int | None = param(
        None,
        help="Links per record: more find better and take more memory. Only a rebuild can change it.",
        minimum=2,
        maximum=512,
        label="max_neighbors (M)",
        aliases=("max_neighbors",),
    )
    ef_construction: int | None = param(
        None,
        help="Care taken while building. Only a rebuild can change it.",
        minimum=1,
        maximum=10_000,
        aliases=("construction_ef",),
    )
    ef_search: int | None = param(
        None, help="Care taken by a query. Can change later.", minimum=1, maximum=100_000, aliases=("search_ef",)
    )
    num_threads: int | None = param(
        None, help="Threads of Chroma's index and of this build. Can change later.", minimum=1, maximum=1024
    )
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
        """A rebuild touches no collection that nobody named."""
        bad = super().check()
        if not (self.collection or self.collection_id):
            bad.setdefault("collection", "Name at least one collection.")
        return bad

    def plan(self, store: PersistDir) -> Plan:
        """Reads headers, flags, labels and id maps; no vectors."""
        rebuilds = [Rebuild.of(store, found.id, self._changed) for found in self.selected(store)]
        if not rebuilds:
            raise BadParameters({"skip": "It leaves out every collection that is named."}, "hnsw rebuild")
        free = store.file_system().free_bytes
        written = sum(item.after.size_bytes for item in rebuilds)
        several = len(rebuilds) > 1
        return Plan(
            headline=_headline(rebuilds),
            scope=Scope(
                operation=self.name,
                parameters=self.canonical(),
                family=store.schema.shape.name,
                steps=tuple(item.step for item in rebuilds),
            ),
            estimate=Estimate(
                rows=sum(item.rows for item in rebuilds),
                written_bytes=written,
                needed_bytes=written + SPARE_BYTES,
                free_bytes=free,
                freed_now_bytes=0,
                freed_at_expiry_bytes=sum(item.before.size_bytes for item in rebuilds),
                shortest_s=sum(item.seconds[0] for item in rebuilds),
                longest_s=sum(item.seconds[1] for item in rebuilds),
            ),
            changes=tuple(row for item in rebuilds for row in item.rows_of_change(several)),
            checks=(_space(store, free, written + SPARE_BYTES), *(item.agreement for item in rebuilds)),
            undo=_UNDO,
            warnings=tuple(sentence for item in rebuilds for sentence in item.warnings),
        )

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> HnswRebuildResult:
        """One flip per collection."""
        assert plan is not None  # noqa: S101 - execute() plans every writing operation
        done = tuple(self._rebuild(store, step, progress) for step in store.writer.steps(plan, progress))
        return HnswRebuildResult(collections=done, artifacts=tuple(str(store.path / item.segment_id) for item in done))

    def report(self, result: HnswRebuildResult) -> Report:
        """Before and after, and who compared them."""
        several = len(result.collections) > 1
        vectors = sum(item.vectors for item in result.collections)
        freed = sum(item.before.size_bytes for item in result.collections)
        expiry = max(item.expires_at for item in result.collections)
        return Report(
            headline=f"Rebuilt from {count(vectors, 'live vector')}; {in_bytes(freed)} of old index files come back on"
            f" {expiry:%-d %B %Y}.",
            figures=tuple(figure for item in result.collections for figure in _figures(item, several)),
            changes=tuple(change for item in result.collections for change in _changes(item, several)),
            verified=" ".join(_verified(item, several) for item in result.collections),
            undo=_UNDO,
            undo_path=", ".join(item.trash_path for item in result.collections if item.trash_path),
            notes=tuple(
                f"The old index of {item.name} was left in place, because somebody opened the store meanwhile."
                for item in result.collections
                if not item.trash_path
            ),
        )

    def _changed(self, old: HnswConfiguration) -> HnswConfiguration:
        asked = {name: getattr(self, name) for name in _MEMBERS if name != "max_neighbors"} | {"max_neighbors": self.m}
        return replace(old, **{name: value for name, value in asked.items() if value is not None})

    def _rebuild(self, store: PersistDir, step: StepScope, progress: Progress) -> RebuiltCollection:
        item = Rebuild.of(store, step.subject, self._changed)
        store.id_maps.close()  # its child is not needed while the index is built, and takes memory
        if (free := store.file_system().free_bytes) < (needed := item.after.size_bytes + SPARE_BYTES):
            raise NoSpace(path=store.path, free_bytes=free, needed_bytes=needed)
        old, new = item.found.configuration, item.wanted
        verified: list[VerifiedIndex] = []
        read_back: list[CommittedIndex] = []

        def check_staged(stage: Path) -> None:
            verified.append(
                call(
                    verify_staged,
                    VERIFY_WITHIN_S,
                    progress.check,
                    path=str(store.path),
                    collection_id=step.subject,
                    staged=item.staged(stage),
                )
            )

        def check_committed(directory: Path) -> None:
            read_back.append(
                call(
                    verify_committed,
                    path=str(store.path),
                    collection_id=step.subject,
                    segment_id=directory.name,
                    expected=new,
                )
            )

        def apply(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT id FROM segments WHERE collection = ? AND scope = 'VECTOR'", (step.subject,)
            ).fetchone()
            configurations.write(connection, item.collection, str(row[0]), item.found, item.changes)

        flipped = store.writer.flip(
            step,
            collection=item.collection,
            segment=item.segment,
            build=lambda stage: item.build(stage, progress),
            verify_staged=check_staged,
            apply=apply,
            verify_committed=check_committed,
            undo_facts={"authority": item.found.authority, "text": item.found.raw}
            | {name: str(getattr(old, name)) for name in sorted(_MEMBERS)},
        )
        return _rebuilt(store, item, flipped, verified[0], read_back[0])


def _rebuilt(
    store: PersistDir, item: Rebuild, flipped: Flipped, verified: VerifiedIndex, read_back: CommittedIndex
) -> RebuiltCollection:
    directory = store.segment_directory(flipped.new_segment)
    assert directory is not None  # noqa: S101 - it was read back a moment ago
    index = open_live_index(directory, store.id_maps, collection=item.name, dimension=item.collection.dimension)
    return RebuiltCollection(
        id=item.collection.id,
        name=item.name,
        vectors=item.vectors,
        before=item.before,
        after=figures(index, item.wanted),
        old_segment_id=flipped.old_segment,
        segment_id=flipped.new_segment,
        authority=item.found.authority,
        verified=verified,
        read_back=read_back,
        trash_path=flipped.trash_path,
        expires_at=flipped.expires_at,
    )


def _headline(rebuilds: list[Rebuild]) -> str:
    vectors = count(sum(item.vectors for item in rebuilds), "live vector")
    tombstones = sum(item.index.tombstones for item in rebuilds)
    what = f"The index of {rebuilds[0].name} is" if len(rebuilds) == 1 else f"{len(rebuilds)} indexes are"
    verb = "goes" if tombstones == 1 else "go"
    return f"{what} rebuilt from {vectors}; {count(tombstones, 'tombstone')} {verb}, and no record changes."


def _space(store: PersistDir, free: int, needed: int) -> Check:
    sentence = f"{in_bytes(free)} free on {store.file_system().mount_point}, {in_bytes(needed)} needed."
    enough = free >= needed
    return Check(state="passed" if enough else "refused", sentence=sentence, code="" if enough else NoSpace.code)


def _figures(item: RebuiltCollection, several: bool) -> tuple[Figure, ...]:
    prefix = f"{item.name}: " if several else ""
    verified = item.verified
    before = "unknown" if verified.self_hit_before is None else f"{verified.self_hit_before:.3f}"
    size, size_unit = scaled_bytes(item.after.size_bytes)
    memory, memory_unit = scaled_bytes(item.after.memory_bytes)
    return (
        Figure(label=prefix + "Finds itself", value=f"{verified.self_hit_after:.3f}", before=before),
        Figure(label=prefix + "Slots", value=count(item.after.slots), before=count(item.before.slots)),
        Figure(label=prefix + "Index on disk", value=size, unit=size_unit, before=in_bytes(item.before.size_bytes)),
        Figure(
            label=prefix + "Memory when loaded",
            value=memory,
            unit=memory_unit,
            before=in_bytes(item.before.memory_bytes),
        ),
    )


def _changes(item: RebuiltCollection, several: bool) -> tuple[Change, ...]:
    prefix = f"{item.name}: " if several else ""
    old, new = item.before.configuration, item.after.configuration
    rows = [
        ("Live vectors", count(item.vectors), count(item.read_back.labels)),
        ("Slots", count(item.before.slots), count(item.after.slots)),
        ("Tombstones", count(item.before.tombstones), count(item.after.tombstones)),
        *((name, str(getattr(old, name)), str(value)) for name, value in old.changes(new).items()),
        ("Segment", item.old_segment_id, item.segment_id),
    ]
    return tuple(Change(what=prefix + what, now=now, after=after) for what, now, after in rows)


def _verified(item: RebuiltCollection, several: bool) -> str:
    verified = item.verified
    of = f" of {item.name}" if several else ""
    equal = "are converted exactly as announced" if verified.converted else "are equal bit by bit"
    return (
        f"{count(verified.ids_equal)} of {count(item.vectors)} ids{of} are the same,"
        f" {count(verified.vectors_equal, 'vector')} {equal}, and a search leads to {verified.self_hit_after:.1%} of"
        f" {count(verified.sample, 'sampled vector')} (process {verified.pid}); read back after the commit by process"
        f" {item.read_back.pid}."
    )
