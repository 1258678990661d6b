"""Every codec against bytes composed by hand from the specifications (tests/vectors/ble_*.json).

A vector names its codec, its octets, and either the fields they mean or the reason they are refused for.
Valid octets re-encode identically. Vectors are a contract: they are added to, never edited.
"""

from __future__ import annotations

import importlib
import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from core.errors import DecodeError
from edge.ble.profiles.ieee11073 import Float32, SFloat
from edge.ble.profiles.wire import Reader, reason_of

VECTORS = Path(__file__).parents[3] / "vectors"
CASES = [
    pytest.param(vector, id=f"{path.stem}-{vector['codec']}-{vector['name']}")
    for path in sorted(VECTORS.glob("ble_*.json"))
    for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]
]


def decode(vector: dict[str, Any]) -> Any:
    module, name = vector["codec"].split(".")
    codec = getattr(importlib.import_module(f"edge.ble.profiles.{module}"), name)
    data = bytes.fromhex(vector["hex"])
    if codec in (SFloat, Float32):
        return codec.read(Reader(data, "number"), "number")
    return codec.from_bytes(data, vector["e2e"]) if "e2e" in vector else codec.from_bytes(data)


def look_up(value: Any, path: str) -> Any:
    for name in path.split("."):
        if name.isdigit():
            value = value[int(name)]
        elif name.endswith("()"):
            value = getattr(value, name[:-2])()
        else:
            value = getattr(value, name)
    if isinstance(value, Enum) and isinstance(value.value, str):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def test_vectors_are_found() -> None:
    assert len(CASES) > 200


@pytest.mark.parametrize("vector", [c for c in CASES if c.values[0]["expect"] == "ok"])
def test_valid_octets_mean_their_fields_and_reencode_identically(vector: dict[str, Any]) -> None:
    value = decode(vector)
    assert bytes(value) == bytes.fromhex(vector["hex"])
    for path, expected in vector.get("fields", {}).items():
        found = look_up(value, path)
        assert found == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected), (
            path
        )


@pytest.mark.parametrize("vector", [c for c in CASES if c.values[0]["expect"] != "ok"])
def test_invalid_octets_are_refused_for_their_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(vector)
    assert reason_of(caught.value) == vector["expect"]
    assert caught.value.where
    assert caught.value.mend
