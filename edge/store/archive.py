"""What is kept for its history, each area with a budget of bytes: the oldest goes when the newest needs its room.

Areas are names: alarms, posterior (one a day), replay, the memory that learning plays again, and nights, what each
night's learning decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from core.errors import DecodeError, InputError, TamperedError
from core.messages import decode, encode
from edge.store.database import reported
from edge.store.head import Head
from edge.store.sealing import Table, marks, row_ident

if TYPE_CHECKING:
    from edge.store.store import Store


class _Item(msgspec.Struct, frozen=True, array_like=True):
    area: str
    time_us: int
    data: bytes


class Kept(NamedTuple):
    """One item. Numbers rise, across areas."""

    number: int
    time_us: int
    data: bytes


class Archive:
    """The archive of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._items: dict[str, deque[tuple[int, int]]] = {}  # area -> (number, bytes), oldest first

    def found(self, number: int, plain: bytes) -> None:
        """A record that opening the store came upon; TamperedError when it is none of ours."""
        item = _decoded(number, plain)
        self._items.setdefault(item.area, deque()).append((number, len(item.data)))

    def keep(self, area: str, data: bytes, budget_bytes: int) -> int:
        """Keep ``data``; durable on return. Older items of the area go until all of it fits the budget."""
        if not 0 < len(area) <= 32 or len(data) > budget_bytes:
            raise InputError("does not fit its budget", where=f"archive.{area[:32]}")
        store = self._store
        with store._mutex:
            items = self._items.get(area, deque())
            total, gone = len(data) + sum(size for _, size in items), 0
            for _, size in items:
                if total <= budget_bytes:
                    break
                total -= size
                gone += 1
            doomed = [number for number, _ in items][:gone]
            number = store._head.archive_last + 1
            plain = encode(_Item(area, store._clock.now_us(), data))
            sealed = store._sealer.seal(Table.ARCHIVE, row_ident(number), plain)

            def write(head: Head) -> None:
                self._remove(head, doomed)
                store._insert(head, Table.ARCHIVE, [(number, sealed)])
                head.archive_last = number

            def remember() -> None:
                for _ in doomed:
                    items.popleft()
                items.append((number, len(data)))
                self._items[area] = items

            store._change(write, remember)
            return number

    def drop(self, area: str, numbers: Iterable[int]) -> int:
        """Let items of an area go; durable on return. Numbers that it does not hold are left. Returns how many went."""
        store = self._store
        with store._mutex:
            items = self._items.get(area, deque())
            wanted = set(numbers)
            doomed = [number for number, _ in items if number in wanted]
            if not doomed:
                return 0

            def remember() -> None:
                self._items[area] = deque(item for item in items if item[0] not in wanted)

            store._change(lambda head: self._remove(head, doomed), remember)
            return len(doomed)

    def _remove(self, head: Head, numbers: Iterable[int]) -> None:
        store = self._store
        for old in numbers:
            was = store._sealed("SELECT sealed FROM archive WHERE number = ?", old, f"archive {old}")
            head.remove(Table.ARCHIVE, row_ident(old), marks(was))
            store._db.execute("DELETE FROM archive WHERE number = ?", (old,))

    def read(self, area: str, after: int, limit: int) -> list[Kept]:
        """At most ``limit`` items of an area with numbers above ``after``, oldest first."""
        store = self._store
        with store._mutex:
            store._check_usable()
            numbers = [n for n, _ in self._items.get(area, ()) if n > after][: max(0, limit)]
            kept = []
            for number in numbers:
                with reported(store._path):
                    sealed = store._sealed(
                        "SELECT sealed FROM archive WHERE number = ?", number, f"archive {number}"
                    )
                item = _decoded(number, store._sealer.open(Table.ARCHIVE, row_ident(number), sealed))
                kept.append(Kept(number, item.time_us, item.data))
            return kept

    def sizes(self) -> dict[str, int]:
        """Bytes of each area."""
        return {area: sum(size for _, size in items) for area, items in self._items.items()}


def _decoded(number: int, plain: bytes) -> _Item:
    try:
        return decode(plain, _Item)
    except DecodeError as err:
        raise TamperedError(err.what, where=f"archive {number}") from None
