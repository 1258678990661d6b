"""The patient file and local time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from core.errors import ConfigError
from core.models import bounds, hovorka, registry
from core.nominal import Tuning, make_nominal
from core.patient import LocalTime, Patient, Therapy
from core.record import Entry

TOML = """
weight_kg = 82
timezone = "Europe/London"
[therapy]
basal_profile = [["00:00", 0.8], ["06:00", 1.2], ["22:00", 0.9]]
carb_ratio_g_per_u = 10
long_acting = "degludec"
"""


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


def test_profile_holds_until_the_next_entry_and_over_midnight() -> None:
    patient = Patient.from_toml(TOML)
    assert [patient.profile_uph(m) for m in (0, 359, 360, 1319, 1320, 1439)] == [0.8, 0.8, 1.2, 1.2, 0.9, 0.9]
    assert patient.mean_profile_uph() == pytest.approx((6 * 0.8 + 16 * 1.2 + 2 * 0.9) / 24)
    late_start = Patient(therapy=Therapy(basal_profile=(("06:00", 1.0), ("20:00", 0.5))))
    assert late_start.profile_uph(60) == 0.5


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("weight_kg = 'heavy'", "must be a number, got `str` - at `weight_kg`"),
        ("[therapy]\nbasal_profile = [['25:00', 1.0]]", "basal_profile"),
        ("[therapy]\nbasal_profile = [['06:00', 1.0], ['05:00', 1.0]]", "basal_profile"),
        ("[therapy]\nbasal_profile = [['06:00', 99.0]]", "basal_profile"),
        ("[therapy]\nlong_acting = 'beer'", "long_acting"),
        ("weight_kg = nan", "weight_kg"),
        ("not toml at all", "patient"),
        ("[model]\nname = 'metoprolol'", "model.name: unknown model 'metoprolol' .*glucose"),
        ("[model.overrides]\nzz = 1.0", "model.overrides.zz: .* no such constant .*ke"),
        ("[model.overrides]\nke = nan", r"model.overrides.ke: must lie in 0.02..0.5"),
        ("[model.overrides]\nke = 14", r"model.overrides.ke: must lie in 0.02..0.5"),
        ("[model.overrides]\nbw = 'heavy'", "overrides"),
    ],
)
def test_mistakes_are_named(text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        Patient.from_toml(text)


def test_the_hubs_table_of_constants_is_the_models_own() -> None:
    """The hub must not import the models, so their names stand twice."""
    assert bounds.MODELS.keys() == registry.MODELS.keys()
    names = {name: getattr(hovorka, name.upper()) for name in bounds.GLUCOSE}
    assert set(names.values()) == hovorka.DEFAULTS.keys()
    for name, (low, high) in bounds.GLUCOSE.items():
        assert low <= hovorka.DEFAULTS[names[name]] <= high
    assert bounds.GLUCOSE["k_long"][1] < bounds.GLUCOSE["k_site"][0]


def test_local_hour_follows_daylight_saving() -> None:
    local = LocalTime("Europe/London")
    assert local.hour(at("2024-01-15T12:30:00")) == pytest.approx(12.5)
    assert local.hour(at("2024-07-15T12:30:00")) == pytest.approx(13.5)
    assert local.hour(at("2024-03-31T00:59:59")) == pytest.approx(0.99972, abs=1e-4)
    assert local.hour(at("2024-03-31T01:00:00")) == pytest.approx(2.0)
    assert LocalTime("Asia/Kathmandu").hour(at("2024-01-01T00:00:00")) == pytest.approx(5.75)


def test_given_therapy_is_used_and_not_listed_as_assumed() -> None:
    patient = Patient.from_toml(TOML)
    nominal = make_nominal(patient, (), LocalTime("UTC"), Tuning(), None)
    assert nominal.basal_mupm == pytest.approx(1000 / 60 * (6 * 0.8 + 16 * 1.2 + 2 * 0.9) / 24)
    assert {name for name, _ in nominal.assumed} == {"fasting glucose", "resting heart rate"}


def test_pen_doses_of_the_record_set_the_background() -> None:
    day_us = 86_400_000_000
    doses = [Entry(d * day_us + d % 3 * 10**9, 4, "pen", d, "long_acting_u", 24.0, 0) for d in range(1, 7)]
    nominal = make_nominal(Patient(weight_kg=75.0), doses, LocalTime("UTC"), Tuning(), None)
    assert nominal.basal_mupm == pytest.approx(1000 / 60)
    assert not nominal.background
    assert dict(nominal.assumed)["basal"].startswith("long-acting")
