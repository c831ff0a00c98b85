"""The browsing app."""

from django.apps import AppConfig


class BrowsingConfig(AppConfig):
    name = "chromaadmin.browsing"
    label = "browsing"
    verbose_name = "Browsing"
