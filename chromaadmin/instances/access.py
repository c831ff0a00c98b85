"""Reading registered stores: one pool of reader children per process; never a directory that took another's place."""

import os
import stat
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.conf import settings

from chromaadmin.audit.services import record
from chromaadmin.instances.errors import OtherHost
from chromaadmin.instances.models import Instance
from ops import sampling
from ops.access import LocalAccess
from ops.errors import BadPath, IdentityChanged, Missing, Unreadable
from ops.operation import Operation
from ops.plan import Plan
from ops.store.persist_dir import PersistDir

P = ParamSpec("P")
R = TypeVar("R")

# Two reader children per process, started when first needed; after a fork the new process starts its own.
_LOCAL = LocalAccess()


class InstanceAccess:
    """What pages read a registered store through."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, function: Callable[Concatenate[PersistDir, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer of a function of ``ops.reads``, within its deadline; raises ``OpsError``."""
        return _LOCAL.read(self._path, function, *args, **kwargs)

    def preview(self, operation: Operation[Any]) -> Plan:
        """The plan of a writing operation; changes no byte."""
        return _LOCAL.preview(self._path, operation)


def store_access(instance: Instance) -> InstanceAccess:
    """Access to the instance's store. Raises OtherHost, Missing, IdentityChanged, Unreadable before it is read."""
    require_identity(instance)
    return InstanceAccess(instance.path)


def path_access(path: str) -> InstanceAccess:
    """Access to a directory that is not registered (yet)."""
    return InstanceAccess(path)


def identity_of(path: str) -> tuple[int, int]:
    """Device and inode of a directory; opens nothing. Raises Missing, Unreadable, BadPath."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(path=path) from None
    except PermissionError as error:
        raise Unreadable(path=path, why=error.strerror, uid=os.geteuid()) from None
    except OSError as error:
        raise BadPath(path=path, why=error.strerror) from None
    if not stat.S_ISDIR(status.st_mode):
        raise BadPath(path=path, why="it is not a directory")
    return status.st_dev, status.st_ino


def require_identity(instance: Instance) -> None:
    """Raise IdentityChanged unless the directory at the path is the registered one.

    When only the device differs (a reboot, a network file system mounted anew) the inode and the ids of the collections
    seen last decide; the new device is then kept, and that is audited.
    """
    if instance.host != settings.CHROMAADMIN_HOST:
        raise OtherHost(name=instance.name, host=instance.host, here=settings.CHROMAADMIN_HOST)
    device, inode = identity_of(instance.path)
    if (device, inode) == instance.identity:
        return
    was, now = _words(*instance.identity), _words(device, inode)
    same_inode = inode == instance.identity[1]
    if not (same_inode and instance.collections_digest == collections_digest(instance.path)):
        raise IdentityChanged(path=instance.path, was=was, now=now)
    keep_identity(instance, device, inode)
    record(
        "instance.device_changed", kind="instance", object_id=instance.pk, object_name=instance.name,
        instance_id=instance.pk, detail={"was": was, "now": now, "because": "same inode and same collections"},
    )  # fmt: skip


def keep_identity(instance: Instance, device: int, inode: int) -> None:
    """Store a new identity."""
    instance.device, instance.inode = str(device), str(inode)
    Instance.objects.filter(pk=instance.pk).update(device=instance.device, inode=instance.inode)


def collections_digest(path: str) -> str:
    """SHA-256 of the sorted ids of all collections of the store at ``path``, as hex."""
    return _LOCAL.read(path, sampling.collections_digest)


def _words(device: int, inode: int) -> str:
    return f"device {device} inode {inode}"
