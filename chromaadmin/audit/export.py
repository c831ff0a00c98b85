"""The audit trail as a file: CSV that no spreadsheet executes, or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

from django.http import StreamingHttpResponse

from chromaadmin.audit.models import AuditEntry

COLUMNS = (
    "seq", "at", "action", "actor_name", "actor_ref", "ip", "object_kind", "object_id", "object_name", "instance_id",
    "run_id", "reason", "detail_json", "prev_hash", "hash",
)  # fmt: skip
# What a spreadsheet takes for the beginning of a formula (OWASP ASVS 1.2.10), wide forms included.
_FORMULA = frozenset("=+-@\t\r\n\0|%＝＋－＠")
FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/x-ndjson; charset=utf-8"}


def response(entries: Iterable[AuditEntry], kind: str) -> StreamingHttpResponse:
    """A streamed attachment with a fixed name; ``kind`` is a key of ``FORMATS``."""
    lines = _csv(entries) if kind == "csv" else _json(entries)
    answer = StreamingHttpResponse(lines, content_type=FORMATS[kind])
    answer.headers["Content-Disposition"] = f'attachment; filename="audit.{kind}"'
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Cache-Control"] = "no-store"
    return answer


def cell(value: object) -> str:
    """Text that a spreadsheet shows and never runs: what may begin a formula gets an apostrophe in front."""
    text = str(value)
    first = text.lstrip(" \u00a0\u200b\ufeff")[:1]
    return f"'{text}" if first in _FORMULA and first else text


class _Echo:
    """A file for ``csv.writer`` that gives back what is written."""

    def write(self, text: str) -> str:
        return text


def _row(entry: AuditEntry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in COLUMNS}
    return values | {"at": entry.at.astimezone(UTC).isoformat(timespec="microseconds")}


def _csv(entries: Iterable[AuditEntry]) -> Iterator[str]:
    writer = csv.writer(_Echo(), quoting=csv.QUOTE_ALL)
    yield writer.writerow(COLUMNS)
    for entry in entries:
        yield writer.writerow([cell(value) for value in _row(entry).values()])


def _json(entries: Iterable[AuditEntry]) -> Iterator[str]:
    for entry in entries:
        row = _row(entry)
        row["detail"] = json.loads(row.pop("detail_json"))
        yield json.dumps(row, ensure_ascii=True) + "\n"
