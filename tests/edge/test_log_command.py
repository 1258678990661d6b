"""``hometwin log`` and ``advice confirm``: what the person is told, and with which exit code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from hometwin import app


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The requests that reach a hub, which doubts every bolus that is not said to be right."""
    requests: list[dict[str, Any]] = []

    def hub(_socket: object, request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        if request.get("kind") == "bolus_u" and not request.get("sure"):
            return {"unsure": True, "said": "that is 80 U"}
        if request["do"] == "confirm":
            return {"said": "noted"} if request.get("sure") else {"unsure": True, "said": "that is 80 U"}
        return {"source": "hand", "seq": 12, "said": "stored as hand:12"}

    monkeypatch.setattr("edge.control.ask_hub", hub)
    monkeypatch.setattr("edge.config.load_config", lambda _path: SimpleNamespace(control_socket="socket"))
    return requests


def test_a_doubted_bolus_is_exit_code_2_and_sure_stores_it(asked: list[dict[str, Any]]) -> None:
    doubted = CliRunner().invoke(app, ["log", "bolus", "80"])
    assert (doubted.exit_code, doubted.stdout) == (2, "")
    assert "nothing was stored: that is 80 U" in doubted.output
    stored = CliRunner().invoke(app, ["log", "bolus", "80", "--sure"])
    assert (stored.exit_code, asked[-1]["sure"]) == (0, True)


def test_an_entry_is_confirmed_with_the_command_that_takes_it_back(asked: list[dict[str, Any]]) -> None:
    told = CliRunner().invoke(app, ["log", "carbs", "45"]).stdout.splitlines()
    assert told[-1] == "to take it back: hometwin log --delete hand:12"
    words = told[-1].split(": ", 1)[1].split()[1:]
    gone = CliRunner().invoke(app, words)
    assert (gone.exit_code, "take it back" in gone.stdout) == (0, False)
    assert (asked[-1]["amends"], asked[-1]["deleted"]) == (["hand", 12], True)


def test_a_doubted_dose_on_advice_is_exit_code_2_and_sure_notes_it(asked: list[dict[str, Any]]) -> None:
    words = ["advice", "confirm", "home-1", "--took", "80"]
    doubted = CliRunner().invoke(app, words)
    assert (doubted.exit_code, doubted.stdout) == (2, "")
    assert "nothing was noted: that is 80 U" in doubted.output
    noted = CliRunner().invoke(app, [*words, "--sure"])
    assert (noted.exit_code, noted.stdout, asked[-1]["sure"]) == (0, "noted\n", True)
