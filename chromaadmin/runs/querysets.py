"""The queryset of runs: the choke point for who may see which."""

from typing import TYPE_CHECKING, Self

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.db.models import Q

from chromaadmin.accounts.rights import Right, reach_of
from chromaadmin.instances.models import Instance

if TYPE_CHECKING:
    from chromaadmin.runs.models import MaintenanceRun  # noqa: F401 - in the quoted base class


class RunQuerySet(models.QuerySet["MaintenanceRun"]):
    """Runs; pages start from ``for_user()``."""

    def for_user(self, user: AbstractBaseUser | AnonymousUser | None, right: Right | str = Right.VIEW) -> Self:
        """The runs on instances where ``user`` has ``right``.

        Runs of an instance that was removed are seen by those with the right everywhere, and by who asked for them.
        """
        reach = reach_of(user, right)
        if reach.everything:
            return self.all()
        if user is None or not user.is_authenticated or not user.is_active:
            return self.none()
        seen = Q(instance__in=Instance.objects.for_user(user, right).values("pk"))
        return self.filter(seen | Q(instance=None, requested_by_id=user.pk))
