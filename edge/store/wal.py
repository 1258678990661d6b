"""A write-ahead log that lost acknowledged commits to damage is told from one that a power cut left.

SQLite takes a log up to its first frame that fails its checksum and forgets the rest without a word: right after a
power cut, when that rest was never acknowledged; wrong when a bit has rotted. The two differ. A commit's frames are
synced before the next commit's are written, and each frame's checksum continues the one stored in the frame
before it. So a frame after SQLite's end that continues a *commit* frame proves that this commit was on the disk,
acknowledged, and is now lost. (The format: https://www.sqlite.org/fileformat2.html#walformat)

What this cannot see: damage in the frames of the very last commit, or just in the mark that makes the frame before
them a commit, and a log that was shortened at a commit. These look like a cut before it. The sensors' memories and the store's generation (docs/store-format.md) tell of them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from core.errors import StoreError, TamperedError
from edge.store.files import copy_readable, give_to_owner_of, is_readable, open_new
from edge.store.keys import NO_LINKS, sync_folder
from edge.store.untold import mark

COMMITS_LOST: Final = "write-ahead log is damaged: the last records before the hub ended are lost"
_MAGIC: Final = (0x377F0682, 0x377F0683)  # checksums of little-, of big-endian words
_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
# Looked at beyond SQLite's end: 64 MiB. The proof of a loss follows right on it, and a hostile log may be endless.
_MOST_FRAMES: Final = 1 << 14
_MASK: Final = 0xFFFFFFFF
_PAGE_BYTES: Final = 4096  # of our files; database.py imports this module


class _Frame(NamedTuple):
    start: bytes  # the part of the header that its checksum covers
    salts: bytes
    checksum: tuple[int, int]
    at: int  # of its page in the file

    @property
    def is_commit(self) -> bool:
        return self.start[4:] != bytes(4)


def check_log(db: sqlite3.Connection, path: Path, *, unreadable: bool) -> None:
    """TamperedError when the log of this just opened store has lost a commit that was on the disk, or was ``unreadable``.

    What the log still holds is then in the store already, and the log itself is kept beside it: opening again
    goes on without what was lost.
    """
    try:
        lost = fold_in(db, path, unreadable=unreadable)
    except sqlite3.OperationalError:
        # A full disk must not keep the store from opening. The log stays; what it has lost is told.
        with contextlib.suppress(OSError):
            if unreadable or lost_commits(path):
                mark(path)
        return
    if lost:
        raise TamperedError(
            COMMITS_LOST,
            where=f"{path}-wal",
            mend="it was set aside; start again: sensors that remember send those records once more",
        )


def fold_in(db: sqlite3.Connection, path: Path, *, unreadable: bool) -> bool:
    """Copy the log into the file as far as it is whole; whether it has lost commits. It is set aside then, unless that fails."""
    log = path.with_name(path.name + "-wal")
    busy, taken, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if not log.exists() or not (unreadable or _lost_a_commit(log, max(0, taken))):
        return False
    if not busy and taken == copied:
        set_log_aside(path)
    return True


def lost_commits(path: Path) -> bool:
    """Whether this store's log has lost commits, found without SQLite, which cannot always begin."""
    log = path.with_name(path.name + "-wal")
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            return False
        magic, _, page_size = struct.unpack(">3I", header[:12])
        taken, end = 0, struct.unpack(">2I", header[24:])
        if page_size == _PAGE_BYTES:
            for number, frame in _frames(file.fileno(), page_size, 0):
                page = os.pread(file.fileno(), page_size, frame.at)
                end = _checksum(frame.start + page, end, ">" if magic == _MAGIC[1] else "<")
                if frame.salts != header[16:24] or frame.checksum != end:
                    break
                taken = number + 1 if frame.is_commit else taken
    return _lost_a_commit(log, taken)


def _lost_a_commit(log: Path, taken: int) -> bool:
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            return False
        magic, _, page_size = struct.unpack(">3I", header[:12])
        order = ">" if magic == _MAGIC[1] else "<"
        whole = _checksum(header[:24], (0, 0), order) == struct.unpack(">2I", header[24:])
        if magic not in _MAGIC or not whole or page_size != _PAGE_BYTES:
            # It is synced before the first frame is written.
            return bool(file.read(_FRAME_HEADER_BYTES).strip(b"\0"))
        handle = file.fileno()

        def sums(frame: _Frame, start: tuple[int, int]) -> tuple[int, int]:
            return _checksum(frame.start + os.pread(handle, page_size, frame.at), start, order)

        # What the frame before may have ended with: as it says, or as it should say if that very field rotted.
        ends = {struct.unpack(">2I", header[24:])}
        is_commit = False
        for number, frame in _frames(handle, page_size, max(0, taken - 1)):
            # Other salts: of an earlier round through this file, whose frames prove nothing.
            is_ours = frame.salts == header[16:24]
            if is_ours and is_commit and any(sums(frame, end) == frame.checksum for end in ends):
                return True
            # Frames that continue the last commit that SQLite took are of one that was never finished.
            is_commit = frame.is_commit and number >= taken
            ends = {frame.checksum, *(sums(frame, end) for end in ends)} if is_commit else {frame.checksum}
    return False


def _frames(handle: int, page_size: int, first: int) -> Iterator[tuple[int, _Frame]]:
    """Numbers and headers from the frame ``first`` (0-based) on."""
    step = _FRAME_HEADER_BYTES + page_size
    there = (os.fstat(handle).st_size - _HEADER_BYTES) // step
    for number in range(first, min(there, first + _MOST_FRAMES)):
        at = _HEADER_BYTES + number * step
        data = os.pread(handle, _FRAME_HEADER_BYTES, at)
        s0, s1 = struct.unpack(">2I", data[16:])
        yield number, _Frame(data[:8], data[8:16], (s0, s1), at + _FRAME_HEADER_BYTES)


def _checksum(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's: two running sums over pairs of 32-bit words."""
    s0, s1 = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for a, b in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + a + s1) & _MASK
        s1 = (s1 + b + s0) & _MASK
    return s0, s1


def mend_unreadable_log(path: Path) -> bool:
    """Replace a log that the disk cannot read in places by one with zeros there; whether that had to be done.

    SQLite takes it up to the first damaged commit, as any log; of one that it cannot read it takes nothing.
    """
    log = path.with_name(path.name + "-wal")
    if is_readable(log, _MOST_FRAMES * (_FRAME_HEADER_BYTES + _PAGE_BYTES)):
        return False
    fresh = path.with_name(path.name + ".new-wal")  # which an erase destroys, and a new store replaces
    try:
        with os.fdopen(open_new(fresh), "wb") as file:
            copy_readable(log, file)
            give_to_owner_of(log, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        mark(path)
        fresh.replace(log)
        sync_folder(path.parent)
    except OSError as err:
        raise StoreError(
            f"write-ahead log can be neither read nor replaced: {err.strerror}",
            where=str(log),
            mend="check the disk",
        ) from None
    return True


def set_log_aside(path: Path, suffix: str = "-wal", called: str = "log", *, stays: bool = False) -> str:
    """Give a log, or journal, that is none of this store's another name, and return it; empty when that fails.

    ``stays``: under its own name as well, to be folded in still.

    The mark that this is to be told (untold.py) comes first: of a log, which may have held records, while nothing of a journal
    ever was in the store. Where there is no room even for that the log is saved all the same: SQLite deletes one that is folded in.
    """
    file, number = path.with_name(path.name + suffix), 1
    if called != "journal":
        with contextlib.suppress(OSError):
            mark(path)
    with contextlib.suppress(OSError):
        while True:
            aside = path.with_name(f"{path.name}.damaged-{called}-{number}")
            try:
                os.link(file, aside)  # unlike a rename it takes no other's name
            except FileExistsError:
                number += 1
                continue
            except OSError as err:
                if err.errno not in NO_LINKS or stays:
                    raise
                if aside.exists():
                    number += 1
                    continue
                file.rename(aside)
            else:
                if not stays:
                    file.unlink()
            sync_folder(path.parent)
            return aside.name
    return ""


def close_unmerged(db: sqlite3.Connection, log: tuple[int, int] | None) -> None:
    """Close a connection whose ``log`` (files.identity) must stay as it is, and the file too: it may not belong to it.

    SQLite folds a log in and deletes it when its last connection closes, and Python before 3.12 has no way to say no
    (SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE). So the log is taken away beneath it: its reading fails, and the folding with it.
    """
    names: list[str] = []
    with contextlib.suppress(OSError):  # a sandbox without /proc
        names = os.listdir("/proc/self/fd") if log else []
    for name in names:
        with contextlib.suppress(OSError):  # the one that listed the folder is closed already
            facts = os.fstat(int(name))
            if (facts.st_dev, facts.st_ino) == log:
                nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(nothing, int(name), inheritable=False)
                os.close(nothing)
    db.close()
