"""AuditEntry: one row of the append-only, sealed chain."""

import json
from typing import Any

from django.conf import settings
from django.db import models

GENESIS = "0" * 64


class AuditEntry(models.Model):
    """One thing that was done.

    Written by ``services.record()`` only. Triggers refuse UPDATE and DELETE; the one exception is ``actor`` becoming
    NULL when the account is deleted, which is why the seal covers ``actor_name`` and ``actor_ref`` and not ``actor``.
    ``seq`` has no gaps. ``hash`` is HMAC-SHA256, with a key outside the database, over all sealed fields and
    ``prev_hash``, the hash of the entry before (64 zeros for the first).
    """

    seq = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField(db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    actor_name = models.CharField(max_length=200)
    actor_ref = models.CharField(max_length=64, blank=True)
    ip = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=80, db_index=True)
    object_kind = models.CharField(max_length=40, blank=True)
    object_id = models.CharField(max_length=80, blank=True)
    object_name = models.CharField(max_length=300, blank=True)
    instance_id = models.CharField(max_length=40, blank=True, db_index=True)
    run_id = models.CharField(max_length=40, blank=True, db_index=True)
    detail_json = models.TextField(default="{}")
    reason = models.TextField(blank=True)
    prev_hash = models.CharField(max_length=64, unique=True)
    hash = models.CharField(max_length=64, unique=True)

    class Meta:
        ordering = ["-seq"]
        verbose_name = "audit entry"
        verbose_name_plural = "audit entries"
        # Nobody adds, changes or deletes entries by hand.
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.seq} {self.action} {self.object_name}".rstrip()

    @property
    def detail(self) -> dict[str, Any]:
        """What belongs to the action, as JSON; never a secret."""
        return json.loads(self.detail_json)

    @property
    def short_hash(self) -> str:
        """The first eight digits in two groups, for people: ``a41f 09d2``."""
        return f"{self.hash[:4]} {self.hash[4:8]}"
