"""Search in an HNSW index: exact by comparison with all vectors, and along the graph exactly as hnswlib goes."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, cast

from ops.store.hnsw import IndexFiles, Levels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ops.store.hnsw import Floats


def exact_knn(
    files: IndexFiles, queries: Floats, k: int, space: str
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    """The ``k`` nearest live records of each query by comparison with all: labels and distances, nearest first.

    ``queries`` has one row per query, of unit length for cosine. Distances as Chroma reports them: squared for l2, one
    minus the inner product for ip and cosine. Fewer than ``k`` columns where there are fewer live records.
    """
    import numpy as np

    slots = np.flatnonzero(~files.deleted())
    k = min(k, len(slots))
    best = np.full((len(queries), 0), np.inf, np.float32)
    found = np.zeros((len(queries), 0), np.int64)
    norms = (queries.astype(np.float64) ** 2).sum(axis=1)[:, None]
    for chunk in files.chunks(len(slots)):
        vectors = files.vectors(slots[chunk])
        inner = queries @ vectors.T
        if space == "l2":
            lengths = (vectors.astype(np.float64) ** 2).sum(axis=1)
            distances = np.maximum(norms - 2.0 * inner + lengths, 0).astype(np.float32)
        else:
            distances = 1 - inner
        best = np.concatenate((best, distances), axis=1)
        found = np.concatenate((found, np.broadcast_to(slots[chunk], distances.shape)), axis=1)
        if best.shape[1] > k:
            keep = np.argpartition(best, k - 1, axis=1)[:, :k] if k else np.zeros((len(queries), 0), np.int64)
            best, found = np.take_along_axis(best, keep, 1), np.take_along_axis(found, keep, 1)
    order = np.argsort(best, axis=1, kind="stable")
    labels = files.labels()
    return labels[np.take_along_axis(found, order, 1)], np.take_along_axis(best, order, 1)


class GraphSearch:
    """hnswlib's search over mapped files: the same steps and the same end, for files whose graph was checked.

    It needs no copy of the index in memory and opens nothing for writing, as the library does.
    """

    def __init__(self, files: IndexFiles, levels: Levels, space: str) -> None:
        import numpy as np

        self._np = np
        self._header = files.header
        self._deleted = files.deleted()
        self._any_deleted = bool(self._deleted.any())
        self._counts, self._links = files.neighbours()
        self._vectors = files.stored_vectors()
        self._words = files.link_words()
        self._places: dict[int, int] = {}
        for place, owner in zip(levels.places, levels.owners, strict=True):
            self._places.setdefault(owner, place)
        self._l2 = space == "l2"

    def finds_itself(self, slot: int, ef: int) -> bool:
        """Whether the search for the vector of ``slot`` finds it, or another one at least as near.

        Stops as soon as that is certain: what was visited at that distance can not drop out of the answer.
        """
        query = self._np.ascontiguousarray(self._vectors[slot])
        own = float(self._distances(query, self._np.array([slot]))[0])
        enough = own + 1e-6 * max(1.0, abs(own))
        entry = self._header.entrypoint
        distance = float(self._distances(query, self._np.array([entry]))[0])
        for level in range(self._header.max_level, 0, -1):
            entry, distance = self._descend(query, entry, distance, level)
        return self._search_level0(query, entry, distance, ef, enough)

    def _distances(self, query: Floats, slots: npt.NDArray[np.generic]) -> Floats:
        vectors = self._vectors[slots]
        if self._l2:
            difference = vectors - query
            return cast("Floats", self._np.einsum("ij,ij->i", difference, difference))
        return cast("Floats", 1 - vectors @ query)

    def _descend(self, query: Floats, entry: int, distance: float, level: int) -> tuple[int, float]:
        moved = True
        while moved:
            moved = False
            place = self._places[entry] + (level - 1) * (self._header.m + 1)
            links = self._words[place + 1 : place + 1 + (int(self._words[place]) & 0xFFFF)]
            if len(links):
                distances = self._distances(query, links)
                nearest = int(distances.argmin())
                if distances[nearest] < distance:
                    entry, distance, moved = int(links[nearest]), float(distances[nearest]), True
        return entry, distance

    def _search_level0(self, query: Floats, entry: int, distance: float, ef: int, enough: float) -> bool:
        visited = {entry}
        live = not self._deleted[entry]
        if live and distance <= enough:
            return True
        nearest = [-distance] if live else []  # a heap of the ef best live ones, the worst first
        bound = distance if live else math.inf
        candidates = [(distance if live else -math.inf, entry)]
        while candidates:
            distance, slot = heapq.heappop(candidates)
            if distance > bound and (len(nearest) >= ef or not self._any_deleted):
                break
            links = self._links[slot, : self._counts[slot]].tolist()
            fresh = [link for link in links if link not in visited]
            if not fresh:
                continue
            visited.update(fresh)
            for link, far in zip(fresh, self._distances(query, self._np.array(fresh)).tolist(), strict=True):
                if len(nearest) < ef or far < bound:
                    heapq.heappush(candidates, (far, link))
                    if not self._deleted[link]:
                        if far <= enough:
                            return True
                        heapq.heappush(nearest, -far)
                        if len(nearest) > ef:
                            heapq.heappop(nearest)
                    if nearest:
                        bound = -nearest[0]
        return False
