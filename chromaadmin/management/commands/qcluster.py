"""`manage.py qcluster`: django-q2's command with the guarded cluster."""

from typing import Any

from django_q.management.commands import qcluster

from chromaadmin.platform import cluster


class Command(qcluster.Command):
    help = "Run one queue cluster; Q_CLUSTER_NAME says which: console, or host-<name> for the jobs of one host."

    def handle(self, *args: Any, **options: Any) -> None:
        cluster.install()
        super().handle(*args, **options)
