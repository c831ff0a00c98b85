"""The same request at the other doors: the command line on the bare directory, and the audited one."""

import shlex
from typing import Any

from chromaadmin.instances.models import Instance
from ops.operation import Operation, words
from ops.params import Parameter, parameters

_WIDTH = 86


def calls(operation: Operation[Any], *, path: str, instance_name: str) -> list[tuple[str, str]]:
    """(label, command) pairs; both commands name the same operation value as the page does."""
    subject, verb = words(type(operation))
    options = _options(operation)
    return [
        ("Command line", _wrapped(["python", "-m", "ops", subject, verb, path], options)),
        ("Audited command", _wrapped(["python", "manage.py", "run_operation", subject, verb, instance_name], options)),
    ]


def calls_for(operation: Operation[Any], instance: Instance) -> list[tuple[str, str]]:
    """The commands for an instance that is registered."""
    return calls(operation, path=instance.path, instance_name=instance.name)


def _options(operation: Operation[Any]) -> list[list[str]]:
    found = []
    for parameter in parameters(type(operation)):
        value = getattr(operation, parameter.name)
        if parameter.required or value != parameter.default:
            found += _option(parameter, value)
    return found


def _option(parameter: Parameter, value: object) -> list[list[str]]:
    if parameter.kind is bool and not parameter.many:
        return [] if value is None else [[parameter.option if value else f"--no-{parameter.option[2:]}"]]
    if parameter.many:
        return [_pair(parameter.option, str(one)) for one in value]  # type: ignore[attr-defined]
    return [] if value is None else [_pair(parameter.option, f"{value}")]


def _pair(option: str, value: str) -> list[str]:
    # A value that begins with a dash would be taken for an option of its own.
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _wrapped(command: list[str], options: list[list[str]]) -> str:
    """One shell command; long ones go on in lines that can be pasted as they stand."""
    lines, line = [], shlex.join(command)
    for option in options:
        text = shlex.join(option)
        if len(line) + len(text) + 3 > _WIDTH:
            lines.append(line + " \\")
            line = "    " + text
        else:
            line += f" {text}"
    return "\n".join([*lines, line])
