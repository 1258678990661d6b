"""The hub's Bluetooth bonds and its own radio identity, kept through two callables of the hub.

The hub gives ``load`` and ``save`` of its sealed store, so no key lies on disk in clear. Either may be
a plain function or return an awaitable (the store lives on its own thread). Only our own backend uses
this book; BlueZ keeps its bonds itself.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from core.errors import DecodeError, NewerVersionError

BOOK_VERSION: Final = 1

Load = Callable[[], Awaitable[bytes | None] | bytes | None]
Save = Callable[[bytes], Awaitable[None] | None]


class _Book(msgspec.Struct):
    version: int
    own_address: str  # our static random address: peers file their half of the bond under it
    own_irk: bytes
    bonds: dict[str, dict[str, Any]] = {}


class Bonds:
    """Bonds by address. ``open`` first; every change is saved before the call returns."""

    def __init__(self, load: Load, save: Save) -> None:
        self._load, self._save = load, save
        self._book: _Book | None = None

    async def open(self) -> None:
        """Read the book, or begin one with a fresh identity.

        Raises DecodeError when the stored bytes are no book, NewerVersionError when a later version
        wrote them.
        """
        loaded = self._load()
        data = await loaded if inspect.isawaitable(loaded) else loaded
        if data is None:
            self._book = _Book(BOOK_VERSION, _static_address(), secrets.token_bytes(16))
            await self._write()
            return
        try:
            book = msgspec.msgpack.decode(data, type=_Book)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise DecodeError(
                "the stored bonds are not readable", where="bonds", mend="forget them and pair again"
            ) from None
        if book.version > BOOK_VERSION:
            raise NewerVersionError(
                f"bonds of version {book.version}, known is {BOOK_VERSION}", mend="update hometwin"
            )
        self._book = book

    @property
    def own_address(self) -> str:
        return self._opened.own_address

    @property
    def own_irk(self) -> bytes:
        return self._opened.own_irk

    def get(self, address: str) -> dict[str, Any] | None:
        return self._opened.bonds.get(address)

    def all(self) -> dict[str, dict[str, Any]]:
        return dict(self._opened.bonds)

    async def put(self, bonds: dict[str, dict[str, Any]]) -> None:
        """Store these bonds (by address) in one write."""
        self._opened.bonds.update(bonds)
        await self._write()

    async def forget(self, *addresses: str) -> None:
        """Drop bonds; unknown addresses are ignored."""
        known = [address for address in addresses if self._opened.bonds.pop(address, None) is not None]
        if known:
            await self._write()

    @property
    def _opened(self) -> _Book:
        assert self._book is not None, "Bonds.open() comes first"
        return self._book

    async def _write(self) -> None:
        saving = self._save(msgspec.msgpack.encode(self._opened))
        if inspect.isawaitable(saving):
            await saving


def _static_address() -> str:
    """A static random device address: the two top bits are ones (Core 5.4, Vol 6, Part B, 1.3.2.1)."""
    raw = bytearray(secrets.token_bytes(6))
    raw[0] |= 0xC0
    return ":".join(f"{byte:02X}" for byte in raw)


def memory_bonds(data: bytes | None = None) -> Bonds:
    """A book that lasts as long as the process: for tools and tests."""
    held = data

    def load() -> bytes | None:
        return held

    def save(written: bytes) -> None:
        nonlocal held
        held = written

    return Bonds(load, save)
