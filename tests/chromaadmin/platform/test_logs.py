"""No text that comes from outside can forge or repaint a line of the log."""

import json
import logging
import sys

import pytest

from chromaadmin.platform.logs import JsonFormatter, printable

HOSTILE = [
    "a\nb",
    'a\r\n{"level": "info"}',
    "\x1b[2J\x1b[31mred",
    "\x00\x07\x08",
    "\x7f",
    "\x85\x9b31m",
    "\u2028\u2029",
    "\u202egnp.exe\u2066",
]


def formatted(message: str, **fields: object) -> str:
    record = logging.LogRecord("chromaadmin.test", logging.WARNING, __file__, 1, message, None, None)
    vars(record).update(fields)
    return JsonFormatter().format(record)


@pytest.mark.parametrize("text", HOSTILE)
def test_one_printable_line_that_still_says_everything(text: str) -> None:
    line = formatted(text, path=text)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == text
    assert json.loads(line)["path"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_lines_of_other_programs_are_made_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_an_exception_stays_in_its_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = formatted("failed", exc_info=sys.exc_info())
    assert "\n" not in line
    assert "ValueError: first\nsecond" in json.loads(line)["exception"]
