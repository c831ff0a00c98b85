"""The menu of operations: what there is, what each group means, and why one is not to be had now."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.urls import reverse

from chromaadmin.instances.models import Instance
from chromaadmin.runs.models import MaintenanceRun
from chromaadmin.runs.selectors import runnable_operations
from ops.operation import Effect, title, words


@dataclass(frozen=True, kw_only=True)
class Item:
    """One operation; ``url`` is its form, ``reason`` says why it is not offered."""

    name: str
    help: str
    url: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Operations of one kind and what that kind means."""

    title: str
    meaning: str
    items: tuple[Item, ...]


_GROUPS: tuple[tuple[str, frozenset[Effect], str], ...] = (
    ("Read", frozenset({Effect.READ}), "changes no byte of the directory"),
    ("Write", frozenset({Effect.WRITE, Effect.EDIT}), "you approve the plan first"),
    ("Destructive", frozenset({Effect.DESTRUCTIVE}), "removes or replaces; type the name, give a reason"),
)


def operation_menu(
    user: AbstractBaseUser | AnonymousUser | None, instance: Instance, writer: MaintenanceRun | None
) -> tuple[Group, ...]:
    """All operations in their groups. ``writer`` is the run that writes to the instance now; others wait for it."""
    offered = runnable_operations(user, instance)
    groups = []
    for name, effects, meaning in _GROUPS:
        waits = f"; waits for run {writer.number}" if writer is not None and Effect.READ not in effects else ""
        members = [(cls, decision) for cls, decision in offered if cls.declared.effect in effects]
        groups.append(Group(title=name, meaning=f"{meaning}{waits}", items=tuple(_items(instance, members))))
    return tuple(group for group in groups if group.items)


def _items(instance: Instance, members: Iterable[tuple[Any, Any]]) -> Iterable[Item]:
    for cls, decision in members:
        reason = decision.reason
        if not reason and "directory" not in cls.declared.on:
            reason = "It works on a server, and this instance is a directory."
        if not reason and instance.host != settings.CHROMAADMIN_HOST:
            reason = f"The directory lies on host {instance.host}."
        yield Item(
            name=" ".join(words(cls)),
            help=title(cls),
            url=reverse("admin:operation", args=[instance.pk, cls.name]),
            reason=reason,
        )
