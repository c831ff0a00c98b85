"""The real settings on the database of a test, for processes that a test starts."""

import os

from chromaadmin.settings.base import *  # noqa: F403
from chromaadmin.settings.base import DATABASES

DATABASES["default"]["NAME"] = os.environ["CHROMAADMIN_TEST_DATABASE"]
