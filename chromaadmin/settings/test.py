"""Settings of the test run: the real ones on a home of their own, with cheap passwords and plain static files."""

import atexit
import os
import shutil
import tempfile

# Every test process gets its own home, before `base` reads the environment; a developer's var/ is never touched.
_home = tempfile.mkdtemp(prefix="chromaadmin-test-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["CHROMAADMIN_HOME"] = _home
os.environ["CHROMAADMIN_HOST"] = "testhost"
for _name in ("CHROMAADMIN_ROOTS", "CHROMAADMIN_TLS", "CHROMAADMIN_ALLOWED_HOSTS", "CHROMAADMIN_BIND"):
    os.environ.pop(_name, None)

from chromaadmin.settings.base import *  # noqa: E402, F403 - the environment must be set first
from chromaadmin.settings.base import ALLOWED_HOSTS, DATABASES, HOME, STORAGES  # noqa: E402

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ALLOWED_HOSTS.append("testserver")
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
# A file, not memory: threads and child processes of a test see one database with the locking of production.
DATABASES["default"]["TEST"] = {"NAME": str(HOME.path / "test.sqlite3")}
