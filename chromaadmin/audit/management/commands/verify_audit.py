"""`manage.py verify_audit`: walk the audit trail; exit 0 when it is whole, 1 when it is not."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from chromaadmin.audit.selectors import verify
from ops.codec import to_json


class Command(BaseCommand):
    help = "Verify the audit trail: every edited, deleted, inserted or reordered entry is found."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        answer = verify()
        if options["json"]:
            self.stdout.write(json.dumps(to_json(answer)))
        else:
            for problem in answer.problems:
                self.stdout.write(problem.sentence)
            if answer.problem_count > len(answer.problems):
                self.stdout.write(f"{answer.problem_count - len(answer.problems):,} more problems are not shown.")
            verdict = "The chain is whole" if answer.intact else "The chain is broken"
            self.stdout.write(f"{verdict}: {answer.entries:,} entries, head {answer.head_seq} {answer.head_hash[:8]}.")
            self.stdout.write(answer.tail)
        if not answer.intact:
            sys.exit(1)
