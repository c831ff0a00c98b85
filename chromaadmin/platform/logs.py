"""Log records as one JSON object per line, in which no control character can forge or repaint a line."""

import json
import logging
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"at", "level", "logger", "message", …}`; what a call passed as `extra` follows.

    Everything outside printable ASCII is written as an escape: line feeds, ANSI sequences, bidirectional marks.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        entry |= {
            name: value if isinstance(value, str | int | float | bool | None) else str(value)
            for name, value in vars(record).items()
            if name not in _STANDARD and name not in {"request", "response", "server_time"}
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # DEL and the C1 controls are outside what JSON escapes by itself; ensure_ascii covers C1, DEL is replaced here.
        return json.dumps(entry, ensure_ascii=True).replace("\x7f", "\\u007f")


def printable(line: str) -> str:
    """A line of another program's output with control characters and bidirectional marks as escapes."""
    return "".join(
        character
        if character.isprintable() or character == "\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in line
    )
