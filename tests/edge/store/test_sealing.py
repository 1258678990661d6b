"""Records open only where they were written, with the keys of their store, under either cipher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError, TamperedError
from edge.store.sealing import (
    OVERHEAD_BYTES,
    Cipher,
    OuterKey,
    Sealer,
    Table,
    best_cipher,
    row_ident,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "store_records.json"
STORE_ID = bytes(16)
DATA_KEYS = {1: b"\x11" * 32}


def sealer(cipher: Cipher = Cipher.AES_256_GCM, **fields: Any) -> Sealer:
    given = {"data_keys": DATA_KEYS, "store_id": STORE_ID, "hub_id": "hub-1", **fields}
    return Sealer(cipher=cipher, **given)


@pytest.mark.parametrize("written", Cipher)
@pytest.mark.parametrize("read", Cipher)
def test_a_store_moves_between_machines_with_and_without_aes(written: Cipher, read: Cipher) -> None:
    sealed = sealer(written).seal(Table.TAIL, row_ident(5), b"content")
    assert len(sealed) == len(b"content") + OVERHEAD_BYTES
    assert sealer(read).open(Table.TAIL, row_ident(5), sealed) == b"content"


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize(
    "other",
    [
        {"store_id": bytes(15) + b"\x01"},
        {"hub_id": "hub-2"},
        {"data_keys": {1: b"\x12" * 32}},
        {"data_keys": {1: b"\x12" * 32, 2: b"\x11" * 32}},
    ],
)
def test_another_store_hub_or_key_cannot_open_it(cipher: Cipher, other: dict[str, Any]) -> None:
    sealed = sealer(cipher).seal(Table.TAIL, row_ident(5), b"content")
    with pytest.raises(TamperedError):
        sealer(cipher, **other).open(Table.TAIL, row_ident(5), sealed)


def test_another_table_or_row_cannot_open_it() -> None:
    sealed = sealer().seal(Table.TAIL, row_ident(5), b"content")
    for table, row in ((Table.OUTBOX, 5), (Table.SEGMENTS, 5), (Table.TAIL, 6)):
        with pytest.raises(TamperedError):
            sealer().open(table, row_ident(row), sealed)


def test_every_bit_counts() -> None:
    sealed = sealer().seal(Table.TAIL, row_ident(5), b"content")
    for at in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(TamperedError):
            sealer().open(Table.TAIL, row_ident(5), bytes(changed))


@pytest.mark.parametrize("cell", [None, 7, 1.5, "text", b"", bytes(29)])
def test_anything_else_in_the_cell_is_refused(cell: object) -> None:
    with pytest.raises(TamperedError):
        sealer().open(Table.TAIL, row_ident(5), cell)


def test_new_records_use_the_newest_key_and_old_ones_stay_readable() -> None:
    old = sealer().seal(Table.TAIL, row_ident(5), b"old")
    rotated = sealer(data_keys={**DATA_KEYS, 2: b"\x22" * 32})
    new = rotated.seal(Table.TAIL, row_ident(6), b"new")
    assert rotated.open(Table.TAIL, row_ident(5), old) == b"old"
    assert rotated.open(Table.TAIL, row_ident(6), new) == b"new"
    assert rotated.commitment_key == sealer().commitment_key
    with pytest.raises(TamperedError):
        sealer().open(Table.TAIL, row_ident(6), new)


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    assert len({sealer().seal(Table.TAIL, row_ident(5), b"content") for _ in range(50)}) == 50


def test_names_hash_by_store_key() -> None:
    assert sealer().name_hash("bonds") == sealer().name_hash("bonds")
    assert sealer().name_hash("bonds") != sealer().name_hash("engine")
    assert sealer().name_hash("bonds") != sealer(data_keys={1: b"\x12" * 32}).name_hash("bonds")


def test_a_key_of_wrong_size_is_an_input_error() -> None:
    with pytest.raises(InputError, match="16 bytes, not 32"):
        OuterKey(bytes(16), STORE_ID, "hub-1")


@pytest.mark.parametrize(
    ("cpuinfo", "cipher"),
    [
        ("flags\t\t: fpu aes avx2\n", Cipher.AES_256_GCM),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull sha1\n", Cipher.AES_256_GCM),  # Pi 5
        ("Features\t: fp asimd evtstrm crc32 cpuid\n", Cipher.CHACHA20_POLY1305),  # Pi 4
        ("model name\t: aes\nflags\t: fpu vaes aeskle\n", Cipher.CHACHA20_POLY1305),
        (None, Cipher.CHACHA20_POLY1305),
    ],
)
def test_the_processor_chooses_the_cipher(tmp_path: Path, cpuinfo: str | None, cipher: Cipher) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert best_cipher(path) is cipher


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text())["vectors"], ids=lambda v: v["name"])
def test_old_vectors_keep_their_meaning(vector: dict[str, Any]) -> None:
    keys = {int(n): bytes.fromhex(key) for n, key in vector["data_keys"].items()}
    ours = Sealer(keys, bytes.fromhex(vector["store_id"]), vector["hub_id"])
    table, ident = Table[vector["table"]], bytes.fromhex(vector["ident"])
    sealed = bytes.fromhex(vector["sealed"])
    if vector["expect"] == "ok":
        assert ours.open(table, ident, sealed).hex() == vector["plain"]
        return
    reason = {
        "bad_header": "unknown format",
        "bad_tag": "fails authentication",
        "wrong_key": "fails authentication",
    }
    with pytest.raises(TamperedError, match=reason[vector["expect"]]):
        ours.open(table, ident, sealed)
