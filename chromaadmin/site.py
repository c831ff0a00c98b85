"""The admin site at the root of the application: its addresses, who may enter, and what frames every page."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, resolve_url
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils import timezone
from django_htmx.http import HttpResponseClientRedirect

from chromaadmin.templatetags.formats import distance

WORKER_SEEN_WITHIN = timedelta(minutes=3)
# The roles in the order in which the strongest stands behind a name.
_ROLES = ("admin", "operator", "approver", "auditor", "viewer")


class ChromaAdminSite(admin.AdminSite):
    """One site for the console's own pages and for the few models that are edited as Django's admin edits them."""

    site_header = "Chroma Admin"
    site_title = "Chroma Admin"
    index_title = "Fleet"
    enable_nav_sidebar = False

    def has_permission(self, request: HttpRequest) -> bool:
        """Whoever has an active account may enter; what there is to see is decided by roles on every page."""
        user = request.user
        return user.is_authenticated and user.is_active and getattr(user, "is_staff", False)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """The console's pages, then the model pages of Django; every one of them through ``admin_view``."""
        from chromaadmin.audit import urls as audit
        from chromaadmin.browsing import urls as browsing
        from chromaadmin.dashboard import urls as dashboard
        from chromaadmin.instances import urls as instances
        from chromaadmin.runs import urls as runs

        own: list[URLPattern | URLResolver] = []
        for module in (dashboard, instances, browsing, runs, audit):
            own += [self._guarded(pattern) for pattern in module.urlpatterns]
        return own + self._django_urls()

    def _guarded(self, pattern: URLPattern) -> URLPattern:
        """The same address, behind the login."""
        return URLPattern(pattern.pattern, self.admin_view(pattern.callback), pattern.default_args, pattern.name)

    def _django_urls(self) -> list[URLPattern | URLResolver]:
        """Django's own addresses without its lists of models, and without a second login or change of password."""
        unwanted = {
            "index", "app_list", "autocomplete", "view_on_site", "login", "logout", "password_change",
            "password_change_done",
        }  # fmt: skip
        kept = [one for one in super().get_urls() if getattr(one, "name", None) not in unwanted]
        return [
            path("login/", self.login, name="login"),
            path("logout/", self.admin_view(self.logout), name="logout"),
            path("password_change/", self.admin_view(self.password_change), name="password_change"),
            *kept,
        ]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """There is one login view, with lock-out and second factor. Who is in already but may not enter is told so."""
        if request.user.is_authenticated and not self.has_permission(request):
            raise PermissionDenied("This account has no access to the console.")
        target = request.GET.get("next", "") or resolve_url("admin:index")
        if htmx := getattr(request, "htmx", None):
            # It would follow a redirect and put the login page into the part of the page that asked.
            answer = redirect_to_login(htmx.current_url_abs_path or target, reverse(settings.LOGIN_URL))
            return HttpResponseClientRedirect(answer.url)
        return redirect_to_login(target, reverse(settings.LOGIN_URL))

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:  # type: ignore[override]
        return redirect("account_logout")

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:  # type: ignore[override]
        return redirect("account_change_password")

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """What ``base.html`` shows around every page."""
        permitted = self.has_permission(request)
        context: dict[str, Any] = {
            "site_title": self.site_title,
            "site_header": self.site_header,
            "site_url": self.site_url,
            "has_permission": permitted,
            # The list of models costs a query per permission, and the navigation does not show it.
            "available_apps": [],
            "is_popup": False,
            "is_nav_sidebar_enabled": False,
        }
        return context | frame(request) if permitted else context


def frame(request: HttpRequest) -> dict[str, Any]:
    """Navigation with its counts, the foot with the workers, and the word behind the user's name."""
    from chromaadmin.accounts.rights import Right
    from chromaadmin.instances.models import Instance

    user = request.user
    roles, rights = _rights(user)
    live = _live_runs(request)
    items: list[dict[str, Any]] = [
        {"key": "fleet", "label": "Fleet", "url": "admin:index", "icon": "fleet"},
        {
            "key": "instances",
            "label": "Instances",
            "url": "admin:instances",
            "icon": "instances",
            "count": Instance.objects.for_user(user).count() or None,
        },
        {
            "key": "runs",
            "label": "Runs",
            "url": "admin:runs",
            "icon": "runs",
            "count": f"{live} live" if live else None,
        },
    ]
    if Right.READ_AUDIT in rights:
        items.append({"key": "audit", "label": "Audit", "url": "admin:audit", "icon": "audit", "apart": True})
    if Right.MANAGE_TEAM in rights:
        items.append({
            "key": "team", "label": "Team", "url": "admin:auth_user_changelist", "icon": "team",
            "apart": Right.READ_AUDIT not in rights,
        })  # fmt: skip
    return {
        "nav": [item | {"url": reverse(item["url"])} for item in items],
        "nav_foot": [_workers_sentence(), "Times are UTC"],
        "search_url": reverse("admin:search"),
        "user_role": next((role for role in _ROLES if role in roles), "no role yet"),
    }


def _rights(user: Any) -> tuple[set[str], set[str]]:
    """The roles of somebody anywhere, and the rights they give: what a menu shows, never what a page allows."""
    from chromaadmin.accounts.models import Scope
    from chromaadmin.accounts.rights import GLOBAL_RIGHTS, ROLE_RIGHTS

    if user.is_superuser:
        return {"admin"}, set(ROLE_RIGHTS["admin"])
    grants = list(user.role_grants.values_list("role", "scope"))
    rights = {
        right
        for role, scope in grants
        for right in ROLE_RIGHTS.get(role, ())
        if scope == Scope.EVERYTHING or right not in GLOBAL_RIGHTS
    }
    return {role for role, _ in grants}, set(rights)


def _live_runs(request: HttpRequest) -> int:
    from chromaadmin.runs.models import LIVE, MaintenanceRun

    return MaintenanceRun.objects.for_user(request.user).filter(state__in=LIVE).count()


def _workers_sentence() -> str:
    """Whose workers have been seen in the last minutes; each host's begin a tick every minute."""
    from chromaadmin.runs.models import Beat

    beats = list(Beat.objects.filter(key__startswith="host:").values_list("begun_at", flat=True))
    alive = sum(timezone.now() - begun < WORKER_SEEN_WITHIN for begun in beats)
    if not beats:
        return "No worker has been seen yet"
    if len(beats) == 1:
        return "Workers alive" if alive else f"No worker seen for {distance(max(beats))}"
    return f"Workers alive on {alive} of {len(beats)} hosts"
