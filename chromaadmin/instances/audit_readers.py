"""Who may read which audit entries: told to the audit app, which knows neither roles nor instances."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import QuerySet

from chromaadmin.accounts.rights import Right, reach_of
from chromaadmin.audit.models import AuditEntry
from chromaadmin.audit.selectors import entries
from chromaadmin.audit.trail import readable_by
from chromaadmin.instances.models import Instance


@readable_by
def readable_entries(user: AbstractBaseUser | AnonymousUser) -> QuerySet[AuditEntry] | None:
    """All entries for a role over everything, those of its instances for a smaller one, None for no right at all."""
    reach = reach_of(user, Right.READ_AUDIT)
    if reach.nowhere:
        return None
    if reach.everything:
        return entries()
    seen = Instance.objects.for_user(user, Right.READ_AUDIT).values_list("pk", flat=True)
    return entries().filter(instance_id__in=[str(pk) for pk in seen])
