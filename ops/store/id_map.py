"""The id map of an HNSW index, ``index_metadata.pickle``: read in a limited child process, written as plain data.

Unpickling is running a program that the file's author wrote, so it happens only in a child that has given up memory,
processor time, files and new processes, with a ``find_class`` that knows one inert class. That child needs nothing but
the standard library and starts in some 15 ms; ``IdMapReader`` keeps one, gives it open files over a socket, and starts
another when it has died of what it read.

Chroma before 1.0 pickles an object of ``PersistentData``, from 1.0 on a plain dict; both hold ``id_to_label``,
``label_to_id`` and ``total_elements_added`` (the last label given out).
"""

from __future__ import annotations

import array
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from ops.errors import ChildDied, IndexMetadataMissing, OpsError, PickleForbidden, PickleLimit, PickleTorn

FILE_NAME = "index_metadata.pickle"
MODULE = "chromadb.segment.impl.vector.local_persistent_hnsw"
CLASS = "PersistentData"
MEBIBYTE = 1 << 20
T = TypeVar("T")
_STATE_KEYS = frozenset(
    {
        "dimensionality",
        "id_to_label",
        "id_to_seq_id",
        "label_to_id",
        "max_seq_id",
        "total_elements_added",
        # of 0.5.5, which takes 0 where they are missing and no other release reads them: not written
        "total_elements_updated",
        "total_invalid_operations",
    }
)
_REQUIRED_KEYS = frozenset({"id_to_label", "label_to_id", "total_elements_added"})
_LARGEST = 2**63 - 1
_LARGEST_PIECE = 16 * MEBIBYTE  # no id and no frame of a genuine file is longer
_CHUNK = 1 << 17
_LENGTH = struct.Struct("<I")
_FRESH_AFTER = 4 * MEBIBYTE  # a child that read so large a file is replaced, for its memory is in pieces
_WALL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class IdMapSummary:
    """An id map without its ids. ``form`` is dict (1.0 and later) or class (before).

    ``labels`` counts the ids; ``max_label`` is 0 without any; ``inverse`` says that ``label_to_id`` is exactly the
    inverse of ``id_to_label``, with no label given twice. ``max_seq_id`` is the watermark that releases before 0.5.6
    keep here.
    """

    form: str
    total_elements_added: int
    dimensionality: int | None
    max_seq_id: int | None
    labels: int
    max_label: int
    inverse: bool


@dataclass(frozen=True, kw_only=True)
class IdMap:
    """A whole id map: ``labels[i]`` is the label of ``ids[i]``, in the order of ``id_to_label`` in the file.

    ``seq_ids[i]`` is the WAL entry that wrote ``ids[i]``, 0 where the file does not say; None without any, which is how
    Chroma 1.0 and later write it.
    """

    form: str
    total_elements_added: int
    dimensionality: int | None
    max_seq_id: int | None
    labels: array.array[int]
    ids: list[str]
    inverse: bool = True
    seq_ids: array.array[int] | None = None


class IdMapReader:
    """Reads id maps through one long-lived child. Not for use by several threads; close it when done."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def summary(self, fd: int, name: str) -> IdMapSummary:
        """Everything but the ids of the file open at ``fd``; ``name`` is what errors call it.

        Raises PICKLE_FORBIDDEN, PICKLE_LIMIT, PICKLE_TORN.
        """
        header, _ = self._ask("summary", fd, name)
        return IdMapSummary(
            form=header["form"],
            total_elements_added=header["total_elements_added"],
            dimensionality=header["dimensionality"],
            max_seq_id=header["max_seq_id"],
            labels=header["labels"],
            max_label=header["max_label"],
            inverse=header["inverse"],
        )

    def read(self, fd: int, name: str) -> IdMap:
        """The whole id map of the file open at ``fd``; errors as of ``summary``."""
        header, body = self._ask("read", fd, name)
        seq_ids = None
        if header["seq_ids"]:
            seq_ids = _numbers(body[: 8 * header["labels"]])
            del body[: 8 * header["labels"]]
        labels, ids = unpack_entries(body, header["labels"])
        return IdMap(
            form=header["form"],
            total_elements_added=header["total_elements_added"],
            dimensionality=header["dimensionality"],
            max_seq_id=header["max_seq_id"],
            labels=labels,
            ids=ids,
            inverse=header["inverse"],
            seq_ids=seq_ids,
        )

    def close(self) -> None:
        """End the child; harmless the second time. The next question starts another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); from ops.store.id_map import serve; serve(int(sys.argv[2]))"
        )
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", program, root, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env={},
                start_new_session=True,
            )
        finally:
            theirs.close()
        ours.settimeout(_WALL_S)
        self._socket = ours
        return ours

    def _ask(self, what: str, fd: int, name: str) -> tuple[dict[str, Any], bytearray]:
        size_bytes = os.fstat(fd).st_size
        request = json.dumps({"what": what, "size_bytes": size_bytes}).encode()
        try:
            connection = self._socket or self._start()
            socket.send_fds(connection, [_LENGTH.pack(len(request)) + request], [fd])
            header = json.loads(_receive(connection, _LENGTH.unpack(_receive(connection, _LENGTH.size))[0]))
            body = _receive(connection, header.get("body_bytes", 0))
        except (OSError, EOFError) as error:
            how = self._ended(error)
            self.close()
            if how in ("SIGXCPU", "SIGPROF", "SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "silence"):
                why = f"its reader was ended by {how}" if how != "silence" else f"its reader took over {_WALL_S:.0f} s"
                raise PickleLimit(file=name, size_bytes=size_bytes, why=why) from error
            raise ChildDied(doing=f"reading {name}", how=how) from error
        if size_bytes > _FRESH_AFTER or "code" in header:
            self.close()
        if "code" in header:
            raise _error(header, name, size_bytes)
        return header, body

    def _ended(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError) or self._child is None:
            return "silence"
        try:
            status = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "silence"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def read_summary(reader: IdMapReader, directory: Any, collection: str) -> IdMapSummary:
    """The summary of the id map in a ``SegmentDirectory``; raises INDEX_METADATA_MISSING when there is no file."""
    return _with_file(directory, collection, reader.summary)


def read(reader: IdMapReader, directory: Any, collection: str) -> IdMap:
    """The id map in a ``SegmentDirectory``; raises INDEX_METADATA_MISSING when there is no file."""
    return _with_file(directory, collection, reader.read)


def dump(id_map: IdMap) -> bytes:
    """The file as Chroma reads it, in the form of ``id_map``; pickle protocol 3.

    A dict is read by Chroma 1.0 and later. An object of ``PersistentData`` is what older releases need, with
    ``dimensionality`` set and an entry of ``id_to_seq_id`` for every id; later ones read it too.
    """
    labels = id_map.labels.tolist()
    seq_ids = {} if id_map.seq_ids is None else dict(zip(id_map.ids, id_map.seq_ids.tolist(), strict=True))
    state = pickle.dumps(
        {
            "dimensionality": id_map.dimensionality,
            "total_elements_added": id_map.total_elements_added,
            "max_seq_id": id_map.max_seq_id,
            "id_to_label": dict(zip(id_map.ids, labels, strict=True)),
            "label_to_id": dict(zip(labels, id_map.ids, strict=True)),
            "id_to_seq_id": seq_ids,
        },
        protocol=3,
    )
    if id_map.form == "dict":
        return state
    # PROTO 3, GLOBAL, EMPTY_TUPLE, NEWOBJ; the state without its own PROTO and STOP; BUILD, STOP: the class is not
    # needed to write an object of it.
    return b"\x80\x03c" + f"{MODULE}\n{CLASS}\n".encode() + b")\x81" + state[2:-1] + b"b."


def pack_entries(labels: array.array[int], ids: list[str]) -> bytes:
    """Labels as int64, then the byte lengths of the ids as uint32, then the ids as UTF-8, all little endian."""
    blobs = [text.encode("utf-8", "surrogatepass") for text in ids]
    lengths = array.array("I", map(len, blobs))
    numbers = array.array("q", labels)
    if sys.byteorder == "big":
        numbers.byteswap()
        lengths.byteswap()
    return numbers.tobytes() + lengths.tobytes() + b"".join(blobs)


def unpack_entries(body: bytes | bytearray, count: int) -> tuple[array.array[int], list[str]]:
    """Labels and ids of ``pack_entries``."""
    labels, lengths = array.array("q"), array.array("I")
    view = memoryview(body)
    labels.frombytes(view[: 8 * count])
    lengths.frombytes(view[8 * count : 12 * count])
    if sys.byteorder == "big":
        labels.byteswap()
        lengths.byteswap()
    blob = bytes(view[12 * count :])
    ids: list[str] = []
    start = 0
    if blob.isascii():
        text = blob.decode("ascii")
        for length in lengths:
            ids.append(text[start : start + length])
            start += length
        return labels, ids
    for length in lengths:
        ids.append(blob[start : start + length].decode("utf-8", "surrogatepass"))
        start += length
    return labels, ids


def _packed(numbers: Iterable[int]) -> bytes:
    """Numbers as int64, little endian."""
    values = array.array("q", numbers)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _numbers(data: bytes | bytearray) -> array.array[int]:
    values = array.array("q")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _with_file(directory: Any, collection: str, ask: Callable[[int, str], T]) -> T:
    try:
        fd = directory.open(FILE_NAME)
    except FileNotFoundError as error:
        raise IndexMetadataMissing(collection=collection) from error
    try:
        return ask(fd, str(directory.path / FILE_NAME))
    finally:
        os.close(fd)


def _error(header: Mapping[str, Any], name: str, size_bytes: int) -> OpsError:
    if header["code"] == PickleForbidden.code:
        return PickleForbidden(file=name, what=header["why"])
    if header["code"] == PickleLimit.code:
        return PickleLimit(file=name, size_bytes=size_bytes, why=header["why"])
    return PickleTorn(file=name, why=header["why"])


def _receive(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if not got:
            raise EOFError("the reader of id maps ended")
        view = view[got:]
    return data


# --- the child ------------------------------------------------------------------------------------------------------


def serve(socket_fd: int) -> NoReturn:
    """Answer questions on the socket until it is closed; the main loop of the child."""
    _give_up_rights()
    connection = socket.socket(fileno=socket_fd)
    while True:
        prefix, fds, _flags, _address = socket.recv_fds(connection, _LENGTH.size, 1)
        if not prefix:
            os._exit(0)
        rest = _receive(connection, _LENGTH.size - len(prefix)) if len(prefix) < _LENGTH.size else b""
        request = json.loads(_receive(connection, _LENGTH.unpack(prefix + rest)[0]))
        header, body = _answer(request, fds[0])
        os.close(fds[0])
        header["body_bytes"] = len(body)
        data = json.dumps(header).encode()
        connection.sendall(_LENGTH.pack(len(data)) + data)
        connection.sendall(body)


def _give_up_rights() -> None:
    os.umask(0o777)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for name, limit in (("CORE", 0), ("FSIZE", 0), ("NPROC", 0), ("NOFILE", 8), ("MEMLOCK", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def memory_limit_bytes(size_bytes: int) -> int:
    """The address space that reading a file of that size may take."""
    return min(256 * MEBIBYTE + 12 * size_bytes, 4096 * MEBIBYTE)


def _answer(request: Mapping[str, Any], fd: int) -> tuple[dict[str, Any], bytes]:
    size_bytes = request["size_bytes"]
    limit = memory_limit_bytes(size_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # Processor time, in fractions of a second: the default action of SIGPROF ends the process, also inside C code.
    signal.setitimer(signal.ITIMER_PROF, 0.7 + size_bytes / (8 * MEBIBYTE))
    try:
        value = _checked(_load(fd, size_bytes))
        if request["what"] == "summary":
            body = b""
        else:
            body = pack_entries(array.array("q", value["id_to_label"].values()), list(value["id_to_label"]))
            if value["id_to_seq_id"]:
                body = _packed(value["id_to_seq_id"].get(key, 0) for key in value["id_to_label"]) + body
        return _header(value), body
    except _Refused as refused:
        return {"code": refused.code, "why": refused.why}, b""
    except (MemoryError, RecursionError) as error:
        return {"code": PickleLimit.code, "why": f"{type(error).__name__} under the limit of {limit} bytes"}, b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Refused(Exception):
    """What the child answers instead of an id map."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why[:500]


def _forbidden(what: str) -> _Refused:
    return _Refused(PickleForbidden.code, what)


def _torn(why: str) -> _Refused:
    return _Refused(PickleTorn.code, why)


class _Stub:
    """Stands for Chroma's ``PersistentData``; can be made once, empty, and given its state once."""

    made = 0
    state: dict[str, Any] | None = None

    def __new__(cls, *args: object, **kwargs: object) -> _Stub:
        if args or kwargs or _Stub.made:
            raise _forbidden("a second or an unusual object")
        _Stub.made += 1
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        # NEWOBJ, which Chroma's files use, does not come here; REDUCE, INST and OBJ, which call the class, do.
        raise _forbidden("a call of the class")

    def __setstate__(*args: Any) -> None:  # BUILD on the class itself arrives here without an instance
        if len(args) != 2 or args[0].state is not None or type(args[1]) is not dict:
            raise _forbidden("an unusual state of an object")
        if unknown := [key for key in args[1] if type(key) is not str or key not in _STATE_KEYS]:
            raise _forbidden(f"the attribute {str(unknown[0])[:40]!r}")
        object.__setattr__(args[0], "state", args[1])

    def __setattr__(self, name: str, value: object) -> None:
        raise _forbidden(f"setting the attribute {name[:40]!r}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) == (MODULE, CLASS):
            return _Stub
        raise _forbidden(f"{str(module)[:80]}.{str(name)[:80]}")

    def persistent_load(self, _pid: object) -> NoReturn:
        raise _forbidden("a persistent id")


class _File:
    """A file for the C unpickler that sees how much is asked for before anything is allocated."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd, self.size, self.position = fd, size_bytes, 0

    def peek(self, count: int) -> bytes:
        return os.pread(self.fd, min(max(count, 0), _CHUNK), self.position)

    def read(self, count: int) -> bytes:
        left = self.size - self.position
        if count > left:
            if count > max(_LARGEST_PIECE, left):
                raise _Refused(PickleLimit.code, f"it announces a piece of {count} bytes")
            raise _torn("it ends early")
        pieces = []
        while count:
            piece = os.pread(self.fd, min(count, 1 << 30), self.position)
            if not piece:
                raise _torn("it ends early")
            pieces.append(piece)
            self.position += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: bytearray) -> int:
        data = self.read(len(buffer))
        buffer[:] = data
        return len(data)

    def readline(self) -> bytes:
        line = os.pread(self.fd, _CHUNK, self.position)
        end = line.find(b"\n")
        if end < 0:
            raise _torn("it ends early" if len(line) < _CHUNK else "it holds a line without an end")
        self.position += end + 1
        return line[: end + 1]


def _load(fd: int, size_bytes: int) -> object:
    if not size_bytes:
        raise _torn("it has 0 bytes")
    _Stub.made = 0
    file = _File(fd, size_bytes)
    try:
        value: object = _Unpickler(file).load()
    except OverflowError as error:
        raise _Refused(PickleLimit.code, str(error)) from error
    except pickle.UnpicklingError as error:
        if "out-of-band" in str(error) or "EXT specifies" in str(error):
            raise _forbidden("an extension or a foreign buffer") from error
        raise _torn(str(error)) from error
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError) as error:
        if "extension code" in str(error):
            raise _forbidden("an extension code") from error
        raise _torn(f"{type(error).__name__}: {error}") from error
    if file.position != size_bytes:
        raise _torn(f"{size_bytes - file.position} bytes follow its end")
    return value


def _checked(value: object) -> dict[str, Any]:
    """The state dict of either form, when every value has the type that Chroma writes."""
    form = "class" if type(value) is _Stub else "dict"
    if isinstance(value, _Stub) and value.state is None:
        raise _forbidden("an object without its state")
    state = value.state if isinstance(value, _Stub) else value
    if type(state) is not dict:
        _refuse_depth(state)
        raise _torn(f"it holds {type(state).__name__} instead of an id map")
    if form == "dict" and _Stub.made:
        raise _forbidden("an object inside the id map")
    for key in state:
        if type(key) is not str or key not in _STATE_KEYS:
            raise _torn(f"it holds the unknown key {str(key)[:40]!r}")
    if missing := sorted(_REQUIRED_KEYS - set(state)):
        raise _torn(f"it holds no {missing[0]}")
    for key in ("id_to_label", "label_to_id", "id_to_seq_id"):
        if type(state.setdefault(key, {})) is not dict:
            _refuse_depth(state[key])
            raise _torn(f"{key} is no map")
    total = state["total_elements_added"]
    if type(total) is not int or not 0 <= total <= _LARGEST:
        raise _torn("total_elements_added is no count")
    _check_entries(state["id_to_label"], "id_to_label", str, int)
    _check_entries(state["label_to_id"], "label_to_id", int, str)
    _check_entries(state["id_to_seq_id"], "id_to_seq_id", str, int)
    for key in ("dimensionality", "max_seq_id", "total_elements_updated", "total_invalid_operations"):
        number = state.setdefault(key, None)
        if number is not None and (type(number) is not int or not 0 <= number <= _LARGEST):
            _refuse_depth(number)
            raise _torn(f"{key} is no number")
    state["form"] = form
    return state


def _check_entries(entries: dict[Any, Any], name: str, key_type: type, value_type: type) -> None:
    for what, items, kind in (("key", entries, key_type), ("value", entries.values(), value_type)):
        for strange in set(map(type, items)) - {kind}:
            raise _torn(f"a {what} of {name} is {strange.__name__} instead of {kind.__name__}")
        if kind is int and entries and not (min(items) >= 0 and max(items) <= _LARGEST):
            raise _torn(f"a {what} of {name} is out of range")


def _refuse_depth(value: object) -> None:
    """Raise the limit error for things nested as no file of Chroma's is."""
    for _ in range(1000):
        if not isinstance(value, tuple | list | dict) or not value:
            return
        value = next(iter(value.values() if isinstance(value, dict) else value))
    raise _Refused(PickleLimit.code, "its values are nested more than 1000 deep")


def _header(state: Mapping[str, Any]) -> dict[str, Any]:
    forward, backward = state["id_to_label"], state["label_to_id"]
    inverse = len(forward) == len(backward) and all(map(_same, map(backward.get, forward.values()), forward))
    return {
        "form": state["form"],
        "total_elements_added": state["total_elements_added"],
        "dimensionality": state["dimensionality"],
        "max_seq_id": state["max_seq_id"],
        "labels": len(forward),
        "max_label": max(forward.values(), default=0),
        "inverse": inverse,
        "seq_ids": bool(state["id_to_seq_id"]),
    }


def _same(left: object, right: object) -> bool:
    return left == right
