"""Reading instances for pages: from stored samples only, never from a store."""

from datetime import timedelta

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils import timezone

from chromaadmin.instances.errors import NoSuchInstance
from chromaadmin.instances.models import Instance, Sample


def fleet(user: AbstractBaseUser | AnonymousUser | None) -> QuerySet[Instance]:
    """The instances that ``user`` may see, with newest sample and tags; two queries for any number of them."""
    return Instance.objects.for_user(user).select_related("sample").prefetch_related("tags")


def samples_of(instance: Instance, *, days: int = 90) -> QuerySet[Sample]:
    """The samples of the last days, oldest first."""
    return Sample.objects.filter(instance=instance, at__gte=timezone.now() - timedelta(days=days)).order_by("at")


def instance_named(name: str) -> Instance:
    """The instance of that name, slug or id; for commands. Raises NoSuchInstance."""
    for condition in ({"name": name}, {"slug": name}, {"name__iexact": name}):
        found = Instance.objects.filter(**condition).first()
        if found is not None:
            return found
    try:
        return Instance.objects.get(pk=name)
    except (Instance.DoesNotExist, ValueError, TypeError, ValidationError):
        raise NoSuchInstance(name=name) from None
