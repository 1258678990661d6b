"""Notices that the store or its log was deleted, replaced or moved while SQLite holds it open.

A held file keeps its inode, so no other file can have that number: two ``stat`` calls are proof. They cost as
much as sealing a record, so in a burst of commits the kernel is asked first whether any name in the folder was made,
moved or removed at all (inotify(7)).
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from core.errors import StoreError
from edge.store.database import PAGE_BYTES
from edge.store.files import identity

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (0x40 << bit for bit in range(6))
_NAMES_CHANGE: Final = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_IGNORED: Final = 0x8000
_EVENTS_BYTES: Final = 1 << 16
# The kernel does not tell when a folder further up is moved, or another file system mounted over it.
_TRUSTED_NS: Final = 1_000_000_000


class FileWatch:
    """Both files of an open store, as they were when it was opened. Not to be shared with a forked child, which would
    take the kernel's news from the parent."""

    def __init__(self, path: Path) -> None:
        """Remembers the files at ``path`` as they are now."""
        # Stays open as long as SQLite's: closing any handle of a file gives up this process's locks on it.
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._events = _watching(path.parent)
        self._poll = select.poll()
        if self._events is not None:
            self._poll.register(self._events, select.POLLIN)
        # Names as text: the path objects would be turned into it four times in every commit.
        self._known = [(name, identity(name)) for name in (str(path), f"{path}-wal")]
        self._trusted_until_ns = 0

    def first_page(self) -> bytes:
        """The file's first page as it lies on the disk."""
        return os.pread(self._handle, PAGE_BYTES, 0)

    def close(self) -> None:
        """After SQLite has closed the file."""
        os.close(self._handle)
        if self._events is not None:
            os.close(self._events)

    def check(self) -> None:
        """StoreError when a file is not the one that was opened."""
        now_ns = time.monotonic_ns()
        if now_ns < self._trusted_until_ns and not self._poll.poll(0):
            return
        self._trusted_until_ns = 0
        if self._events is not None:
            self._forget_events(self._events)  # before looking: what happens after that is the next check's
        for name, known in self._known:
            if known is None or identity(name) != known:
                raise StoreError(
                    "store file was deleted or replaced while in use",
                    where=name,
                    mend="nothing is stored from now on: put the file back, or restart to begin a new store",
                )
        if self._events is not None:
            self._trusted_until_ns = now_ns + _TRUSTED_NS

    def _forget_events(self, events: int) -> None:
        while self._poll.poll(0):
            told = os.read(events, _EVENTS_BYTES)
            if any(mask & _IGNORED for mask in _masks(told)):  # the folder went away, and the watch with it
                self._poll.unregister(events)
                os.close(events)
                self._events = None
                return


def _masks(told: bytes) -> Iterator[int]:
    """Of each event: struct inotify_event is a descriptor, a mask, a cookie, the length of a name, and the name."""
    at = 0
    while at + 16 <= len(told):
        _, mask, _, length = struct.unpack_from("=iIII", told, at)
        yield mask
        at += 16 + length


def _watching(folder: Path) -> int | None:
    """Where the kernel tells of names that change in ``folder``; None when it has no watch left for us."""
    libc = ctypes.CDLL(None)
    events: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if events < 0:
        return None
    if libc.inotify_add_watch(events, os.fsencode(folder), _NAMES_CHANGE) < 0:
        os.close(events)
        return None
    return events
