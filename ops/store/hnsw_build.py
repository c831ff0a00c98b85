"""The building of an HNSW index: where its vectors come from, and the four files that hnswlib writes of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import VectorsDiffer
from ops.store.hnsw import (
    CHUNK_BYTES,
    HEADER,
    INITIAL_SLOTS,
    LENGTH,
    LEVEL0,
    LINK_LISTS,
    NO_ENTRYPOINT,
    Header,
    IndexFiles,
    PlainDirectory,
    slot_bytes,
)

if TYPE_CHECKING:
    from ops.progress import Progress
    from ops.store.hnsw import Floats, Ints

BATCH_S = 0.3  # of building; a cancel is answered between batches
RANDOM_SEED = 100  # hnswlib's own default, as Chroma uses it


@dataclass(frozen=True, kw_only=True)
class Source:
    """The live vectors of an index in the order of their labels, in the form that ``space`` stores them.

    ``slots`` are the live slots in label order. From cosine to another space a vector is unit times norm; to cosine it
    is divided by its norm; else its bytes are those of the old index.
    """

    files: IndexFiles
    slots: Ints
    old_space: str
    space: str

    @property
    def count(self) -> int:
        """Live vectors."""
        return len(self.slots)

    @property
    def keeps_bytes(self) -> bool:
        """True when every stored vector stays equal bit by bit."""
        return (self.old_space == "cosine") == (self.space == "cosine")

    def read(self, part: slice) -> tuple[Floats, Floats]:
        """Vectors as the new index stores them, and their norms (zeros unless it is cosine).

        Raises VECTORS_UNFIT for components that are no finite number, and where the norms can not give the raw vectors.
        """
        import numpy as np

        slots = self.slots[part]
        vectors = self.files.vectors(slots)
        if not np.isfinite(vectors).all():
            self._unfit(slots[~np.isfinite(vectors).all(axis=1)], "hold a component that is no finite number")
        norms = self._norms(slots) if "cosine" in (self.old_space, self.space) else np.zeros(len(slots), np.float32)
        if self.keeps_bytes:
            return vectors, norms
        if self.space == "cosine":
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
            norms = lengths.astype(np.float32)
            if not np.isfinite(norms).all():
                self._unfit(slots[~np.isfinite(norms)], "are too long to be divided by their norm")
            return (vectors / np.maximum(lengths, np.float64(1e-30))[:, None]).astype(np.float32), norms
        lost = ~np.isfinite(norms) | (norms < 0) | ((norms == 0) & vectors.any(axis=1))
        if lost.any():
            self._unfit(slots[lost], "have no usable norm in length.bin, so that their length is unknown")
        raw = vectors * norms[:, None]
        if not np.isfinite(raw).all():
            self._unfit(slots[~np.isfinite(raw).all(axis=1)], "become infinite when multiplied by their norm")
        return raw, np.zeros(len(slots), np.float32)

    def _norms(self, slots: Ints) -> Floats:
        import numpy as np

        if self.old_space != "cosine":
            return np.zeros(len(slots), np.float32)
        return self.files.norms()[slots]

    def _unfit(self, slots: Ints, why: str) -> None:
        labels = tuple(int(label) for label in self.files.labels()[slots[:10]])
        raise VectorsDiffer(
            why=f"Vectors of {self.files.collection} {why}, the one with label {labels[0]} first.",
            what_to_do="Delete these records or write them with a sound embedding, then try again.",
            labels=labels,
        )


def build(
    directory: Path,
    source: Source,
    *,
    m: int,
    ef_construction: int,
    threads: int,
    progress: Progress,
    initial_slots: int = INITIAL_SLOTS[0],
) -> None:
    """Write ``header.bin``, ``data_level0.bin``, ``length.bin`` and ``link_lists.bin`` of a new index to ``directory``.

    Labels are 1..n in the order of the source. Vectors are stored as the source gives them: a cosine index is built by
    inner product over the unit vectors, which is what the library does after normalising, so that no bit changes.
    ``initial_slots`` is the room of an index without elements.
    """
    import hnswlib
    import numpy as np

    count, dimension = source.count, source.files.header.dimension
    if not count:
        _write_empty(directory, dimension, m, ef_construction, initial_slots)
        return
    index = hnswlib.Index(space="l2" if source.space == "l2" else "ip", dim=dimension)
    index.init_index(
        max_elements=count,
        M=m,
        ef_construction=ef_construction,
        random_seed=RANDOM_SEED,
        is_persistent_index=True,
        persistence_location=str(directory),
    )
    norms = np.zeros(count, np.float32)
    done, rows = 0, 256
    most = max(64, CHUNK_BYTES // (4 * dimension))
    while done < count:
        part = slice(done, min(done + rows, count))
        vectors, norms[part] = source.read(part)
        started = time.monotonic()
        index.add_items(vectors, np.arange(part.start + 1, part.stop + 1, dtype=np.uint64), num_threads=threads)
        took = max(time.monotonic() - started, 1e-4)
        done = part.stop
        rows = int(min(most, max(64, min(2 * rows, (part.stop - part.start) * BATCH_S / took))))
        progress.advance(done, count, "vectors")
    index.persist_dirty()
    index.close_file_handles()
    del index
    _give_memory_back()
    _write_norms(directory, norms)


def _write_norms(directory: Path, norms: Floats) -> None:
    """``length.bin`` in slot order, which threads shuffle; the library leaves in it what its memory held."""
    import numpy as np

    with IndexFiles.open(PlainDirectory(directory), collection="the new index") as files:
        in_slot_order = norms[(files.labels() - 1).astype(np.int64)]
    (directory / LENGTH).write_bytes(in_slot_order.astype("<f4").tobytes())


def _give_memory_back() -> None:
    """The library's many small blocks (locks, lookup tables) are free now, but still belong to this process."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _write_empty(directory: Path, dimension: int, m: int, ef_construction: int, slots: int) -> None:
    """An index without elements, with Chroma's first allocation: what the library writes, but zeros inside."""
    data_offset = 8 * m + 4
    header = Header(
        capacity=slots,
        elements=0,
        slot_bytes=slot_bytes(dimension, m),
        label_offset=data_offset + 4 * dimension,
        data_offset=data_offset,
        max_level=-1,
        entrypoint=NO_ENTRYPOINT,
        m=m,
        ef_construction=max(ef_construction, m),
    )
    (directory / HEADER).write_bytes(header.pack())
    (directory / LEVEL0).write_bytes(bytes(slots * header.slot_bytes))
    (directory / LENGTH).write_bytes(bytes(slots * 4))
    (directory / LINK_LISTS).write_bytes(b"")


def build_seconds(elements: int, dimension: int, m: int, ef_construction: int, threads: int) -> tuple[float, float]:
    """Shortest and longest time that building may take, in seconds.

    Fitted to hnswlib 0.7.6 without special instructions on one core (µs per vector): 37 (8 dimensions, M 16, ef 100,
    6,000 elements), 149 (128), 365 (384), 935 (1024), 558 (384, M 32, ef 200), 228 (128, 24,000 elements); other
    machines and data differ by the factors of the range.
    """
    if not elements:
        return 0.0, 1.0
    ef = max(ef_construction, m)
    growth = (math.log2(max(elements, 64)) / 12.55) ** 2
    micros = (30 + 0.88 * dimension) * (ef / 100) ** 0.6 * growth
    seconds = elements * micros / 1e6 / max(threads, 1)
    return 0.5 * seconds, 3 * seconds + 2
