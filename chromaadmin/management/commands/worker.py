"""`manage.py worker`: the jobs cluster of this host alone, for a machine that holds stores but serves no pages."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Run the jobs of this host (CHROMAADMIN_HOST) until SIGTERM; running operations are finished first."

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        self.stderr.write(f"Jobs of the queue {settings.JOBS_QUEUE}")
        # django-q2 reads the queue's name while Django starts, so the process replaces itself.
        os.execve(  # noqa: S606 - no shell, fixed arguments
            sys.executable,
            [sys.executable, sys.argv[0], "qcluster"],
            os.environ | {"Q_CLUSTER_NAME": settings.JOBS_QUEUE},
        )
