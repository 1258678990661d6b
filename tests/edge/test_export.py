"""Everything comes out, in formats that others read, while the hub runs and without it; and the audit log holds."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import statistics
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from core.errors import HometwinError, InputError, TamperedError
from core.events import parse_events
from core.messages import Alarm, Sample, StandingPolicy, encode
from core.units import US_PER_MIN
from edge.audit_command import audit_lines
from edge.config import DeviceConfig, HubConfig, RadioConfig
from edge.control import ask_hub
from edge.desk import StoreDesk
from edge.export import _outside, export
from edge.hub_state import AdviceNote, DownState, save_state
from edge.replay.command import load_patient
from edge.status_text import status_lines
from edge.store.journal import check_chain, read_line
from edge.store.keys import create_key
from edge.store.store import Store
from tests.edge.store.conftest import START_US, FixedClock
from tests.edge.store.test_tamper import flip
from tests.edge.test_keys_command import with_hub

PASSKEY = 918273
POLICY = StandingPolicy(
    "p1", "mark", ("meal",), 5.0, 8.0, 6, 120.0, 10.0, 40.0, START_US, "a clinician", START_US
)


class Figures(msgspec.Struct, array_like=True):
    """Of an area of the archive, as short as can be."""

    text: str


def record() -> list[Sample]:
    made = [Sample(START_US + n * 5 * US_PER_MIN, "cgm_mgdl", 100.0 + n % 90, "cgm", n) for n in range(1500)]
    hand = "hand"
    made += [
        Sample(START_US + 7, "carbs_g", 45.5, hand, 1, 8),
        Sample(START_US + 7, "carbs_g", 40.0, hand, 2, 8, amends=(hand, 1)),
        Sample(START_US + 9, "bolus_u", 3.05, hand, 3, 8),
        Sample(START_US + 9, "bolus_u", 0.0, hand, 4, 8, amends=(hand, 3), deleted=True),
        Sample(START_US + 10, "cgm_mgdl", 5000.0, "odd", 1),  # stored as it came; no reader would take it
    ]
    return made


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    (tmp_path / "patient.toml").write_text("weight_kg = 70.0\n")
    config = HubConfig(
        hub_id="home",
        radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"),
        device=(DeviceConfig("cgm", "cgm", "C0:00:00:00:00:01", passkey=PASSKEY),),
        patient="patient.toml",
        base=str(tmp_path),
    )
    config.state.mkdir()
    key = create_key(tmp_path / "store.key")
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        store.arrivals.steady = lambda: 7_200_000_000
        store.append(record())
        for n in range(5):
            alarm = Alarm(n, START_US, "low", 1, True, 65.0, 60.0)
            store.archive.keep("alarms", encode(alarm), 1 << 16)
            store.note("person", "hand.entered", seq=n)
        store.archive.keep("nights", encode(Figures("taken")), 1 << 16)
        store.archive.keep("later", encode(Figures("an area of a newer program")), 1 << 16)
        note = AdviceNote(START_US, confirmed_us=START_US, took_u=2.5)
        save_state(store, "down", DownState(7, notes={"a1": note}, policy=POLICY))
    return config


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("running", [True, False])
async def test_everything_comes_out_and_the_hashes_fit(
    config: HubConfig, tmp_path: Path, running: bool
) -> None:
    target = tmp_path / "out"
    lines = await with_hub(config, lambda: export(config, target)) if running else export(config, target)
    assert "samples.csv: 1505" in lines
    raw = rows(target / "samples.csv")
    assert [int(r["row"]) for r in raw] == list(range(1, 1506))
    for row, sample in zip(raw, record(), strict=True):
        assert (row["kind"], float(row["value"]), row["source"]) == (sample.kind, sample.value, sample.source)
        assert (int(row["seq"]), int(row["quality"])) == (sample.seq, sample.quality)
        amends = (row["amends_source"], int(row["amends_seq"])) if row["amends_source"] else None
        assert (amends, row["deleted"]) == (sample.amends, str(int(sample.deleted)))
        assert row["steady_us"] == "7200000000"
    events = parse_events((target / "events.csv").open(encoding="utf-8"), ZoneInfo("UTC"), "events.csv")
    standing = [s for s in record() if s.source == "cgm" or s.seq == 2]
    assert sorted((e.time_us, e.kind, e.value) for e in events) == sorted(
        (s.time_us, s.kind, s.value) for s in standing
    )
    manifest = json.loads((target / "manifest.json").read_text())
    written = {p.name for p in target.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == written
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == facts["sha256"]
    assert any("1 readings that no sensor can mean" in note for note in manifest["not_included"])
    assert len(json.loads((target / "alarms.json").read_text())) == 5
    assert json.loads((target / "nights.json").read_text())[0]["content"] == ["taken"]
    assert len(json.loads((target / "later.json").read_text())) == 1
    assert json.loads((target / "advice_notes.json").read_text())["a1"]["took_u"] == 2.5
    assert json.loads((target / "policy.json").read_text())["policy_id"] == POLICY.policy_id
    everything = b"".join(p.read_bytes() for p in target.iterdir())
    assert str(PASSKEY).encode() not in everything
    assert "weight_kg" in json.loads((target / "settings.json").read_text())["patient_toml"]
    assert (
        load_patient(target / "patient.toml").weight_kg == 70.0
    )  # what the other commands take as --patient
    assert "\npatient.toml\n" in (target / "README.txt").read_text()
    assert {p.stat().st_mode & 0o077 for p in target.iterdir()} == {0}
    assert not list(tmp_path.glob("*.partial"))


def test_without_a_patient_file_there_is_none_and_an_unreadable_one_is_told_missing(
    config: HubConfig, tmp_path: Path
) -> None:
    (tmp_path / "patient.toml").write_bytes(b"weight_kg = 7\xff")
    assert "missing: the patient file: patient.toml cannot be read" in export(config, tmp_path / "unreadable")
    lines = export(msgspec.structs.replace(config, patient=None), tmp_path / "none")
    assert not any("patient file" in line for line in lines)
    for name in ("unreadable", "none"):
        assert not (tmp_path / name / "patient.toml").exists()
        assert json.loads((tmp_path / name / "settings.json").read_text())["patient_toml"] is None


def test_the_exported_audit_log_can_be_checked_with_a_common_tool(config: HubConfig, tmp_path: Path) -> None:
    export(config, tmp_path / "out")
    lines = (tmp_path / "out" / "audit.jsonl").read_text().splitlines()
    assert check_chain(lines) == 5
    done = subprocess.run(["b2sum", "-l", "256"], input=lines[0], capture_output=True, text=True, check=True)
    assert json.loads(lines[1])["previous"] == done.stdout.split()[0]


@pytest.mark.parametrize("running", [True, False])
async def test_damage_that_is_met_while_exporting_names_the_file_and_the_cure(
    config: HubConfig, tmp_path: Path, running: bool
) -> None:
    """A bit flips under an open store; what it tells is told by status too, and nothing is left of the export."""
    ask = StoreDesk._export

    def rots(desk: StoreDesk, request: dict[str, Any]) -> dict[str, Any]:
        begin = ask(desk, request)
        db = desk._store._db
        [(sealed,)] = db.execute("SELECT sealed FROM segments WHERE number = 1").fetchall()
        db.execute("UPDATE segments SET sealed = ? WHERE number = 1", (flip(sealed, len(sealed) // 2),))
        desk._store._unpacked.clear()
        return begin

    said: list[str] = []

    def call() -> None:
        with pytest.raises(HometwinError) as caught:
            export(config, tmp_path / "out")
        said.append(str(caught.value))
        if running:
            said.extend(status_lines(ask_hub(config.control_socket, {"do": "status"})))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreDesk, "_export", rots)
        await with_hub(config, call) if running else call()
    assert said[0].startswith(
        f"{config.store_path}: the store is damaged (segments 1: record fails authentication)"
    )
    assert not (tmp_path / "out").exists()
    if running:
        assert "repairs it by itself within 10 min, or at once when it is restarted" in said[0]
        assert any("store     damaged: being repaired within 10 min" in line for line in said[1:])
    else:
        assert "say the same again" in said[0]
        export(config, tmp_path / "out")  # opening repaired it


def test_an_archive_holds_the_same_and_nothing_is_overwritten(config: HubConfig, tmp_path: Path) -> None:
    target = tmp_path / "record.zip"
    export(config, target)
    assert target.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert "record/samples.csv" in archive.namelist()
    with pytest.raises(InputError, match="kept"):
        export(config, target)
    with pytest.raises(InputError, match="cannot be written"):
        export(config, tmp_path / "store.key" / "x")
    export(config, tmp_path / "RECORD.ZIP")
    assert zipfile.is_zipfile(tmp_path / "RECORD.ZIP")


@pytest.mark.parametrize("name", ["record", "record.zip"])
def test_what_lies_beside_an_export_is_not_touched(config: HubConfig, tmp_path: Path, name: str) -> None:
    place = tmp_path / "out"
    photos, letter = place / f"{name}.partial" / "photo", place / f"{name}.new"
    photos.parent.mkdir(parents=True)
    photos.write_text("mine")
    letter.write_text("mine")
    export(config, place / name)
    assert photos.read_text() == letter.read_text() == "mine"
    assert {p.name for p in place.iterdir()} == {name, f"{name}.partial", f"{name}.new"}


def test_thinned_readings_come_out_as_averages_and_the_manifest_tells_of_which_rows(
    config: HubConfig, tmp_path: Path
) -> None:
    """It named rows that were there, and none of those that went: whatever stays gets the first numbers."""
    key, rng = (tmp_path / "store.key").read_bytes(), random.Random(2)
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        before = store.last_row
        beats = [float(rng.randrange(50, 150)) for _ in range(1024)]
        store.append(
            Sample(START_US + n * 1_000_000, "heart_rate_bpm", v, "strap", n) for n, v in enumerate(beats)
        )
        thinned = store.thinner.thin(1 << 62, cloud=False)
        [span] = [read_line(line).detail for line in store.journal(0, 99) if "store.thinned" in line]
    export(config, tmp_path / "out")
    averages = rows(tmp_path / "out" / "aggregates.csv")
    assert thinned is not None
    assert sum(int(r["count"]) for r in averages) == thinned > 700
    assert float(averages[0]["mean"]) == pytest.approx(statistics.fmean(beats[:300]), abs=1e-3)
    assert averages[0]["width_s"] == "300"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rows_thinned"] == [[1, span["last_row"], thinned]]
    assert manifest["rows_missing"] == []
    kept = [int(r["row"]) for r in rows(tmp_path / "out" / "samples.csv")]
    assert kept[: span["last_row"] - thinned] == list(range(1, span["last_row"] - thinned + 1))
    assert len(kept) == before + len(beats) - thinned


@pytest.mark.parametrize(
    ("gaps", "spans", "left"),
    [
        ([(5, 9)], [], [(5, 9)]),
        ([(5, 9)], [(1, 9, 5)], []),
        ([(5, 20)], [(1, 9, 5)], [(10, 20)]),
        ([(5, 20)], [(8, 9, 2), (9, 12, 1)], [(5, 7), (13, 20)]),
        ([(2, 3), (30, 40)], [(5, 20, 1)], [(2, 3), (30, 40)]),
        ([(2, 30)], [(1, 25, 1), (3, 4, 1)], [(26, 30)]),
    ],
)
def test_only_gaps_outside_what_was_thinned_are_losses(
    gaps: list[tuple[int, int]], spans: list[tuple[int, int, int]], left: list[tuple[int, int]]
) -> None:
    assert _outside(gaps, spans) == left


def test_the_audit_log_is_shown_only_when_its_chain_is_whole(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = audit_lines(config, as_json=False)
    assert "5 entries" in lines[-1]
    assert "hand.entered" in lines[0]
    whole = audit_lines(config, as_json=True)
    newest = hashlib.blake2b(whole[-1].encode(), digest_size=32).hexdigest()
    changes: dict[str, Callable[[list[str]], Any]] = {
        "changed": lambda x: [x[0].replace("person", "nobody"), *x[1:]],
        "dropped": lambda x: [*x[:2], *x[3:]],
        "swapped": lambda x: [x[0], x[2], x[1], *x[3:]],
        "doubled": lambda x: [x[0], *x],
        "cut": lambda x: x[:-1],
        "other": lambda x: ["{}", *x],
    }
    for change in changes.values():
        with pytest.raises(TamperedError, match="journal"):
            check_chain(change(whole), newest)
    assert check_chain(whole, newest) == 5
    monkeypatch.setattr("edge.audit_command.all_lines", lambda _: (whole[:-1], newest))
    with pytest.raises(TamperedError, match="newer entries are missing"):
        audit_lines(config, as_json=False)
