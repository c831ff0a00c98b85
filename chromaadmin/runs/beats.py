"""What is due once a minute and must be done by one process only: claimed by a conditional UPDATE."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from chromaadmin.runs.models import Beat

EVERY_S = 60.0
# A tick that has begun and not ended in this time died with its worker.
GIVEN_UP_AFTER = timedelta(minutes=30)
HOST = f"host:{settings.CHROMAADMIN_HOST}"


def claim(key: str, *, after_s: float) -> bool:
    """True for the one caller who may begin; not while the one before still works, until that is given up."""
    now = timezone.now()
    due = Beat.objects.filter(key=key, begun_at__lte=now - timedelta(seconds=after_s))
    free = due.exclude(ended_at=None) | due.filter(begun_at__lte=now - GIVEN_UP_AFTER)
    # Asked every second: look before taking SQLite's write lock.
    if not free.exists():
        if Beat.objects.filter(key=key).exists():
            return False
        try:
            with transaction.atomic():
                Beat.objects.create(key=key, begun_at=now)
        except IntegrityError:
            return False
        return True
    return bool(free.update(begun_at=now, ended_at=None))


def end(key: str) -> None:
    """Say that the work is done."""
    Beat.objects.filter(key=key).update(ended_at=timezone.now())


def last_end(key: str = HOST) -> datetime | None:
    """When the work was done last; None before the first time, and while it is being done."""
    return Beat.objects.filter(key=key).values_list("ended_at", flat=True).first()
