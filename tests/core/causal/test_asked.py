"""What is said beside the main answer of ``hometwin effect``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from core.causal.asked import Asked, doubts
from core.causal.estimate import Estimate


def estimate(effect: float, low: float, high: float) -> Estimate:
    return Estimate("doubly robust", effect, low, high, 1.0, 100, 20)


def asked(main: Estimate, everybody: Estimate | None) -> Asked:
    answer = None if everybody is None else SimpleNamespace(estimate=everybody)
    tried = [
        SimpleNamespace(method="doubly robust", target="all", answer=answer, refused="no overlap"),
        SimpleNamespace(
            method="doubly robust", target="treated", answer=SimpleNamespace(estimate=main), refused=""
        ),
    ]
    records = SimpleNamespace(
        main=SimpleNamespace(estimate=main), everywhere=main, naive=main, tried=tuple(tried)
    )
    return cast("Asked", SimpleNamespace(records=records, twin=None))


MAIN = estimate(-33.0, -45.0, -21.0)


@pytest.mark.parametrize(
    "everybody",
    [
        estimate(-3.0, -9.0, 4.0),  # holds no effect
        estimate(-25.0, -52.0, 2.0),  # may be the same, and may be nothing
        estimate(-10.0, -15.0, -5.0),  # each denies the other
    ],
)
def test_an_answer_that_says_otherwise_is_told_beside_the_main_one(everybody: Estimate) -> None:
    (said,) = doubts(asked(MAIN, everybody))
    assert f"{everybody.effect:+.0f} ({everybody.low:+.0f} to {everybody.high:+.0f})" in said
    assert "-33 (-45 to -21)" in said


@pytest.mark.parametrize("everybody", [estimate(-28.0, -40.0, -16.0), estimate(-15.0, -34.0, -4.0), None])
def test_answers_that_agree_or_are_refused_raise_no_doubt(everybody: Estimate | None) -> None:
    assert doubts(asked(MAIN, everybody)) == ()
