"""The demo's frame: what it leaves behind, what it tells, and the files it makes for its person."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import EnvironmentMissing
from core.patient import Patient
from edge.demo import demo
from edge.demo.demo import Demo, DemoPlan, run_demo
from edge.demo.layout import free_port
from edge.demo.processes import Child, Group

FILE = 'timezone = "Europe/London"\nweight_kg = 70\n[therapy]\ncarb_ratio_g_per_u = 9.0\n'


def plan(folder: Path) -> DemoPlan:
    return DemoPlan(None, 300.0, "2d", "", "Europe/London", 6, folder, free_port())


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_start_that_failed_leaves_no_folder_in_the_way_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    folder = tmp_path / "here"
    if is_there:
        folder.mkdir()
    seen: dict[str, str] = {}

    async def start(self: Demo) -> None:
        files = (self.layout.hub_toml.parent / "patient.toml", folder / "cloud/hubs/demo.patient.toml")
        seen.update({path.name: path.read_text() for path in files})
        seen["hint"] = self.scene().hint
        raise EnvironmentMissing("no broker today", where="broker")

    monkeypatch.setattr(Demo, "start", start)
    monkeypatch.setattr(demo, "find_patient", lambda _plan: FILE)
    for _ in range(2):
        with pytest.raises(EnvironmentMissing, match="no broker today"):
            await run_demo(plan(folder))
        assert folder.exists() == is_there
        assert not is_there or not any(folder.iterdir())
        assert "nothing of this demo is kept: it did not start" in capsys.readouterr().out
    assert seen["patient.toml"] == seen["demo.patient.toml"] == FILE  # the hub and the clinic know the same
    assert seen["hint"] == f"export HOMETWIN_CONFIG={folder / 'hubs/demo/hub.toml'}"


def test_a_virtual_persons_file_is_a_patient_file(tmp_path: Path) -> None:
    therapy = Patient.from_toml(demo.find_patient(plan(tmp_path))).therapy
    assert therapy.carb_ratio_g_per_u
    assert therapy.correction_mgdl_per_u
    assert therapy.target_mgdl


def test_a_part_that_fails_is_named_once(tmp_path: Path) -> None:
    group = Group(tmp_path, {})
    for name, line in (("hub", "hometwin: a.key: no key file"), ("sensors", "sensors: --air: not HOST:PORT")):
        group.children[name] = Child(name, [], tmp_path / f"{name}.log")
        group.children[name].log_path.write_text(f"an event\n{line}\n")
    assert group.last_words("hub") == "a.key: no key file"
    assert group.last_words("sensors") == "--air: not HOST:PORT"
