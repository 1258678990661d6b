"""``hometwin advise``: what cannot be meant is refused before the file is read and the twin works on it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from core.advice import PathSource, Policy, Situation
from core.advice import advise as core_advise
from core.errors import InputError
from core.units import US_PER_H
from edge import advise as command

END_US = round(datetime(2026, 1, 31, 14, 0, tzinfo=UTC).timestamp() * 1e6)
NOW_US = END_US + 5 * US_PER_H


class Worked(Exception):
    """The twin was asked for."""


@pytest.fixture(autouse=True)
def no_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these questions is worth the twin's work."""

    def work(_patient: object) -> None:
        raise Worked

    monkeypatch.setattr(command, "Twin", work)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(
        "time,kind,value\n2026-01-31T13:55:00+00:00,cgm_mgdl,120\n2026-01-31T14:00:00+00:00,cgm_mgdl,121\n"
    )
    return path


def ask(events: Path, at: str = "2026-01-31T14:00", **more: Any) -> None:
    words = {"carbs_g": 0.0, "question": None, "draws": 400} | more
    command.advise(events, None, at, words["carbs_g"], words["question"], words["draws"], NOW_US)


@pytest.mark.parametrize(
    "wrong",
    [
        {"carbs_g": -20.0},
        {"carbs_g": 301.0},
        {"carbs_g": float("nan")},
        {"question": "breakfast"},
        {"question": "basal", "carbs_g": 10.0},
    ],
)
def test_a_wrong_argument_is_told_in_the_advisers_words_before_the_file_is_read(wrong: Any) -> None:
    with pytest.raises(InputError) as here:
        ask(Path("there is no such file"), **wrong)
    with pytest.raises(InputError) as there:
        core_advise(
            cast(PathSource, None),
            wrong.get("carbs_g", 0.0),
            Policy(),
            cast(Situation, None),
            wrong.get("question"),
        )
    assert str(here.value) == str(there.value)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [({"draws": 10}, "policy.draws"), ({"at": "noon"}, "--at"), ({"at": "2026-01-31T19:01"}, "--at")],
)
def test_too_few_courses_no_time_and_a_time_to_come_need_no_file(wrong: Any, where: str) -> None:
    with pytest.raises(InputError) as told:
        ask(Path("there is no such file"), **wrong)
    assert (told.value.where, told.value.exit_code) == (where, 2)


def test_a_moment_after_the_recording_is_refused_and_the_next_quarter_of_an_hour_is_not(events: Path) -> None:
    with pytest.raises(InputError, match="ends at 2026-01-31 14:00") as told:
        ask(events, "2026-01-31T14:16")
    assert told.value.where == "--at"
    with pytest.raises(Worked):
        ask(events, "2026-01-31T14:15")
