"""The accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "chromaadmin.accounts"
    label = "accounts"
    verbose_name = "Team"
