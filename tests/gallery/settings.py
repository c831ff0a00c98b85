"""The test settings without the product's own apps: the design has to stand on its own."""

from chromaadmin.settings.test import *  # noqa: F403 - the test settings, a few of them replaced
from chromaadmin.settings.test import BASE_DIR, TEMPLATES

ROOT_URLCONF = "tests.gallery.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "chromaadmin.apps.ChromaAdminConfig",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "django_htmx",
]
TEMPLATES[0]["DIRS"] = [*TEMPLATES[0]["DIRS"], BASE_DIR / "tests/gallery/templates"]
DEBUG = True
