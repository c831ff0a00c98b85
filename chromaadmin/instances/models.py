"""Instance: a registered persist directory. Sample: the figures read of it at one time."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.db.models import Q

from chromaadmin.accounts.rights import Right, reach_of


class Environment(models.TextChoices):
    """What a store is used for; production asks for the name and a reason before anything is changed."""

    PRODUCTION = "production", "Production"
    STAGING = "staging", "Staging"
    DEVELOPMENT = "development", "Development"


class Tag(models.Model):
    """A word that groups instances; roles can be given on it."""

    name = models.CharField(max_length=60, unique=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class InstanceQuerySet(models.QuerySet["Instance"]):
    """The choke point: every page and every door starts from ``for_user()``."""

    def for_user(self, user: AbstractBaseUser | AnonymousUser | None, right: Right | str = Right.VIEW) -> Self:
        """The instances on which ``user`` has ``right``; none for nobody and for a disabled account."""
        reach = reach_of(user, right)
        if reach.everything:
            return self.all()
        if reach.nowhere:
            return self.none()
        condition = Q(pk__in=reach.instance_ids)
        if reach.tags:
            # A subquery and no join, so that an instance with two of the tags comes once.
            condition |= Q(pk__in=Instance.tags.through.objects.filter(tag__name__in=reach.tags).values("instance_id"))
        return self.filter(condition)

    def of_host(self, host: str | None = None) -> Self:
        """The instances whose directory lies on ``host`` (default: this one)."""
        return self.filter(host=host or settings.CHROMAADMIN_HOST)


class Instance(models.Model):
    """A persist directory registered here.

    ``path`` is its real path on ``host``. ``device`` and ``inode`` (decimal text, for they have 64 bits and no sign)
    tell it from another directory that stands at the same path later. ``collections_digest`` is the SHA-256 of the
    sorted collection ids seen last. ``sample`` holds the newest figures, None before the first; ``problem_code`` and
    ``problem_text`` say why the last look failed, both empty when it did not; ``checked_at`` is when that look was.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=120, unique=True)
    slug = models.SlugField(max_length=140, unique=True)
    path = models.TextField()
    device = models.CharField(max_length=20)
    inode = models.CharField(max_length=20)
    collections_digest = models.CharField(max_length=64, blank=True)
    environment = models.CharField(max_length=20, choices=Environment, default=Environment.DEVELOPMENT)
    tags = models.ManyToManyField(Tag, blank=True, related_name="instances")
    host = models.CharField(max_length=120)
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    identity_confirmed_at = models.DateTimeField()
    sample = models.ForeignKey("Sample", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    checked_at = models.DateTimeField(null=True, blank=True)
    problem_code = models.CharField(max_length=60, blank=True)
    problem_text = models.TextField(blank=True)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["host", "device", "inode"], name="instances_one_per_directory"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode as numbers."""
        return int(self.device), int(self.inode)

    @property
    def is_production(self) -> bool:
        return self.environment == Environment.PRODUCTION

    @property
    def tag_names(self) -> frozenset[str]:
        """The names of its tags; prefetch ``tags`` when asking for many instances."""
        return frozenset(tag.name for tag in self.tags.all())

    @property
    def queue(self) -> str:
        """The queue of the host that has the directory."""
        return f"host-{self.host}"


class Sample(models.Model):
    """What was read of an instance at one time: pages and charts show these, they never read a store for a list.

    A figure that could not be told is NULL, never 0. Bytes are plain numbers. ``problems`` is a list of ``{"code",
    "sentence", "hint"}``; ``judged`` is how many collections' indexes were looked at for it.
    """

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="samples")
    at = models.DateTimeField()
    size_bytes = models.BigIntegerField(null=True)
    allocated_bytes = models.BigIntegerField(null=True)
    sqlite_bytes = models.BigIntegerField(null=True)
    index_bytes = models.BigIntegerField(null=True)
    free_bytes = models.BigIntegerField(null=True)
    tenants = models.BigIntegerField(null=True)
    databases = models.BigIntegerField(null=True)
    collections = models.BigIntegerField(null=True)
    records = models.BigIntegerField(null=True)
    wal_entries = models.BigIntegerField(null=True)
    orphans = models.BigIntegerField(null=True)
    release = models.CharField(max_length=80, blank=True)
    judged = models.BigIntegerField(null=True)
    problems = models.JSONField(default=list)

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["instance", "-at"], name="instances_sample_time")]
        default_permissions = ()

    FIGURES = (
        "size_bytes", "allocated_bytes", "sqlite_bytes", "index_bytes", "free_bytes", "tenants", "databases",
        "collections", "records", "wal_entries", "orphans", "release", "judged", "problems",
    )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.instance_id} at {self.at:%Y-%m-%d %H:%M}"

    def figures(self) -> dict[str, Any]:
        """All figures by name."""
        return {name: getattr(self, name) for name in self.FIGURES}
