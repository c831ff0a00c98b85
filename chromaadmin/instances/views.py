"""The list of instances, registering one after a probe, and changing what people say of it."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse

from chromaadmin.accounts.doors import client_ip, door, page, person
from chromaadmin.accounts.rights import Right, may
from chromaadmin.instances import services
from chromaadmin.instances.doors import instance_door
from chromaadmin.instances.finder import Search, find_stores
from chromaadmin.instances.forms import PathForm, RegisterForm, RemoveForm, SettingsForm
from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import Look, look_at
from chromaadmin.instances.selectors import fleet
from chromaadmin.instances.verdict import verdict
from ops.errors import OpsError

PAGE = 100


@door("GET")
def instances(request: HttpRequest) -> HttpResponseBase:
    """Everything registered that the user may see, by name; pages by key."""
    text, after = request.GET.get("q", "").strip()[:200], request.GET.get("after", "")
    found = fleet(request.user).order_by("name")
    if text:
        found = found.filter(name__icontains=text) | found.filter(path__icontains=text)
        found = found.distinct()
    rows = list((found.filter(name__gt=after) if after else found)[: PAGE + 1])
    return page(
        request,
        "instances/list.html",
        title="Instances",
        rows=[(one, verdict(one)) for one in rows[:PAGE]],
        text=text,
        after=after,
        total=found.count(),
        next=rows[PAGE - 1].name if len(rows) > PAGE else None,
        may_register=may(request.user, Right.MANAGE_INSTANCE),
    )


@door("GET", "POST", right=Right.MANAGE_INSTANCE, everywhere=True)
def add(request: HttpRequest) -> HttpResponseBase:
    """Probe a directory and show what was found; then register it."""
    form = RegisterForm(request.POST) if request.method == "POST" else None
    if form is not None and form.is_valid():
        given = form.cleaned_data
        try:
            made = services.register_directory(
                given["name"],
                given["path"],
                given["environment"],
                given["tags"],
                person(request),
                ip=client_ip(request),
            )
        except OpsError as error:
            form.add_error("name" if error.code == "NAME_TAKEN" else None, f"{error} {error.hint_text}")
        else:
            messages.success(request, f"{made.name} is registered.")
            return redirect("admin:instance", made.pk)
    return page(
        request, "instances/add.html", title="Register instance", nav_current="instances", **_probed(request, form)
    )


def _probed(request: HttpRequest, form: RegisterForm | None) -> dict[str, Any]:
    """What the page of registering shows: the path asked for, the look at it, and the form that follows."""
    asked = request.POST if request.method == "POST" else request.GET
    path_form = PathForm(asked if asked.get("path") else None)
    look: Look | None = None
    if path_form.is_bound and path_form.is_valid():
        look = look_at(path_form.cleaned_data["path"], person(request))
        if form is None and look.registrable:
            form = RegisterForm(initial={"path": look.path, "name": look.suggested_name})
    return {
        "path_form": path_form,
        "look": look,
        "form": form,
        "roots": [str(root) for root in services.allowed_roots()],
        "found": _find() if request.GET.get("find") else None,
    }


def _find() -> Search:
    registered = dict(Instance.objects.of_host().values_list("path", "name"))
    return find_stores(services.allowed_roots(), registered)


@instance_door("POST", right=Right.MANAGE_INSTANCE)
def change(request: HttpRequest, instance: Instance) -> HttpResponseBase:
    """Keep name, environment, tags and notes; audited."""
    form = SettingsForm.of(instance, request.POST)
    if form.is_valid():
        try:
            services.change_instance(instance, by=person(request), ip=client_ip(request), **form.cleaned_data)
        except OpsError as error:
            form.add_error("name" if error.code == "NAME_TAKEN" else None, f"{error} {error.hint_text}")
        else:
            messages.success(request, "The settings are kept.")
    for sentences in form.errors.values():
        messages.error(request, " ".join(str(sentence) for sentence in sentences))
    return redirect(f"{reverse('admin:instance', args=[instance.pk])}?tab=settings")


@instance_door("POST", right=Right.MANAGE_INSTANCE)
def identity(request: HttpRequest, instance: Instance) -> HttpResponseBase:
    """Accept the directory that stands at the path now."""
    try:
        services.confirm_identity(instance, by=person(request), ip=client_ip(request))
    except OpsError as error:
        messages.error(request, f"{error} {error.hint_text}")
    else:
        messages.success(request, "The directory at the path is the instance's from now on.")
    return redirect("admin:instance", instance.pk)


@instance_door("POST", right=Right.MANAGE_INSTANCE)
def remove(request: HttpRequest, instance: Instance) -> HttpResponseBase:
    """Take the registration away; the store itself is not touched."""
    form = RemoveForm(request.POST)
    if not form.is_valid() or form.cleaned_data["typed_name"] != instance.name:
        messages.error(request, "The typed name is not the instance's; nothing was removed.")
        return redirect(f"{reverse('admin:instance', args=[instance.pk])}?tab=settings")
    if instance.runs.filter(state__in=("running", "lost", "queued", "awaiting_approval")).exists():
        messages.error(request, "A run of this instance waits or runs; cancel it first. Nothing was removed.")
        return redirect("admin:instance", instance.pk)
    name = instance.name
    services.remove_instance(instance, by=person(request), ip=client_ip(request))
    messages.success(request, f"{name} is no longer registered. Its directory was not touched.")
    return redirect("admin:instances")
