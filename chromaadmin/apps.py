"""The project's own app, and the admin site's: which admin modules are loaded, and what django_q may not offer."""

from importlib import import_module
from typing import Any

from django.apps import AppConfig, apps
from django.contrib.admin.apps import SimpleAdminConfig
from django.db.models.signals import post_migrate
from django.utils.module_loading import module_has_submodule


class ChromaAdminConfig(AppConfig):
    name = "chromaadmin"
    verbose_name = "Chroma Admin"

    def ready(self) -> None:
        from chromaadmin.platform import lifeline

        lifeline.attach()
        post_migrate.connect(_strip_queue_permissions, dispatch_uid="chromaadmin.strip_queue_permissions")


class ChromaAdminSiteConfig(SimpleAdminConfig):
    """The admin app without autodiscovery over every installed app.

    django_q's admin pages run any function whoever may add a schedule names, and allauth's show second factors: only
    admin modules of the project's own apps are loaded.
    """

    default_site = "chromaadmin.site.ChromaAdminSite"

    def ready(self) -> None:
        super().ready()
        for app in apps.get_app_configs():
            if app.name.startswith("chromaadmin.") and app.module and module_has_submodule(app.module, "admin"):
                import_module(f"{app.name}.admin")


def _strip_queue_permissions(**_: Any) -> None:
    """Take away the permissions on django_q's models: its rows are pickles and name functions."""
    permission = apps.get_model("auth", "Permission")
    permission.objects.filter(content_type__app_label="django_q").delete()
