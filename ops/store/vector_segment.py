"""The files of one vector segment, judged: what it holds, and a verdict with a code instead of an exception.

Reads the header, the sizes of the files and the summary of the id map, never the whole index; numpy is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.errors import (
    IndexMetadataMissing,
    IndexMissing,
    IndexTorn,
    IoFailed,
    LabelCollisionRisk,
    OpsError,
    RefBroken,
)
from ops.store import embeddings_queue, hnsw, id_map, sysdb
from ops.store.id_map import IdMapSummary
from ops.store.persist_dir import FileEntry
from ops.store.text import visible

if TYPE_CHECKING:
    from ops.store.persist_dir import PersistDir, SegmentDirectory
    from ops.store.sysdb import Collection, Segment

ID_MAP = id_map.FILE_NAME
FILES: dict[str, str] = {
    hnsw.HEADER: "counts, entry point and parameters of the graph",
    hnsw.LEVEL0: "vectors, labels, deletion flags and the neighbours of level 0",
    hnsw.LENGTH: "the original norm of each vector (cosine only)",
    hnsw.LINK_LISTS: "neighbours on the upper levels",
    ID_MAP: "which record id has which label",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One thing that is wrong: the code of an error or of a corpus row, a full sentence, and what to do."""

    code: str
    sentence: str
    hint: str = ""

    @classmethod
    def of(cls, error: OpsError) -> Verdict:
        """The verdict that an error pronounces."""
        return cls(code=error.code, sentence=str(error), hint=error.hint_text)


@dataclass(frozen=True, kw_only=True)
class VectorSegment:
    """What is known of a collection's vector segment.

    ``state`` is "persisted" (an index with an id map), "empty" (its directory is there, nothing was persisted yet),
    "absent" (no directory and none expected) or "damaged" (``verdicts`` say how). ``tombstones`` = elements − labels;
    None is unknown. Sizes are 0 without a directory. ``watermark`` is the row of ``max_seq_id``, or before 0.5.6 the
    number in the id map.
    """

    segment: Segment | None
    state: str
    path: str | None
    files: tuple[FileEntry, ...]
    size_bytes: int
    allocated_bytes: int
    header: hnsw.Header | None
    id_map: IdMapSummary | None
    watermark: int | None
    verdicts: tuple[Verdict, ...]

    @property
    def labels(self) -> int | None:
        """Ids in the id map; 0 for an index that was never persisted."""
        if self.id_map is not None:
            return self.id_map.labels
        return 0 if self.state in ("empty", "absent") else None

    @property
    def elements(self) -> int | None:
        """Slots in use, tombstones among them."""
        if self.header is not None:
            return self.header.elements
        return 0 if self.state == "absent" else None

    @property
    def tombstones(self) -> int | None:
        """Deleted slots, by arithmetic."""
        if self.elements is None or self.labels is None or self.elements < self.labels:
            return None
        return self.elements - self.labels

    @property
    def fragmentation(self) -> float | None:
        """Share of tombstones among the slots in use, 0 to 1; 0 for an empty index."""
        if self.tombstones is None or self.elements is None:
            return None
        return self.tombstones / self.elements if self.elements else 0.0


def inspect(store: PersistDir, collection: Collection, *, largest_id_map_bytes: int | None = None) -> VectorSegment:
    """Judge the vector segment of a collection. Reads again once when the segment was replaced meanwhile.

    An id map above ``largest_id_map_bytes`` is not read: what depends on it is unknown then, and no verdict.
    """
    try:
        return _inspect(store, collection, largest_id_map_bytes)
    except _Vanished as vanished:
        again = sysdb.collection(store, collection.id)
        try:
            return _inspect(store, again, largest_id_map_bytes)
        except _Vanished:
            error = IoFailed(what=f"Reading the index of {collection.place}", why=str(vanished))
            return _unknown(None, Verdict.of(error))


class _Vanished(Exception):
    """A file went away between the listing and the reading."""


def _inspect(store: PersistDir, collection: Collection, largest_id_map_bytes: int | None) -> VectorSegment:
    name = visible(collection.name)
    try:
        segment = sysdb.vector_segment(store, collection)
    except RefBroken as error:
        return _unknown(None, Verdict.of(error))
    watermark = embeddings_queue.segment_watermark(store, segment.id)
    try:
        directory = store.segment_directory(segment.id)
        files = directory.files() if directory is not None else ()
    except FileNotFoundError as error:
        raise _Vanished(str(error)) from error
    except OSError as error:
        failed = IoFailed(what=f"Reading the index directory {segment.id}", why=error.strerror or str(error))
        return _unknown(segment, Verdict.of(failed))
    except OpsError as error:
        return _unknown(segment, Verdict.of(error))
    if directory is None or not files:
        return _without_files(store, collection, segment, watermark, directory)
    verdicts: list[Verdict] = []
    try:
        header = _header(directory, files, name, collection.dimension, verdicts)
        summary = _id_map(store, directory, files, name, header, watermark, largest_id_map_bytes, verdicts)
    except FileNotFoundError as error:
        raise _Vanished(str(error)) from error
    if header is not None and summary is not None:
        verdicts += _contradictions(header, summary, name)
    if watermark is None and summary is not None:
        watermark = summary.max_seq_id
    has_id_map = any(entry.name == ID_MAP for entry in files)
    state = "persisted" if has_id_map or (header is not None and header.elements) else "empty"
    return VectorSegment(
        segment=segment,
        state="damaged" if verdicts else state,
        path=str(directory.path),
        files=files,
        size_bytes=sum(entry.size_bytes for entry in files),
        allocated_bytes=sum(entry.allocated_bytes for entry in files),
        header=header,
        id_map=summary,
        watermark=watermark,
        verdicts=tuple(verdicts),
    )


def _without_files(
    store: PersistDir,
    collection: Collection,
    segment: Segment,
    watermark: int | None,
    directory: SegmentDirectory | None,
) -> VectorSegment:
    verdicts: tuple[Verdict, ...] = ()
    if watermark is not None:
        said = f"the watermark {watermark}"
        missing = IndexMissing(segment=segment.id, collection=visible(collection.name), watermark=said)
        verdicts = (Verdict.of(missing),)
    return VectorSegment(
        segment=segment,
        state="damaged" if verdicts else "absent",
        path=str(directory.path) if directory is not None else str(store.path / segment.id),
        files=(),
        size_bytes=0,
        allocated_bytes=0,
        header=None,
        id_map=None,
        watermark=watermark,
        verdicts=verdicts,
    )


def _header(
    directory: SegmentDirectory,
    files: tuple[FileEntry, ...],
    name: str,
    dimension: int | None,
    verdicts: list[Verdict],
) -> hnsw.Header | None:
    try:
        header = hnsw.read_header(directory, collection=name, dimension=dimension)
        sizes = {
            entry.name: hnsw.FileSize(size_bytes=entry.size_bytes, allocated_bytes=entry.allocated_bytes)
            for entry in files
        }
        for missing in (hnsw.LEVEL0, hnsw.LENGTH, hnsw.LINK_LISTS):
            if missing not in sizes:
                raise IndexTorn(file=missing, collection=name, why="it is missing")
    except OpsError as error:
        verdicts.append(Verdict.of(error))
        return None
    try:
        hnsw.check_sizes(header, sizes, collection=name)
    except OpsError as error:
        verdicts.append(Verdict.of(error))
    for entry in files:
        if entry.name in FILES and entry.kind != "file":
            sentence = f"{entry.name} of {name} is a {entry.kind}, which Chroma never makes there."
            verdicts.append(Verdict(code="SYMLINK" if entry.kind == "symlink" else "UNKNOWN_FILES", sentence=sentence))
    return header


def _id_map(
    store: PersistDir,
    directory: SegmentDirectory,
    files: tuple[FileEntry, ...],
    name: str,
    header: hnsw.Header | None,
    watermark: int | None,
    largest_bytes: int | None,
    verdicts: list[Verdict],
) -> IdMapSummary | None:
    entry = next((file for file in files if file.name == ID_MAP), None)
    if entry is None:
        # Before the first persist there is none: a directory with an empty header and no watermark is sound.
        if watermark is not None or (header is not None and header.elements):
            verdicts.append(Verdict.of(IndexMetadataMissing(collection=name)))
        return None
    if largest_bytes is not None and entry.size_bytes > largest_bytes:
        return None
    try:
        return id_map.read_summary(store.id_maps, directory, name)
    except OpsError as error:
        verdicts.append(Verdict.of(error))
        return None


def _contradictions(header: hnsw.Header, summary: IdMapSummary, name: str) -> list[Verdict]:
    whys = []
    if not summary.inverse:
        whys.append("label_to_id is not the inverse of id_to_label")
    if summary.total_elements_added < summary.max_label:
        whys.append(
            f"its counter is {summary.total_elements_added} and its highest label {summary.max_label}, "
            "so that records added later would overwrite vectors"
        )
    if summary.labels > header.elements:
        whys.append(f"it has {summary.labels} ids and the index {header.elements} elements")
    return [Verdict.of(LabelCollisionRisk(collection=name, why=why)) for why in whys]


def _unknown(segment: Segment | None, verdict: Verdict) -> VectorSegment:
    return VectorSegment(
        segment=segment,
        state="damaged",
        path=None,
        files=(),
        size_bytes=0,
        allocated_bytes=0,
        header=None,
        id_map=None,
        watermark=None,
        verdicts=(verdict,),
    )
