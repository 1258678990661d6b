"""Any bytes give a Record or InputError, and a Record holds only what can be meant."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.units import KINDS
from edge.readers.read import read_bytes

BERLIN = ZoneInfo("Europe/Berlin")
NOW_US = 1_800_000_000_000_000
EXPORTS = sorted((Path(__file__).parents[2] / "vectors" / "exports").iterdir())
SEEDS = [path.read_bytes() for path in EXPORTS]
HEADS = [seed[:400] for seed in SEEDS] + [b"[", b"{", b"time,kind,value\n", b"\xff\xfe", b"\x1f\x8b"]

json_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["mg/dL", "mmol/L", "cbg", "sgv", "basal", "bolus", "Temp Basal", "2024-06-01T00:00:00Z"]
    ),
)
keys = st.sampled_from(
    [
        "type",
        "time",
        "sgv",
        "mbg",
        "date",
        "created_at",
        "eventType",
        "insulin",
        "carbs",
        "duration",
        "absolute",
        "percent",
        "units",
        "value",
        "rate",
        "normal",
        "extended",
        "deliveryType",
        "store",
        "defaultProfile",
        "basal",
        "startDate",
        "glucose",
        "glucoseType",
        "annotations",
        "nutrition",
        "dose",
        "insulinInjections",
        "enteredinsulin",
        "splitExt",
        "timezone",
        "$date",
        "id",
    ]
)
json_tree = st.recursive(
    json_leaf,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=7)),
    max_leaves=30,
)


def check(data: bytes) -> None:
    try:
        record = read_bytes(data, "f", BERLIN, NOW_US)
    except InputError:
        return
    assert record.samples
    times = [s.time_us for s in record.samples]
    assert times == sorted(times)
    assert len({s.key for s in record.samples}) == len(record.samples)
    for s in record.samples:
        assert math.isfinite(s.value)
        assert KINDS[s.kind].low <= s.value <= KINDS[s.kind].high
        assert 0 < s.time_us < NOW_US + 2 * 86_400_000_000


@settings(max_examples=150, deadline=None)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
def test_bytes_behind_a_known_beginning(head: bytes, tail: bytes) -> None:
    check(head + tail)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(data=st.data())
def test_exports_with_bytes_changed(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        what = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change":
            body[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del body[at : at + data.draw(st.integers(1, 20))]
        else:
            extra = st.sampled_from([b"9" * 30, b"-", b",", b'"', b"\n", b"e999", b"NaN", b"\x00", b"0"])
            body[at:at] = data.draw(extra)
        if not body:
            break
    check(bytes(body))


@settings(max_examples=300, deadline=None)
@given(records=st.lists(st.dictionaries(keys, json_tree, max_size=8), min_size=1, max_size=6))
def test_json_of_any_shape_with_known_keys(records: list[dict[str, object]]) -> None:
    check(json.dumps(records).encode())


@settings(max_examples=40, deadline=None)
@given(tail=st.binary(max_size=60), keep=st.integers(1, 400))
def test_broken_packed_files(tail: bytes, keep: int) -> None:
    check(gzip.compress(SEEDS[0])[:keep] + tail)


def test_deeply_nested_json_is_refused_not_a_crash() -> None:
    check(b"[" * 100_000)
    check(b'{"a":' * 100_000)
