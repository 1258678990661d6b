"""g-computation on the twin: what a dose does, alone and against waiting, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pytest

from core.causal.effect import compare_with_twin
from core.causal.estimate import Estimate
from core.causal.on_twin import OnTwin, average
from core.errors import InputError, RefusedError
from core.messages import Sample
from core.patient import Patient
from core.twin import Twin
from core.units import US_PER_MIN

START_US = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
NOW_US = START_US + 600 * US_PER_MIN
AFTER_MIN = 120
DOSE_U = 3.0


def lived(seed: int = 0, more: Iterable[Sample] = ()) -> Twin:
    """Ten hours at about 220 mg/dL on a pump."""
    twin = Twin(Patient(timezone="UTC", weight_kg=70.0), seed=seed)
    wave = np.random.default_rng(9).normal(0.0, 4.0, 121)
    twin.observe([Sample(START_US, "basal_uph", 0.9, "pump", 0)])
    twin.observe(
        Sample(START_US + 5 * k * US_PER_MIN, "cgm_mgdl", 220.0 + float(wave[k]), "cgm", k)
        for k in range(121)
    )
    twin.observe(more)
    return twin


@pytest.fixture(scope="module")
def one() -> OnTwin:
    asked = OnTwin(AFTER_MIN)
    asked.add(lived(), NOW_US, DOSE_U, above_mgdl=180.0)
    return asked


def test_the_dose_alone_is_what_a_forecast_with_and_without_it_says(one: OnTwin) -> None:
    twin = lived()
    plan = [Sample(NOW_US, "bolus_u", DOSE_U, "hand", 0)]
    without, with_it = (twin.forecast(NOW_US, (AFTER_MIN,), p).forecast.mean[0] for p in ((), plan))
    mean, sd = average(one.effects())
    assert with_it - without < -10.0
    assert mean == pytest.approx(with_it - without, rel=0.25)
    assert 0.0 < sd < abs(mean)


def test_contrasts_add_up_draw_by_draw(one: OnTwin) -> None:
    assert np.array_equal(one.effects(1.0, 1.0), np.zeros((1, 200)))
    assert one.effects(0.0, 2.0) == pytest.approx(one.effects(0.0, 1.0) + one.effects(1.0, 2.0))
    assert one.effects(1.0, 0.0) == pytest.approx(-one.effects())


def test_who_never_doses_late_leaves_the_dose_alone(one: OnTwin) -> None:
    assert np.array_equal(one.against_waiting(0.0), one.effects())
    calm = OnTwin(AFTER_MIN)
    calm.add(lived(), NOW_US, DOSE_U)  # no threshold: never thinks of it again
    assert np.array_equal(calm.against_waiting(1.0), one.effects())


def test_who_doses_at_the_next_reading_differs_by_five_minutes(one: OnTwin) -> None:
    at_once = OnTwin(AFTER_MIN)
    at_once.add(lived(), NOW_US, DOSE_U, above_mgdl=-math.inf)
    futures = lived().futures(NOW_US, AFTER_MIN, 200)
    now, next_one = (
        futures.paths(((NOW_US + k * 5 * US_PER_MIN, "bolus_u", DOSE_U),))[:, -1] for k in (0, 1)
    )
    assert at_once.against_waiting(1.0)[0] == pytest.approx(now - next_one)
    alone, soon, later = (
        average(e)[0] for e in (one.effects(), one.against_waiting(1.0), one.against_waiting(0.1))
    )
    assert alone < later < soon < 0.0


def test_one_persons_moments_do_not_average_their_doubt_away_but_peoples_do() -> None:
    sd = {}
    for name, seeds in (("one", (1,)), ("same", (1, 1)), ("two", (1, 2))):
        asked = OnTwin(AFTER_MIN)
        for seed in seeds:
            asked.add(lived(seed), NOW_US, DOSE_U)
        sd[name] = average(asked.effects())[1]
    assert sd["same"] == pytest.approx(sd["one"])
    assert sd["two"] < 0.85 * sd["one"]


def test_it_is_compared_with_records_on_the_same_contrast(one: OnTwin) -> None:
    mean, sd = average(one.effects())
    records = Estimate("x", mean + 1.0, mean - 3.0, mean + 5.0, 2.0, 100, 10)
    same = compare_with_twin(records, lambda a, b: average(one.effects(a, b)), (0.0, 1.0))
    assert same.z == pytest.approx(-1.0 / math.hypot(sd, 2.0))
    assert same.agree
    other = mean + 3.0 * sd
    sure = Estimate("x", other, other - 0.1, other + 0.1, 0.05, 100, 10)
    assert not compare_with_twin(sure, lambda a, b: average(one.effects(a, b)), (0.0, 1.0)).agree


def test_what_cannot_be_meant_is_refused(one: OnTwin) -> None:
    for after_min, draws in ((7.0, 200), (0.0, 200), (1e6, 200), (math.nan, 200), (120.0, 1)):
        with pytest.raises(InputError):
            OnTwin(after_min, draws)
    for chance in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=r"0\.\.1"):
            one.against_waiting(chance)
    with pytest.raises(InputError):
        OnTwin(AFTER_MIN).add(lived(), NOW_US, -1.0)
    with pytest.raises(RefusedError, match="no moment"):
        OnTwin(AFTER_MIN).effects()
