"""Registering, probing and sampling instances. A probe changes no byte of the directory."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from chromaadmin.accounts.rights import Right, may
from chromaadmin.accounts.services import forget_instance
from chromaadmin.audit.services import record, serialise
from chromaadmin.instances.access import identity_of, keep_identity, path_access, store_access
from chromaadmin.instances.errors import DuplicateInstance, NameTaken, NestedInstance, OutsideRoots
from chromaadmin.instances.models import Environment, Instance, Sample, Tag
from ops import sampling
from ops.codec import to_json
from ops.errors import BadPath, Missing, OpsError, Unreadable

SAMPLE_EVERY = timedelta(minutes=5)
# An unchanged store gets a sample an hour, so that a chart has points; a changed one gets each.
SAMPLE_AT_LEAST_EVERY = timedelta(hours=1)
SAMPLES_KEPT = timedelta(days=400)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a look at a directory showed. ``figures`` are those of ``Sample``; ``readable`` is always True, because a
    failed probe raises."""

    path: str
    device: int
    inode: int
    writable: bool
    figures: dict[str, Any]
    collections_digest: str


def probe(path: str | Path, *, by: User | None = None) -> Probe:
    """Look at a directory before it is registered; changes nothing.

    ``by`` is who asks in the browser: only directories below CHROMAADMIN_ROOTS are looked at then. None is an operator
    of this host. Raises ``OpsError``: OutsideRoots, BadPath, Missing, Unreadable, NotChroma, SqliteEmpty, ….
    """
    real = _real_path(path, by)
    device, inode = identity_of(real)
    figures, digest = _read(path_access(real))
    return Probe(
        path=real, device=device, inode=inode, writable=os.access(real, os.W_OK | os.X_OK), figures=figures,
        collections_digest=digest,
    )  # fmt: skip


def register_directory(
    name: str,
    path: str | Path,
    environment: Environment | str,
    tags: Iterable[str] = (),
    by: User | None = None,
    *,
    notes: str = "",
    ip: str | None = None,
) -> Instance:
    """Register a persist directory after a probe of it; audited as ``instance.registered``.

    ``by`` None is an operator of this host (``manage.py instance add``), who may register any directory. Raises
    PermissionDenied, NameTaken, DuplicateInstance, and what ``probe()`` raises.
    """
    if by is not None and not may(by, Right.MANAGE_INSTANCE):
        raise PermissionDenied("Registering an instance needs the role Admin over everything.")
    name = " ".join(name.split())
    if not name or len(name) > 120:
        raise BadPath(path=str(path), why="an instance needs a name of 1 to 120 characters")
    seen = probe(path, by=by)
    with transaction.atomic():
        serialise()
        if Instance.objects.filter(name__iexact=name).exists():
            raise NameTaken(name=name)
        _require_new(seen)
        instance = Instance.objects.create(
            name=name,
            slug=_free_slug(name),
            path=seen.path,
            device=str(seen.device),
            inode=str(seen.inode),
            collections_digest=seen.collections_digest,
            environment=Environment(environment),
            host=settings.CHROMAADMIN_HOST,
            notes=notes,
            created_by=by,
            identity_confirmed_at=timezone.now(),
        )
        _set_tags(instance, tags)
        _keep_sample(instance, seen.figures, seen.collections_digest)
        _audit(
            instance, "instance.registered", by, ip,
            {"path": instance.path, "environment": instance.environment, "tags": sorted(instance.tag_names)},
        )  # fmt: skip
    return instance


def change_instance(
    instance: Instance,
    *,
    by: User,
    name: str | None = None,
    environment: Environment | str | None = None,
    tags: Iterable[str] | None = None,
    notes: str | None = None,
    ip: str | None = None,
) -> Instance:
    """Change what people say of an instance; None leaves a value as it is. Raises PermissionDenied, NameTaken."""
    _require_manager(by, instance)
    with transaction.atomic():
        serialise()
        before = {"name": instance.name, "environment": instance.environment, "tags": sorted(instance.tag_names)}
        if name is not None and (name := " ".join(name.split())) != instance.name:
            if Instance.objects.filter(name__iexact=name).exclude(pk=instance.pk).exists():
                raise NameTaken(name=name)
            instance.name = name
        if environment is not None:
            instance.environment = Environment(environment)
        if notes is not None:
            instance.notes = notes
        instance.save(update_fields=["name", "environment", "notes"])
        if tags is not None:
            _set_tags(instance, tags)
        after = {"name": instance.name, "environment": instance.environment, "tags": sorted(instance.tag_names)}
        changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
        _audit(instance, "instance.changed", by, ip, changed)
    return instance


def remove_instance(instance: Instance, *, by: User | None, ip: str | None = None) -> None:
    """Take an instance out of the registry; no file of it is touched, its runs and audit entries stay.

    The caller refuses while a run is active on it. Raises PermissionDenied.
    """
    if by is not None:
        _require_manager(by, instance)
    with transaction.atomic():
        serialise()
        _audit(instance, "instance.removed", by, ip, {"path": instance.path})
        forget_instance(instance.pk)
        instance.delete()


def confirm_identity(instance: Instance, *, by: User, ip: str | None = None) -> Instance:
    """Accept the directory that stands at the path now as this instance's; audited with both identities."""
    _require_manager(by, instance)
    seen = probe(instance.path)
    with transaction.atomic():
        serialise()
        was = {"device": instance.device, "inode": instance.inode}
        _require_new(seen, beside=instance)
        keep_identity(instance, seen.device, seen.inode)
        instance.identity_confirmed_at = timezone.now()
        instance.save(update_fields=["identity_confirmed_at"])
        _keep_sample(instance, seen.figures, seen.collections_digest)
        now = {"device": instance.device, "inode": instance.inode}
        _audit(instance, "instance.identity_confirmed", by, ip, {"was": was, "now": now})
    return instance


def refresh_sample(instance: Instance) -> Sample | None:
    """Read the figures of an instance on this host and keep them; None when it can not be read.

    Why it could not is then in ``problem_code`` and ``problem_text``, and the last good figures stay. A look that
    finds nothing changed adds a row only once an hour.
    """
    try:
        figures, digest = _read(store_access(instance))
    except OpsError as error:
        _keep_problem(instance, error)
        return None
    with transaction.atomic():
        return _keep_sample(instance, figures, digest)


def refresh_samples() -> int:
    """Refresh the samples of this host's instances that are due; returns how many were looked at."""
    due = timezone.now() - SAMPLE_EVERY + timedelta(seconds=30)
    looked = 0
    for instance in Instance.objects.of_host().select_related("sample"):
        if instance.checked_at is None or instance.checked_at <= due:
            refresh_sample(instance)
            looked += 1
    return looked


def prune() -> int:
    """Remove samples that are older than SAMPLES_KEPT; returns how many."""
    return Sample.objects.filter(at__lt=timezone.now() - SAMPLES_KEPT).delete()[0]


def allowed_roots() -> tuple[Path, ...]:
    """The directories below which stores may be registered in the browser; empty when there are none."""
    return tuple(settings.CHROMAADMIN_ROOTS)


def _real_path(path: str | Path, by: User | None) -> str:
    """The real path of an existing directory; what lies outside the roots is not even looked for."""
    text = os.fspath(path)
    if not text or "\0" in text:
        raise BadPath(path=text.replace("\0", "\\0") or "The empty path", why="it is no path")
    if by is not None and not os.path.isabs(text):
        raise BadPath(path=text, why="it does not begin with /")
    real = os.path.realpath(text)
    if by is not None and not any(_inside(real, os.fspath(root)) for root in allowed_roots()):
        raise OutsideRoots(path=text)
    try:
        return os.path.realpath(text, strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(path=text) from None
    except PermissionError as error:
        raise Unreadable(path=text, why=error.strerror, uid=os.geteuid()) from None
    except OSError as error:
        raise BadPath(path=text, why=error.strerror) from None


def _inside(path: str, root: str) -> bool:
    return os.path.commonpath([path, os.path.realpath(root)]) == os.path.realpath(root)


def _read(access: Any) -> tuple[dict[str, Any], str]:
    """The figures of a sample and the digest of the collection ids."""
    seen = access.read(sampling.sample)
    return {name: to_json(getattr(seen, name)) for name in Sample.FIGURES}, seen.collections_digest


def _require_new(seen: Probe, beside: Instance | None = None) -> None:
    others = Instance.objects.of_host()
    if beside is not None:
        others = others.exclude(pk=beside.pk)
    same = others.filter(device=str(seen.device), inode=str(seen.inode)).first()
    if same is not None:
        raise DuplicateInstance(path=seen.path, name=same.name)
    for other in others.only("name", "path"):
        if _inside(seen.path, other.path) or _inside(other.path, seen.path):
            raise NestedInstance(path=seen.path, name=other.name, other=other.path)


def _keep_sample(instance: Instance, figures: dict[str, Any], digest: str) -> Sample:
    now = timezone.now()
    last = instance.sample
    if last is not None and _same(last.figures(), figures) and now - last.at < SAMPLE_AT_LEAST_EVERY:
        sample = last
    else:
        sample = Sample.objects.create(instance=instance, at=now, **figures)
    instance.sample, instance.checked_at, instance.collections_digest = sample, now, digest
    instance.problem_code = instance.problem_text = ""
    instance.save(update_fields=["sample", "checked_at", "collections_digest", "problem_code", "problem_text"])
    return sample


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    # Free bytes are those of the file system; others write there too.
    return {**before, "free_bytes": None} == {**after, "free_bytes": None}


def _keep_problem(instance: Instance, error: OpsError) -> None:
    instance.checked_at = timezone.now()
    instance.problem_code, instance.problem_text = error.code, str(error)
    instance.save(update_fields=["checked_at", "problem_code", "problem_text"])


def _set_tags(instance: Instance, names: Iterable[str]) -> None:
    wanted = sorted({" ".join(name.split())[:60] for name in names if name.strip()})
    instance.tags.set([Tag.objects.get_or_create(name=name)[0] for name in wanted])
    Tag.objects.filter(instances=None).delete()


def _free_slug(name: str) -> str:
    base = slugify(name)[:120] or "instance"
    slug, number = base, 1
    while Instance.objects.filter(slug=slug).exists():
        number += 1
        slug = f"{base}-{number}"
    return slug


def _require_manager(by: User, instance: Instance) -> None:
    if not may(by, Right.MANAGE_INSTANCE, instance):
        raise PermissionDenied("Managing this instance needs the role Admin on it.")


def _audit(instance: Instance, action: str, by: User | None, ip: str | None, detail: dict[str, Any]) -> None:
    record(
        action, actor=by, ip=ip, kind="instance", object_id=instance.pk, object_name=instance.name,
        instance_id=instance.pk, detail=detail, actor_name="" if by else "command line of this host",
    )  # fmt: skip
