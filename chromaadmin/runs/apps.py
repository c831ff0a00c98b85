"""The runs app: one permission per operation is made when migrations have run."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RunsConfig(AppConfig):
    name = "chromaadmin.runs"
    label = "runs"
    verbose_name = "Runs"

    def ready(self) -> None:
        from chromaadmin.runs.permissions import make_permissions

        post_migrate.connect(make_permissions, sender=self, dispatch_uid="chromaadmin.runs.permissions")
