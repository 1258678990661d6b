"""Signs of life: lines on stderr when nobody sees a terminal, none of a command that is soon over, nothing left behind."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from edge import progress


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_short_command_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.still_working("whatif", "drawing"):
        pass
    assert lines_of(capsys) == []


def test_a_long_one_says_now_and_then_how_long_it_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    with progress.still_working("whatif", "drawing"):
        time.sleep(0.5)
    said = lines_of(capsys)
    assert len(said) >= 2
    assert set(said) <= {"whatif: drawing, 0 s so far", "whatif: drawing, 1 s so far"}


def test_what_can_be_counted_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    with progress.progress_bar("replay", 40, "readings") as tell:
        tell(7)
        time.sleep(0.5)
    assert "replay: 7 of 40 readings after 0 s" in lines_of(capsys)


def test_an_error_goes_on_and_ends_the_lines() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="told"), progress.still_working("whatif", "drawing"):
        raise ValueError("told")
    assert threading.active_count() == before


def test_a_closed_stderr_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    monkeypatch.setattr(sys, "stderr", gone)
    with progress.still_working("whatif", "drawing"):
        time.sleep(0.2)
