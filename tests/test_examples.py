"""The README's commands run as they stand on what docs/examples holds, and that is what it says it is."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from core.patient import Patient
from edge.demo.demo import DemoPlan, find_start
from edge.readers import read_record
from firmware_sim.person import VirtualPerson
from firmware_sim.recording import recording_text

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
RECORDING = EXAMPLES / "events.csv.gz"
MAX_BYTES = 300_000  # it comes with every clone
START_US = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * 1_000_000
FENCES = "".join(re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
COMMANDS = [
    line.removeprefix(".venv/bin/hometwin ")
    for line in FENCES.replace("\\\n", " ").splitlines()
    if line.startswith(".venv/bin/hometwin") and "docs/examples" in line
]
ANSWERS = {
    "replay": "3914 readings over 14.0 days",
    "effect": "24 corrections on 12 days",
    "whatif": "counterfactual: mean effect on glucose +",
    "advise": "Bolus 3",
    "trial": "against usual care",
}


def test_the_readme_shows_every_command_that_takes_a_recording() -> None:
    assert {line.split()[0] for line in COMMANDS} == {"demo", *ANSWERS}


@pytest.mark.parametrize("what", ANSWERS)
def test_the_command_in_the_readme_answers(tmp_path: Path, what: str) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    words = shlex.split(next(line for line in COMMANDS if line.startswith(what)), comments=True)
    done = subprocess.run(
        [sys.executable, "-m", "hometwin", *words], cwd=tmp_path, capture_output=True, text=True, timeout=290
    )
    assert done.returncode == 0, done.stderr
    assert ANSWERS[what] in done.stdout
    if "--out" in words:
        assert (tmp_path / words[words.index("--out") + 1] / "report.html").is_file()


def test_the_recording_is_the_virtual_person_that_its_page_names() -> None:
    person = VirtualPerson(15, timezone="Europe/London", corrects_above=140.0)
    kept = gzip.decompress(RECORDING.read_bytes()).decode()
    lived = recording_text(person.events(START_US, 2))
    assert kept[: len(lived)] == lived
    assert (EXAMPLES / "patient.toml").read_text() == person.prescription()
    assert RECORDING.stat().st_size < MAX_BYTES
    assert "--person 15 --corrects-above 140 --days 14" in (EXAMPLES / "README.md").read_text()


def test_readers_and_demo_take_it_as_it_is() -> None:
    patient = Patient.from_toml((EXAMPLES / "patient.toml").read_text())
    record = read_record(RECORDING, ZoneInfo(patient.timezone))
    assert record.notes == ()
    plan = DemoPlan(RECORDING, 300.0, "2d", "", patient.timezone, 0, None, 8080)
    assert find_start(plan) == START_US
