"""The twin's contract: any order, honest width, exact continuation, no NaN."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, DecodeError, InputError
from core.messages import Estimate, Forecast, Prior, Sample
from core.twin import Patient, Twin
from tests.core.people import DAY_US, MIN_US, START_US, Life, live

HORIZONS = (30.0, 60.0, 120.0, 240.0, 360.0)
PATIENT = Patient(weight_kg=75.0, timezone="UTC")


@pytest.fixture(scope="module")
def life() -> Life:
    return live(4.0, seed=5)


def told(samples: list[Sample], **options: object) -> Twin:
    twin = Twin(PATIENT, **options)  # type: ignore[arg-type]
    twin.observe(samples)
    return twin


def end_of(life: Life) -> int:
    return life.samples[-1].time_us


def assert_sound(estimate: Estimate, forecast: Forecast) -> None:
    assert np.isfinite(estimate.mean).all()
    assert np.isfinite(estimate.covariance).all()
    assert math.isfinite(estimate.output_mean)
    assert estimate.output_sd > 0
    assert len(estimate.covariance) == len(estimate.mean) * (len(estimate.mean) + 1) // 2
    for low, middle, high, sd in zip(forecast.p05, forecast.p50, forecast.p95, forecast.sd, strict=True):
        assert 10 <= low <= middle <= high <= 1000
        assert math.isfinite(sd)
        assert sd > 0


def same(a: Estimate, b: Estimate) -> float:
    return float(
        max(
            np.abs(np.array(a.mean) - np.array(b.mean)).max(),
            np.abs(np.array(a.covariance) - np.array(b.covariance)).max(),
        )
    )


# ---- order of arrival -------------------------------------------------------------------------------


def test_late_and_shuffled_events_give_the_same_answer_as_events_in_order(life: Life) -> None:
    in_order = told(life.samples)
    end = end_of(life)
    late = Twin(PATIENT)
    rng = random.Random(3)
    held_back = set(rng.sample(range(len(life.samples)), 150))
    prompt = [s for i, s in enumerate(life.samples) if i not in held_back]
    for i in range(0, len(prompt), 40):
        batch = prompt[i : i + 40]
        late.observe(batch)
        late.forecast(batch[-1].time_us, HORIZONS)
    rest = [life.samples[i] for i in held_back]
    rng.shuffle(rest)
    for i in range(0, len(rest), 25):
        late.observe(rest[i : i + 25])
        late.estimate(end - DAY_US)
    assert same(in_order.estimate(end), late.estimate(end)) < 1e-9
    one, two = (t.forecast(end, HORIZONS).forecast for t in (in_order, late))
    np.testing.assert_allclose(one.mean, two.mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.p95, two.p95, rtol=0, atol=1e-9)


def test_a_long_record_at_once_gives_the_same_answer_as_day_by_day() -> None:
    """Longer than what is kept: letting go of old events must not skip newer ones."""
    every = 30 * MIN_US
    samples = [
        Sample(START_US + n * every, "cgm_mgdl", 140.0 + 30.0 * math.sin(n / 7.0), "cgm", n)
        for n in range(24 * 48)
    ]
    end = samples[-1].time_us
    daily = Twin(PATIENT)
    for start in range(0, len(samples), 48):
        daily.observe(samples[start : start + 48])
        daily.estimate(samples[min(start + 48, len(samples)) - 1].time_us)
    at_once = told(samples)
    assert same(daily.estimate(end), at_once.estimate(end)) == 0.0
    one, two = (t.forecast(end, HORIZONS).forecast for t in (daily, at_once))
    assert one == two


def test_answers_about_the_past_use_nothing_later(life: Life) -> None:
    moment = START_US + 2 * DAY_US + 1234 * MIN_US
    knows_all = told(life.samples)
    knows_all.estimate(end_of(life))
    knew_then = told([s for s in life.samples if s.time_us <= moment])
    assert same(knows_all.estimate(moment), knew_then.estimate(moment)) == 0.0
    one, two = (t.forecast(moment, HORIZONS).forecast for t in (knows_all, knew_then))
    assert one == two


def test_asking_changes_nothing(life: Life) -> None:
    asked, silent = told(life.samples), told(life.samples)
    for hour in range(0, 90, 7):
        asked.forecast(START_US + hour * 60 * MIN_US, HORIZONS, paths=3)
    assert same(asked.estimate(end_of(life)), silent.estimate(end_of(life))) == 0.0


def test_duplicate_is_ignored(life: Life) -> None:
    twin = told(life.samples + life.samples[-50:])
    twin.observe(life.samples[:200])
    assert same(twin.estimate(end_of(life)), told(life.samples).estimate(end_of(life))) == 0.0


def test_amendment_replaces_and_deletion_removes(life: Life) -> None:
    end = end_of(life)
    meals = [s for s in life.samples if s.kind == "carbs_g"]
    wrong = Sample(meals[-1].time_us, "carbs_g", meals[-1].value * 3, "hand", 1)
    right = Sample(meals[-1].time_us, "carbs_g", meals[-1].value, "hand", 2, amends=("hand", 1))
    bare = [s for s in life.samples if s is not meals[-1]]
    plain = told([*bare, Sample(right.time_us, right.kind, right.value, "hand", 2)])
    amended = told([*bare, wrong])
    amended.estimate(end)
    amended.observe([right])
    assert same(amended.estimate(end), plain.estimate(end)) == 0.0
    amended.observe([Sample(end, "carbs_g", 0.0, "hand", 3, amends=("hand", 2), deleted=True)])
    assert same(amended.estimate(end), told(bare).estimate(end)) == 0.0


def test_amendment_may_arrive_before_what_it_amends(life: Life) -> None:
    end = end_of(life)
    original = Sample(end - 60 * MIN_US, "bolus_u", 9.0, "hand", 1)
    amendment = Sample(end - 60 * MIN_US, "bolus_u", 2.0, "hand", 2, amends=("hand", 1))
    forward, backward = told(life.samples), told(life.samples)
    forward.observe([original, amendment])
    backward.observe([amendment])
    backward.observe([original])
    assert same(forward.estimate(end), backward.estimate(end)) == 0.0


def test_event_from_the_far_future_waits_for_its_time(life: Life) -> None:
    end = end_of(life)
    twin = told([*life.samples, Sample(end + 200 * 365 * DAY_US, "carbs_g", 500.0, "meter", 10**6)])
    assert same(twin.estimate(end), told(life.samples).estimate(end)) == 0.0


# ---- bytes ------------------------------------------------------------------------------------------


def test_restored_twin_continues_exactly(life: Life) -> None:
    end = end_of(life)
    cut = len(life.samples) * 2 // 3
    whole, part = told(life.samples[:cut]), told(life.samples[:cut])
    part.estimate(life.samples[cut - 1].time_us)
    part = Twin.restore(part.snapshot())
    late = Sample(START_US + DAY_US + 17 * MIN_US, "bolus_u", 1.5, "hand", 1)
    for twin in (whole, part):
        twin.observe(life.samples[cut:])
        twin.estimate(end)
        twin.observe([late])
    assert same(whole.estimate(end), part.estimate(end)) == 0.0
    assert whole.forecast(end, HORIZONS).forecast == part.forecast(end, HORIZONS).forecast


def test_empty_twin_survives_its_own_bytes() -> None:
    twin = Twin.restore(Twin(PATIENT, seed=4).snapshot())
    assert twin.seed == 4
    assert twin.estimate(START_US).status == "warming_up"


def test_every_damaged_byte_is_noticed(life: Life) -> None:
    twin = told(life.samples[:400])
    twin.estimate(life.samples[399].time_us)
    data = twin.snapshot()
    for place in (0, 6, 7, 9, 39, 41, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(DecodeError):
            Twin.restore(bytes(broken))
    for length in (0, 5, 39, 40, len(data) - 1):
        with pytest.raises(DecodeError):
            Twin.restore(data[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_decode_error(noise: bytes) -> None:
    with pytest.raises(DecodeError):
        Twin.restore(noise)


def test_snapshot_stays_small_enough_to_keep_often(life: Life) -> None:
    twin = told(life.samples)
    twin.estimate(end_of(life))
    assert len(twin.snapshot()) < 600_000


# ---- bad or little input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("cgm_mgdl", math.nan),
        ("cgm_mgdl", 10_000.0),
        ("cgm_mgdl", math.inf),
        ("bolus_u", -1.0),
        ("carbs_g", -0.001),
        ("basal_uph", 36.0),
        ("wishes", 1.0),
    ],
)
def test_value_that_cannot_be_meant_is_refused_and_nothing_of_the_batch_is_taken(
    life: Life, kind: str, value: float
) -> None:
    twin = told(life.samples[:300])
    before = twin.estimate(end_of(life))
    good = Sample(end_of(life) - MIN_US, "cgm_mgdl", 150.0, "cgm", 1)
    with pytest.raises(InputError) as caught:
        twin.observe([good, Sample(end_of(life), kind, value, "hand", 1)])
    assert str(value) not in str(caught.value)
    assert same(before, twin.estimate(end_of(life))) == 0.0


def test_times_outside_the_calendar_are_refused() -> None:
    with pytest.raises(InputError):
        Twin(PATIENT).observe([Sample(10**18, "cgm_mgdl", 100.0, "cgm", 1)])
    with pytest.raises(InputError):
        Twin(PATIENT).observe([Sample(-1, "cgm_mgdl", 100.0, "cgm", 1)])


def test_twin_without_any_event_answers_with_wide_width() -> None:
    twin = Twin()
    estimate = twin.estimate(START_US)
    forecast = twin.forecast(START_US, HORIZONS).forecast
    assert_sound(estimate, forecast)
    assert estimate.status == forecast.status == "warming_up"
    assert estimate.output_sd > 40
    assert estimate.data_age_s == math.inf
    assert math.isnan(estimate.nis)


def test_single_reading_gives_an_answer_around_it() -> None:
    twin = told([Sample(START_US, "cgm_mgdl", 200.0, "cgm", 1)])
    estimate = twin.estimate(START_US)
    forecast = twin.forecast(START_US, HORIZONS).forecast
    assert_sound(estimate, forecast)
    assert estimate.output_mean == pytest.approx(200, abs=15)
    assert forecast.status == "warming_up"
    assert forecast.sd[2] > 35


def test_only_inputs_and_never_a_reading() -> None:
    twin = told([Sample(START_US + i * 3600 * 10**6, "carbs_g", 60.0, "hand", i) for i in range(5)])
    assert_sound(twin.estimate(START_US + DAY_US), twin.forecast(START_US + DAY_US, HORIZONS).forecast)


def test_record_without_insulin_is_tracked(life: Life) -> None:
    twin = told([s for s in life.samples if s.kind == "cgm_mgdl"])
    estimate = twin.estimate(end_of(life))
    assert_sound(estimate, twin.forecast(end_of(life), HORIZONS).forecast)
    assert estimate.status == "ok"
    assert abs(estimate.output_mean - life.samples[-1].value) < 10
    assert "basal" in dict(twin.assumed)


def test_fingersticks_alone_are_tracked(life: Life) -> None:
    sticks = [
        Sample(s.time_us, "smbg_mgdl", s.value, "meter", i)
        for i, s in enumerate(life.samples)
        if s.kind == "cgm_mgdl" and i % 60 == 0
    ]
    others = [s for s in life.samples if s.kind != "cgm_mgdl"]
    twin = told(others + sticks)
    assert_sound(twin.estimate(end_of(life)), twin.forecast(end_of(life), HORIZONS).forecast)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    ("cgm_mgdl", 10.0, 1000.0),
                    ("smbg_mgdl", 10.0, 1000.0),
                    ("bolus_u", 0.0, 100.0),
                    ("basal_uph", 0.0, 35.0),
                    ("long_acting_u", 0.0, 200.0),
                    ("carbs_g", 0.0, 1000.0),
                    ("heart_rate_bpm", 20.0, 300.0),
                    ("weight_kg", 1.0, 500.0),
                    ("steps", 0.0, 1e5),
                ]
            ),
            st.floats(0, 1),
            st.one_of(st.floats(0, 600), st.floats(0, 30_000)),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_any_possible_record_gives_finite_answers(
    events: list[tuple[tuple[str, float, float], float, float]],
) -> None:
    samples, minute = [], 0.0
    for seq, ((kind, low, high), share, gap_min) in enumerate(events):
        minute += gap_min
        value = low + share * (high - low)
        samples.append(Sample(START_US + int(minute * MIN_US), kind, value, "any", seq))
    twin = told(samples)
    for moment in (samples[-1].time_us, samples[-1].time_us + 3 * 60 * MIN_US, START_US):
        assert_sound(twin.estimate(moment), twin.forecast(moment, (5.0, *HORIZONS)).forecast)
    assert np.isfinite(twin.forecast(samples[-1].time_us, HORIZONS, paths=5).paths).all()


@pytest.mark.parametrize("horizons", [(), (-5.0,), (math.nan,), (1e9,)])
def test_horizon_that_makes_no_sense_is_refused(horizons: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        Twin().forecast(START_US, horizons)


def test_wrong_patient_values_name_the_place() -> None:
    with pytest.raises(ConfigError, match="weight_kg"):
        Patient(weight_kg=7500.0)
    with pytest.raises(ConfigError, match="time zone"):
        Patient(timezone="Atlantis/Capital")
    with pytest.raises(ConfigError, match="wieght"):
        Patient.from_toml("wieght_kg = 70")
    with pytest.raises(InputError, match="wings"):
        Twin(Patient.from_toml("[model]\noverrides = { wings = 2.0 }"))


# ---- width, status, gaps ----------------------------------------------------------------------------


def test_gap_widens_and_turns_stale_and_is_not_filled(life: Life) -> None:
    twin = told(life.samples)
    end = end_of(life)
    now, later = twin.estimate(end), twin.estimate(end + 90 * MIN_US)
    assert now.status == "ok"
    assert later.status == "stale"
    assert later.output_sd > 3 * now.output_sd
    assert later.data_age_s == pytest.approx(5400)
    fresh, old = (twin.forecast(t, (60.0,)).forecast for t in (end, end + 60 * MIN_US))
    assert old.sd[0] > 1.15 * fresh.sd[0]
    assert_sound(twin.estimate(end + 400 * DAY_US), twin.forecast(end + 400 * DAY_US, HORIZONS).forecast)


def test_outlier_is_flagged_and_moves_little_but_a_new_level_is_followed(life: Life) -> None:
    end = end_of(life)
    before = told(life.samples).estimate(end).output_mean
    spike = Sample(end + 5 * MIN_US, "cgm_mgdl", min(before + 180, 390.0), "cgm", 10**8)
    twin = told([*life.samples, spike])
    assert abs(twin.estimate(spike.time_us).output_mean - before) < 60
    assert ("cgm", "cgm_mgdl", 10**8) in twin.outliers(spike.time_us)
    level = [Sample(end + (5 + 5 * i) * MIN_US, "cgm_mgdl", spike.value, "cgm", 10**8 + i) for i in range(6)]
    followed = told([*life.samples, *level])
    assert followed.estimate(level[-1].time_us).output_mean == pytest.approx(spike.value, abs=12)


@pytest.mark.parametrize("every", [1, 3])
def test_other_sampling_intervals_are_tracked(life: Life, every: int) -> None:
    readings = [s for s in life.samples if s.kind == "cgm_mgdl"][::every]
    if every == 1:  # a reading each minute, by interpolation
        readings = [
            Sample(
                a.time_us + m * MIN_US,
                "cgm_mgdl",
                a.value + m / 5 * (b.value - a.value),
                "cgm",
                a.seq * 5 + m,
            )
            for a, b in itertools.pairwise(readings[:401])
            for m in range(5)
        ]
    twin = told([s for s in life.samples if s.kind != "cgm_mgdl"] + readings)
    estimate = twin.estimate(readings[-1].time_us)
    assert estimate.status == "ok"
    assert abs(estimate.output_mean - readings[-1].value) < 12


# ---- what it is for ---------------------------------------------------------------------------------


def test_insulin_lowers_and_carbohydrate_raises_the_forecast(life: Life) -> None:
    twin = told(life.samples)
    end = end_of(life)
    plans: dict[str, tuple[Sample, ...]] = {
        "nothing": (),
        "unit": (Sample(end + MIN_US, "bolus_u", 1.0, "plan", 1),),
        "two": (Sample(end + MIN_US, "bolus_u", 2.0, "plan", 1),),
        "food": (Sample(end + MIN_US, "carbs_g", 10.0, "plan", 1),),
    }
    at = {name: np.array(twin.forecast(end, HORIZONS, plan).forecast.mean) for name, plan in plans.items()}
    unit, two, food = (at[name] - at["nothing"] for name in ("unit", "two", "food"))
    assert (unit < 0).all()
    assert (two < unit).all()
    assert (food > 0).all()
    assert -60 < unit[-2] < -10  # mg/dL per unit after 4 h in this sensitive person
    assert 5 < food[2] < 60


def test_planned_dose_shifts_drawn_paths_as_it_shifts_the_mean(life: Life) -> None:
    twin = told(life.samples)
    end = end_of(life)
    plan = (Sample(end + 12 * MIN_US, "bolus_u", 2.0, "plan", 1),)
    free = twin.forecast(end, HORIZONS, paths=400, seed=1)
    dosed = twin.forecast(end, HORIZONS, plan, paths=400, seed=1)
    again = twin.forecast(end, HORIZONS, plan, paths=400, seed=1)
    assert free.paths is not None
    assert dosed.paths is not None
    assert again.paths is not None
    assert free.paths.shape == (400, 72)
    np.testing.assert_array_equal(dosed.paths, again.paths)
    shift = np.array(dosed.forecast.mean) - np.array(free.forecast.mean)
    columns = [int(h / free.step_min) - 1 for h in HORIZONS]
    assert (dosed.paths - free.paths).mean(axis=0)[columns] == pytest.approx(
        shift, abs=0.3 * abs(shift).max()
    )
    assert (dosed.paths <= free.paths + 1e-3).all()
    spread = free.paths.std(axis=0)[columns]
    assert spread == pytest.approx(free.forecast.sd, rel=0.25)


def test_forecasts_of_a_simulated_person_beat_persistence_and_cover() -> None:
    days = 12.0
    life = live(days, seed=9)
    twin = told(life.samples)
    readings = {s.time_us: s.value for s in life.samples if s.kind == "cgm_mgdl"}
    errors: dict[float, list[tuple[float, float, bool]]] = {30.0: [], 60.0: [], 120.0: []}
    for step in range(6 * 288, round(days * 288) - 30, 5):
        now = START_US + step * 5 * MIN_US
        forecast = twin.forecast(now, tuple(errors)).forecast
        for k, horizon in enumerate(errors):
            came = readings[now + int(horizon) * MIN_US]
            inside = forecast.p05[k] <= came <= forecast.p95[k]
            errors[horizon].append((came - forecast.mean[k], came - readings[now], inside))
    for horizon, rows in errors.items():
        table = np.array(rows, float)
        rmse, persistence = np.sqrt((table[:, :2] ** 2).mean(axis=0))
        assert rmse < 0.85 * persistence, horizon
        assert 0.8 < table[:, 2].mean() < 0.98, horizon


def test_sensitivity_of_a_simulated_person_is_found() -> None:
    life = live(6.0, seed=2, sensitivity=2.2, meal_error=0.1)
    estimate = told(life.samples).estimate(end_of(life))
    at = estimate.names.index("ln_s")
    sd = math.sqrt(estimate.covariance[at * (at + 1) // 2 + at])
    assert abs(estimate.mean[at] - math.log(2.2)) < max(0.3, 2.5 * sd)


# ---- prior and contribution -------------------------------------------------------------------------


def prior(shift: float) -> Prior:
    names = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
    cov = tuple(0.04 if i == j else 0.0 for i in range(5) for j in range(i + 1))
    return Prior(3, "glucose/1", names, (0.5, 0.0, shift, 0.0, 0.0), cov, "all", "test", 2**62)


def test_contribution_is_information_and_grows_with_data(life: Life) -> None:
    little, much = told(life.samples[:100]), told(life.samples)
    traces = []
    for twin, at in ((little, life.samples[99].time_us), (much, end_of(life))):
        given_by = twin.contribution(at)
        k = len(given_by.names)
        full = np.zeros((k, k))
        full[np.tril_indices(k)] = given_by.delta_precision
        full = full + np.tril(full, -1).T
        assert np.linalg.eigvalsh(full).min() > -1e-6
        traces.append(np.trace(full))
    assert traces[1] > traces[0]


def test_population_prior_draws_parameters_and_survives_rewind_and_bytes(life: Life) -> None:
    end = end_of(life)
    cut = len(life.samples) // 2
    plain, guided = told(life.samples[:cut]), told(life.samples[:cut])
    for twin in (plain, guided):
        twin.estimate(life.samples[cut - 1].time_us)
    guided.set_prior(prior(0.5))
    for twin in (plain, guided):
        twin.observe(life.samples[cut:])
    at = plain.estimate(end).names.index("ln_tg")
    assert guided.estimate(end).mean[at] > plain.estimate(end).mean[at] + 0.05
    other = Twin.restore(guided.snapshot())
    late = Sample(life.samples[cut].time_us + 7 * MIN_US, "bolus_u", 0.5, "hand", 1)
    earlier = Sample(life.samples[cut - 40].time_us + 7 * MIN_US, "bolus_u", 0.5, "hand", 2)
    for twin in (guided, other):
        twin.observe([late, earlier])
    assert same(guided.estimate(end), other.estimate(end)) == 0.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: Prior(3, "drug/1", p.names, p.mean, p.covariance, "", "", 0),
        lambda p: Prior(3, p.model, p.names, p.mean[:2], p.covariance, "", "", 0),
        lambda p: Prior(3, p.model, p.names, p.mean, (math.nan,) * 15, "", "", 0),
        lambda p: Prior(3, p.model, p.names, p.mean, (0.0,) * 15, "", "", 0),
    ],
)
def test_unusable_prior_is_refused(spoil: Callable[[Prior], Prior]) -> None:
    with pytest.raises(InputError):
        Twin(PATIENT).set_prior(spoil(prior(0.1)))


# ---- the engine's side ------------------------------------------------------------------------------


def test_importing_the_twin_loads_no_heavy_library() -> None:
    # numba itself asks scipy for its version; what costs seconds and memory is below that.
    heavy = "('scipy.linalg', 'scipy.integrate', 'scipy.optimize', 'filterpy', 'matplotlib', 'pandas')"
    code = f"import core.twin, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_long_record_at_once_gives_what_the_same_record_reading_by_reading_gives() -> None:
    # Beyond 13 days the twin forgets its oldest events while it still works through the record.
    start, span = START_US, 17 * 288
    readings = [
        Sample(start + 5 * k * MIN_US, "cgm_mgdl", 130.0 + 40.0 * math.sin(k / 40.0), "cgm", k)
        for k in range(span)
    ]
    end = readings[-1].time_us
    at_once, in_steps = Twin(), Twin()
    at_once.observe(readings)
    for k in range(0, span, 12):
        in_steps.observe(readings[k : k + 12])
        in_steps.estimate(readings[min(k + 11, span - 1)].time_us)
    assert at_once.estimate(end) == in_steps.estimate(end)
    assert at_once.estimate(end).data_age_s == 0.0
