"""`manage.py instance add|list|probe`: register persist directories of this host, list them, look at one."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from chromaadmin.instances.models import Environment, Instance
from chromaadmin.instances.services import probe, refresh_sample, register_directory
from ops.codec import to_json
from ops.errors import OpsError


class Command(BaseCommand):
    help = "Register a persist directory of this host, list the registered ones, or look at a directory."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="add|list|probe")
        add = verbs.add_parser("add", help="Register a persist directory after a look at it.")
        add.add_argument("path", metavar="PERSIST_DIR")
        add.add_argument("--name", required=True, help="What people call it; typed to confirm.")
        add.add_argument("--environment", choices=Environment.values, default=Environment.DEVELOPMENT)
        add.add_argument("--tag", action="append", default=[], dest="tags", help="A word to group by; repeatable.")
        add.add_argument("--notes", default="")
        listing = verbs.add_parser("list", help="The registered instances with their last figures.")
        look = verbs.add_parser("probe", help="Look at a directory, or at a registered instance; changes nothing.")
        look.add_argument("path", metavar="PERSIST_DIR")
        for each in (add, listing, look):
            each.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            answer = getattr(self, f"_{options['verb']}")(options)
        except OpsError as error:
            failure = {"code": error.code, "message": str(error), "hint": error.hint_text}
            if options["json"]:
                self.stdout.write(json.dumps({"status": "refused", "error": failure}))
            else:
                self.stderr.write(f"{error.code}: {error}\n{error.hint_text}")
            sys.exit(error.outcome.exit_status)
        if options["json"]:
            self.stdout.write(json.dumps({"status": "succeeded", "error": None, **answer}))

    def _add(self, options: dict[str, Any]) -> dict[str, Any]:
        instance = register_directory(
            options["name"], options["path"], options["environment"], options["tags"], notes=options["notes"]
        )
        if not options["json"]:
            self.stdout.write(f"{instance.name} is registered: {instance.path} ({instance.environment}).")
        return {"instance": _shown(instance)}

    def _list(self, options: dict[str, Any]) -> dict[str, Any]:
        instances = [_shown(each) for each in Instance.objects.select_related("sample").prefetch_related("tags")]
        if not options["json"]:
            for each in instances:
                problem = f"  {each['problem']['message']}" if each["problem"] else ""
                self.stdout.write(f"{each['name']}  {each['environment']}  {each['path']}{problem}")
        return {"instances": instances}

    def _probe(self, options: dict[str, Any]) -> dict[str, Any]:
        seen = probe(options["path"])
        registered = Instance.objects.of_host().filter(device=str(seen.device), inode=str(seen.inode)).first()
        if registered is not None:
            refresh_sample(registered)
        if not options["json"]:
            for name, value in seen.figures.items():
                self.stdout.write(f"{name}: {'unknown' if value is None else value}")
        return {"probe": to_json(seen), "instance": _shown(registered) if registered else None}


def _shown(instance: Instance) -> dict[str, Any]:
    sample = instance.sample
    problem = {"code": instance.problem_code, "message": instance.problem_text} if instance.problem_code else None
    return {
        "id": str(instance.pk),
        "name": instance.name,
        "path": instance.path,
        "environment": instance.environment,
        "tags": sorted(instance.tag_names),
        "host": instance.host,
        "checked_at": to_json(instance.checked_at),
        "sample": {"at": to_json(sample.at), **sample.figures()} if sample else None,
        "problem": problem,
    }
