"""An export explains itself: no packed bytes but one checkpoint, names and units at every number, what is missing said."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edge
from core import replay
from core.correction_layout import HORIZONS_MIN, H, K
from core.correction_pool import CELLS, Start
from core.correction_prior import POPULATION
from core.memory import NAMES, Anchor, Context, Day, Memory, NightRecord, to_bytes
from core.messages import Alarm, Contribution, Estimate, Forecast, Prior, Sample, SampleBatch, encode
from core.models import hovorka as model
from core.patient import Patient
from core.plain import CONSTANTS
from core.twin import Twin
from core.units import KINDS, US_PER_MIN
from edge.config import HubConfig, RadioConfig
from edge.desk import HUB_BLOBS
from edge.engine_link import SNAPSHOT_BLOB, SavedTwin
from edge.export import export
from edge.export_readme import FILES
from edge.hub_state import AlarmState, DownState, save_state
from edge.privacy_gate import Spent
from edge.store.keys import create_key
from edge.store.lost import Ask, Lost
from edge.store.repair import RepairReport
from edge.store.store import Store
from tests.edge.store.conftest import START_US, FixedClock
from tests.edge.store.test_tamper import sql

N15 = tuple(round(0.01 * n, 2) for n in range(15))
REQUEST = 987_654_321_123
START = Start(np.full((K, H), 1.5), np.full(CELLS, 0.25), np.full(CELLS, -0.25)).to_bytes(POPULATION)
# By hand: mean 1, 2 … of 19 values, sd 0.5; 4 drivers, 4 held inputs, 6 scalars.
STATE = [*(float(n) for n in range(1, 20)), *([0.5] * 19), 7.0, 8.0, 9.0, 0.1, 15.0, 3.0, 60.0, 6.5]
STATE += [1.0, 30.0, -1.0, 0.2, 0.3, 4.0]


def packed_episode() -> bytes:
    numbers = [np.array(x, dtype="<f4").tobytes() for x in (STATE, [0.0, 5.0, 12.5], [101.5, 5.3, 60.0])]
    kinds = bytes(replay._KINDS.index(kind) for kind in ("cgm_mgdl", "bolus_u", "carbs_g"))
    body = zlib.compress(encode(replay._Body(numbers[0], numbers[1], kinds, numbers[2])))
    return replay.to_bytes(replay.Episode(START_US, "night, meal", 0, 3, 1.25, body))


def taught() -> Twin:
    twin = Twin(Patient(weight_kg=70.0), seed=3)
    twin.observe([Sample(START_US + n * 5 * US_PER_MIN, "cgm_mgdl", 120.0 + n, "cgm", n) for n in range(12)])
    twin.estimate(START_US + 60 * US_PER_MIN)
    return twin


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    config = HubConfig(
        hub_id="home",
        radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"),
        timezone="Europe/London",
        base=str(tmp_path),
    )
    config.state.mkdir()
    return config


@pytest.fixture
def filled(config: HubConfig) -> HubConfig:
    """One of everything that a store can hold."""
    key = create_key(config.path(config.store.key_file))
    night = NightRecord(
        START_US, "usual life", True, "", N15, N15, N15, N15, "shipped", (("night", 4, -0.5),), 280
    )
    posterior = Estimate(START_US, "m", ("ln_s", "c"), ("1", "mmol/L"), (0.5, 6.0), (0.04, 0.0, 0.25), 108.0, 9.0,
                         math.nan, math.inf)  # fmt: skip
    memory = Memory(
        contexts=(Context(0, "usual life", "as always", ("usual",), START_US),),
        anchors=((0, Anchor(N15, N15, "shipped", (1.0,) * 120, N15, 3)),),
        days=(Day(START_US, 0, math.nan, 30.0, 150.0, 12.5, 9.0),),
    )
    prior = Prior(4, "m", ("ln_s",), (0.1,), (0.09,), "adults", "fit", START_US, START)
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        store.append([Sample(START_US + n, "cgm_mgdl", 100.0 + n, "cgm", n) for n in range(600)])
        store.append([Sample(START_US, "temp_c", math.nan, "strap", 1)])
        for area, item in (
            ("alarms", encode(Alarm(1, START_US, "signal_loss", 1, True, math.nan, math.inf))),
            ("nights", encode(night)),
            ("nights", encode(msgspec.structs.replace(night, mean=(1.0,)))),  # of another version
            ("posterior", encode(posterior)),
            ("replay", packed_episode()),
            ("replay", b"\xc1not one of ours"),
        ):
            store.archive.keep(area, item, 1 << 18)
        save_state(store, "down", DownState(1, prior))
        saved = SavedTwin(600, taught().snapshot(), to_bytes(memory))
        report = RepairReport(START_US, "why", "x", {}, {}, {}, None, 0)
        asked = Lost((), ((START_US, START_US + 9),), ask=Ask(REQUEST, ((START_US, START_US + 9),), 5))
        for name, state in (
            (SNAPSHOT_BLOB, saved), ("repair", report), ("lost", asked), ("privacy", Spent(2, START_US)),
            ("alarms", AlarmState((Alarm(1, START_US, "low", 1, True, 60.0, 9.0),))),
        ):  # fmt: skip
            store.put_blob(name, encode(state))
        store.put_blob("bonds", b"secret-of-the-radio")
        forecast = Forecast(START_US, "m", (30.0,), (90.0,), (9.0,), (70.0,), (90.0,), (110.0,), 60.0)
        for up in (
            SampleBatch((Sample(START_US, "cgm_mgdl", 77.125, "cgm", 0),)),
            forecast,
            Contribution(START_US, "m", 4, (), (), (), correction=START),
        ):
            store.enqueue(encode(up))
    (config.state / "replay.sqlite.damaged-1").write_bytes(b"sealed")
    return config


def read(folder: Path, name: str) -> Any:
    def refused(word: str) -> None:
        raise AssertionError(f"{name} holds {word}, which JSON does not know")

    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=refused)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_has_a_name_and_a_unit_and_every_file_its_text(
    filled: HubConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    lines = export(filled, out)

    # What learning plays again, by hand.
    piece, broken = read(out, "replay.json")
    assert set(broken["content"]) == {"base64"}
    content = piece["content"]
    assert content["from"] == "2026-01-01T00:00:00+00:00"
    assert (content["stratum"], content["told_nats"]) == ("night, meal", 1.25)
    state = content["start"]["state"]
    assert [s["name"] for s in state] == list(model.NAMES)
    assert state[0] == {
        "name": "ln_s", "words": "insulin sensitivity", "unit": "ln of a multiple", "mean": 1.0, "sd": 0.5,
    }  # fmt: skip
    assert state[18]["unit"] == "mmol/L"
    assert {i["name"]: (i["value"], i["unit"]) for i in content["start"]["inputs"]}["basal"] == (
        15.0,
        "mU/min",
    )
    events = table(out / "replay_events.csv")
    assert content["events"] == len(events) == 3
    assert [(e["kind"], e["value"]) for e in events] == [
        ("cgm_mgdl", "101.5"),
        ("bolus_u", "5.3"),
        ("carbs_g", "60.0"),
    ]
    assert {e["episode"] for e in events} == {str(piece["number"])}

    # Nights, days, prior: parameters by name; the lists of before are there still.
    good, other = read(out, "nights.json")
    parameters = good["content"]["parameters"]
    assert [p["name"] for p in parameters] == list(NAMES)
    assert (parameters[10]["mean"], parameters[10]["multiple"]) == (0.1, pytest.approx(math.exp(0.1)))
    assert "logarithm" in parameters[10]["unit"]
    assert good["content"]["mean"] == list(N15)
    assert good["content"]["rehearsal"] == [{"stratum": "night", "episodes": 4, "change_nats": -0.5}]
    assert "parameters" not in other["content"]
    day = read(out, "posterior.json")[0]["content"]
    assert [(v["name"], v["sd"]) for v in day["values"]] == [("ln_s", 0.2), ("c", 0.5)]
    assert (day["nis"], day["data_age_s"]) == (None, None)
    prior = read(out, "prior.json")
    assert prior["values"][0]["sd"] == pytest.approx(0.3)
    assert prior["correction"]["horizons_min"] == list(HORIZONS_MIN)
    assert prior["correction"]["weights_mgdl"][K - 1][H - 1] == 1.5
    memory = read(out, "memory.json")
    assert memory["contexts"][0]["name"] == "usual life"
    assert memory["anchors"][0]["context"] == 0
    assert (memory["days"][0]["rest_bpm"], memory["days"][0]["carbs_g"]) == (None, 150.0)
    twin = read(out, "twin.json")
    again = Twin.restore(msgspec.msgpack.decode((out / "twin.msgpack").read_bytes())["data"])
    assert again._track is not None
    assert [s["mean"] for s in twin["state"]] == again._track.mean.tolist()
    cov = again._track.factor.T @ again._track.factor
    assert [s["sd"] for s in twin["state"]] == pytest.approx(np.sqrt(np.diag(cov)).tolist())
    assert len(twin["covariance"]) == model.N * (model.N + 1) // 2
    constants = {c["name"]: (c["value"], c["unit"]) for c in twin["constants"]}
    assert constants["bw"] == (70.0, "kg")
    assert constants["rth"] == (9.0, "mmol/L")
    assert twin["patient"]["weight_kg"] == 70.0

    # Bookkeeping and what waits.
    hub = read(out, "hub.json")
    assert hub["repair"]["reason"] == "why"
    assert hub["privacy"]["releases"] == 2
    assert hub["alarms"]["active"][0]["name"] == "low"
    assert hub["lost"]["ask"]["room"] == 5
    waiting = [json.loads(line) for line in (out / "outbox.jsonl").read_text().splitlines()]
    assert [m["message"]["type"] for m in waiting] == ["SampleBatch", "Forecast", "Contribution"]
    assert waiting[0]["samples"] == 1
    assert waiting[2]["message"]["correction"]["ranges"][0] == "below 80 mg/dL"

    # Nothing packed is left but the checkpoint and what nobody here knows; no secret, no number of a question.
    for path in out.iterdir():
        text = path.read_bytes()
        for secret in (b"secret-of-the-radio", b"c2VjcmV0LW9m", str(REQUEST).encode(), b"77.125"):
            assert secret not in text, path.name
        if path.suffix == ".json":
            read(out, path.name)
            assert len(re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", text)) == 0 or path.name == "manifest.json"

    # Each file and column is explained, in the README and in the manifest.
    readme = re.sub(r"\s+", " ", (out / "README.txt").read_text(encoding="utf-8"))
    manifest = read(out, "manifest.json")
    for path in out.iterdir():
        about = FILES[path.name]
        assert about.text in readme
        assert all(f"{field}: {meaning}" in readme for field, meaning in about.fields.items())
        if path.name != "manifest.json":
            assert manifest["files"][path.name]["text"] == about.text
        if path.suffix == ".csv":
            with path.open(encoding="utf-8") as file:
                assert file.readline().strip().split(",") == list(about.fields), path.name
    assert all(f"{name} {kind.unit}" in readme for name, kind in KINDS.items())
    assert "32 the hub had lost it to damage" in readme
    assert "Europe/London" in readme
    assert "replay.sqlite.damaged-1" in readme
    assert all(note in readme for note in manifest["not_included"])

    # What is missing is said on the console too.
    said = "\n".join(lines)
    assert "missing: an unknown number of records that a repair could not count" in said
    assert "missing: 1 item of another version, unreadable here, in nights.json" in said
    assert "missing: 1 item of another version, unreadable here, in replay.json" in said
    assert manifest["unreadable"] == {"nights.json": 1, "replay.json": 1}
    assert "nan" in {row["value"] for row in table(out / "samples.csv")}


def test_records_that_damage_took_and_those_that_were_thinned_are_told_apart(
    config: HubConfig, tmp_path: Path
) -> None:
    key = create_key(config.path(config.store.key_file))
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        rng = random.Random(3)
        beats = [
            Sample(START_US + n * 1_000_000, "heart_rate_bpm", float(rng.randrange(50, 150)), "strap", n)
            for n in range(1100)
        ]
        store.append(beats[:512])
        thinned = store.thinner.thin(1 << 62, cloud=False)
        store.append(beats[512:])
        store.append([Sample(START_US, "smbg_mgdl", 90.0, "hand", 1, 8 + 32)])  # the cloud gave it back
    assert thinned == 512
    assert export(config, tmp_path / "whole")[-2:-1] == [
        "missing: 512 old readings one by one: they are averages in aggregates.csv"
    ]
    sql(config.store_path, "UPDATE segments SET sealed = zeroblob(length(sealed)) WHERE number = 513")
    lines = export(config, tmp_path / "hurt")
    manifest = read(tmp_path / "hurt", "manifest.json")
    assert (manifest["rows_thinned"], manifest["readings_thinned"]) == ([[1, 512, 512]], 512)
    assert (manifest["rows_missing"], manifest["rows_lost"]) == ([[513, 1024]], 512)
    assert manifest["rows_returned"] == 1
    assert any(line.startswith("missing: 512 records that damage took") for line in lines)
    assert "512 records that damage took" in (tmp_path / "hurt" / "README.txt").read_text()


def test_an_empty_store_says_that_nothing_is_missing(config: HubConfig, tmp_path: Path) -> None:
    key = create_key(config.path(config.store.key_file))
    Store.open(config.store_path, key, hub_id="home", clock=FixedClock()).close()
    assert "missing: nothing that is known of" in export(config, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} < FILES.keys()


def test_every_blob_of_the_hub_is_exported_or_named_as_left_out() -> None:
    """A new one must be decided on."""
    written = set()
    for path in Path(edge.__path__[0]).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'(?:BLOB: Final = |put_blob\(|save_state, self\.store, )"(\w+)"', text))
    assert written - {*HUB_BLOBS} == {"engine", "down", "bonds", "commands"}


def test_constants_are_named_in_the_order_of_the_model() -> None:
    assert [getattr(model, name.upper()) for name, _ in CONSTANTS] == list(range(model.N_CONST))
