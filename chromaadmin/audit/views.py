"""The page of the audit trail, its verification, and its export."""

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from chromaadmin.audit import export, trail
from chromaadmin.listing import address, page_of

PAGE = 50


@require_safe
def audit(request: HttpRequest) -> HttpResponseBase:
    """Entries newest first; ``?open=`` shows the detail of one."""
    readable = trail.entries_for(request)
    found = trail.filtered(readable, request.GET)
    listed = page_of(found, "seq", request.GET, size=PAGE)
    whole = address(request.GET, open=None)
    context = {
        "title": "Audit",
        "rows": trail.rows(listed.rows, readable, request.GET),
        "listed": listed,
        "dropdowns": trail.dropdowns(readable, request.GET),
        "total": found.count(),
        "verified": trail.last_verified(),
        "exports": [(kind.upper(), reverse("admin:audit_export", args=[kind]) + whole) for kind in export.FORMATS],
        "without_run": address(request.GET, run=None) if request.GET.get("run") else "",
        **trail.summary(readable),
    }
    return TemplateResponse(request, "audit/trail.html", {**admin.site.each_context(request), **context})


@require_POST
def audit_verify(request: HttpRequest) -> HttpResponseBase:
    """Walk the whole chain now; what was found stands in the trail and on its page."""
    trail.entries_for(request)
    found = trail.verify_now(request.user, ip=request.META.get("REMOTE_ADDR"))
    if found.intact:
        messages.success(request, f"All {found.entries:,} entries were verified in {found.duration_s:g} s.")
    return redirect("admin:audit")


@require_safe
def audit_export(request: HttpRequest, kind: str) -> HttpResponseBase:
    """What the filters of the address leave, as CSV or JSON lines, oldest first."""
    if kind not in export.FORMATS:
        raise Http404
    found = trail.filtered(trail.entries_for(request), request.GET)
    return export.response(found.order_by("seq").iterator(chunk_size=2000), kind)
