"""`manage.py recover`: settle runs that were lost, and what interrupted writers left in this host's instances."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from chromaadmin.instances.models import Instance
from chromaadmin.runs.models import MaintenanceRun, State
from chromaadmin.runs.recovery import mark_lost, recover_instance, recover_run
from ops.codec import to_json


class Command(BaseCommand):
    help = "Finish or roll back what interrupted operations left. Three times is once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        mark_lost()
        runs = []
        for run in MaintenanceRun.objects.filter(state=State.LOST).order_by("number"):
            recover_run(run)
            run.refresh_from_db()
            runs.append(
                {
                    "run_id": str(run.pk), "run": run.number, "instance": run.instance_name,
                    "operation": run.operation, "state": run.state, "effect_on_store": run.effect_on_store,
                    "note": run.note,
                }
            )  # fmt: skip
        instances = []
        for instance in Instance.objects.of_host():
            found, why = recover_instance(instance)
            instances.append(
                {"instance": instance.name, "path": instance.path, "recovered": to_json(found), "problem": why}
            )
        settled = not any(run["state"] in (State.LOST, State.NEEDS_OPERATOR) for run in runs)
        if options["json"]:
            self.stdout.write(json.dumps({"runs": runs, "instances": instances, "settled": settled}))
        else:
            for each in runs:
                self.stdout.write(f"Run {each['run']} on {each['instance']}: {each['state']}. {each['note']}")
            for place in instances:
                if place["problem"]:
                    self.stdout.write(f"{place['instance']}: {place['problem']}")
            if not runs:
                self.stdout.write("No run was lost.")
        if not settled:
            sys.exit(1)
