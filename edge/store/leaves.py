"""The records in a damaged SQLite file, found without its trees: every leaf page tells its own.

One bad page further up a tree hides all that hangs on it, though the leaves are whole. So every page of the file is
looked at (https://www.sqlite.org/fileformat2.html, 1.5 free pages, 1.6 trees, 2.1 records). Any bytes may come: what does not
fit is left out, and the work is bounded by the length of the file.

What is read is what lives: cells that a page's own array of pointers names, on pages that are not free. A free page may
hold old records, all authentic; so it matters whether the list of free pages is known for ``sure``.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

from edge.store.database import PAGE_BYTES
from edge.store.files import open_regular
from edge.store.head import HEAD_ROW
from edge.store.sealing import OVERHEAD_BYTES

_MAGIC: Final = b"SQLite format 3\0"
_FREE_PAGES: Final = slice(32, 40)  # of the first page: first page of the list, number of free pages
_PAGE_HEADER: Final = 8
_MOST_CELLS: Final = (PAGE_BYTES - _PAGE_HEADER) // 6  # a pointer, and four bytes at least
_MOST_LOCAL: Final = PAGE_BYTES - 35
_LEAST_LOCAL: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
_OVERFLOW_BYTES: Final = PAGE_BYTES - 4
_MOST_LISTED: Final = PAGE_BYTES // 4 - 2
# SQLite leaves the last six of them empty, and begins another page only when the rest are taken.
_FULL_LIST: Final = PAGE_BYTES // 4 - 8
_NAME_SERIAL: Final = 12 + 2 * 16  # a blob of 16 bytes
_LONGEST_VARINT: Final = 9


class Cell(NamedTuple):
    """A sealed record where ours can lie. Of which table it is, only its authentication tells."""

    place: int | bytes  # number, or hash of a name
    rowid: int
    sealed: bytes


class Leaves:
    """What the leaf pages of a file hold. OSError when there is no such file; sectors that cannot be read count as zeros."""

    def __init__(self, path: Path) -> None:
        self._pages = _Pages(path)
        # Sure: all free pages are known, so every cell lives.
        self._free, self.sure = _free_pages(self._pages)

    def cells(self) -> Iterator[Cell]:
        """All of them, read anew: they may be too many to be held."""
        self._pages.rest = 4 * self._pages.count
        for number in range(1, self._pages.count + 1):
            if number not in self._free:
                yield from cells(self._pages, number)

    @cached_property
    def heads(self) -> list[bytes]:
        """Records where the head lies."""
        return [cell.sealed for cell in self.cells() if cell.place == HEAD_ROW]

    def close(self) -> None:
        """To be called after all connections to the file are closed: it takes their locks away."""
        self._pages.close()


class _Pages:
    """Pages by number, from 1. Those that long records go on in may be read a few times over, not for ever."""

    def __init__(self, path: Path) -> None:
        self._handle = open_regular(path, os.O_RDONLY)
        self.count = os.fstat(self._handle).st_size // PAGE_BYTES
        self.rest = 0  # pages of long records that may still be read

    def __getitem__(self, number: int) -> bytes:
        try:
            page = os.pread(self._handle, PAGE_BYTES, (number - 1) * PAGE_BYTES)
        except OSError as err:
            if err.errno != errno.EIO:
                raise
            page = b""
        return page.ljust(PAGE_BYTES, b"\0")

    def close(self) -> None:
        os.close(self._handle)


def _free_pages(pages: _Pages) -> tuple[set[int], bool]:
    """Pages that are free, and whether these are all: as the first page counts them, or as the lists themselves show.

    The lists are known by their looks (a sealed record looks so once in millions), as the page that names the first may be
    damaged. A list gets a new page in front only when its front is full. So a front with room is the true one.
    """
    lists = {
        number: found
        for number in range(2, pages.count + 1)
        if (found := _listed(pages[number], pages.count))
    }
    # A page of zeros looks like one that is alone and names none.
    fronts = {number for number, (following, listed) in lists.items() if following or listed}
    fronts -= {following for following, _ in lists.values()}
    free = set(lists).union(*(listed for _, listed in lists.values()))
    first = pages[1] if pages.count else b""
    if first.startswith(_MAGIC):
        begin, count = struct.unpack(">2I", first[_FREE_PAGES])
        named: set[int] = set()
        while begin in lists and begin not in named:
            named |= {begin, *lists[begin][1]}
            begin = lists[begin][0]
        if begin == 0 and len(named) == count:
            return named, True
    return free, len(fronts) == 1 and all(0 < len(lists[n][1]) < _FULL_LIST for n in fronts)


def _listed(page: bytes, count: int) -> tuple[int, frozenset[int]] | None:
    """The next page of the list of free pages (0: none) and the pages that this one names; None: it is no such page."""
    following, size = struct.unpack(">2I", page[:8])
    if size > _MOST_LISTED or following > count or following == 1:
        return None
    listed = frozenset(struct.unpack(f">{size}I", page[8 : 8 + 4 * size]))
    if len(listed) < size or not all(1 < number <= count for number in listed):
        return None
    return following, listed


def cells(pages: _Pages, number: int) -> Iterator[Cell]:
    """The cells of ours that live on a page, whatever it says to be: on any but a leaf there are none."""
    page = pages[number]
    start = 100 if number == 1 else 0
    size = int.from_bytes(page[start + 3 : start + 5], "big")
    begin = start + _PAGE_HEADER
    if size > _MOST_CELLS or begin + 2 * size > PAGE_BYTES:
        return
    for at in struct.unpack(f">{size}H", page[begin : begin + 2 * size]):
        if begin + 2 * size <= at < PAGE_BYTES and (cell := _cell(pages, page, at)):
            yield cell


def _cell(pages: _Pages, page: bytes, at: int) -> Cell | None:
    size, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if size > pages.count * PAGE_BYTES:
        return None
    local = size
    if size > _MOST_LOCAL:
        local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % _OVERFLOW_BYTES
        local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
    if at + local + 4 * (local < size) > PAGE_BYTES:
        return None
    record = page[at : at + local]
    # A record of ours: no column but the key and what is sealed. A number is the rowid, and null here.
    header, begin = _varint(record, 0)
    key, begin = _varint(record, begin)
    kind, begin = _varint(record, begin)
    name = 16 * (key == _NAME_SERIAL)
    length = (kind - 12) // 2
    if key not in (0, _NAME_SERIAL) or kind % 2 or header != begin or begin + name + length != size:
        return None
    if length < OVERHEAD_BYTES or rowid >= 1 << 63:
        return None
    if local < size:
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        record += _overflow(pages, following, size - local)
    sealed = record[begin + name :]
    return Cell(record[begin : begin + name] or rowid, rowid, sealed) if len(sealed) == length else None


def _overflow(pages: _Pages, number: int, size: int) -> bytes:
    """The rest of a long record; shorter when its pages do not follow on one another."""
    parts = []
    for _ in range(-(-size // _OVERFLOW_BYTES)):
        if not 1 < number <= pages.count or not pages.rest:
            break
        pages.rest -= 1
        page = pages[number]
        number = int.from_bytes(page[:4], "big")
        parts.append(page[4:])
    return b"".join(parts)[:size]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, big-endian by seven bits, all eight of a ninth byte, and the place behind it. 0 beyond the end."""
    value = 0
    for end, byte in enumerate(data[at : at + _LONGEST_VARINT], at + 1):
        if end - at == _LONGEST_VARINT:
            return value << 8 | byte, end
        value = value << 7 | byte & 127
        if byte < 128:
            return value, end
    return 0, at + _LONGEST_VARINT
