"""Text of unknown origin: how it is shown, bound to a statement, and carried in the address of a page.

Text of a store is decoded with ``surrogateescape``, so that bytes which are no UTF-8 survive reading; such text can be
neither bound to a statement nor written to a page as it is.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata

from ops.errors import BadParameters

# Categories that have no glyph of their own or turn the text around them: control, format (bidi marks among them),
# surrogate, private use, unassigned, line and paragraph separator.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset({"\u200c", "\u200d"})  # parts of emoji and of several scripts
Key = str | bytes


def visible(text: str, *, limit: int = 200, lines: bool = False) -> str:
    """``text`` with hidden characters as escapes, cut after ``limit`` characters with an ellipsis.

    ``lines`` keeps line feeds and tabs. The result can always be encoded as UTF-8.
    """
    cut = text[:limit]
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(_shown(character, lines) for character in cut)
    return cut + ("…" if len(text) > limit else "")


def encoded(text: str) -> bytes:
    """The bytes of a text as they lie in the store; bind them as ``CAST(? AS TEXT)``."""
    return text.encode("utf-8", "surrogateescape")


def cursor(*keys: Key) -> str:
    """Keys of a row as one ASCII word that fits into an address; ``keys_of`` reads it back."""
    parts = [b"b" + key if isinstance(key, bytes) else b"t" + encoded(key) for key in keys]
    return base64.urlsafe_b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode("ascii")


def keys_of(word: str, count: int, field: str = "after") -> tuple[Key, ...]:
    """The ``count`` keys of a cursor; raises ``BadParameters`` for anything ``cursor`` did not make."""
    try:
        data = base64.b64decode(word.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadParameters({field: "This is no place in the list."}) from error
    keys: list[Key] = []
    while data:
        length, data = int.from_bytes(data[:4], "big"), data[4:]
        part, data = data[:length], data[length:]
        if len(part) != length or part[:1] not in (b"b", b"t"):
            raise BadParameters({field: "This is no place in the list."})
        keys.append(part[1:] if part[:1] == b"b" else part[1:].decode("utf-8", "surrogateescape"))
    if len(keys) != count:
        raise BadParameters({field: "This is no place in the list."})
    return tuple(keys)


def _shown(character: str, lines: bool) -> str:
    if (lines and character in "\n\t") or character in _JOINERS:
        return character
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is no UTF-8
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
