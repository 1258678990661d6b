"""The person the twin belongs to: what is known, and what has to be learned from the record."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from core.errors import ConfigError
from core.models.bounds import MODELS
from core.units import US_PER_S

WHOLE_FILE: Final = "patient file"  # where an error lies that no key can name
LONG_ACTING: Final = ("degludec", "glargine_u300", "glargine", "detemir")
# What msgspec says of a file, as its writer would.
_IN_WORDS: Final = (
    ("Object contains unknown field", "unknown key"),
    (" | null`", "`"),
    ("Expected `float`", "must be a number"),
    ("Expected `str`", "must be text"),
    ("Expected", "must be"),
    ("at `$.", "at `"),
)
CARB_RATIO_G_PER_U: Final = (0.5, 200.0)  # outside, a unit was mistaken or a key was hit twice
CORRECTION_MGDL_PER_U: Final = (1.0, 1000.0)


class Therapy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The prescription, as far as it is known. Times are local ``HH:MM``; a profile holds until the next."""

    basal_profile: tuple[tuple[str, float], ...] = ()  # (from, U/h)
    carb_ratio_g_per_u: float | None = None
    correction_mgdl_per_u: float | None = None
    target_mgdl: float | None = None
    max_bolus_u: float | None = None
    max_iob_u: float | None = None
    max_basal_uph: float | None = None
    long_acting: str = "glargine"  # class of pen insulin
    long_acting_u_per_day: float | None = None


class Research(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Modes for studies only, all off: nothing here is fit for care."""

    basal_modulation: bool = False  # advice on the basal rate every five minutes


class ModelChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model, and constants of it that are known for this person (lower-case names)."""

    name: str = "glucose"
    overrides: dict[str, float] = {}


class Patient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything is optional: what is missing is estimated from the record, and the twin says so."""

    weight_kg: float | None = None
    birth_year: int | None = None
    sex: str | None = None
    timezone: str = "UTC"
    resting_heart_rate_bpm: float | None = None
    therapy: Therapy = Therapy()
    model: ModelChoice = ModelChoice()
    research: Research = Research()

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(
                "unknown time zone", where="timezone", mend="use a name like Europe/London"
            ) from None
        bounds = (
            ("weight_kg", self.weight_kg, 5.0, 400.0),
            ("birth_year", self.birth_year, 1890.0, 2200.0),
            ("resting_heart_rate_bpm", self.resting_heart_rate_bpm, 25.0, 150.0),
            ("therapy.target_mgdl", self.therapy.target_mgdl, 60.0, 300.0),
            ("therapy.carb_ratio_g_per_u", self.therapy.carb_ratio_g_per_u, *CARB_RATIO_G_PER_U),
            ("therapy.correction_mgdl_per_u", self.therapy.correction_mgdl_per_u, *CORRECTION_MGDL_PER_U),
            ("therapy.max_bolus_u", self.therapy.max_bolus_u, 0.0, 100.0),
            ("therapy.max_iob_u", self.therapy.max_iob_u, 0.0, 200.0),
            ("therapy.max_basal_uph", self.therapy.max_basal_uph, 0.0, 35.0),
            ("therapy.long_acting_u_per_day", self.therapy.long_acting_u_per_day, 0.0, 300.0),
        )
        for where, value, low, high in bounds:
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"must lie in {low:g}..{high:g}", where=where, mend="check the unit")
        if self.therapy.long_acting not in LONG_ACTING:
            raise ConfigError(
                "unknown long-acting insulin", where="therapy.long_acting", mend=" | ".join(LONG_ACTING)
            )
        previous = -1
        for start, rate_uph in self.therapy.basal_profile:
            minute = minute_of_day(start)
            if minute <= previous:
                raise ConfigError("times must rise from the first entry on", where="therapy.basal_profile")
            if not (math.isfinite(rate_uph) and 0 <= rate_uph <= 35):
                raise ConfigError("rate must lie in 0..35 U/h", where="therapy.basal_profile")
            previous = minute
        self._check_model()

    def _check_model(self) -> None:
        known = MODELS.get(self.model.name)
        if known is None:
            raise ConfigError(
                f"unknown model {self.model.name[:40]!r}",
                where="model.name",
                mend="use one of " + " ".join(MODELS),
            )
        for name, value in self.model.overrides.items():
            where = f"model.overrides.{name[:40]}"
            if name not in known:
                raise ConfigError(
                    f"the model {self.model.name} has no such constant",
                    where=where,
                    mend="use one of " + " ".join(known),
                )
            low, high = known[name]
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"must lie in {low:g}..{high:g}", where=where, mend="check the unit")

    @classmethod
    def from_toml(cls, text: bytes | str) -> Patient:
        """A patient from TOML text; ConfigError names what is wrong."""
        try:
            return msgspec.toml.decode(text, type=cls)
        except (msgspec.MsgspecError, ValueError) as err:
            said = str(err)
            for ours, words in _IN_WORDS:
                said = said.replace(ours, words)
            raise ConfigError(said, where=WHOLE_FILE, mend="see docs for the known keys") from None

    def profile_uph(self, local_minute: float) -> float | None:
        """Basal rate of the profile at a local minute of the day; None without a profile."""
        profile = self.therapy.basal_profile
        if not profile:
            return None
        rate = profile[-1][1]
        for start, value in profile:
            if minute_of_day(start) <= local_minute:
                rate = value
        return rate

    def mean_profile_uph(self) -> float | None:
        """Mean of the basal profile over a day; None without a profile."""
        if not self.therapy.basal_profile:
            return None
        return sum(self.profile_uph(minute) or 0.0 for minute in range(0, 1440, 5)) / 288


def minute_of_day(clock: str) -> int:
    """Minutes since midnight of ``HH:MM``."""
    hours, _, minutes = clock.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
        raise ConfigError("must be HH:MM", where="therapy.basal_profile")
    return int(hours) * 60 + int(minutes)


class LocalTime:
    """Local hour of the day, fast: the zone's offset is looked up once per quarter of an hour."""

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        self._offsets: dict[int, int] = {}

    def hour(self, time_us: int) -> float:
        """Local hour in [0, 24)."""
        bucket = time_us // 900_000_000
        offset = self._offsets.get(bucket)
        if offset is None:
            if len(self._offsets) > 4096:
                self._offsets.clear()
            try:
                moment = datetime.fromtimestamp(bucket * 900, UTC).astimezone(self._zone)
                delta = moment.utcoffset()
                offset = int(delta.total_seconds()) if delta is not None else 0
            except (OverflowError, ValueError, OSError):
                offset = 0
            self._offsets[bucket] = offset
        return (time_us // US_PER_S + offset) % 86_400 / 3600.0
