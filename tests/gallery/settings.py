"""The test settings with the gallery's addresses and templates, on a database file that `serve` may use."""

from chromaadmin.settings.test import *  # noqa: F403
from chromaadmin.settings.test import BASE_DIR, TEMPLATES  # noqa: F401

ROOT_URLCONF = "tests.gallery.urls"
TEMPLATES[0]["DIRS"] = [*TEMPLATES[0]["DIRS"], BASE_DIR / "tests/gallery/templates"]
DEBUG = True
