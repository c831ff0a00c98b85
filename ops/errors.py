"""Every failure that can be expected: one class each, with a code, a full sentence, a hint and structured details.

An error is raised deep, once, and shaped at the door (CLI exit status, form message, failed run). ``outcome`` says
what its being raised means for the run: nothing was tried (``REFUSED``), the request itself was bad (``USAGE``),
the work was tried and failed (``FAILED``), somebody cancelled it, or a person has to look.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Outcome(StrEnum):
    """What an error means for the run that raised it; the value is the CLI's exit status by ``exit_status``."""

    USAGE = "usage"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEEDS_OPERATOR = "needs_operator"

    @property
    def exit_status(self) -> int:
        """The exit status of the command line for this outcome."""
        return {"usage": 2, "refused": 3, "failed": 1, "cancelled": 4, "needs_operator": 1}[self.value]


class OpsError(Exception):
    """Base of all expected failures. ``message`` and ``hint`` are templates filled from the details."""

    code: str
    message: ClassVar[str]
    hint: ClassVar[str]
    outcome: Outcome = Outcome.REFUSED

    def __init__(self, **details: object) -> None:
        self.details = details
        super().__init__(self.message.format(**details))

    @property
    def hint_text(self) -> str:
        """What to do about it, as a sentence."""
        return self.hint.format(**self.details)


ERRORS: dict[str, type[OpsError]] = {}


def _register(cls: type[OpsError]) -> type[OpsError]:
    ERRORS[cls.code] = cls
    return cls


class RemoteError(OpsError):
    """An error that another process reported; carries that process's code, sentence and hint unchanged."""

    code = "REMOTE"
    message = "{text}"
    hint = "{hint}"

    def __init__(self, *, code: str, text: str, hint: str, outcome: Outcome, details: dict[str, object]) -> None:
        super().__init__(text=text, hint=hint)
        self.code = code
        self.outcome = outcome
        self.details = details
        self._hint_text = hint

    @property
    def hint_text(self) -> str:
        """The hint exactly as the other process gave it."""
        return self._hint_text


# --- the request itself -------------------------------------------------------------------------------------------


@_register
class BadParameters(OpsError):
    """Parameters do not parse; ``fields`` maps each bad one to a sentence."""

    code = "BAD_PARAMETERS"
    message = "{summary}"
    hint = "Correct what is named; `{help}` explains it."
    outcome = Outcome.USAGE

    def __init__(self, fields: dict[str, str], command: str = "") -> None:
        summary = " ".join(f"{name}: {sentence}" for name, sentence in fields.items())
        super().__init__(summary=summary, fields=fields, help=" ".join(f"python -m ops {command} --help".split()))


@_register
class UnknownOperation(OpsError):
    """There is no operation of that name."""

    code = "UNKNOWN_OPERATION"
    message = "There is no operation called {name}."
    hint = "`python -m ops --help` lists all of them."
    outcome = Outcome.USAGE


@_register
class CollectionNotFound(OpsError):
    """No collection has that name or id."""

    code = "COLLECTION_NOT_FOUND"
    message = "No collection of this store is called {name}."
    hint = "`python -m ops db info PERSIST_DIR` lists the collections of every tenant and database."
    outcome = Outcome.USAGE


@_register
class CollectionAmbiguous(OpsError):
    """Several databases have a collection of that name."""

    code = "COLLECTION_AMBIGUOUS"
    message = "{count} collections are called {name}: {places}."
    hint = "Name one with --tenant and --database, or with --collection-id."
    outcome = Outcome.USAGE


# --- the path -------------------------------------------------------------------------------------------------------


@_register
class NotChroma(OpsError):
    """The directory holds no Chroma store."""

    code = "NOT_CHROMA"
    message = "{path} is not a Chroma persist directory: {why}."
    hint = "Give the directory that is passed to chromadb.PersistentClient(path=…); it holds chroma.sqlite3."
    outcome = Outcome.USAGE


@_register
class BadPath(OpsError):
    """The path can not be a directory of a store."""

    code = "BAD_PATH"
    message = "{path} can not be used: {why}."
    hint = "Give the path of an existing directory."
    outcome = Outcome.USAGE


@_register
class Missing(OpsError):
    """There is nothing at that path."""

    code = "MISSING"
    message = "There is nothing at {path}."
    hint = "Mount or restore the directory, or correct the path."
    outcome = Outcome.USAGE


@_register
class SqliteEmpty(OpsError):
    """chroma.sqlite3 has no bytes."""

    code = "SQLITE_EMPTY"
    message = "{path} has 0 bytes."
    hint = "Restore chroma.sqlite3 from a backup; opening it with Chroma would make a new, empty store of it."
    outcome = Outcome.USAGE


@_register
class NotSqlite(OpsError):
    """chroma.sqlite3 is something else."""

    code = "NOT_SQLITE"
    message = "{path} is not a SQLite database."
    hint = "Restore chroma.sqlite3 from a backup."
    outcome = Outcome.USAGE


@_register
class IdentityChanged(OpsError):
    """Another directory stands at the registered path."""

    code = "IDENTITY_CHANGED"
    message = "The directory at {path} is not the one that was registered ({was}, now {now})."
    hint = "Check the mount; if the change is meant, confirm the new identity on the instance's page."


@_register
class Unreadable(OpsError):
    """This user may not read it."""

    code = "UNREADABLE"
    message = "{path} can not be read: {why}."
    hint = "Give the user that runs Chroma Admin (uid {uid}) read access to the directory and its files."


@_register
class ReadOnly(OpsError):
    """Nothing can be written there."""

    code = "READ_ONLY"
    message = "{path} can not be written: {why}."
    hint = "Remount it read-write or run as the owner of the directory; browsing and READ operations work as it is."


@_register
class NotOwner(OpsError):
    """New files could not be given the owner of the old ones."""

    code = "NOT_OWNER"
    message = "{path} belongs to uid {owner} gid {group}, and uid {uid} can not make files of that owner."
    hint = "Run the worker as that user: sudo -u '#{owner}' …"


@_register
class Symlink(OpsError):
    """A symbolic link stands where a file or directory of Chroma's is expected."""

    code = "SYMLINK"
    message = "{path} is a symbolic link; Chroma never makes one there, and nothing behind it is touched."
    hint = "Replace the link by the file or directory it points to."


@_register
class MultiLink(OpsError):
    """A file has more than one name."""

    code = "MULTI_LINK"
    message = "{path} has {links} hard links; a change would appear under its other names too."
    hint = "Copy the file to a name of its own, then try again."


@_register
class FileSystemUnfit(OpsError):
    """Locks or renames can not be relied on there."""

    code = "FILE_SYSTEM_UNFIT"
    message = "{path} lies on {kind}, where {why}."
    hint = "Move the store to a local file system, or work on a copy."


# --- the database ---------------------------------------------------------------------------------------------------


@_register
class Corrupt(OpsError):
    """SQLite says the file is damaged."""

    code = "CORRUPT"
    message = "{path} is damaged: {why}."
    hint = "Do not open it with Chroma. Restore a backup, or salvage what can be read into a new store."


@_register
class NeedsRecovery(OpsError):
    """A journal lies beside the database."""

    code = "NEEDS_RECOVERY"
    message = "A hot journal lies beside {path}: a writer was interrupted, or is writing now."
    hint = (
        "If no Chroma is writing, run `python -m ops recover PERSIST_DIR`; database and journal are kept in the trash."
    )


@_register
class WalMode(OpsError):
    """The database is in SQLite's WAL journal mode, which no Chroma release uses."""

    code = "WAL_MODE"
    message = "{path} is in SQLite's WAL journal mode; reading it would create files beside it."
    hint = "Set it back with the program that changed it: PRAGMA journal_mode=DELETE."


@_register
class SchemaUnknown(OpsError):
    """The tables are not those of a Chroma release."""

    code = "SCHEMA_UNKNOWN"
    message = "The tables of this store are not those of a known Chroma release: {why}."
    hint = "Browse what can be read; nothing is written to it."


@_register
class UnsupportedVersion(OpsError):
    """A release that this version does not write."""

    code = "UNSUPPORTED_VERSION"
    message = "This store was written by Chroma {releases}, which {operation} does not support: {why}."
    hint = "Update Chroma Admin, or use the release's own tools; browsing works."


@_register
class SchemaHostile(OpsError):
    """Objects that no Chroma release makes."""

    code = "SCHEMA_HOSTILE"
    message = "The database holds {objects}, which no Chroma release makes; SQLite would run it during a change."
    hint = "Find out who made it. Nothing is written to this store while it is there; browsing works."


@_register
class RefBroken(OpsError):
    """Rows that must point at each other do not."""

    code = "REF_BROKEN"
    message = "{what}"
    hint = "`python -m ops db info PERSIST_DIR --verbose` shows the rows; repair the catalogue first."


@_register
class FieldInvalid(OpsError):
    """A stored value is not of the type Chroma writes."""

    code = "FIELD_INVALID"
    message = "{where} holds {value}, which is not {expected}."
    hint = "Correct the row, or restore it from a backup; the rest of the store can be used."


@_register
class WalUnsafe(OpsError):
    """Watermark and WAL contradict each other."""

    code = "WAL_UNSAFE"
    message = "{what}"
    hint = "Do not write to this collection before its watermark is repaired."


@_register
class WalAnomaly(OpsError):
    """A WAL entry that no Chroma release writes; see ``why``."""

    code = "WAL_ANOMALY"
    message = "The WAL entry {seq_id} can not be applied: {why}."
    hint = "Nothing of this collection was changed. Leave it out, or correct or delete the entry after a backup."


# --- the index ------------------------------------------------------------------------------------------------------


@_register
class IndexMissing(OpsError):
    """A persisted index has no directory."""

    code = "INDEX_MISSING"
    message = "The index directory {segment} of {collection} is missing although {watermark} says it was persisted."
    hint = "Restore the directory from a backup; do not write to this collection meanwhile."


@_register
class IndexMetadataMissing(OpsError):
    """A persisted index has lost its id map."""

    code = "INDEX_METADATA_MISSING"
    message = "The index of {collection} has vectors but no id map (index_metadata.pickle)."
    hint = "Restore the file from a backup; the vectors themselves are still in data_level0.bin."


@_register
class IndexNotPersisted(OpsError):
    """There is no index yet to work on."""

    code = "INDEX_NOT_PERSISTED"
    message = "{collection} has no persisted index yet: all of its {entries} vectors are in the WAL."
    hint = "Chroma persists the index after sync_threshold writes; there is nothing to rebuild before."


@_register
class IndexTorn(OpsError):
    """File sizes contradict the header."""

    code = "INDEX_TORN"
    message = "{file} of {collection} is torn: {why}."
    hint = "Do not let Chroma load it. Restore the index from a backup, or salvage its vectors."


@_register
class IndexHeaderInvalid(OpsError):
    """header.bin claims what can not be."""

    code = "INDEX_HEADER_INVALID"
    message = "header.bin of {collection} is invalid: {why}."
    hint = "Do not let Chroma load it: the process would die. Restore the index from a backup, or salvage its vectors."


@_register
class IndexUnreadable(OpsError):
    """The contents of the index contradict themselves."""

    code = "INDEX_UNREADABLE"
    message = "The index of {collection} can not be used: {why}."
    hint = "Restore the index from a backup, or salvage its vectors."


@_register
class SparseFile(OpsError):
    """A file claims far more bytes than it holds."""

    code = "SPARSE_FILE"
    message = "{file} of {collection} claims {apparent} bytes and holds {allocated}."
    hint = "Restore the index from a backup, or rebuild it from its vectors."


@_register
class LabelCollisionRisk(OpsError):
    """The id map contradicts itself or the index."""

    code = "LABEL_COLLISION_RISK"
    message = "The id map of {collection} contradicts the index: {why}."
    hint = "`hnsw rebuild` mends a counter that is too low; other contradictions need a repair of the id map first."


@_register
class PickleForbidden(OpsError):
    """An id map with code in it."""

    code = "PICKLE_FORBIDDEN"
    message = "{file} asks for {what}; an id map of Chroma never does. It was not executed."
    hint = "Treat the directory as tampered with and find out who wrote the file."


@_register
class PickleLimit(OpsError):
    """An id map that would take too much memory or time."""

    code = "PICKLE_LIMIT"
    message = "{file} needs more than its {size_bytes} bytes justify: {why}."
    hint = "Treat the file as tampered with, or restore it from a backup."


@_register
class PickleTorn(OpsError):
    """An id map that ends early or is not one."""

    code = "PICKLE_TORN"
    message = "{file} is torn: {why}."
    hint = "Restore the file from a backup; the vectors themselves are still in data_level0.bin."


@_register
class VectorsDiffer(OpsError):
    """The collection's vectors can not be carried over as asked."""

    code = "VECTORS_UNFIT"
    message = "{why}"
    hint = "{what_to_do}"


# --- running --------------------------------------------------------------------------------------------------------


@_register
class InUse(OpsError):
    """Another process has the store open for writing."""

    code = "IN_USE"
    message = "{count} other process(es) have this store open for writing: {processes}."
    hint = "Stop them, then try again; an index that changes under a running Chroma makes it answer wrongly."


@_register
class InUseUnknown(OpsError):
    """It can not be known whether another process has it open."""

    code = "IN_USE_UNKNOWN"
    message = "Whether another process has this store open can not be seen from here: {why}."
    hint = "Make sure that none has, then say so with --attest-unused; the attestation is recorded."


@_register
class Locked(OpsError):
    """Another operation holds the lock."""

    code = "LOCKED"
    message = "Another operation is working on this store{holder}."
    hint = "Wait for it to end, then try again."


@_register
class Busy(OpsError):
    """SQLite's write lock was not to be had."""

    code = "BUSY"
    message = "The database was locked by another process for {seconds} s."
    hint = "Try again when the other process has finished writing."
    outcome = Outcome.FAILED


@_register
class DeadlineExceeded(OpsError):
    """Reading took longer than allowed."""

    code = "DEADLINE"
    message = "Reading took longer than {seconds} s and was stopped."
    hint = "Narrow the question, or run it as an operation."


@_register
class NoSpace(OpsError):
    """Not enough free bytes."""

    code = "NO_SPACE"
    message = "{path} has {free_bytes} bytes free, {needed_bytes} are needed."
    hint = "Free some space on that file system, then try again."


@_register
class PlanChanged(OpsError):
    """What would be done now is not what was approved."""

    code = "PLAN_CHANGED"
    message = "The store changed after the plan was approved: {what}."
    hint = "Look at the new plan and approve it."


@_register
class ApprovalRequired(OpsError):
    """A writing operation without an approval."""

    code = "APPROVAL_REQUIRED"
    message = "{operation} changes the store and was not approved."
    hint = "Answer the question on a terminal, or pass --yes; --dry-run shows the plan."


@_register
class BoundsExceeded(OpsError):
    """The plan is larger than what was approved."""

    code = "BOUNDS_EXCEEDED"
    message = "The plan would touch {planned} {what}, more than the allowed {allowed}."
    hint = "Raise the bound, or narrow the operation."


@_register
class GateClosed(OpsError):
    """The commit was not allowed."""

    code = "GATE_CLOSED"
    message = "The commit was not allowed: {why}."
    hint = "Nothing has changed. Ask for the operation again when the reason is gone."
    outcome = Outcome.CANCELLED


@_register
class Cancelled(OpsError):
    """Somebody asked it to stop."""

    code = "CANCELLED"
    message = "The operation was cancelled; nothing visible had changed."
    hint = "Start it again when it suits."
    outcome = Outcome.CANCELLED


@_register
class VerificationFailed(OpsError):
    """The built result is not what it must be; nothing was committed."""

    code = "VERIFICATION_FAILED"
    message = "The new state did not pass verification before the commit: {why}."
    hint = "The old state is untouched. Report this with the run's log."
    outcome = Outcome.FAILED


@_register
class CommittedButUnverified(OpsError):
    """Committed, and the check afterwards failed."""

    code = "COMMITTED_UNVERIFIED"
    message = "The change was committed, and the check afterwards failed: {why}."
    hint = "Look at the store before anything writes to it; undo is offered while nothing has."
    outcome = Outcome.NEEDS_OPERATOR


@_register
class RecoveryNeedsOperator(OpsError):
    """Recovery found a state it must not touch."""

    code = "RECOVERY_NEEDS_OPERATOR"
    message = "An interrupted operation left a state that a person has to look at: {why}."
    hint = "The evidence is kept in .chromaadmin; nothing more is written automatically."
    outcome = Outcome.NEEDS_OPERATOR


@_register
class PartlyDone(OpsError):
    """Some steps were committed, the rest was not."""

    code = "PARTLY_DONE"
    message = "{done} of {total} steps are done and stay done; then: {why}"
    hint = "Run the operation again for what is left: {left}."
    outcome = Outcome.FAILED


@_register
class IoFailed(OpsError):
    """The operating system refused a read, write or sync."""

    code = "IO_FAILED"
    message = "{what} failed: {why}."
    hint = "Check the disk and its free space; the old state is in place."
    outcome = Outcome.FAILED


@_register
class NothingToUndo(OpsError):
    """There is no undo for that run."""

    code = "NOTHING_TO_UNDO"
    message = "Run {run_id} can not be undone: {why}."
    hint = "Look at the trash of the store for what is kept."


@_register
class ChildDied(OpsError):
    """A child process ended without an answer."""

    code = "CHILD_DIED"
    message = "The process that was {doing} ended with {how}."
    hint = "The file it was reading may be damaged; the rest of the store can be used."
    outcome = Outcome.FAILED
