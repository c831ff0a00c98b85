"""The page of a vector segment: its verdict in one sentence, six figures, the slot map."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import look
from chromaadmin.instances.verdict import state_of_code
from chromaadmin.templatetags.formats import bytes_h, grouped, percent
from ops import reads
from ops.registry import operation_names

# Above this share of deleted slots a rebuild pays off.
TOMBSTONE_SHARE = 0.2
SLOT_COLUMNS = 60
_MOST_FREE_BLOCKS = 180


@dataclass(frozen=True, kw_only=True)
class Standing:
    """State, word and sentence of a collection's index."""

    state: str
    word: str
    sentence: str


def standing(row: reads.CollectionRow) -> Standing:
    """How a collection stands, from its row in a list."""
    if row.problems:
        first = row.problems[0]
        return Standing(state=state_of_code(first.code), word="", sentence=first.sentence)
    if row.fragmentation is not None and row.fragmentation > TOMBSTONE_SHARE:
        sentence = f"{percent(row.fragmentation)} of its slots are tombstones"
        return Standing(state="warning", word="", sentence=sentence)
    if row.index_state == "persisted":
        return Standing(state="healthy", word="Sound", sentence="files, sizes and headers agree")
    return Standing(state="info", word="Not persisted", sentence="all its vectors are still in the WAL")


def segment_context(instance: Instance, collection_id: str) -> dict[str, Any]:
    """The values of the template."""
    page, failure = look(instance, reads.segment, collection_id=collection_id)
    context: dict[str, Any] = {"segment": page, "segment_failure": failure}
    if page is None:
        return context
    per_block = max(1, round((page.elements or 0) / len(page.slot_map))) if page.slot_map else None
    rebuild = _operation(instance, "hnsw_rebuild", collection_id)
    return context | {
        "note": _note(page, bool(rebuild)),
        "rebuild_url": rebuild,
        "config_url": _operation(instance, "hnsw_config", collection_id),
        "slots": _slots(page, per_block),
        "slot_columns": SLOT_COLUMNS,
        "per_block": per_block,
        "more_verdicts": page.verdicts[1:],
        "segment_contexts": {
            "tombstones": f"{percent(page.fragmentation)} of {grouped(page.elements)} slots",
            "counted": "exact, read from the slots" if page.counted else "by arithmetic",
            "slots": f"in the order of insertion, {grouped(per_block)} per block",
            "authority": f"read from {page.authority}, where this release of Chroma looks" if page.authority else "",
        },
    }


def _note(page: reads.SegmentPage, can_rebuild: bool) -> dict[str, str]:
    """The verdict: what is wrong, what a rebuild would give, or that nothing is."""
    if page.verdicts:
        first = page.verdicts[0]
        return {"kind": "bad", "title": first.sentence, "text": first.hint, "code": first.code}
    if page.state in ("absent", "empty"):
        waiting = f"{grouped(page.wal_gap)} entries wait in the WAL." if page.wal_gap is not None else ""
        return {"kind": "neutral", "title": "Nothing has been persisted yet.", "text": waiting, "code": ""}
    if page.fragmentation is not None and page.fragmentation > TOMBSTONE_SHARE:
        gain = f"A rebuild gives back {bytes_h(page.reclaimable_bytes)}." if can_rebuild else ""
        title = f"{percent(page.fragmentation)} of the slots are tombstones."
        return {"kind": "warn", "title": title, "text": gain, "code": ""}
    how = "Every slot was counted." if page.counted else "Slots were counted by arithmetic, not one by one."
    return {
        "kind": "ok",
        "title": "The index is sound.",
        "text": f"Its five files, their sizes, the header and the id map agree. {how}",
        "code": "",
    }


def _slots(page: reads.SegmentPage, per_block: int | None) -> list[float | None]:
    """Shares of live slots, then None for each block of slots that are free."""
    shares: list[float | None] = [
        block.live / (block.live + block.tombstones) if block.live + block.tombstones else None
        for block in page.slot_map
    ]
    if not per_block or not page.free:
        return shares
    return shares + [None] * min(_MOST_FREE_BLOCKS, -(-page.free // per_block))


def _operation(instance: Instance, name: str, collection_id: str) -> str:
    if name not in operation_names():
        return ""
    return f"{reverse('admin:operation', args=[instance.pk, name])}?{urlencode({'collection_id': collection_id})}"
