"""The search over everything: instances and runs from the database, collections by asking the stores in turn."""

import time
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q

from chromaadmin.accounts.rights import Right
from chromaadmin.browsing.addresses import collection_url
from chromaadmin.instances.models import Instance
from chromaadmin.instances.probing import look
from chromaadmin.runs.models import MaintenanceRun
from chromaadmin.runs.selectors import run_queryset
from ops import reads

EACH = 20
BUDGET_S = 3.0


@dataclass(frozen=True, kw_only=True)
class FoundCollection:
    """A collection and the instance it lies in."""

    instance: Instance
    row: reads.CollectionRow

    @property
    def url(self) -> str:
        return collection_url(self.instance, self.row.id)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What fits. ``asked`` of ``askable`` stores were read for collections before the time was over."""

    instances: tuple[Instance, ...] = ()
    collections: tuple[FoundCollection, ...] = ()
    runs: tuple[MaintenanceRun, ...] = ()
    asked: int = 0
    askable: int = 0

    @property
    def nothing(self) -> bool:
        return not (self.instances or self.collections or self.runs)


def find(user: AbstractBaseUser | AnonymousUser | None, text: str) -> Found:
    """Everything that fits ``text``: parts of names, numbers of runs, whole ids; nothing for an empty text."""
    if not text:
        return Found()
    instances = Instance.objects.for_user(user).prefetch_related("tags")
    named = Q(name__icontains=text) | Q(path__icontains=text) | Q(tags__name__icontains=text)
    number = int(text) if text.isdecimal() and len(text) < 18 else None
    wanted = (
        Q(number=number) if number is not None else Q(operation__icontains=text.replace(" ", "_").replace("-", "_"))
    )
    if uid := _uuid(text):
        named, wanted = Q(pk=uid), Q(pk=uid)
    collections, asked, askable = _collections(user, str(uid) if uid else text, by_id=uid is not None)
    return Found(
        instances=tuple(instances.filter(named).distinct()[:EACH]),
        runs=tuple(run_queryset(user).filter(wanted)[:EACH]),
        collections=collections,
        asked=asked,
        askable=askable,
    )


def _collections(
    user: AbstractBaseUser | AnonymousUser | None, text: str, *, by_id: bool
) -> tuple[tuple[FoundCollection, ...], int, int]:
    """Stores are asked one after the other until enough is found or the time is over; a damaged one is passed by."""
    stores = list(Instance.objects.for_user(user, Right.BROWSE).of_host())
    end = time.monotonic() + BUDGET_S
    found: list[FoundCollection] = []
    asked = 0
    for instance in stores:
        if time.monotonic() > end or len(found) >= EACH:
            break
        asked += 1
        if by_id:
            one, _ = look(instance, reads.collection, collection_id=text)
            found += [FoundCollection(instance=instance, row=one.row)] if one is not None else []
        else:
            page, _ = look(instance, reads.collections, search=text, limit=EACH - len(found))
            found += [FoundCollection(instance=instance, row=row) for row in page.collections] if page else []
    return tuple(found), asked, len(stores)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
