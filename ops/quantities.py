"""Numbers as text for people: grouped counts, bytes in decimal units, spans of time."""

from __future__ import annotations

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def count(number: int, noun: str = "", plural: str = "") -> str:
    """``1,234 records``; the singular for one."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def in_bytes(size_bytes: int) -> str:
    """``4_490_000_000`` as ``4.49 GB``."""
    value, unit = scaled_bytes(size_bytes)
    return f"{value} {unit}"


def scaled_bytes(size_bytes: int) -> tuple[str, str]:
    """Number and unit apart, as a figure shows them."""
    size, unit = float(size_bytes), _BYTES[0]
    for unit in _BYTES:
        if abs(size) < 999.5 or unit == _BYTES[-1]:
            break
        size /= 1000
    return (f"{size:.0f}" if unit == "B" else f"{size:.2f}"), unit
