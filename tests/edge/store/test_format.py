"""docs/store-format.md tells the truth: a reader written from it reads what the store wrote."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.messages import Sample
from edge.store.sealing import Cipher
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import HUB, KEY, START_US, reading
from tests.edge.store.reader import read_store, segment

VECTORS = Path(__file__).parents[2] / "vectors"


def fields(sample: Sample) -> list[Any]:
    return list(msgspec.msgpack.decode(msgspec.msgpack.encode(sample)))


def with_defaults(samples: list[list[Any]], size: int = 11) -> list[list[Any]]:
    """Vectors from before there were steady times lack the last field."""
    return [[*sample, 0][:size] for sample in samples]


def test_the_page_reads_a_store_of_schema_1(path: Path) -> None:
    vector = json.loads((VECTORS / "store_v1.json").read_text())
    path.write_bytes(zlib.decompress(base64.b64decode(vector["sqlite"])))
    found = read_store(path, bytes.fromhex(vector["key"]), vector["hub_id"])
    assert [[n, *sample] for n, sample in enumerate(found["samples"], 1)] == with_defaults(vector["samples"])
    assert found["messages"] == {n: bytes.fromhex(data) for n, data in vector["pending"]}
    assert found["blobs"] == {name: bytes.fromhex(data) for name, data in vector["blobs"].items()}
    assert found["head"][3] == vector["sample_pointer"]
    assert found["head"][4] == vector["counters"]


@pytest.mark.parametrize("way_in", ["key", "other_key"])
def test_the_page_reads_a_store_of_schema_2(path: Path, way_in: str) -> None:
    vector = json.loads((VECTORS / "store_v2.json").read_text())
    path.write_bytes(zlib.decompress(base64.b64decode(vector["sqlite"])))
    found = read_store(path, bytes.fromhex(vector[way_in]), vector["hub_id"])
    assert found["samples"] == [sample for _, *sample in with_defaults(vector["samples"])]
    assert found["messages"] == {n: bytes.fromhex(data) for n, data in vector["pending"]}
    assert found["blobs"] == {name: bytes.fromhex(data) for name, data in vector["blobs"].items()}
    assert found["journal"] == vector["journal"]
    [series] = found["aggregates"]
    assert series[:4] == vector["aggregates"][0][:4]
    assert [[t, n, *rest, d] for t, n, d, *rest in series[4]] == vector["aggregates"][0][4]
    assert [[area, data.hex()] for area, _, data in found["archive"]] == vector["archive"]


def test_the_page_reads_old_segments() -> None:
    for vector in json.loads((VECTORS / "store_segment.json").read_text())["vectors"]:
        if vector["expect"] == "ok":
            assert segment(bytes.fromhex(vector["hex"])) == with_defaults(vector["samples"], 10)


@pytest.mark.parametrize("cipher", Cipher)
def test_the_page_reads_what_the_store_writes_today(
    path: Path, opened: Callable[..., Store], cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    monkeypatch.setattr("edge.store.sealing.best_cipher", lambda: cipher)
    store = opened(path)
    store.arrivals.steady = lambda: n // 200 * 300_000 + 77_000  # set now and then, unknown at first
    for n in range(3 * FOLD_SAMPLES):
        kind, source = rng.choice([("cgm_mgdl", "cgm"), ("bolus_u", "pump"), ("weight_kg", "größe")])
        amends = (source, n - 3) if rng.random() < 0.05 else None
        time_us = rng.choice([START_US + n * 60_000_000, rng.randrange(10**15)])
        value = rng.choice([float(n), n / 100, rng.random()])
        sample = reading(
            n,
            kind,
            source,
            value=value,
            time_us=time_us,
            quality=n % 4,
            amends=amends,
            deleted=amends and n % 2 == 0,
        )
        store.append([sample])
    store.append(reading(n, seq=n * 7, source="late") for n in range(300))
    store.put_blob("engine", b"snapshot")
    number = store.enqueue(b"message")
    rows = [fields(sample) for _, sample in store.read(0, 10_000)]
    store.close()
    found = read_store(path, KEY, HUB)
    assert found["samples"] == rows
    assert (found["blobs"], found["messages"]) == ({"engine": b"snapshot"}, {number: b"message"})
