"""The audit app."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "chromaadmin.audit"
    label = "audit"
    verbose_name = "Audit"
