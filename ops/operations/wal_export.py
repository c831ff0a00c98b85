"""The operation ``wal export``."""

from __future__ import annotations

import base64
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.operation import Effect, Figure, Needs, Operation, Report, operation, told
from ops.params import param
from ops.quantities import count, scaled_bytes
from ops.selection import SelectsCollections
from ops.store import embeddings_queue, export_file

if TYPE_CHECKING:
    from ops.plan import Plan
    from ops.progress import Progress
    from ops.store.embeddings_queue import WalEntry
    from ops.store.persist_dir import PersistDir
    from ops.store.sysdb import Collection

FORMATS = ("jsonl",)


@dataclass(frozen=True, kw_only=True)
class ExportedCollection:
    """One collection of an export."""

    id: str = told("UUID of the collection.")
    name: str = told("Its name, unique within its database.")
    tenant: str = told("Tenant it belongs to.")
    database: str = told("Database it belongs to.")
    expected: int = told("Entries it had when the export began.")
    written: int = told("Entries of it that were written.")


@dataclass(frozen=True, kw_only=True)
class WalExportResult:
    """What was exported."""

    expected: int = told("Entries counted before.")
    written: int = told("Lines written.")
    read_back: int | None = told("Lines read back from the file; null when it went to standard output.")
    size_bytes: int = told("Bytes written.")
    sha256: str = told("SHA-256 of all that was written, as hex.")
    format: str = told("jsonl: one JSON object per line.")
    with_vectors: bool = told("Whether the vectors are in it.")
    up_to_seq: int | None = told("The highest number that was in the WAL when the export began.")
    collections: tuple[ExportedCollection, ...] = told("The collections asked for, by name and id.")
    artifacts: tuple[str, ...] = told("The file, where one was made.")


@operation(effect=Effect.READ, needs=Needs.LIVE)
class WalExport(SelectsCollections, Operation[WalExportResult]):
    """Export WAL entries.

    Writes one JSON object per entry, in the order of their numbers, to a file or to standard output. A file appears
    under its name only after all of it was written, synced and read back; an existing one is not replaced without
    overwrite. Entries that come meanwhile are left out. Entries of collections that do not exist are left out too.
    """

    format: str = param("jsonl", help="Form of the file.", choices=FORMATS)
    with_vectors: bool = param(True, help="Write the vectors too.")
    output: str = param(
        export_file.STDOUT, help="File to make, outside the store; - is standard output.", short="o", aliases=("out",)
    )
    overwrite: bool = param(False, help="Replace a file that exists.")

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> WalExportResult:
        """Count, stream in one pass over the queue, compare."""
        progress.phase("read", "Exporting the WAL")
        place = export_file.place_of(store, self.output, progress.outlet, "wal.jsonl")
        chosen = {found.id: found for found in self.selected(store)}
        newest = embeddings_queue.newest_seq(store)
        expected = embeddings_queue.count_up_to(store, newest or 0)
        total = sum(expected.get(owner, 0) for owner in chosen)
        written_of = dict.fromkeys(chosen, 0)

        def lines() -> Iterator[bytes]:
            for owner, entry in embeddings_queue.stream(store, newest or 0):
                if owner in chosen:
                    yield json.dumps(_line(chosen[owner], entry, self.with_vectors)).encode("ascii") + b"\n"
                    written_of[owner] += 1

        tracked = progress.track(lines(), "Exporting WAL entries", total=total, unit="entries")
        written = export_file.write_lines(place, tracked, progress.outlet, overwrite=self.overwrite, expected=total)
        return WalExportResult(
            expected=total,
            written=written.lines,
            read_back=written.read_back,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            format=self.format,
            with_vectors=self.with_vectors,
            up_to_seq=newest,
            collections=tuple(
                ExportedCollection(
                    id=found.id,
                    name=found.name,
                    tenant=found.tenant,
                    database=found.database,
                    expected=expected.get(found.id, 0),
                    written=written_of[found.id],
                )
                for found in chosen.values()
            ),
            artifacts=(written.path,) if written.path else (),
        )

    def report(self, result: WalExportResult) -> Report:
        """How many entries, where, and that they read back."""
        size, unit = scaled_bytes(result.size_bytes)
        where = result.artifacts[0] if result.artifacts else "standard output"
        back = f"{count(result.read_back)} lines read back from the file." if result.read_back is not None else ""
        return Report(
            headline=f"{count(result.written, 'WAL entry', 'WAL entries')} written to {where}.",
            figures=(
                Figure(label="Entries", value=count(result.written)),
                Figure(label="Size", value=size, unit=unit),
                Figure(label="Collections", value=count(len(result.collections))),
            ),
            verified=back,
        )


def _line(found: Collection, entry: WalEntry, with_vectors: bool) -> dict[str, object]:
    """One entry. Members that can not be told in JSON as they are stand as text or base64 under another name."""
    line: dict[str, object] = {
        "seq_id": entry.seq_id,
        "operation": embeddings_queue.OPERATIONS.get(entry.operation, str(entry.operation)),
        "id": entry.id,
        "collection": found.name,
        "collection_id": found.id,
        "tenant": found.tenant,
        "database": found.database,
        "created_at": entry.created_at.isoformat() if entry.created_at else None,
    }
    line |= _metadata(entry.metadata)
    if with_vectors:
        line |= _vector(entry)
    if entry.problem:
        line["problem"] = entry.problem
    return line


def _metadata(text: str | None) -> dict[str, object]:
    if text is None:
        return {"metadata": None}
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {"metadata_text": text}
    return {"metadata": found} if isinstance(found, dict) else {"metadata_text": text}


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _vector(entry: WalEntry) -> dict[str, object]:
    if entry.vector is None:
        return {"vector": None}
    if entry.encoding == "FLOAT32" and len(entry.vector) % 4 == 0:
        values = array("f", entry.vector)
        if all(map(math.isfinite, values)):
            return {"encoding": entry.encoding, "vector": values.tolist()}
    return {"encoding": entry.encoding, "vector_base64": base64.b64encode(entry.vector).decode("ascii")}
