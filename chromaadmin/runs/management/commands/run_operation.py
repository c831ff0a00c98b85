"""`manage.py run_operation <subject> <verb> INSTANCE …`: ask for a run, audited and through the queue."""

import json
import sys
import time
from argparse import Namespace
from typing import Any, NoReturn, get_args, get_origin

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandParser
from django.db import close_old_connections

from chromaadmin.instances.access import store_access
from chromaadmin.instances.models import Instance
from chromaadmin.instances.selectors import instance_named
from chromaadmin.runs.folder import read_log
from chromaadmin.runs.models import Door, MaintenanceRun, State
from chromaadmin.runs.selectors import result_of
from chromaadmin.runs.services import request_run
from ops.cli import add_parameters, given
from ops.codec import from_json, to_json
from ops.errors import ApprovalRequired, BadParameters, OpsError
from ops.operation import Effect, Operation, title, words
from ops.params import parse
from ops.plan import Plan
from ops.registry import all_operations, operation_class, operation_names

POLL_S = 0.3
ERRORED_EXIT = 70
EXIT_OF_STATE = {
    State.SUCCEEDED: 0,
    State.FAILED: 1,
    State.NEEDS_OPERATOR: 1,
    State.LOST: 1,
    State.REFUSED: 3,
    State.CANCELLED: 4,
    State.ERRORED: ERRORED_EXIT,
}


class Command(BaseCommand):
    help = "Run an operation on a registered instance: `run_operation hnsw rebuild INSTANCE --collection NAME`."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """A parser that reports bad usage as an error of ours, so that --json answers in every case."""
        # An operation's own -v (verbose) takes the place of Django's.
        parser = super().create_parser(prog_name, subcommand, **{"conflict_handler": "resolve", **kwargs})
        parser.error = _bad_usage  # type: ignore[method-assign]
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        except OpsError as error:
            sys.exit(self._refused(error, "--json" in argv))

    def add_arguments(self, parser: CommandParser) -> None:
        arguments = sys.argv[2:] if sys.argv[1:2] == ["run_operation"] else self._called_with
        positional = [word for word in arguments if not word.startswith("-")]
        name = "_".join(positional[:2]).replace("-", "_")
        parser.add_argument("subject", help="What it is about: db, wal, fts, hnsw, …")
        parser.add_argument("verb", help="What is done.")
        parser.add_argument("instance", metavar="INSTANCE", help="Name, slug or id of the instance.")
        parser.add_argument("--wait", action="store_true", help="Wait until the run has ended.")
        parser.add_argument("--json", action="store_true", help="One JSON object on standard output.")
        parser.add_argument("--reason", default="", help="Why; kept in the audit trail.")
        parser.add_argument("--user", default="", help="Ask as this account, with its rights.")
        if name in operation_names():
            add_parameters(parser, operation_class(name))
        else:
            parser.epilog = "operations: " + ", ".join(" ".join(words(cls)) for cls in all_operations())

    @property
    def _called_with(self) -> list[str]:
        """The words of `call_command("run_operation", …)`, which does not go through sys.argv."""
        return list(getattr(self, "arguments", ()))

    def handle(self, *args: Any, **options: Any) -> None:
        name = f"{options['subject']}_{options['verb']}".replace("-", "_")
        cls = operation_class(name)
        operation = parse(cls, given(Namespace(**options), cls))
        instance = instance_named(options["instance"])
        user = _account(options["user"])
        seen: Plan | None = None
        if operation.writes:
            if options["dry_run"] or not options["yes"]:
                seen = store_access(instance).preview(operation)
            if options["dry_run"]:
                self._plan(operation, instance, seen, options["json"])
                return
            if seen is not None:
                self._confirm(operation, instance, seen)
        run = request_run(
            user,
            instance,
            operation,
            approve_value=bool(options.get("yes")),
            seen=seen,
            reason=options["reason"],
            attest_unused=bool(options.get("attest_unused")),
            undo=options.get("undo") or "keep",
            max_rows=options.get("max_rows"),
            max_bytes=options.get("max_bytes"),
            door=Door.COMMAND,
        )
        if options["wait"]:
            run = self._wait(run, quiet=options["json"])
        self._answer(run, options["json"])
        if options["wait"] and (code := _exit_status(run)):
            sys.exit(code)

    def _wait(self, run: MaintenanceRun, *, quiet: bool) -> MaintenanceRun:
        said = 0
        while run.is_live:
            time.sleep(POLL_S)
            close_old_connections()
            run.refresh_from_db()
            if not quiet:
                lines = read_log(run.pk, last=2000)
                for line in lines[said:]:
                    self.stderr.write(f"{line.at:%H:%M:%S} {line.text}")
                said = len(lines)
        return run

    def _answer(self, run: MaintenanceRun, as_json: bool) -> None:
        if as_json:
            answer = {
                "operation": run.operation,
                "persist_dir": run.instance_path,
                "instance": run.instance_name,
                "run_id": str(run.pk),
                "run": run.number,
                "state": run.state,
                "status": run.state,
                "plan": run.plan if run.writes else None,
                "result": result_of(run),
                "error": run.error,
                "effect_on_store": run.effect_on_store or None,
                "note": run.note,
                "duration_s": _duration(run),
            }
            self.stdout.write(json.dumps(answer))
            return
        self.stdout.write(f"Run {run.number} ({run.pk}): {run.get_state_display().lower()}.")
        if run.report:
            self.stdout.write(str(run.report["headline"]))
        if run.error:
            self.stderr.write(f"{run.error['code']}: {run.error['message']}")
            if run.error.get("hint"):
                self.stderr.write(str(run.error["hint"]))
        if run.note:
            self.stdout.write(run.note)

    def _plan(self, operation: Operation[Any], instance: Instance, plan: Plan | None, as_json: bool) -> None:
        if as_json:
            answer = {
                "operation": operation.name, "persist_dir": instance.path, "instance": instance.name, "run_id": None,
                "state": None, "status": "succeeded", "plan": to_json(plan), "result": None, "error": None,
                "duration_s": 0.0,
            }  # fmt: skip
            self.stdout.write(json.dumps(answer))
        elif plan is not None:
            self._say_plan(plan, self.stdout.write)

    def _say_plan(self, plan: Plan, write: Any) -> None:
        write(plan.headline)
        for change in plan.changes:
            write(f"  {change.what}: {change.now if change.now is not None else '-'} -> {change.after or '-'}")
        for check in plan.checks:
            write(f"  [{check.state}] {check.sentence}")
        for warning in plan.warnings:
            write(f"  {warning}")
        if plan.undo:
            write(f"  Undo: {plan.undo}")

    def _confirm(self, operation: Operation[Any], instance: Instance, plan: Plan) -> None:
        command = " ".join(words(type(operation)))
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ApprovalRequired(operation=command)
        self._say_plan(plan, self.stderr.write)
        wanted = instance.name if operation.effect is Effect.DESTRUCTIVE or instance.is_production else "yes"
        self.stderr.write(f"{title(type(operation))} on {instance.name}. Type {wanted} to go on: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip() != wanted:
            raise ApprovalRequired(operation=command)

    def _refused(self, error: OpsError, as_json: bool) -> int:
        if as_json:
            failure = {"code": error.code, "message": str(error), "hint": error.hint_text, "details": {}}
            answer = {
                "operation": None, "persist_dir": None, "run_id": None, "state": None, "status": "refused",
                "plan": None, "result": None, "error": failure, "duration_s": 0.0,
            }  # fmt: skip
            self.stdout.write(json.dumps(answer))
        else:
            self.stderr.write(f"{error.code}: {error}")
            self.stderr.write(error.hint_text)
        return error.outcome.exit_status


def _account(username: str) -> User | None:
    if not username:
        return None
    user = get_user_model()._default_manager.filter(username=username).first()
    if user is None:
        raise BadParameters({"user": f"There is no account called {username}."}, "")
    return user


def _exit_status(run: MaintenanceRun) -> int:
    """The exit status of the command line contract; an operation may give its own for a result (``db check``)."""
    status = EXIT_OF_STATE[State(run.state)]
    operation = parse(operation_class(run.operation), run.parameters)
    own = getattr(operation, "exit_status", None)
    if status or own is None:
        return status
    bases = vars(type(operation))["__orig_bases__"]  # among them Operation[Result]
    kind = next(get_args(base)[0] for base in bases if get_origin(base) is Operation)
    return int(own(from_json(kind, result_of(run), "result")))


def _duration(run: MaintenanceRun) -> float:
    if run.started_at is None or run.finished_at is None:
        return 0.0
    return round((run.finished_at - run.started_at).total_seconds(), 3)


def _bad_usage(message: str) -> NoReturn:
    raise BadParameters({"command line": f"{message}."}, "")
