"""What is wrong or worth knowing about one store, as sentences; only what was looked at is said."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from chromaadmin.browsing.addresses import collection_url
from chromaadmin.browsing.segments import TOMBSTONE_SHARE
from chromaadmin.instances.models import Instance
from chromaadmin.instances.verdict import STATES, state_of_code
from chromaadmin.templatetags.formats import bytes_h, grouped, percent, visible
from ops import reads
from ops.execute import Failure
from ops.registry import operation_names

_FREE_PAGES_SHARE = 0.25
_ORDER = (*STATES[:3], "info", "unknown", "healthy")


@dataclass(frozen=True, kw_only=True)
class Notable:
    """One sentence with its state. ``cure`` is the label of a button to ``url``; ``body`` opens below the sentence."""

    state: str
    sentence: str
    code: str = ""
    body: str = ""
    cure: str = ""
    url: str = ""

    @property
    def rank(self) -> int:
        return _ORDER.index(self.state)


def notables(
    instance: Instance,
    overview: reads.Overview | None,
    probe: reads.Probe | None,
    rows: reads.CollectionsPage | None,
    failure: Failure | None,
) -> list[Notable]:
    """All sentences about a store, worst first; the order within a state is that of the looks."""
    found: list[Notable] = []
    if failure is not None:
        found.append(_of_failure(failure))
    if overview is not None:
        found += _of_problems(overview)
        found += _of_disk(instance, overview)
        found += _of_wal(instance, overview)
    if probe is not None:
        found += _of_rights(probe, {one.code for one in found})
        found += _of_users(probe)
    if rows is not None:
        found += _of_collections(instance, rows)
    return sorted(found, key=lambda one: one.rank)


def worst(found: Iterable[Notable]) -> str:
    """The state of the whole: the worst of what is known; healthy when something was looked at and nothing is wrong."""
    states = [one.state for one in found if one.state not in ("info", "healthy")]
    return min(states, key=_ORDER.index, default="healthy")


def operation_url(instance: Instance, name: str, **parameters: str) -> str:
    """The form of an operation, filled in; empty while there is no such operation."""
    if name not in operation_names():
        return ""
    address = reverse("admin:operation", args=[instance.pk, name])
    return f"{address}?{urlencode(parameters)}" if parameters else address


def _of_failure(failure: Failure) -> Notable:
    return Notable(state=state_of_code(failure.code), sentence=failure.message, code=failure.code, body=failure.hint)


def _of_problems(overview: reads.Overview) -> Iterator[Notable]:
    for one in overview.problems:
        yield Notable(state=state_of_code(one.code), sentence=one.sentence, code=one.code, body=one.hint)
    release = overview.release
    if release.releases and not release.foreign_objects and not release.differences:
        yield Notable(
            state="healthy",
            sentence=f"The tables are exactly those of Chroma {release.releases}, and nothing else is there.",
        )
    if overview.wal_entries is not None and not any(one.code == "WAL_UNSAFE" for one in overview.problems):
        yield Notable(state="healthy", sentence="No watermark is ahead of the WAL: new writes will be taken.")


def _of_disk(instance: Instance, overview: reads.Overview) -> Iterator[Notable]:
    if overview.orphans:
        count, held = len(overview.orphans), sum(one.size_bytes for one in overview.orphans)
        many = f"At least {grouped(count)}" if overview.more_orphans else grouped(count)
        words = "orphan segment directory holds" if count == 1 else "orphan segment directories hold"
        url = operation_url(instance, "db_clean")
        yield Notable(
            state="warning", sentence=f"{many} {words} {bytes_h(held)} that no collection uses.",
            cure="Clean…" if url else "", url=url,
        )  # fmt: skip
    else:
        yield Notable(state="healthy", sentence="Every segment directory belongs to a collection.")
    free = overview.file_system.free_bytes
    if free < overview.size_bytes:
        yield Notable(
            state="warning",
            sentence=f"{bytes_h(free)} is free on its disk, less than the store's own {bytes_h(overview.size_bytes)}.",
        )
    pages = overview.free_pages_bytes
    if overview.sqlite_bytes and pages > overview.sqlite_bytes * _FREE_PAGES_SHARE:
        url = operation_url(instance, "db_vacuum")
        share = percent(pages, overview.sqlite_bytes)
        yield Notable(
            state="info", sentence=f"{share} of the database file is empty pages; VACUUM gives back {bytes_h(pages)}.",
            cure="Vacuum…" if url else "", url=url,
        )  # fmt: skip


def _of_wal(instance: Instance, overview: reads.Overview) -> Iterator[Notable]:
    if overview.wal_entries is None:
        yield Notable(state="unknown", sentence="How much the WAL holds could not be counted in two seconds.")
    elif overview.wal_entries and overview.automatically_purge is False:
        url = operation_url(instance, "wal_clean")
        yield Notable(
            state="info",
            sentence=f"Chroma is told to keep consumed WAL entries: {grouped(overview.wal_entries)} of them,"
            f" {bytes_h(overview.wal_bytes)}.",
            cure="Clean…" if url else "", url=url,
        )  # fmt: skip


def _of_rights(probe: reads.Probe, said: set[str]) -> Iterator[Notable]:
    for one in probe.problems:
        if one.code not in said:
            yield Notable(
                state=state_of_code(one.code), sentence=one.sentence, code=one.code,
                body=f"{one.hint} It can be browsed; operations that write are refused.".strip(),
            )  # fmt: skip


def _of_users(probe: reads.Probe) -> Iterator[Notable]:
    users = probe.users
    if users.state == "used":
        names = "; ".join(f"PID {one.pid}, {visible(one.command)}" for one in users.processes[:5])
        count = len(users.processes)
        have = "process has" if count == 1 else "processes have"
        yield Notable(
            state="info", sentence=f"{count} {have} it open for writing: {names}.",
            body="Operations that need a quiet store are refused until it ends.",
        )  # fmt: skip
    elif users.state == "unknown":
        yield Notable(state="unknown", sentence=f"Whether a process has it open can not be told: {visible(users.why)}.")
    else:
        yield Notable(state="healthy", sentence="No process of this host has it open for writing.")


def _of_collections(instance: Instance, page: reads.CollectionsPage) -> Iterator[Notable]:
    for row in page.collections:
        url = collection_url(instance, row.id, "segment")
        for one in row.problems:
            yield Notable(
                state=state_of_code(one.code), sentence=one.sentence, code=one.code, body=one.hint,
                cure="Vector segment" if row.index_state == "damaged" else "", url=url,
            )  # fmt: skip
        if row.fragmentation is not None and row.fragmentation > TOMBSTONE_SHARE:
            rebuild = operation_url(instance, "hnsw_rebuild", collection_id=row.id)
            yield Notable(
                state="warning",
                sentence=f"{percent(row.fragmentation)} of the slots in {row.shown} are tombstones.",
                cure="Rebuild…" if rebuild else "Vector segment",
                url=rebuild or url,
            )
    looked = len(page.collections)
    if page.after is not None:
        total = f" of {grouped(page.total)}" if page.total >= 0 else ""
        yield Notable(
            state="unknown", sentence=f"{grouped(looked)}{total} collections were looked at here; the list shows all."
        )
    elif looked and not any(row.problems for row in page.collections):
        yield Notable(
            state="healthy", sentence="Every index has its files, and their sizes and headers agree with the catalogue."
        )
