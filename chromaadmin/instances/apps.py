"""The instances app; it tells the audit app who may read which entries."""

from importlib import import_module

from django.apps import AppConfig


class InstancesConfig(AppConfig):
    name = "chromaadmin.instances"
    label = "instances"
    verbose_name = "Instances"

    def ready(self) -> None:
        import_module("chromaadmin.instances.audit_readers")
