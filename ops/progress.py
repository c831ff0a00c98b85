"""Events of a run while it works, cancellation, and the one way to loop for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from ops.errors import Cancelled

T = TypeVar("T")
THROTTLE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing to tell: ``kind`` is phase, progress, log or step.

    phase: ``key`` and ``text`` (the label); progress: ``done`` of ``total`` ``unit``; log: ``text``;
    step: ``key`` is the subject of a step that was committed, ``done`` of ``total`` steps.
    """

    kind: str
    text: str = ""
    key: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""


Sink = Callable[[Event], None]


def _silent(_event: Event) -> None:
    """A sink for callers that do not watch."""


@dataclass(frozen=True, kw_only=True)
class Outlet:
    """Where a door lets an operation put what it makes beside the store.

    ``stream`` is standard output, when the door gives it away. With ``anywhere`` a file may be made wherever it is
    told, else only in ``folder`` (which is made), or nowhere.
    """

    stream: BinaryIO | None = None
    folder: Path | None = None
    anywhere: bool = True


class Progress:
    """Told by operations, heard by doors; asks ``cancelled`` at every event: a store must stay sound when it raises."""

    def __init__(
        self,
        sink: Sink = _silent,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        outlet: Outlet = Outlet(),
    ) -> None:
        self.outlet = outlet
        self._sink = sink
        self._cancelled = cancelled
        self._last = 0.0
        self._shielded = False

    def check(self) -> None:
        """Raise ``Cancelled`` when somebody asked to stop; never after the commit point."""
        if not self._shielded and self._cancelled():
            raise Cancelled

    def shield(self) -> None:
        """From here on (the commit point was passed) cancelling changes nothing: the work is finished and verified."""
        self._shielded = True

    def unshield(self) -> None:
        """A step is over; the next one may be cancelled again."""
        self._shielded = False

    def phase(self, key: str, text: str) -> None:
        """A new phase of the run begins."""
        self.check()
        self._last = 0.0
        self._sink(Event(kind="phase", key=key, text=text))

    def log(self, text: str) -> None:
        """One line for the run's log."""
        self._sink(Event(kind="log", text=text))

    def step(self, subject: str, done: int, total: int) -> None:
        """A step was committed."""
        self._sink(Event(kind="step", key=subject, done=done, total=total))

    def advance(self, done: int, total: int | None, unit: str = "records", text: str = "") -> None:
        """So much is done; throttled, except for the last one. Raises ``Cancelled`` when asked to stop."""
        self.check()
        now = time.monotonic()
        if done == total or now - self._last >= THROTTLE_S:
            self._last = now
            self._sink(Event(kind="progress", text=text, done=done, total=total, unit=unit))

    def track(self, items: Iterable[T], text: str, *, total: int | None = None, unit: str = "records") -> Iterator[T]:
        """Loop over ``items`` and tell how far it is; each item should take at most half a second."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.advance(0, total, unit, text)
        for done, item in enumerate(items, 1):
            yield item
            self.advance(done, total, unit, text)
