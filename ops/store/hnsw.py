"""The files of an HNSW index, read by memory map and checked before anything trusts them.

Layout as Chroma 0.4–1.5 writes it (hnswlib, little endian): ``header.bin`` (100 bytes), ``data_level0.bin`` (a slot per
element: neighbours, flags, vector, label), ``length.bin`` (a float32 per slot: for cosine the norm, else nothing),
``link_lists.bin`` (the upper levels). numpy is imported when an index is opened, not with this module.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ops.errors import (
    IndexHeaderInvalid,
    IndexTorn,
    IndexUnreadable,
    SparseFile,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

HEADER, LEVEL0, LENGTH, LINK_LISTS, ID_MAP = (
    "header.bin",
    "data_level0.bin",
    "length.bin",
    "link_lists.bin",
    "index_metadata.pickle",
)
FILES = (HEADER, LEVEL0, LENGTH, LINK_LISTS, ID_MAP)
HEADER_BYTES = 100
PERSISTENCE_VERSION = 1
INITIAL_SLOTS = (100, 1000)  # the first allocation of Chroma 1.x, of 0.4–0.6; the files keep it until more are added
NO_ENTRYPOINT = 0xFFFFFFFF
MIN_M, MAX_M = 2, 10_000
MAX_LEVEL = 128
MAX_DIMENSION = 1 << 20
MAX_ELEMENTS = 0xFFFFFFFE  # slots are counted in 32 bits
CHUNK_BYTES = 8 << 20
_HEADER = struct.Struct("<iQQQQQQiIQQQdQ")
_DELETED = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """``header.bin``: ``elements`` counts the slots in use, ``capacity`` those that Chroma allocates."""

    capacity: int
    elements: int
    slot_bytes: int
    label_offset: int
    data_offset: int
    max_level: int
    entrypoint: int
    m: int
    ef_construction: int

    @property
    def max_links0(self) -> int:
        """Greatest number of neighbours on level 0."""
        return 2 * self.m

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return (self.label_offset - self.data_offset) // 4

    @property
    def level_bytes(self) -> int:
        """Bytes of one upper level of one element in ``link_lists.bin``."""
        return 4 * self.m + 4

    @classmethod
    def parse(cls, data: bytes, *, collection: str, dimension: int | None = None) -> Header:
        """Check every field against all others; raises INDEX_TORN (wrong size) and INDEX_HEADER_INVALID."""
        if len(data) != HEADER_BYTES:
            raise IndexTorn(file=HEADER, collection=collection, why=f"it has {len(data)} bytes instead of 100")
        (version, offset0, capacity, elements, slot_bytes, label_offset, data_offset, *rest) = _HEADER.unpack(data)
        max_level, entrypoint, max_m, max_m0, m, mult, ef_construction = rest
        wrong = ""
        if version != PERSISTENCE_VERSION:
            wrong = f"its version is {version} instead of {PERSISTENCE_VERSION}"
        elif offset0 != 0:
            wrong = f"level 0 begins at {offset0} instead of 0"
        elif not MIN_M <= m <= MAX_M or max_m != m or max_m0 != 2 * m:
            wrong = f"M is {m}, with {max_m} and {max_m0} links"
        elif not math.isclose(mult, 1 / math.log(m), rel_tol=1e-6):
            wrong = f"its level factor {mult!r} does not belong to M {m}"
        elif not 1 <= ef_construction < 2**31:
            wrong = f"ef_construction is {ef_construction}"
        elif data_offset != 4 * max_m0 + 4:
            wrong = f"vectors begin at {data_offset} of a slot instead of {4 * max_m0 + 4}"
        elif not 4 <= label_offset - data_offset <= 4 * MAX_DIMENSION or (label_offset - data_offset) % 4:
            wrong = f"a vector would have {label_offset - data_offset} bytes"
        elif slot_bytes != label_offset + 8:
            wrong = f"a slot would have {slot_bytes} bytes instead of {label_offset + 8}"
        elif elements > min(capacity, MAX_ELEMENTS) or capacity > MAX_ELEMENTS:
            wrong = f"it counts {elements} elements in room for {capacity}"
        elif elements == 0 and (max_level, entrypoint) != (-1, NO_ENTRYPOINT):
            wrong = f"it is empty and enters at {entrypoint} on level {max_level}"
        elif elements and (entrypoint >= elements or not 0 <= max_level <= MAX_LEVEL):
            wrong = f"it enters at element {entrypoint} of {elements} on level {max_level}"
        elif dimension is not None and label_offset - data_offset != 4 * dimension:
            wrong = f"its vectors have {(label_offset - data_offset) // 4} dimensions, the collection has {dimension}"
        if wrong:
            raise IndexHeaderInvalid(collection=collection, why=wrong)
        return cls(
            capacity=capacity,
            elements=elements,
            slot_bytes=slot_bytes,
            label_offset=label_offset,
            data_offset=data_offset,
            max_level=max_level,
            entrypoint=entrypoint,
            m=m,
            ef_construction=ef_construction,
        )

    def pack(self) -> bytes:
        """The 100 bytes of ``header.bin``."""
        return _HEADER.pack(
            PERSISTENCE_VERSION,
            0,
            self.capacity,
            self.elements,
            self.slot_bytes,
            self.label_offset,
            self.data_offset,
            self.max_level,
            self.entrypoint,
            self.m,
            self.max_links0,
            self.m,
            1 / math.log(self.m),
            self.ef_construction,
        )


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """``st_size`` and ``st_blocks × 512`` of a file."""

    size_bytes: int
    allocated_bytes: int

    @classmethod
    def of(cls, fd: int) -> FileSize:
        """By descriptor."""
        status = os.fstat(fd)
        return cls(size_bytes=status.st_size, allocated_bytes=status.st_blocks * 512)

    @property
    def hollow(self) -> bool:
        """True for a large file that holds hardly any of what it claims."""
        return self.size_bytes > 64 << 20 and self.allocated_bytes * 16 < self.size_bytes


def slot_bytes(dimension: int, m: int) -> int:
    """Bytes of one slot of ``data_level0.bin``."""
    return 4 + 8 * m + 4 * dimension + 8


def index_bytes(elements: int, dimension: int, m: int) -> int:
    """Expected bytes of the four files of an index; the upper levels by their expectation, 1 element in M - 1."""
    upper = elements / (m - 1) * (4 * m + 4)
    return HEADER_BYTES + elements * (slot_bytes(dimension, m) + 4 + 4) + math.ceil(upper)


def memory_bytes(capacity: int, elements: int, slot_size: int, link_list_bytes: int, id_map_bytes: int) -> int:
    """Estimate of what a loaded index takes in Chroma 1.x: slots and locks by capacity, lookup tables by element."""
    per_slot = slot_size + 4 + 8 + 40 + 4 + 2  # norm, pointer, mutex, level, visited list
    return max(capacity, elements) * per_slot + elements * 56 + link_list_bytes + 2 * id_map_bytes


def check_sizes(header: Header, sizes: dict[str, FileSize], *, collection: str) -> None:
    """Size arithmetic of the three large files against the header; raises INDEX_TORN or SPARSE_FILE.

    A file is rewritten in place and never cut: it holds exactly the elements, or the first allocation while the
    elements are fewer. ``link_lists.bin`` has a record of at least four bytes for each element, or nothing at all while
    there is no upper level.
    """
    for name, unit in ((LEVEL0, header.slot_bytes), (LENGTH, 4)):
        size = sizes[name]
        slots, rest = divmod(size.size_bytes, unit)
        initial = slots in INITIAL_SLOTS and header.elements < slots
        if rest or not (slots == header.elements or initial):
            _raise_torn(name, size, collection, _slots_sentence(slots, rest, header.elements))
        if size.hollow:
            _raise_hollow(name, size, collection)
    size = sizes[LINK_LISTS]
    least = 4 * header.elements
    most = header.elements * (4 + max(header.max_level, 0) * header.level_bytes)
    empty = size.size_bytes == 0 and header.max_level <= 0
    if not empty and (size.size_bytes % 4 or not least <= size.size_bytes <= most):
        why = f"it has {size.size_bytes} bytes, between {least} and {most} belong to {header.elements} elements"
        _raise_torn(LINK_LISTS, size, collection, why)
    if size.hollow:
        _raise_hollow(LINK_LISTS, size, collection)


def _slots_sentence(slots: int, rest: int, elements: int) -> str:
    if slots < elements:
        return f"it ends after {slots} of {elements} slots"
    if slots > elements:
        return f"it holds {slots} slots and the header counts {elements}, as if two processes had written it"
    return f"{rest} bytes follow its last slot"


def _raise_torn(name: str, size: FileSize, collection: str, why: str) -> None:
    if size.hollow:
        _raise_hollow(name, size, collection)
    raise IndexTorn(file=name, collection=collection, why=why)


def _raise_hollow(name: str, size: FileSize, collection: str) -> None:
    raise SparseFile(file=name, collection=collection, apparent=size.size_bytes, allocated=size.allocated_bytes)


class IndexDirectory(Protocol):
    """Where the files are: a ``SegmentDirectory`` of the store, or a ``PlainDirectory``."""

    @property
    def path(self) -> Path:
        """For messages."""
        ...

    def open(self, name: str) -> int:
        """A read-only descriptor of a regular file with one name; raises ``FileNotFoundError`` where there is none."""
        ...


@dataclass(frozen=True)
class PlainDirectory:
    """A directory of our own making: staged, or in the trash."""

    path: Path

    def open(self, name: str) -> int:
        """Never through a symbolic link."""
        return os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def read_header(directory: IndexDirectory, *, collection: str, dimension: int | None = None) -> Header:
    """The checked header of an index, without a look at its other files; does not import numpy."""
    fd = _opened(directory, HEADER, collection)
    try:
        data = os.pread(fd, HEADER_BYTES + 1, 0)
    finally:
        os.close(fd)
    return Header.parse(data, collection=collection, dimension=dimension)


def _opened(directory: IndexDirectory, name: str, collection: str) -> int:
    try:
        return directory.open(name)
    except FileNotFoundError:
        raise IndexTorn(file=name, collection=collection, why="it is missing") from None


@dataclass(frozen=True, kw_only=True)
class Block:
    """One piece of the slot map, in the order of insertion: how many of its slots are live, how many tombstones."""

    live: int
    tombstones: int


@dataclass
class IndexFiles:
    """The mapped files of one index, sizes checked. Arrays are views of the maps: they cost no memory of their own.

    A context manager: leaving it drops the maps; arrays taken from it keep theirs alive.
    """

    header: Header
    collection: str
    sizes: dict[str, FileSize]
    _maps: dict[str, mmap.mmap | bytes] = field(repr=False)

    @classmethod
    def open(cls, directory: IndexDirectory, *, collection: str, dimension: int | None = None) -> IndexFiles:
        """Map the files of ``directory``; ``collection`` is its name in messages, ``dimension`` what it must have.

        Raises INDEX_TORN, INDEX_HEADER_INVALID, SPARSE_FILE, and what ``directory.open`` raises.
        """
        header = read_header(directory, collection=collection, dimension=dimension)
        maps: dict[str, mmap.mmap | bytes] = {}
        sizes: dict[str, FileSize] = {}
        descriptors: dict[str, int] = {}
        try:
            for name in (LEVEL0, LENGTH, LINK_LISTS):
                descriptors[name] = _opened(directory, name, collection)
                sizes[name] = FileSize.of(descriptors[name])
            check_sizes(header, sizes, collection=collection)
            for name, fd in descriptors.items():
                size_bytes = sizes[name].size_bytes
                maps[name] = mmap.mmap(fd, size_bytes, access=mmap.ACCESS_READ) if size_bytes else b""
        finally:
            for fd in descriptors.values():
                os.close(fd)
        return cls(header=header, collection=collection, sizes=sizes, _maps=maps)

    def __enter__(self) -> IndexFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._maps = {}

    @property
    def size_bytes(self) -> int:
        """Apparent bytes of the four files."""
        return HEADER_BYTES + sum(size.size_bytes for size in self.sizes.values())

    # --- arrays over the slots, all in slot order; views where they can be

    def _column(self, kind: str, offset: int, width: int = 0) -> npt.NDArray[np.generic]:
        import numpy as np

        dtype = np.dtype(kind)
        shape = (self.header.elements, width) if width else (self.header.elements,)
        if not self.header.elements:
            return np.zeros(shape, dtype)
        strides = (self.header.slot_bytes, dtype.itemsize) if width else (self.header.slot_bytes,)
        return np.ndarray(shape, dtype, self._maps[LEVEL0], offset, strides)

    def deleted(self) -> npt.NDArray[np.bool_]:
        """True for each slot that is a tombstone."""
        return (self._column("u1", 2).astype("u1") & _DELETED).astype(bool)

    def labels(self) -> npt.NDArray[np.uint64]:
        """The label of each slot, a tombstone's too."""
        return self._column("<u8", self.header.label_offset).astype("u8")

    def live_slots(self) -> Ints:
        """The live slots in the order of their labels. Raises INDEX_UNREADABLE when two of them have the same label."""
        import numpy as np

        slots = np.flatnonzero(~self.deleted())
        labels = self.labels()[slots]
        order = np.argsort(labels, kind="stable")
        ordered = labels[order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(twice):
            self._unreadable(f"{len(twice)} labels stand in two live slots, {ordered[twice[0]]} among them")
        return slots[order].astype(np.int64)

    def vectors(self, slots: Ints | slice) -> Floats:
        """The stored vectors of ``slots``, one row each, as a copy; of a cosine index they have unit length."""
        import numpy as np

        column = self._column("<f4", self.header.data_offset, self.header.dimension)
        return np.ascontiguousarray(column[slots], dtype=np.float32)

    def stored_vectors(self) -> Floats:
        """The vectors of all slots as a view of the map, read where it is indexed."""
        return cast("Floats", self._column("<f4", self.header.data_offset, self.header.dimension))

    def link_words(self) -> npt.NDArray[np.uint32]:
        """``link_lists.bin`` as 32-bit words, as a view of the map."""
        import numpy as np

        return cast("npt.NDArray[np.uint32]", np.frombuffer(self._maps[LINK_LISTS], np.dtype("<u4")))

    def norms(self) -> Floats:
        """``length.bin``: the norm of each slot of a cosine index; of any other it means nothing."""
        import numpy as np

        if not self.header.elements:
            return np.zeros(0, np.float32)
        return cast("Floats", np.ndarray((self.header.elements,), np.dtype("<f4"), self._maps[LENGTH]))

    def vector_of(self, label: int) -> tuple[list[float], float] | None:
        """The stored vector with this label and its entry in ``length.bin``; None when no live slot has the label."""
        import numpy as np

        slots = np.flatnonzero((self.labels() == label) & ~self.deleted())
        if not len(slots):
            return None
        return self.vectors(slots[:1].astype(np.int64))[0].tolist(), float(self.norms()[slots[0]])

    def neighbours(self) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
        """Level 0: how many neighbours each slot has, and a row of ``2 × M`` of which so many mean something."""
        import numpy as np

        counts = self._column("<u2", 0).astype(np.uint16)
        links = self._column("<u4", 4, self.header.max_links0)
        return counts, links.view(np.uint32)

    def chunks(self, count: int) -> Iterator[slice]:
        """Slices of ``range(count)`` that hold about 8 MiB of vectors each."""
        rows = max(1, CHUNK_BYTES // self.header.slot_bytes)
        for start in range(0, count, rows):
            yield slice(start, min(start + rows, count))

    def slot_map(self, blocks: int) -> tuple[Block, ...]:
        """The slots in the order of insertion, as at most ``blocks`` pieces of equal length."""
        import numpy as np

        elements = self.header.elements
        if not elements:
            return ()
        deleted = self.deleted()
        edges = np.linspace(0, elements, min(blocks, elements) + 1).astype(np.int64)
        dead = np.add.reduceat(deleted.astype(np.int64), edges[:-1])
        return tuple(
            Block(live=int(size - gone), tombstones=int(gone)) for size, gone in zip(np.diff(edges), dead, strict=True)
        )

    # --- checks of content

    def check_graph(self) -> Levels:
        """Look at every link of every level: the library follows them without a look.

        Raises INDEX_UNREADABLE for a neighbour that does not exist (on its level) and INDEX_TORN for an end of
        ``link_lists.bin`` anywhere but behind the last record. One pass over the files.
        """
        import numpy as np

        elements, width = self.header.elements, self.header.max_links0
        counts, links = self.neighbours()
        places = np.arange(width)
        for chunk in self.chunks(elements):
            count = counts[chunk, None]
            if (count > width).any() or ((links[chunk] >= elements) & (places < count)).any():
                self._unreadable("a neighbour on level 0 is beyond its last element")
        levels = self.levels()
        self._check_upper_levels(levels)
        return levels

    def levels(self) -> Levels:
        """Walk ``link_lists.bin``; raises INDEX_TORN unless its records end where the file does."""
        elements, level_bytes = self.header.elements, self.header.level_bytes
        of_slot = bytearray(elements)
        places: array[int] = array("Q")
        owners: array[int] = array("Q")
        raw = self._maps[LINK_LISTS]
        if not raw:
            return Levels(of_slot=bytes(of_slot), places=places, owners=owners)
        with memoryview(raw) as data, data.cast("I") as words:
            at, end, level_words = 0, len(words), level_bytes // 4
            for slot in range(elements):
                if at >= end:
                    self._torn_links(f"it ends after {slot} of {elements} records")
                size = words[at]
                at += 1
                if not size:
                    continue
                count, rest = divmod(size, level_bytes)
                if rest or count > self.header.max_level or at + count * level_words > end:
                    self._torn_links(f"record {slot} claims {size} bytes")
                of_slot[slot] = count
                places.extend(range(at, at + count * level_words, level_words))
                owners.extend([slot] * count)
                at += count * level_words
            if at != end:
                self._torn_links(f"{(end - at) * 4} bytes follow its last record")
        return Levels(of_slot=bytes(of_slot), places=places, owners=owners)

    def _check_upper_levels(self, levels: Levels) -> None:
        import numpy as np

        if not self.header.elements:
            return
        of_slot = np.frombuffer(levels.of_slot, np.uint8)
        if of_slot[self.header.entrypoint] != max(self.header.max_level, 0):
            self._unreadable(f"its entry point is not on level {self.header.max_level}")
        if not len(levels.places):
            return
        words = self.link_words()
        places = np.frombuffer(levels.places, np.uint64).astype(np.int64)
        owners = np.frombuffer(levels.owners, np.uint64).astype(np.int64)
        first = np.concatenate(([True], owners[1:] != owners[:-1]))
        starts = np.maximum.accumulate(np.where(first, np.arange(len(owners)), 0))
        level = np.arange(len(owners)) - starts + 1
        columns = np.arange(self.header.m)
        rows = max(1, CHUNK_BYTES // self.header.level_bytes)
        for start in range(0, len(places), rows):
            part = slice(start, start + rows)
            count = words[places[part]] & 0xFFFF
            links = words[places[part, None] + 1 + columns]
            used = columns < count[:, None]
            if (count > self.header.m).any() or (links[used] >= self.header.elements).any():
                self._unreadable("a neighbour on an upper level is beyond its last element")
            if (of_slot[np.where(used, links, 0)] < np.where(used, level[part, None], 0)).any():
                self._unreadable("a neighbour on an upper level is not on that level")

    def _torn_links(self, why: str) -> None:
        raise IndexTorn(file=LINK_LISTS, collection=self.collection, why=why)

    def _unreadable(self, why: str) -> None:
        raise IndexUnreadable(collection=self.collection, why=why)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The upper levels: the highest of each slot, and for each record of one level its place (in words) and owner."""

    of_slot: bytes
    places: array[int]
    owners: array[int]
