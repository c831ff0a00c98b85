"""Looking at a store for a page: the answer, or the failure in the shape that every page shows."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from django.contrib.auth.models import User

from chromaadmin.instances import services
from chromaadmin.instances.access import path_access, store_access
from chromaadmin.instances.models import Instance
from ops import reads
from ops.errors import OpsError
from ops.execute import Failure
from ops.store.persist_dir import PersistDir

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at a directory showed before it is registered.

    ``failure`` says why it is no store that can be read, ``registered_as`` that it is one already; with neither it can
    be registered.
    """

    path: str
    probe: reads.Probe | None = None
    failure: Failure | None = None
    registered_as: Instance | None = None

    @property
    def registrable(self) -> bool:
        return self.probe is not None and self.registered_as is None

    @property
    def identity(self) -> str:
        """Device and inode, ungrouped: they are names, not amounts."""
        return f"device {self.probe.device}, inode {self.probe.inode}" if self.probe else ""

    @property
    def places(self) -> str:
        """In how many tenants and databases the collections lie."""
        if self.probe is None:
            return ""
        return places(self.probe.tenants, self.probe.databases)

    @property
    def suggested_name(self) -> str:
        """The last part of the path that says something."""
        parts = [part for part in self.path.split("/") if part]
        plain = [part for part in parts if part not in {"chroma", "chroma_db", "chromadb", "data", "store", "db"}]
        return (plain or parts or [""])[-1][:120]


def places(tenants: int, databases: int) -> str:
    """Such as: in 3 tenants, 5 databases."""
    one, other = ("tenant" if tenants == 1 else "tenants"), ("database" if databases == 1 else "databases")
    return f"in {tenants:,} {one}, {databases:,} {other}"


def look_at(path: str, by: User) -> Look:
    """Probe ``path`` as ``by`` may: below the allowed roots, read-only, without chromadb; changes no byte."""
    try:
        real = services.probe(path, by=by).path
        seen = path_access(real).read(reads.probe)
    except OpsError as error:
        return Look(path=path, failure=Failure.of(error))
    same = Instance.objects.of_host().filter(device=str(seen.device), inode=str(seen.inode)).first()
    return Look(path=os.fspath(real), probe=seen, registered_as=same)


def look(
    instance: Instance, function: Callable[Concatenate[PersistDir, P], R], *args: P.args, **kwargs: P.kwargs
) -> tuple[R | None, Failure | None]:
    """The answer of a function of ``ops.reads`` about a registered store, or why there is none."""
    try:
        return store_access(instance).read(function, *args, **kwargs), None
    except OpsError as error:
        return None, Failure.of(error)
