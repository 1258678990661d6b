"""Nothing that a person would call theirs can be read from the files."""

from __future__ import annotations

import base64
import logging
import struct
from pathlib import Path

import pytest
import structlog

from core.messages import Sample
from edge.store.keys import load_key
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import START_US, FixedClock, open_store

HUB = "hub-canary-51d2"
KEY = b"KeyCanary-9c1f0e77a2b4d6880321!!"
SOURCE = "source-canary-7f3a"
KIND = "canary_kind_mgdl"
VALUE = 123.4567890123
SEQ = 0x5EC0_0D5E_C0DE
TIME_US = START_US + 424_242_424_242
BLOB_NAME, BLOB, MESSAGE, COUNTER = (
    "blob-canary-name",
    b"blob-canary-data",
    b"message-canary",
    "counter-canary",
)


def forms(value: str | bytes | int | float) -> list[bytes]:
    """Every way in which the value might lie in a file unsealed."""
    if isinstance(value, int):
        return [value.to_bytes(8, "big"), value.to_bytes(8, "little"), str(value).encode()]
    if isinstance(value, float):
        return [struct.pack(">d", value), struct.pack("<d", value), str(value).encode()]
    data = value.encode() if isinstance(value, str) else value
    return [data, data.hex().encode(), base64.b64encode(data)[:-4], data[::-1]]


CANARIES = [
    f
    for v in (HUB, KEY, SOURCE, KIND, VALUE, SEQ, TIME_US, BLOB_NAME, BLOB, MESSAGE, COUNTER)
    for f in forms(v)
]


def fill(store: Store) -> None:
    for n in range(FOLD_SAMPLES + 20):
        store.append([Sample(TIME_US + n, KIND, VALUE, SOURCE, SEQ + n)])
    store.append([Sample(TIME_US, KIND, VALUE, SOURCE + "2", SEQ, amends=(SOURCE, SEQ))])
    store.enqueue(MESSAGE)
    store.put_blob(BLOB_NAME, BLOB)
    store.next_number(COUNTER)


def found_in(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (file.name, canary)
        for file in folder.rglob("*")
        if file.is_file()
        for canary in CANARIES
        if canary in file.read_bytes()
    ]


def test_no_file_of_an_open_or_closed_store_holds_anything_readable(path: Path) -> None:
    store = Store.open(path, KEY, hub_id=HUB, clock=FixedClock())
    fill(store)
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 100_000  # the search below covers the write-ahead log
    assert found_in(path.parent) == []
    store.close()
    assert not log.exists()
    assert found_in(path.parent) == []


def test_the_search_would_find_a_canary(tmp_path: Path) -> None:
    (tmp_path / "leak").write_bytes(b"..." + struct.pack(">d", VALUE) + b"..." + SOURCE.encode())
    assert len(found_in(tmp_path)) == 2


def test_errors_and_logs_of_a_store_hold_nothing_of_its_content(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    with structlog.testing.capture_logs() as logs:
        with Store.open(path, KEY, hub_id=HUB, clock=FixedClock()) as store:
            fill(store)
            for bad in (
                Sample(1 << 63, KIND, VALUE, SOURCE, SEQ),
                Sample(TIME_US, KIND, VALUE, SOURCE, SEQ + 10**6, amends=(SOURCE, SEQ + 10**6)),
            ):
                with pytest.raises(Exception, match="sample") as caught:
                    store.append([bad])
                texts.append(str(caught.value))
            store._db.execute("UPDATE segments SET sealed = zeroblob(99)")
            with pytest.raises(Exception, match="segments 1") as caught:
                store.read(0, 1)
            texts.append(str(caught.value))
        for key, hub in ((bytes(32), HUB), (KEY, "hub-2")):
            with pytest.raises(Exception, match="store") as caught:
                open_store(path, key, hub)
            texts.append(str(caught.value))
        key_file = path.with_name("store.key")
        key_file.write_bytes(KEY + b"?")
        key_file.chmod(0o600)
        with pytest.raises(Exception, match="33 bytes") as caught:
            load_key(key_file, {})
        texts.append(str(caught.value))
    everything = "\n".join([*texts, *map(str, logs), caplog.text]).encode()
    assert [c for c in CANARIES if c in everything] == []
