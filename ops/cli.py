"""The command line, built from the registry: exit status, ``--json`` and confirmation are the same for all."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ops.codec import Json, to_json
from ops.errors import ApprovalRequired, BadParameters, OpsError
from ops.execute import Ended, Failure, RunOptions, execute, preview
from ops.operation import Effect, Operation, explanation, title, words
from ops.params import Parameter, parameters, parse
from ops.plan import Plan
from ops.progress import Event, Outlet, Progress
from ops.registry import all_operations, operation_class, operation_names
from ops.store.export_file import STDOUT

ALIASES = {
    "info": ("db", "info"),
    "commit-wal": ("wal", "commit"),
    "clean-wal": ("wal", "clean"),
    "cleanup-wal": ("wal", "clean"),
    "export-wal": ("wal", "export"),
    "rebuild-fts": ("fts", "rebuild"),
    "undo": ("run", "undo"),
}
BUG_EXIT = 70
USAGE = """usage: python -m ops SUBJECT VERB PERSIST_DIR [--option value …]
       python -m ops recover PERSIST_DIR [--json]
       python -m ops SUBJECT VERB --help

Works on a bare Chroma persist directory, without the application and without opening it with Chroma.
"""
EXIT_HELP = """exit status: 0 succeeded, 1 failed or needs an operator, 2 bad usage or no store,
3 refused (nothing was tried), 4 cancelled, 70 a bug"""


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    arguments = list(arguments)
    door = Door(arguments)
    sys.excepthook = door.crashed
    try:
        return door.serve()
    except OpsError as error:
        return door.refused(error)


class Door:
    """One invocation: what was asked, and the one place that shapes its answer."""

    def __init__(self, arguments: list[str]) -> None:
        if arguments and arguments[0] in ALIASES:
            arguments = [*ALIASES[arguments[0]], *arguments[1:]]
        self.arguments = arguments
        self.json = "--json" in arguments
        self.operation = "_".join(arguments[:2]).replace("-", "_") if arguments else ""
        self.path: str | None = None
        self.run_id: str | None = None
        self.streams = False  # what is exported goes to standard output, so nothing else does

    def serve(self) -> int:
        if not self.arguments or self.arguments[0] in ("-h", "--help"):
            sys.stdout.write(_overview())
            return 0 if self.arguments else 2
        if self.arguments[0] == "recover":
            return self._recover(self.arguments[1:])
        if self.operation not in operation_names():
            raise BadParameters({"command": f"There is no command {' '.join(self.arguments[:2])!r}."}, "")
        return self._operate(operation_class(self.operation), self.arguments[2:])

    def _operate(self, cls: type[Operation[object]], rest: list[str]) -> int:
        parser = parser_for(cls)
        options = parser.parse_args(rest)
        self.path = options.persist_dir
        operation = parse(cls, given(options, cls))
        self.streams = getattr(operation, "output", None) in ("", STDOUT)
        if self.streams and self.json:
            raise BadParameters({"output": "With --json standard output is taken; name a file."}, " ".join(words(cls)))
        view = View(quiet=self.json)
        stop = _stop_on_signals()
        run_options = RunOptions()
        if operation.writes:
            run_options = RunOptions(
                undo=options.undo,
                attest_unused=options.attest_unused,
                max_rows=options.max_rows,
                max_bytes=options.max_bytes,
            )
            if options.dry_run or not options.yes:
                plan = preview(operation, options.persist_dir)
                if options.dry_run:
                    return self._answer(operation, plan)
                view.plan(plan)
                if not _confirmed(operation, options.persist_dir):
                    raise ApprovalRequired(operation=" ".join(words(cls)))
        self.run_id = str(uuid.uuid4()) if operation.writes else None
        ended = execute(
            operation,
            options.persist_dir,
            run_id=self.run_id or "",
            approved=plan.scope if operation.writes and not options.yes else None,
            allow_unplanned=operation.writes and options.yes,
            options=run_options,
            progress=Progress(view.event, stop.is_set, outlet=Outlet(stream=sys.stdout.buffer)),
        )
        view.close()
        return self._ended(operation, ended)

    def _answer(self, operation: Operation[object], plan: Plan) -> int:
        if self.json:
            self._print_json("succeeded", plan=to_json(plan))
        else:
            View(quiet=False, out=sys.stdout).plan(plan)
        return 0

    def _ended(self, operation: Operation[object], ended: Ended) -> int:
        if getattr(operation, "privacy", False):
            self.path = None  # asked not to be told, so not in the frame around the result either
        exit_status = getattr(operation, "exit_status", lambda _result: 0)(ended.result) or ended.exit_status
        if self.json:
            self._print_json(
                ended.status,
                plan=to_json(ended.plan),
                result=to_json(ended.result),
                error=ended.error.to_json() if ended.error else None,
                duration_s=ended.duration_s,
                effect_on_store=ended.effect_on_store,
            )
            return exit_status
        from ops import render

        if ended.error is not None:
            _print_failure(ended.error)
        elif self.streams:
            sys.stderr.write(f"{ended.report.headline if ended.report else ''}\n")
        else:
            render.result(ended.result, ended.report, details=not operation.writes)
            if ended.report is not None and ended.report.undo:
                sys.stdout.write(f"To undo it: python -m ops undo {self.path} --run {self.run_id}\n")
        return exit_status

    def _recover(self, rest: list[str]) -> int:
        from ops.store.recovery import recover

        parser = Parser(
            prog="python -m ops recover", description="Finish or roll back what an interrupted operation left."
        )
        parser.add_argument("persist_dir", metavar="PERSIST_DIR")
        parser.add_argument("--json", action="store_true", help="One JSON object on standard output.")
        options = parser.parse_args(rest)
        self.operation, self.path = "recover", options.persist_dir
        recovered = recover(options.persist_dir, by_person=True)
        needs_operator = any(run.state == "needs_operator" for run in recovered.runs)
        if self.json:
            self._print_json("needs_operator" if needs_operator else "succeeded", result=to_json(recovered))
        else:
            sys.stdout.writelines(f"{run.sentence}\n" for run in recovered.runs)
            if not recovered.runs:
                sys.stdout.write("Nothing was interrupted here.\n")
        return 1 if needs_operator else 0

    def refused(self, error: OpsError) -> int:
        status = {2: "refused", 3: "refused", 4: "cancelled"}.get(error.outcome.exit_status, error.outcome.value)
        if self.json:
            self._print_json(status, error=Failure.of(error).to_json())
        else:
            _print_failure(Failure.of(error))
        return error.outcome.exit_status

    def crashed(self, kind: type[BaseException], error: BaseException, trace: Any) -> NoReturn:
        """Everything that nobody expected ends here: the traceback to standard error, the object to standard output."""
        interrupted = issubclass(kind, KeyboardInterrupt)
        if not interrupted:
            traceback.print_exception(kind, error, trace)
        if self.json:
            failure: Json = {
                "code": "INTERRUPTED" if interrupted else "BUG",
                "message": "Interrupted." if interrupted else f"{kind.__name__}: {error}",
                "hint": "Run `python -m ops recover PERSIST_DIR` before anything else writes to the store.",
                "details": {},
            }
            self._print_json("cancelled" if interrupted else "errored", error=failure)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(4 if interrupted else BUG_EXIT)

    def _print_json(
        self,
        status: str,
        *,
        plan: Json = None,
        result: Json = None,
        error: Json = None,
        duration_s: float = 0.0,
        effect_on_store: str = "none",
    ) -> None:
        answer = {
            "operation": self.operation,
            "persist_dir": self.path,
            "run_id": self.run_id,
            "status": status,
            "plan": plan,
            "result": result,
            "error": error,
            "duration_s": round(duration_s, 3),
            "effect_on_store": effect_on_store,
        }
        sys.stdout.write(json.dumps(answer) + "\n")


class Parser(argparse.ArgumentParser):
    """argparse that reports bad usage as an error of ours, so that ``--json`` answers in every case."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and leaving."""
        raise BadParameters({"command line": f"{message}."}, self.prog.removeprefix("python -m ops "))


def parser_for(cls: type[Operation[object]], *, target: str = "PERSIST_DIR") -> Parser:
    """The parser of one operation; ``target`` names what the operation is pointed at."""
    subject, verb = words(cls)
    parser = Parser(
        prog=f"python -m ops {subject} {verb}",
        description=f"{title(cls)}.\n\n{explanation(cls)}",
        epilog=f"effect: {cls.declared.effect.value}. {cls.declared.effect.meaning}\n{EXIT_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("persist_dir", metavar=target)
    add_parameters(parser, cls)
    parser.add_argument("--json", action="store_true", help="One JSON object on standard output, nothing else there.")
    return parser


def add_parameters(parser: argparse.ArgumentParser, cls: type[Operation[object]]) -> None:
    """Add an operation's parameters, and for a writing one the options that all of them take."""
    for parameter in parameters(cls):
        _add(parser, parameter)
    parser.add_argument("--params", metavar="JSON", help="All parameters at once, as one JSON object.")
    if cls.declared.effect is Effect.READ:
        return
    parser.add_argument("--yes", "-y", action="store_true", help="Approve without asking.")
    parser.add_argument("--dry-run", action="store_true", help="Print the plan and change nothing.")
    parser.add_argument(
        "--undo", default="keep", metavar="keep|none|PATH", help="What happens to the state before (keep)."
    )
    parser.add_argument(
        "--attest-unused", action="store_true", help="You made sure that nobody else has the store open."
    )
    parser.add_argument("--max-rows", type=int, metavar="N", help="Refuse when the plan touches more rows.")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="Refuse when the plan writes more bytes.")


def given(options: argparse.Namespace, cls: type[Operation[object]]) -> Mapping[str, object]:
    """What the command line said of an operation's parameters, for ``parse()``."""
    found: dict[str, object] = {}
    if options.params is not None:
        try:
            all_at_once = json.loads(options.params)
        except ValueError as error:
            raise BadParameters({"params": f"This is not JSON: {error}."}) from error
        if not isinstance(all_at_once, dict):
            raise BadParameters({"params": "This is not a JSON object."})
        found.update(all_at_once)
    for parameter in parameters(cls):
        value = getattr(options, parameter.name)
        if value is not None:
            found[parameter.name] = value
    return found


def _add(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    names = [parameter.option, *(f"--{alias.replace('_', '-')}" for alias in parameter.spec.aliases)]
    if parameter.spec.short:
        names.append(f"-{parameter.spec.short}")
    text = parameter.spec.help.replace("%", "%%")
    if parameter.spec.choices:
        text += f" One of {', '.join(parameter.spec.choices)}."
    if not parameter.required and parameter.default not in (None, (), "", False):
        text += f" Default {parameter.default}."
    if parameter.kind is bool:
        parser.add_argument(*names, dest=parameter.name, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    parser.add_argument(
        *names,
        dest=parameter.name,
        action="append" if parameter.many else "store",
        metavar=parameter.name.upper(),
        help=text,
    )


class View:
    """What a person sees while it works: a bar on a terminal, plain lines otherwise, nothing when quiet."""

    def __init__(self, *, quiet: bool, out: Any = None) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._live: Any = None
        if not quiet and self._out.isatty():
            from ops import render

            self._live = render.Live(self._out)

    def event(self, event: Event) -> None:
        if self._live is not None:
            self._live.event(event)
        elif not self._quiet and event.kind in ("phase", "log"):
            self._out.write(event.text + "\n")

    def plan(self, plan: Plan) -> None:
        if not self._quiet:
            from ops import render

            render.plan(plan, self._out)

    def close(self) -> None:
        if self._live is not None:
            self._live.close()


def _confirmed(operation: Operation[object], path: str) -> bool:
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        return False
    wanted = os.path.basename(os.path.realpath(path)) if operation.effect is Effect.DESTRUCTIVE else "yes"
    sys.stderr.write(f"Type {wanted} to go on: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == wanted


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def _print_failure(failure: Failure) -> None:
    sys.stderr.write(f"{failure.code}: {failure.message}\n{failure.hint}\n")


def _overview() -> str:
    lines = [USAGE, "commands:"]
    for cls in all_operations():
        lines.append(f"  {' '.join(words(cls)):24}{title(cls)}. [{cls.declared.effect.value}]")
    lines.append(f"  {'recover':24}Finish or roll back what an interrupted operation left.")
    known = {words(cls) for cls in all_operations()}
    aliases = ", ".join(f"{short} = {' '.join(full)}" for short, full in ALIASES.items() if full in known)
    return "\n".join([*lines, "", f"aliases: {aliases}", EXIT_HELP, ""])
