"""A file that an operation makes outside the store: written beside its place, synced, read back, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ops.errors import BadParameters, IoFailed, VerificationFailed

if TYPE_CHECKING:
    from ops.progress import Outlet
    from ops.store.persist_dir import PersistDir

STDOUT = "-"
_UNLINKED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written: lines, bytes and SHA-256; ``read_back`` the lines found in the file, None for a stream.

    ``path`` is None for a stream.
    """

    lines: int
    size_bytes: int
    sha256: str
    read_back: int | None
    path: str | None


def place_of(store: PersistDir, output: str, outlet: Outlet, default_name: str) -> Path | None:
    """Where ``output`` is; None means the stream of the door. Raises BAD_PARAMETERS.

    A door that is no command line names a folder: then only a plain file name is taken, and the file lies there. No
    file is made inside a persist directory.
    """
    if not outlet.anywhere:
        if outlet.folder is None:
            raise BadParameters({"output": "No file can be made from here; use the command line."})
        name = default_name if output in ("", STDOUT) else output
        if name in (".", "..") or "/" in name or name.startswith("."):
            raise BadParameters({"output": "Only the name of a file, without a directory."})
        outlet.folder.mkdir(mode=0o700, exist_ok=True)
        return outlet.folder / name
    if output in ("", STDOUT):
        if outlet.stream is None:
            raise BadParameters({"output": "Name a file; there is no standard output here."})
        return None
    place = Path(output)
    parent = Path(os.path.realpath(place.parent))
    if not parent.is_dir():
        raise BadParameters({"output": f"There is no directory {parent}."})
    if parent == store.path or store.path in parent.parents:
        raise BadParameters({"output": "It lies in the persist directory; nothing of ours belongs there."})
    return parent / place.name


def write_lines(
    place: Path | None, lines: Iterable[bytes], outlet: Outlet, *, overwrite: bool, expected: int
) -> Written:
    """Write ``lines`` (each ends with a line feed), of which there must be ``expected``.

    Raises BAD_PARAMETERS for a file that exists, IO_FAILED, and VERIFICATION_FAILED when the numbers written, expected
    and read back differ; then there is no file.
    """
    if place is None:
        assert outlet.stream is not None  # noqa: S101 - place_of() looked
        written = _copied(lines, outlet.stream, None)
        _require_equal(expected, written.lines, expected)
        return written
    if not overwrite and os.path.lexists(place):
        raise BadParameters({"output": f"{place} exists; --overwrite replaces it."})
    if overwrite and os.path.lexists(place) and (place.is_symlink() or not place.is_file()):
        raise BadParameters({"output": f"{place} is no plain file and is not replaced."})
    partial = place.with_name(place.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        sentence = f"{partial} exists: another export works on it, or was interrupted. Remove it then."
        raise BadParameters({"output": sentence}) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            written = _copied(lines, stream, partial)
            os.fsync(stream.fileno())
        found = _read_back(partial, written)
        _require_equal(expected, written.lines, found)
        _rename(partial, place, overwrite)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Written(
        lines=written.lines, size_bytes=written.size_bytes, sha256=written.sha256, read_back=found, path=str(place)
    )


def _require_equal(expected: int, written: int, found: int) -> None:
    if not expected == written == found:
        raise VerificationFailed(why=f"{expected} lines were expected, {written} written and {found} read back")


def _copied(lines: Iterable[bytes], stream: BinaryIO, path: Path | None) -> Written:
    digest, number, size_bytes = hashlib.sha256(), 0, 0
    for line in lines:
        try:
            stream.write(line)
        except OSError as error:
            where = path or "standard output"
            raise IoFailed(what=f"Writing {where}", why=os.strerror(error.errno or 0)) from error
        digest.update(line)
        number += 1
        size_bytes += len(line)
    stream.flush()
    return Written(lines=number, size_bytes=size_bytes, sha256=digest.hexdigest(), read_back=None, path=None)


def _read_back(path: Path, written: Written) -> int:
    digest, number = hashlib.sha256(), 0
    with path.open("rb") as stream:
        for line in stream:
            digest.update(line)
            json.loads(line)
            number += 1
    if digest.hexdigest() != written.sha256:
        raise VerificationFailed(why=f"{path.name} does not read as it was written")
    return number


def _rename(partial: Path, place: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(partial, place)
    else:
        try:
            os.link(partial, place, follow_symlinks=False)  # unlike a rename it never replaces what came meanwhile
            partial.unlink()
        except FileExistsError:
            raise BadParameters({"output": f"{place} exists; --overwrite replaces it."}) from None
        except OSError as error:
            if error.errno not in _UNLINKED:
                raise
            os.rename(partial, place)
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
