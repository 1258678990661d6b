"""A disk that fails on command, under the real store: SQLite's own file layer, wrapped in this process.

Why this and not another mechanism. SQLite reaches the disk through one table of functions, its VFS, made to be
replaced; SQLite's own tests inject their faults there. Here the system's VFS opens each file and five of the
file's methods (read, write, truncate, sync, close) and the VFS's open and delete pass through Python first. So
every byte that the store's database and log read or write is seen, nothing in the store is changed or mocked, and
a fault costs microseconds, not a process. A preloaded C library would need a compiler where the tests run; APSW
would test another copy of SQLite than the one the hub has; a full file system alone (tests/edge/store/test_disk.py
has one) fails only writes, and only when it likes.

The table's layout is SQLite's public interface (sqlite3.h: sqlite3_vfs, sqlite3_io_methods), fixed since 3.7.6.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

OK = sqlite3.SQLITE_OK
FULL = sqlite3.SQLITE_FULL
IOERR_READ = sqlite3.SQLITE_IOERR_READ
IOERR_WRITE = sqlite3.SQLITE_IOERR_WRITE
IOERR_FSYNC = sqlite3.SQLITE_IOERR_FSYNC
IOERR_TRUNCATE = sqlite3.SQLITE_IOERR_TRUNCATE
IOERR_DELETE = sqlite3.SQLITE_IOERR_DELETE

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_MOVE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)  # read and write
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _OPEN),
        ("delete", _DELETE),
        ("others", c_void_p * 14),
    ]


class _Methods(ctypes.Structure):
    _fields_ = [
        ("version", c_int),
        ("close", _CLOSE),
        ("read", _MOVE),
        ("write", _MOVE),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        ("others", c_void_p * 13),
    ]


class Op(NamedTuple):
    """One thing done to a file. ``kind``: open, read, write, truncate, sync, delete (and what a test notes)."""

    kind: str
    name: str = ""
    offset: int = 0
    size: int = 0
    data: bytes = b""


class Short(NamedTuple):
    """Of a write only the first ``size`` bytes reach the file; then ``code``."""

    size: int
    code: int = FULL


class Flip(NamedTuple):
    """A read succeeds with one bit changed."""

    bit: int


LIE = "lie"  # a sync that reports success and does nothing
Action = int | Short | Flip | str | None


def _library() -> ctypes.CDLL:
    """The SQLite that Python's own module uses: found through that module, so it is the same copy."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = c_void_p
    library.sqlite3_vfs_find.argtypes = [c_char_p]
    library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
    library.sqlite3_vfs_unregister.argtypes = [c_void_p]
    return library


@dataclass
class Disk:
    """While entered, every database opened in this process lies on this disk.

    ``decide`` sees each operation before it happens and says what becomes of it (None: all is well). With
    ``record`` every change is remembered in ``log``, in order, for rebuilding what a power cut leaves.
    """

    decide: Callable[[Op], Action] = lambda _op: None
    record: bool = False
    log: list[Op] = field(default_factory=list)
    injected: int = 0
    broken: list[BaseException] = field(default_factory=list)  # mistakes of this file or of ``decide``

    def __enter__(self) -> Self:
        self._library = _library()
        self._system_at = self._library.sqlite3_vfs_find(None)
        self._system = _Vfs.from_address(self._system_at)
        self._vfs = _Vfs.from_buffer_copy(self._system)
        self._vfs.name = b"hometwin-faults"
        self._vfs.open, self._vfs.delete = (
            _OPEN(self._guarded(self._open)),
            _DELETE(self._guarded(self._delete)),
        )
        # One copy of the methods for each table of the system's (it has several), made at the first open.
        self._tables: dict[int, tuple[_Methods, _Methods]] = {}
        self._files: dict[int, tuple[str, _Methods]] = {}
        self._library.sqlite3_vfs_register(ctypes.addressof(self._vfs), 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.sqlite3_vfs_unregister(ctypes.addressof(self._vfs))
        self._library.sqlite3_vfs_register(self._system_at, 1)
        assert not self._files, f"still open: {[name for name, _ in self._files.values()]}"
        assert not self.broken, self.broken

    def note(self, kind: str, name: str = "", size: int = 0) -> None:
        """Remember something that did not pass through SQLite."""
        self.log.append(Op(kind, name, size=size))

    def _guarded(self, call: Callable[..., int]) -> Callable[..., int]:
        def guarded(*arguments: Any) -> int:
            try:
                return call(*arguments)
            except BaseException as error:  # nothing may pass through SQLite's C
                self.broken.append(error)
                return sqlite3.SQLITE_INTERNAL

        return guarded

    def _act(self, op: Op) -> Action:
        action = self.decide(op)
        if action is not None:
            self.injected += 1
        return action

    def _done(self, op: Op, code: int) -> int:
        if self.record and code == OK:
            self.log.append(op)
        return code

    def _open(self, _vfs: int, path_at: int | None, file: int, flags: int, out_flags: int | None) -> int:
        path = ctypes.string_at(path_at).decode() if path_at else ""
        op = Op("open", Path(path).name)
        action = self._act(op)
        if isinstance(action, int):
            ctypes.c_void_p.from_address(file).value = None  # no methods: SQLite must not close it
            return action
        code = self._system.open(self._system_at, path_at, file, flags, out_flags)
        table_at = ctypes.c_void_p.from_address(file)
        if code == OK and table_at.value:
            real, ours = self._tables.setdefault(table_at.value, self._wrapped(table_at.value))
            self._files[file] = (op.name, real)
            table_at.value = ctypes.addressof(ours)
        return self._done(op, code)

    def _wrapped(self, table_at: int) -> tuple[_Methods, _Methods]:
        real = _Methods.from_address(table_at)
        ours = _Methods.from_buffer_copy(real)
        ours.close = _CLOSE(self._guarded(self._close))
        ours.read, ours.write = _MOVE(self._guarded(self._read)), _MOVE(self._guarded(self._write))
        ours.truncate, ours.sync = _TRUNCATE(self._guarded(self._truncate)), _SYNC(self._guarded(self._sync))
        return real, ours

    def _delete(self, _vfs: int, path: bytes, sync_folder: int) -> int:
        op = Op("delete", Path(path.decode()).name, size=sync_folder)
        action = self._act(op)
        if isinstance(action, int):
            return action
        return self._done(op, self._system.delete(self._system_at, path, sync_folder))

    def _close(self, file: int) -> int:
        _, real = self._files.pop(file)
        return int(real.close(file))

    def _read(self, file: int, into: int, size: int, offset: int) -> int:
        name, real = self._files[file]
        action = self._act(Op("read", name, offset, size))
        if isinstance(action, int):
            return action
        code = int(real.read(file, into, size, offset))
        if isinstance(action, Flip):
            ctypes.c_ubyte.from_address(into + action.bit // 8 % size).value ^= 1 << action.bit % 8
        return code

    def _write(self, file: int, data_at: int, size: int, offset: int) -> int:
        name, real = self._files[file]
        op = Op("write", name, offset, size, ctypes.string_at(data_at, size) if self.record else b"")
        action = self._act(op)
        if isinstance(action, Short):
            if 0 < action.size < size:
                real.write(file, data_at, action.size, offset)
            return action.code
        if isinstance(action, int):
            return action
        return self._done(op, int(real.write(file, data_at, size, offset)))

    def _truncate(self, file: int, size: int) -> int:
        name, real = self._files[file]
        op = Op("truncate", name, size=size)
        action = self._act(op)
        return action if isinstance(action, int) else self._done(op, int(real.truncate(file, size)))

    def _sync(self, file: int, flags: int) -> int:
        name, real = self._files[file]
        op = Op("sync", name)
        action = self._act(op)
        if action == LIE:
            return OK
        return action if isinstance(action, int) else self._done(op, int(real.sync(file, flags)))


@dataclass
class FailFrom:
    """Of the operations that ``picks``, the ``first`` one (0-based) and, if ``lasting``, all later ones fail."""

    picks: Callable[[Op], bool]
    first: int
    action: Action
    lasting: bool = False
    seen: int = 0
    mended: bool = False

    def __call__(self, op: Op) -> Action:
        if self.mended or not self.picks(op):
            return None
        self.seen += 1
        hit = self.seen > self.first if self.lasting else self.seen == self.first + 1
        return self.action if hit else None
