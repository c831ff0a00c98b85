"""Pages about one instance: found among those the user may see, else there is nothing."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseBase

from chromaadmin.accounts.doors import Door, View, why_not
from chromaadmin.accounts.rights import Right, may
from chromaadmin.instances.models import Instance


def instance_door(*methods: str, right: Right = Right.VIEW) -> Callable[[View], View]:
    """The view gets the Instance in place of ``instance_id``.

    404 for an instance the user may not see, so that nobody learns that it exists; 403 when only the right is missing.
    """
    declared = Door(methods=methods or ("GET",), right=right, where="instance")

    def declare(view: View) -> View:
        @wraps(view)
        def opened(request: HttpRequest, instance_id: UUID, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if refused := declared.refuses(request):
                return refused
            visible = Instance.objects.for_user(request.user).select_related("sample").prefetch_related("tags")
            instance = visible.filter(pk=instance_id).first()
            if instance is None:
                raise Http404
            if right is not Right.VIEW and not may(request.user, right, instance):
                raise PermissionDenied(why_not(right, instance.name))
            return view(request, instance, *args, **kwargs)

        opened.door = declared  # type: ignore[attr-defined]
        return opened

    return declare
