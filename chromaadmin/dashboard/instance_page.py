"""Everything the page of one instance shows, tab by tab; a store that can not be read leaves the rest of it whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import QueryDict
from django.utils import timezone

from chromaadmin.accounts.rights import Right, may, rights_of
from chromaadmin.browsing.addresses import collection_url
from chromaadmin.browsing.segments import Standing, standing
from chromaadmin.dashboard import selectors
from chromaadmin.dashboard.notable import notables, worst
from chromaadmin.dashboard.operations import operation_menu
from chromaadmin.instances.forms import SettingsForm
from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import look, places
from chromaadmin.runs.selectors import active_writer, latest_runs, run_queryset
from chromaadmin.templatetags.formats import bytes_h, distance, grouped
from ops import reads
from ops.execute import Failure

TABS = ("overview", "collections", "tenants", "runs", "settings")
SHOWN_ON_OVERVIEW = 50
PAGE = 50
RUNS = 50


@dataclass(frozen=True, kw_only=True)
class CollectionLine:
    """One collection in a list; without ``url`` its id can not be addressed."""

    row: reads.CollectionRow
    standing: Standing
    url: str


def instance_context(user: AbstractBaseUser | AnonymousUser, instance: Instance, query: QueryDict) -> dict[str, Any]:
    """The values of the template for the tab in ``query``."""
    tab = query.get("tab", "")
    tab = tab if tab in TABS else TABS[0]
    overview, failure = look(instance, reads.overview)
    writer = active_writer(instance)
    rights = rights_of(user, instance)
    context = {
        "instance": instance,
        "environment": instance.environment,
        "title": instance.name,
        "nav_current": "instances",
        "overview": overview,
        "failure": failure,
        "writer": writer,
        "rights": rights,
        "may_manage": Right.MANAGE_INSTANCE in rights,
        "may_browse": Right.BROWSE in rights,
        "menu": operation_menu(user, instance, writer),
        "tab": tab,
        "tabs": _tabs(user, instance, overview),
        "strip": _strip(instance, overview),
    }
    return context | _of_tab(tab, user, instance, query, overview, failure)


def _of_tab(
    tab: str,
    user: AbstractBaseUser | AnonymousUser,
    instance: Instance,
    query: QueryDict,
    overview: reads.Overview | None,
    failure: Failure | None,
) -> dict[str, Any]:
    if tab == "collections":
        return _collections(user, instance, query, failure)
    if tab == "tenants":
        page, trouble = (None, None) if failure else look(instance, reads.tenants_and_databases)
        return {"tenants": page, "tenant_rows": _tenant_rows(page), "tab_failure": trouble}
    if tab == "runs":
        return {"runs": latest_runs(user, instance=instance, limit=RUNS)}
    if tab == "settings":
        return {"form": SettingsForm.of(instance)}
    return _overview(user, instance, overview, failure)


def _overview(
    user: AbstractBaseUser | AnonymousUser, instance: Instance, overview: reads.Overview | None, failure: Failure | None
) -> dict[str, Any]:
    probe, rows = None, None
    if overview is not None:
        probe, _ = look(instance, reads.probe)
        rows, rows_failure = look(instance, reads.collections, limit=SHOWN_ON_OVERVIEW)
        failure = failure or rows_failure
    found = notables(instance, overview, probe, rows, failure)
    return {
        "notables": [one for one in found if one.state != "healthy"],
        "sound": [one for one in found if one.state == "healthy"],
        "state": worst(found),
        "looked_at": timezone.now() if overview is not None else instance.checked_at,
        "probe": probe,
        "largest": _largest(user, instance, rows),
        "recent_runs": latest_runs(user, instance=instance, limit=6),
        "sizes": selectors.size_chart(instance),
        "identity_changed": failure is not None and failure.code == "IDENTITY_CHANGED",
    }


def _lines(
    user: AbstractBaseUser | AnonymousUser, instance: Instance, rows: Iterable[reads.CollectionRow]
) -> list[CollectionLine]:
    """Rows with their address: the records for those who may browse, the index for the others."""
    target = "collection" if may(user, Right.BROWSE, instance) else "segment"
    return [
        CollectionLine(row=row, standing=standing(row), url=collection_url(instance, row.id, target)) for row in rows
    ]


def _tenant_rows(page: reads.TenantsPage | None) -> list[dict[str, Any]]:
    """One row per database, and one for a tenant without any."""
    rows: list[dict[str, Any]] = []
    for tenant in page.tenants if page else ():
        for database in tenant.databases or (None,):
            rows.append({"tenant": tenant.shown, "exists": tenant.exists, "database": database})
            if database is not None:
                rows[-1]["url"] = _place_url(tenant.id, database.name)
    return rows


def _place_url(tenant: str, database: str) -> str:
    """The collections of one database; empty where a name is no text that an address can hold."""
    try:
        return f"?{urlencode({'tab': 'collections', 'tenant': tenant, 'database': database})}"
    except UnicodeEncodeError:
        return ""


def _largest(
    user: AbstractBaseUser | AnonymousUser, instance: Instance, page: reads.CollectionsPage | None, limit: int = 5
) -> dict[str, Any] | None:
    """The largest of the collections that were read, and of how many."""
    if page is None:
        return None
    rows = sorted(page.collections, key=lambda row: -(row.records or 0))[:limit]
    of = page.total if page.total >= 0 else len(page.collections)
    scope = f"{len(rows)} of {grouped(of)}" if page.after else f"largest {len(rows)} of {grouped(of)}"
    return {"rows": _lines(user, instance, rows), "scope": scope if of > len(rows) else grouped(of)}


def _collections(
    user: AbstractBaseUser | AnonymousUser, instance: Instance, query: QueryDict, failure: Failure | None
) -> dict[str, Any]:
    search, after = query.get("q", "").strip()[:200], query.get("after", "")
    tenant, database = query.get("tenant") or None, query.get("database") or None
    page, trouble = None, None
    if failure is None:
        page, trouble = look(
            instance,
            reads.collections,
            after=after or None,
            limit=PAGE,
            search=search,
            tenant=tenant,
            database=database,
        )
    return {
        "page": page, "search": search, "after": after, "tenant": tenant, "database": database, "tab_failure": trouble,
        "narrowed": bool(search or tenant or database),
        "rows": _lines(user, instance, page.collections if page else ()),
    }  # fmt: skip


def _tabs(
    user: AbstractBaseUser | AnonymousUser, instance: Instance, overview: reads.Overview | None
) -> list[dict[str, Any]]:
    counts = {
        "collections": overview.collections if overview else None,
        "tenants": overview.tenants if overview else None,
        "runs": run_queryset(user).filter(instance=instance).count(),
    }
    return [{"key": key, "label": key.capitalize(), "count": counts.get(key)} for key in TABS]


def _strip(instance: Instance, overview: reads.Overview | None) -> dict[str, Any]:
    """The five figures: of now, or of the last look that worked, which then says so."""
    if overview is not None:
        return {
            "release": overview.release.releases or "unknown",
            "release_context": "read and written here" if overview.release.writable else "read here, not written",
            "collections": overview.collections,
            "collections_context": places(overview.tenants, overview.databases),
            "records": overview.records,
            "records_context": "rows of all METADATA segments"
            if overview.records is not None
            else "not counted in 2 s",
            "size": overview.size_bytes,
            "size_context": f"{bytes_h(overview.file_system.free_bytes)} free on {overview.file_system.kind}",
            "wal": overview.wal_entries,
            "wal_context": f"entries, {bytes_h(overview.wal_bytes)}",
        }
    sample = instance.sample
    then = f"at the last look that worked, {distance(sample.at)} ago" if sample else "never read"
    figures = {name: getattr(sample, name, None) for name in ("collections", "records")}
    return {
        **figures,
        "release": getattr(sample, "release", "") or "unknown",
        "size": getattr(sample, "size_bytes", None),
        "wal": getattr(sample, "wal_entries", None),
        **{f"{name}_context": then for name in ("release", "collections", "records", "size", "wal")},
    }
