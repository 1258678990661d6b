"""What OpenAPS oref0 is told, and what its answers do to the pump. Its own code runs in the bench only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.closed_loop import RUN_IN_DAYS, Day, Loop
from bench.oref0 import Oref0, folder, lacking
from core.errors import EnvironmentMissing

NOW = RUN_IN_DAYS * 1440


def loop(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> tuple[Oref0, list[dict[str, Any]]]:
    body: Any = SimpleNamespace(carb_ratio=10.0, correction=40.0, basal_uph=1.0)
    made, asked, left = Oref0(body), list[dict[str, Any]](), list(answers)

    def answer(_self: Oref0, question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        return left.pop(0)

    monkeypatch.setattr(Oref0, "_ask", answer)
    return made, asked


def test_a_temporary_rate_runs_until_it_ends_or_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, asked = loop(monkeypatch, {"rate": 2.5, "duration": 30}, {}, {"rate": 0, "duration": 30}, {})
    assert isinstance(made, Loop)
    assert made.loop(Day(NOW, 200.0), 1.0) == (2.5, 0.0)
    assert made.loop(Day(NOW + 5, 200.0), 1.0) == (2.5, 0.0)
    assert asked[1]["current"] == {"duration": 25, "rate": 2.5, "temp": "absolute"}
    assert made.loop(Day(NOW + 10, 90.0), 1.0) == (0.0, 0.0)
    assert made.loop(Day(NOW + 45, 120.0), 1.0) == (1.0, 0.0)  # ended: the usual rate again
    told = asked[3]["history"]
    assert [e["_type"] for e in told] == ["TempBasalDuration", "TempBasal"] * 2  # newest first
    assert [e["duration (min)"] for e in told if "duration (min)" in e] == [30, 10]  # the first was cut short


def test_it_is_told_readings_meals_and_boluses_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = loop(monkeypatch, {"units": 0.3})
    made.tell("cgm_mgdl", NOW - 5, 151.2)
    made.tell("cgm_mgdl", NOW, 160.4)
    made.tell("bolus_u", NOW - 60, 4.0)
    made.tell("carbs_g", NOW - 60, 40.0)
    assert made.loop(Day(NOW, 160.4), 1.0) == (1.0, 0.3)
    assert [g["glucose"] for g in asked[0]["glucose"]] == [160, 151]
    assert asked[0]["clock"] == "2026-03-09T00:00:00Z"
    assert asked[0]["carbs"] == [{"carbs": 40.0, "created_at": "2026-03-08T23:00:00Z"}]
    assert asked[0]["history"] == [{"_type": "Bolus", "timestamp": "2026-03-08T23:00:00Z", "amount": 4.0}]
    assert asked[0]["profile"]["max_iob"] == pytest.approx(3.0 + 6.0)


def test_without_node_or_oref0_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOMETWIN_OREF0", str(tmp_path))
    assert "not installed" in lacking()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMissing, match="node"):
        folder()
