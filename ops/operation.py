"""An operation is a value: a frozen dataclass of its parameters that can plan itself and run."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, dataclass_transform

from ops.codec import Json, canonical, to_json
from ops.params import param
from ops.plan import Change, Plan
from ops.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops.store.persist_dir import PersistDir

R = TypeVar("R")
O = TypeVar("O", bound="type[Operation[object]]")  # noqa: E741 - the usual name of a class in a decorator


class Effect(StrEnum):
    """What an operation does to a store; the one safety word."""

    READ = "read"
    WRITE = "write"
    EDIT = "edit"
    DESTRUCTIVE = "destructive"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return {
            "read": "Reads the store and changes nothing.",
            "write": "Changes files or configuration; every record reads as before.",
            "edit": "Adds or changes records or collections; the state before is kept.",
            "destructive": "Removes or replaces what is stored.",
        }[self.value]


class Needs(StrEnum):
    """Whether an operation may work beside a Chroma that has the store open for writing."""

    QUIET = "quiet"
    LIVE = "live"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What ``@operation`` was told."""

    effect: Effect
    needs: Needs
    repeatable: str
    on: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase that people see; ``commit`` marks the one whose end is the commit point."""

    key: str
    label: str
    commit: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a report: ``value`` and ``before`` as text, ``unit`` apart from it."""

    label: str
    value: str
    unit: str = ""
    before: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A result for people: one sentence, figures, what changed, and who verified what."""

    headline: str
    figures: tuple[Figure, ...] = ()
    changes: tuple[Change, ...] = ()
    verified: str = ""
    undo: str = ""
    undo_path: str = ""
    notes: tuple[str, ...] = ()


FLIP_PHASES = (
    Phase(key="check", label="Checked again"),
    Phase(key="lock", label="Locked"),
    Phase(key="build", label="Built"),
    Phase(key="verify", label="Verified"),
    Phase(key="commit", label="Swapped", commit=True),
    Phase(key="readback", label="Read back"),
)
READ_PHASES = (Phase(key="read", label="Read"),)


def told(text: str) -> Any:
    """A field of a result with the sentence that explains it."""
    return dataclasses.field(metadata={"help": text})


class Operation(Generic[R]):
    """Base of all operations. The frozen instance is the parameterised request."""

    name: ClassVar[str]
    declared: ClassVar[Declaration]
    phases: ClassVar[tuple[Phase, ...]] = READ_PHASES

    @property
    def effect(self) -> Effect:
        """The effect of this value; a class whose parameters raise it overrides this."""
        return self.declared.effect

    @property
    def writes(self) -> bool:
        """True for everything but READ."""
        return self.effect is not Effect.READ

    def check(self) -> dict[str, str]:
        """Contradictions between parameters: field name to sentence; empty when there are none."""
        return {}

    def plan(self, store: PersistDir) -> Plan:
        """What would change; read-only. Required for everything but READ."""
        raise NotImplementedError

    def run(self, store: PersistDir, plan: Plan | None, progress: Progress) -> R:
        """Do it. ``plan`` is the one made under the lock; None for a READ."""
        raise NotImplementedError

    def report(self, result: R) -> Report:
        """The result for people."""
        return Report(headline=f"{title(type(self))} is done.")

    def to_json(self) -> Json:
        """The parameters as JSON, all of them."""
        return to_json(self)

    def canonical(self) -> str:
        """The parameters as one canonical text."""
        return canonical(self).decode("utf-8", "surrogatepass")


AnyOperation = Operation[object]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(param,))
def operation(
    *,
    effect: Effect,
    needs: Needs = Needs.QUIET,
    repeatable: str = "idempotent",
    on: frozenset[str] = frozenset({"directory"}),
) -> Callable[[type[R]], type[R]]:
    """Declare an operation. Its name is its module's file name.

    ``repeatable`` is ``"idempotent"`` (twice equals once) or the error code with which the second run refuses.
    """

    def declare(cls: type[R]) -> type[R]:
        made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        made.name = cls.__module__.rsplit(".", 1)[-1]  # type: ignore[attr-defined]
        made.declared = Declaration(effect=effect, needs=needs, repeatable=repeatable, on=on)  # type: ignore[attr-defined]
        return made

    return declare


def words(operation_class: type[Operation[object]]) -> tuple[str, str]:
    """Subject and verb as they stand on a command line: ``("hnsw", "rebuild")``."""
    subject, _, verb = operation_class.name.partition("_")
    return subject, verb.replace("_", "-")


def title(operation_class: type[Operation[R]]) -> str:
    """The first line of the docstring without its full stop."""
    return (inspect.getdoc(operation_class) or operation_class.name).splitlines()[0].rstrip(".")


def explanation(operation_class: type[Operation[R]]) -> str:
    """The docstring after its first line."""
    return "\n".join((inspect.getdoc(operation_class) or "").splitlines()[1:]).strip()
