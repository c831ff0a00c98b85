"""The state of an instance as one word and one sentence, from what was stored at the last look; no store is opened."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.utils import timezone

from chromaadmin.instances.models import Instance, Sample
from chromaadmin.templatetags.formats import bytes_h, distance, grouped

STATES = ("critical", "error", "warning", "unknown", "healthy")
# Older than this a look says nothing about now.
STALE_AFTER = timedelta(minutes=30)

# What a code says of a store. Every other one says only that nothing could be seen: unknown.
_CODES_OF_STATE = {
    "critical": (
        "CORRUPT SQLITE_EMPTY NOT_SQLITE WAL_UNSAFE INDEX_MISSING INDEX_METADATA_MISSING INDEX_TORN"
        " INDEX_HEADER_INVALID PICKLE_TORN"
    ),
    "error": (
        "MISSING NOT_CHROMA BAD_PATH IDENTITY_CHANGED NEEDS_RECOVERY SCHEMA_HOSTILE SYMLINK MULTI_LINK PICKLE_FORBIDDEN"
        " PICKLE_LIMIT LABEL_COLLISION_RISK INDEX_UNREADABLE REF_BROKEN SPARSE_FILE WAL_ANOMALY FTS_DAMAGED"
    ),
    "warning": "WAL_MODE UNSUPPORTED_VERSION SCHEMA_UNKNOWN FIELD_INVALID UNKNOWN_FILES READ_ONLY FILE_SYSTEM_UNFIT",
}
_STATE_OF_CODE = {code: state for state, codes in _CODES_OF_STATE.items() for code in codes.split()}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``state`` is one of STATES; ``stale`` greys the figures of an earlier look; ``more`` counts further sentences."""

    state: str
    sentence: str
    code: str = ""
    stale: bool = False
    more: int = 0

    @property
    def rank(self) -> int:
        """0 for the worst state."""
        return STATES.index(self.state)


def verdict(instance: Instance, now: datetime | None = None) -> Verdict:
    """The worst that is known of ``instance``; healthy only where a recent look read the store and found no fault."""
    sample = instance.sample
    if instance.problem_code:
        return Verdict(
            state=state_of_code(instance.problem_code),
            sentence=instance.problem_text,
            code=instance.problem_code,
            stale=True,
        )
    if sample is None:
        return Verdict(state="unknown", sentence="Nothing has been read of it yet.", stale=True)
    looked_at = instance.checked_at or sample.at
    if (now or timezone.now()) - looked_at > STALE_AFTER:
        return Verdict(
            state="unknown", stale=True, sentence=f"The last look was {distance(looked_at)} ago; nothing here is newer."
        )
    worries = sorted([*_problems(sample), *_worries(sample)], key=lambda worry: worry.rank)
    if worries:
        return replace(worries[0], more=len(worries) - 1)
    if sample.judged is None or sample.judged < (sample.collections or 0):
        seen = f"{grouped(sample.judged or 0)} of {grouped(sample.collections or 0)} indexes were"
        return Verdict(state="unknown", sentence=f"Opened and read; {seen} looked at within the time for it.")
    if not sample.release:
        return Verdict(state="unknown", sentence="Its tables are not those of a Chroma release this version knows.")
    return Verdict(
        state="healthy",
        sentence=f"Its tables are those of Chroma {sample.release}; files and headers of every index agree.",
    )


def state_of_code(code: str) -> str:
    """What the code of a failure or of a verdict says about the store."""
    return _STATE_OF_CODE.get(code, "unknown")


def _problems(sample: Sample) -> list[Verdict]:
    return [
        Verdict(state=state_of_code(problem["code"]), sentence=problem["sentence"], code=problem["code"])
        for problem in sample.problems
    ]


def _worries(sample: Sample) -> list[Verdict]:
    found = []
    if sample.free_bytes is not None and sample.size_bytes and sample.free_bytes < sample.size_bytes:
        found.append(
            f"{bytes_h(sample.free_bytes)} is free on its disk, less than the store's own {bytes_h(sample.size_bytes)}."
        )
    if sample.orphans:
        have = "directory is" if sample.orphans == 1 else "directories are"
        found.append(f"{grouped(sample.orphans)} orphan segment {have} used by no collection.")
    return [Verdict(state="warning", sentence=sentence) for sentence in found]
