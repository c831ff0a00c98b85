"""Plans, results and progress as text for a terminal; one generic form for every operation."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ops import quantities
from ops.operation import Report
from ops.plan import Plan
from ops.progress import Event
from ops.store.text import visible

_MAX_COLUMNS = 9
_UNFOLDED = 10_000
_LONGEST = 100_000


def in_bytes(size_bytes: int | None) -> str:
    """``4_490_000_000`` as ``4.49 GB``; unknown is a dash."""
    return "—" if size_bytes is None else quantities.in_bytes(size_bytes)


def plan(plan: Plan, out: Any) -> None:
    """A plan: headline, estimate, changes, checks, undo."""
    console = _console(out)
    console.print(f"[bold]{_safe(plan.headline)}[/bold]")
    estimate = plan.estimate
    console.print(
        f"Rows {_cell('rows', estimate.rows)}, written {in_bytes(estimate.written_bytes)},"
        f" needed {in_bytes(estimate.needed_bytes)} of {in_bytes(estimate.free_bytes)} free,"
        f" given back at expiry {in_bytes(estimate.freed_at_expiry_bytes)}"
    )
    table = Table("What", "Now", "After", box=None, pad_edge=False)
    for change in plan.changes:
        table.add_row(*(_safe(text if text is not None else "—") for text in (change.what, change.now, change.after)))
    console.print(table)
    for check in plan.checks:
        console.print(f"{check.state}: {_safe(check.sentence)}")
    for warning in plan.warnings:
        console.print(f"warning: {_safe(warning)}")
    if plan.undo:
        console.print(_safe(plan.undo))


def result(value: object, report: Report | None, *, details: bool) -> None:
    """A result on standard output: the report where the operation makes one, and with ``details`` every field."""
    console = _console(sys.stdout)
    if report is not None and report.figures:
        console.print(f"[bold]{_safe(report.headline)}[/bold]")
        for figure in report.figures:
            was = f" (was {_safe(figure.before)})" if figure.before is not None else ""
            console.print(f"  {_safe(figure.label)}: {_safe(figure.value)} {_safe(figure.unit)}{was}")
        for line in (*report.notes, report.verified, report.undo):
            if line:
                console.print(_safe(line))
    if (
        (details or report is None or not report.figures)
        and dataclasses.is_dataclass(value)
        and not isinstance(value, type)
    ):
        _fields(console, value)


class Live:
    """A progress bar with rate and remaining time."""

    def __init__(self, out: Any) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=out),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None)

    def event(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "phase":
            self._progress.console.print(escape(event.text))
            self._progress.reset(self._task, description=escape(event.text), total=None)
        elif event.kind == "progress":
            self._progress.update(self._task, completed=event.done, total=event.total, description=escape(event.text))
        elif event.kind == "log":
            self._progress.console.print(_safe(event.text))

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def _console(out: Any) -> Console:
    """Lines are folded for a terminal only; what is piped is not cut."""
    return Console(file=out, highlight=False, width=None if out.isatty() else _UNFOLDED)


def _fields(console: Console, value: Any) -> None:
    scalars = Table(box=None, show_header=False, pad_edge=False)
    tables = []
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, tuple) and item and dataclasses.is_dataclass(item[0]):
            tables.append((field.name, item))
        elif dataclasses.is_dataclass(item):
            scalars.add_row(field.name, _safe(_flat(item)))
        else:
            scalars.add_row(field.name, _safe(_cell(field.name, item)))
    console.print(scalars)
    for name, rows in tables:
        columns: dict[str, None] = {}
        flat = [dict(_columns(row)) for row in rows]
        for row in flat:
            columns.update(dict.fromkeys(row))
        shown = list(columns)[:_MAX_COLUMNS]
        table = Table(*shown, title=name, title_justify="left", box=None, pad_edge=False)
        for row in flat:
            table.add_row(*(_safe(row.get(column, "")) for column in shown))
        console.print(table)


def _columns(row: Any) -> list[tuple[str, str]]:
    found = []
    for field in dataclasses.fields(row):
        item = getattr(row, field.name)
        if dataclasses.is_dataclass(item):
            found += [(f"{field.name}.{key}", text) for key, text in _columns(item)]
        elif not isinstance(item, tuple | dict):
            found.append((field.name, _cell(field.name, item)))
    return found


def _flat(value: Any) -> str:
    return ", ".join(f"{key} {text}" for key, text in _columns(value))


def _cell(name: str, value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return in_bytes(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def _safe(text: str) -> str:
    return escape(visible(text, limit=_LONGEST))
