from __future__ import annotations

import asyncio

import msgspec
import pytest

from core.errors import DecodeError, NewerVersionError
from edge.ble.bonds import Bonds, memory_bonds


class Vault:
    def __init__(self, data: bytes | None = None) -> None:
        self.data = data

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data


async def test_bonds_and_identity_survive_a_restart() -> None:
    vault = Vault()
    first = Bonds(vault.load, vault.save)
    await first.open()
    await first.put({"C0:00:00:00:00:01": {"ltk": {"value": "00ff"}}})
    second = Bonds(vault.load, vault.save)
    await second.open()
    assert second.get("C0:00:00:00:00:01") == {"ltk": {"value": "00ff"}}
    assert (second.own_address, second.own_irk) == (first.own_address, first.own_irk)
    await second.forget("C0:00:00:00:00:01", "C0:00:00:00:00:02")
    third = Bonds(vault.load, vault.save)
    await third.open()
    assert third.all() == {}


async def test_callables_may_be_coroutines() -> None:
    vault = Vault()

    async def load() -> bytes | None:
        await asyncio.sleep(0)
        return vault.data

    async def save(data: bytes) -> None:
        await asyncio.sleep(0)
        vault.data = data

    bonds = Bonds(load, save)
    await bonds.open()
    await bonds.put({"a": {}})
    assert vault.data is not None
    assert Bonds(load, save) is not bonds
    again = Bonds(load, save)
    await again.open()
    assert again.all() == {"a": {}}


async def test_failed_save_is_told_to_the_caller() -> None:
    vault = Vault()
    bonds = Bonds(vault.load, vault.save)
    await bonds.open()

    def full(_data: bytes) -> None:
        raise OSError("disk full")

    bonds._save = full
    with pytest.raises(OSError, match="disk full"):
        await bonds.put({"a": {}})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"nonsense", msgspec.msgpack.encode({"version": "x"})])
async def test_unreadable_book_is_refused_not_replaced(data: bytes) -> None:
    vault = Vault(data)
    with pytest.raises(DecodeError, match="bonds"):
        await Bonds(vault.load, vault.save).open()
    assert vault.data == data


async def test_book_of_a_newer_version_is_left_alone() -> None:
    data = msgspec.msgpack.encode({"version": 99, "own_address": "x", "own_irk": b"", "bonds": {}})
    vault = Vault(data)
    with pytest.raises(NewerVersionError):
        await Bonds(vault.load, vault.save).open()
    assert vault.data == data


async def test_own_address_is_static_random_and_not_shared_between_hubs() -> None:
    addresses = set()
    for _ in range(20):
        bonds = memory_bonds()
        await bonds.open()
        assert int(bonds.own_address[:2], 16) >> 6 == 0b11
        addresses.add(bonds.own_address)
    assert len(addresses) == 20
