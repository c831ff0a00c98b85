"""`manage.py list_urls`: every address with its methods and the right it needs."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from chromaadmin.addresses import all_addresses


class Command(BaseCommand):
    help = "List every address of the application with its methods and the right it needs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON list.")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = [
            {"name": one.name, "path": one.path, "methods": list(one.methods), "right": one.right, "where": one.where}
            for one in all_addresses()
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=1))
            return
        for row in rows:
            needs = f"{row['right']} ({row['where']})"
            self.stdout.write(f"{row['path']:66} {row['name']:34} {','.join(row['methods']):10} {needs}")
