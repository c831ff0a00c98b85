"""Geometry of the charts: numbers in, positions and paths as SVG attributes out, so that no inline style is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]


def known(value: object) -> float | None:
    """A finite number as float; None for everything that is not one, so that a gap stays a gap."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def trim(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def path_of(points: Iterable[Point | None]) -> str:
    """An SVG path through the points; None lifts the pen."""
    out, down = [], False
    for point in points:
        if point is None:
            down = False
            continue
        out.append(f"{'L' if down else 'M'}{trim(point[0])} {trim(point[1])}")
        down = True
    return "".join(out)


@dataclass(frozen=True, kw_only=True)
class Spark:
    """A small line: ``line`` and ``area`` are paths in a box of ``width`` × ``height``, ``last`` its end."""

    width: str
    height: str
    line: str
    area: str
    last: tuple[str, str]


def spark(values: Sequence[object], width: int = 64, height: int = 24) -> Spark | None:
    """The line of the values, oldest first, from their least to their greatest; None below two known values."""
    numbers = [known(value) for value in values]
    present = [number for number in numbers if number is not None]
    if len(present) < 2:
        return None
    low, high = min(present), max(present)
    span = high - low
    pad = 3.0

    def place(index: int, number: float) -> Point:
        share = (number - low) / span if span else 0.5
        return pad + index * (width - 2 * pad) / (len(numbers) - 1), height - 4 - share * (height - 8)

    points = [None if number is None else place(index, number) for index, number in enumerate(numbers)]
    drawn = [point for point in points if point is not None]
    first, last = drawn[0], drawn[-1]
    area = f"{path_of(drawn)}L{trim(last[0])} {height}L{trim(first[0])} {height}Z"
    end = (trim(last[0]), trim(last[1]))
    return Spark(width=str(width), height=str(height), line=path_of(points), area=area, last=end)


@dataclass(frozen=True, kw_only=True)
class SlotClass:
    """One kind of block in a slot map: its CSS class, its word, its count, and one path that draws them all."""

    key: str
    word: str
    count: int
    path: str


@dataclass(frozen=True, kw_only=True)
class SlotMap:
    """A grid of blocks; ``box`` is the SVG's view box, as text because templates group digits of numbers."""

    box: str
    classes: tuple[SlotClass, ...]


_SLOT_STEPS = (
    (0.98, "live", "Live"),
    (0.66, "mostly", "Mostly live"),
    (0.34, "mixed", "Mixed"),
    (0.02, "sparse", "Mostly tombstones"),
    (-1.0, "dead", "Tombstones"),
)


def slot_map(values: Sequence[object], columns: int = 92) -> SlotMap:
    """Blocks of slots in their order: each value is the share of live slots (0 to 1), None a block that is free."""
    step, side = 11, 7
    paths: dict[str, list[str]] = {}
    for index, value in enumerate(values):
        row, column = divmod(index, columns)
        share = known(value)
        key = "free" if share is None else next(key for least, key, _ in _SLOT_STEPS if share >= least)
        paths.setdefault(key, []).append(f"M{column * step + 1.5:g} {row * step + 1.5:g}h{side}v{side}h-{side}z")
    words = [(key, word) for _, key, word in _SLOT_STEPS] + [("free", "Free")]
    rows = max(1, math.ceil(len(values) / columns))
    return SlotMap(
        box=f"0 0 {columns * step - 1} {rows * step - 1}",
        classes=tuple(
            SlotClass(key=key, word=word, count=len(paths[key]), path="".join(paths[key]))
            for key, word in words
            if key in paths
        ),
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values that cover low to high, spaced by 1, 2, 2.5 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if raw <= factor * power * 1.0000001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all with the decimals their spacing needs."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = 0
    while decimals < 6 and abs(round(step, decimals) - step) > 1e-9:
        decimals += 1
    return [f"{tick:,.{decimals}f}".replace("-", "−") for tick in ticks]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: ``at`` in pixels from the top or as a percentage from the left."""

    at: str
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One drawn series: ``path`` in a box of 100 × 100, points as (percent, pixel)."""

    label: str
    css: str
    path: str
    filled: bool
    points: tuple[tuple[str, str], ...]
    last: str
    last_at: str
    last_below: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything that ui/line_chart.html draws."""

    height: str
    left: tuple[Tick, ...]
    right: tuple[Tick, ...]
    below: tuple[Tick, ...]
    series: tuple[Series, ...]
    reference: str | None
    reference_text_at: str | None
    stacked: bool
    rows: tuple[tuple[str, tuple[float | None, ...]], ...] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class SeriesInput:
    """What is to be drawn: values oldest first (None is a gap), ``axis`` left or right, ``shape`` line or area."""

    label: str
    values: Sequence[float | None]
    axis: str = "left"
    shape: str = "line"


def line_chart(
    labels: Sequence[str],
    series: Sequence[SeriesInput],
    *,
    height: int = 160,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
    stacked: bool = False,
) -> Chart | None:
    """Lay a chart out; None when nothing is known. ``stacked`` draws areas on top of each other, first one lowest."""
    sides: dict[str, list[float]] = {"left": [], "right": []}
    tops: list[list[float | None]] = []
    running = [0.0] * len(labels)
    for one in series:
        if stacked:
            running = [base + (value or 0.0) for base, value in zip(running, one.values, strict=True)]
            tops.append(list(running))
        else:
            tops.append(list(one.values))
        sides["right" if one.axis == "right" else "left"] += [value for value in tops[-1] if value is not None]
    if not labels or not (sides["left"] or sides["right"]):
        return None
    ranges = {side: _range(values, stacked, low, high, reference, side) for side, values in sides.items() if values}
    # A line each 25 pixels at the left; the right axis only helps to read one curve.
    wanted = {"left": max(3, height // 25 + 1), "right": 4}
    ticks = {side: nice_ticks(*bounds, wanted[side]) for side, bounds in ranges.items()}

    def share(side: str, value: float) -> float:
        first, last = ticks[side][0], ticks[side][-1]
        return min(1.0, max(0.0, (value - first) / (last - first)))

    def across(index: int) -> float:
        return 100.0 * index / (len(labels) - 1) if len(labels) > 1 else 50.0

    drawn = []
    colour = 0
    for number, (one, top) in enumerate(zip(series, tops, strict=True)):
        side = "right" if one.axis == "right" else "left"
        points = [None if value is None else (across(i), 100 - 100 * share(side, value)) for i, value in enumerate(top)]
        filled = stacked or one.shape == "area"
        path = path_of(points)
        if filled:
            floor = (
                [(across(i), 100 - 100 * share(side, value or 0.0)) for i, value in enumerate(tops[number - 1])]
                if stacked and number
                else [(across(0), 100.0), (across(len(labels) - 1), 100.0)]
            )
            path += "".join(f"L{trim(x)} {trim(y)}" for x, y in reversed(floor)) + "Z"
        if side == "right":
            css = "s-ink"
        else:
            colour += 1
            css = f"a{max(1, 4 - colour)}" if stacked else f"s{min(3, colour)}"
        present = [(index, value) for index, value in enumerate(top) if value is not None]
        if not present:
            continue
        end = height * (1 - share(side, present[-1][1]))
        below = tops[number - 1][present[-1][0]] if stacked and number else None
        middle = (end + height * (1 - share(side, below or 0.0))) / 2 if stacked else end
        shown = len(labels) <= 24 and not filled and side == "left"
        own = [value for value in one.values if value is not None]
        drawn.append(
            Series(
                label=one.label,
                css=css,
                path=path,
                filled=filled,
                points=tuple((trim(across(i)), trim(height * (1 - share(side, v)))) for i, v in present if shown),
                last=f"{own[-1]:,.3f}".rstrip("0").rstrip(".") if own else "",
                last_at=trim(middle),
                last_below=trim(min(height - 4, end + 18)),
            )
        )
    mark = None if reference is None or "left" not in ticks else height * (1 - share("left", reference))
    return Chart(
        height=str(height),
        left=_axis(ticks.get("left"), height),
        right=_axis(ticks.get("right"), height),
        below=_below(labels, across),
        series=tuple(drawn),
        reference=None if mark is None else trim(mark),
        reference_text_at=None if mark is None else trim(mark - 5),
        stacked=stacked,
        rows=tuple((label, tuple(one.values[i] for one in series)) for i, label in enumerate(labels)),
    )


def _range(
    values: Sequence[float], stacked: bool, low: float | None, high: float | None, reference: float | None, side: str
) -> tuple[float, float]:
    bottom, top = (0.0 if stacked or side == "right" else min(values)), max(values)
    if side == "left":
        if reference is not None:
            bottom, top = min(bottom, reference), max(top, reference)
        bottom = bottom if low is None else low
        top = top if high is None else high
    return bottom, top


def _axis(ticks: Sequence[float] | None, height: int) -> tuple[Tick, ...]:
    if not ticks:
        return ()
    span = ticks[-1] - ticks[0]
    return tuple(
        Tick(at=trim(height * (1 - (tick - ticks[0]) / span)), text=text)
        for tick, text in zip(ticks, tick_text(ticks), strict=True)
    )


def _below(labels: Sequence[str], across: object) -> tuple[Tick, ...]:
    wanted = min(len(labels), 5)
    places = sorted({round(i * (len(labels) - 1) / max(1, wanted - 1)) for i in range(wanted)})
    return tuple(
        Tick(
            at=trim(across(place)),  # type: ignore[operator]
            text=labels[place],
            anchor="middle",
        )
        for place in places
    )
