"""How values are written for people: counts, bytes, times, shares, hashes and text from untrusted stores."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HEX = re.compile(r"[0-9a-f]{8,}", re.IGNORECASE)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Joiners shape emoji and several scripts; in running text they are harmless, in an id they hide.
_TEXT_MAY_HOLD = frozenset("\n\t\u200c\u200d")


class Unknown(str):
    """The dash for a value that is not known: plain text in Python and attributes' words, muted in a page.

    Never 0 and never a state: what was not measured must not look measured.
    """

    __slots__ = ()

    def __html__(self) -> SafeString:
        # No quotes in the markup: put into an attribute by mistake it looks odd there, but breaks nothing.
        return format_html("<span class=none>{}</span>", str.__str__(self))


UNKNOWN = Unknown("—")


def _number(value: object) -> float | int | None:
    """The value as a finite number, or None when it is none."""
    if value is None or isinstance(value, bool) or value == "":
        return None
    if isinstance(value, int):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def grouped(value: object) -> str:
    """1234567 as 1,234,567; a float keeps at most three decimals; None as the muted dash."""
    number = _number(value)
    if number is None:
        return UNKNOWN
    if isinstance(number, int):
        return f"{number:,}".replace("-", "−")
    return f"{number:,.3f}".rstrip("0").rstrip(".").replace("-", "−")


def bytes_pair(value: object) -> tuple[str, str]:
    """Bytes as figure and unit, decimal: 4490000000 as ("4.49", "GB"). One or two decimals, never more."""
    number = _number(value)
    if number is None:
        return UNKNOWN, ""
    size = abs(float(number))
    unit = 0
    # 999,950 B would round to 1000.0 kB, so the step up happens where rounding would reach it.
    while size >= 999.95 and unit < len(_BYTE_UNITS) - 1:
        size /= 1000
        unit += 1
    sign = "−" if number < 0 else ""
    if unit == 0:
        if size >= 999.5:
            return f"{sign}1", "kB"
        return f"{sign}{size:.0f}", "B"
    if unit == 1:
        decimals = 1 if size < 9.95 else 0
    elif size < 9.995:
        decimals = 2
    else:
        decimals = 1 if size < 99.95 or unit >= 3 else 0
    text = f"{size:.{decimals}f}"
    return sign + (text.rstrip("0").rstrip(".") if "." in text else text), _BYTE_UNITS[unit]


def bytes_h(value: object) -> str:
    """Bytes as "4.49 GB" (decimal units), with a space that does not break; None as the muted dash."""
    figure, unit = bytes_pair(value)
    return f"{figure}\u00a0{unit}" if unit else figure


def duration(value: object) -> str:
    """Seconds or a timedelta as "9 min 12 s": the two largest units, tenths below ten seconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    number = _number(value)
    if number is None or number < 0:
        return UNKNOWN
    if 0 < number < 0.0995:
        return f"{max(1, round(number * 1000))} ms"
    if number < 9.95:
        return f"{number:.1f} s"
    whole = round(number)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes:02d} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {seconds:02d} s" if seconds else f"{minutes} min"
    return f"{seconds} s"


def _aware(value: object) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return (value if timezone.is_aware(value) else value.replace(tzinfo=UTC)).astimezone(UTC)


def distance(value: object, now: datetime | None = None) -> str:
    """How far a time is from now in one unit, without a direction: "6 min", "4 h", "12 d"."""
    moment = _aware(value)
    if moment is None:
        return UNKNOWN
    seconds = abs(((now or timezone.now()) - moment).total_seconds())
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h"
    if seconds < 730 * 86400:
        return f"{int(seconds // 86400)} d"
    return f"{int(seconds // (365.25 * 86400))} y"


def ago(value: object, now: datetime | None = None) -> str:
    """A time seen from now: "6 min ago", "in 48 min", "just now"; None as the muted dash."""
    moment = _aware(value)
    if moment is None:
        return UNKNOWN
    now = now or timezone.now()
    if abs((now - moment).total_seconds()) < 5:
        return "just now"
    words = distance(moment, now)
    return f"in {words}" if moment > now else f"{words} ago"


def utc(value: object, style: str = "") -> str:
    """A time in UTC, named: "Fri 20 Nov 2026, 03:12:44 UTC". Styles: date, day ("20 Nov"), time, minute."""
    moment = _aware(value)
    if moment is None:
        return UNKNOWN
    month = _MONTHS[moment.month - 1]
    if style == "day":
        return f"{moment.day} {month}"
    if style == "date":
        return f"{moment.day} {month} {moment.year}"
    if style == "time":
        return f"{moment:%H:%M:%S}"
    if style == "minute":
        return f"{moment:%H:%M} UTC"
    return f"{_DAYS[moment.weekday()]} {moment.day} {month} {moment.year}, {moment:%H:%M:%S} UTC"


def percent(value: object, total: object = 1) -> str:
    """A share of a total as "41 %", one decimal below ten; never 100 % or 0 % unless it is exactly that."""
    part, whole = _number(value), _number(total)
    if part is None or whole is None or whole == 0:
        return UNKNOWN
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "< 0.1\u00a0%"
    if share < 9.95:
        text = f"{share:.1f}".removesuffix(".0").replace("-", "−")
    else:
        # 99.6 % of the records is not all of them.
        whole_share = round(share) != 100 or share == 100
        text = f"{share:.0f}" if whole_share else f"{math.floor(share * 10) / 10:.1f}"
    return f"{text}\u00a0%"


def ratio(value: object, digits: int = 3) -> str:
    """A share between 0 and 1 as "0.914"; None as the muted dash."""
    number = _number(value)
    return UNKNOWN if number is None else f"{number:.{digits}f}".replace("-", "−")


def short_hash(value: object) -> str:
    """The first eight hex digits of a digest in two groups: "5f0c 91ae"."""
    if value is None or value == "":
        return UNKNOWN
    text = visible(value.hex() if isinstance(value, bytes) else str(value).removeprefix("sha256:"))
    return f"{text[:4]} {text[4:8]}" if _HEX.match(text) else text[:12]


def short_id(value: object) -> str:
    """The first eight characters of a UUID; a longer other id keeps its head and tail."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, UUID):
        return str(value)[:8]
    text = visible(value)
    try:
        UUID(text)
    except ValueError:
        return text if len(text) <= 20 else f"{text[:10]}…{text[-6:]}"
    return text[:8]


def visible(value: object, kind: str = "") -> str:
    r"""Text from a store with everything that hides or reorders shown as an escape, such as ``\u202e``.

    Control, format (bidi), private, unassigned and line-separating characters, lone surrogates and odd spaces.
    With kind "text" (documents) line ends, tabs and joiners stay. The result is plain text, to be escaped as any.
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    keep = _TEXT_MAY_HOLD if kind == "text" else frozenset()
    return "".join(char if char in keep else _shown(char, kind) for char in str(value))


def _shown(char: str, kind: str) -> str:
    if " " <= char <= "~":
        return char
    category = unicodedata.category(char)
    odd_space = category == "Zs" and kind != "text"
    if category not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} and not odd_space:
        return char
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    point = ord(char)
    # Bytes of a name that is not UTF-8 arrive as lone surrogates U+DC80..U+DCFF (PEP 383).
    if 0xDC80 <= point <= 0xDCFF:
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
