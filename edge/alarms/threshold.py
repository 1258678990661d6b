"""Threshold alarms on the sensor's own readings. Pure: readings and time in, alarms out.

They do not need the engine: a hub whose twin is down still warns. Each alarm states the age of the reading
that it rests on; an old reading raises nothing, for a warning about the past only teaches to ignore warnings.
Lows and highs are separate alarms: silencing one never mutes the other.

Two clocks arrive as arguments: ``now_us`` (wall, may jump) and ``steady_us`` (never jumps, same pace). Silence is
measured on both, so a hub whose clock is set back still notices that a sensor is quiet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from core.messages import Alarm, Forecast, Quality, Sample
from core.units import US_PER_MIN, US_PER_S
from edge.config import AlarmConfig

NONE, MILD, HIGH = 0, 1, 2  # Alert Level 0x2A06

LEVELS: Final = {
    "urgent_low": HIGH,
    "low": MILD,
    "predicted_low": MILD,
    "high": MILD,
    "urgent_high": HIGH,
    "signal_loss": MILD,
    "store_failed": MILD,
    # Shown and sent, but nobody is woken: thresholds work without the engine, with a repaired or a full store.
    "engine_down": NONE,
    "store_repaired": NONE,
    "store_space": NONE,
}
# A reading older than this neither raises nor clears a threshold alarm: two missed 5-min readings.
MAX_READING_AGE_MIN: Final = 11.0
# Cleared only this far on the safe side, so that noise of about 3 mg/dL at a threshold rings once.
HYSTERESIS_MGDL: Final = 5.0
PREDICTED_LOW_HORIZON_MIN: Final = 30.0
# The twin's chance of a reading below 70 mg/dL within half an hour rings from here on: earlier than the median alone,
# which lies below 70 only when the chance is about one half. It is over well below that, so that it rings once.
LOW_CHANCE: Final = 0.35
LOW_CHANCE_OVER: Final = 0.15
CHANCE_OF_MGDL: Final = 70.0  # core.lows.LOW_MGDL, which the hub cannot import
# A reading that claims to lie further ahead than this says something about a clock, not about glucose.
MAX_AHEAD_US: Final = 5 * US_PER_MIN
# An engine that restarts or compiles is away for a minute or two.
ENGINE_PATIENCE_MIN: Final = 15.0
NOT_FROM_A_SENSOR: Final = Quality.BY_HAND | Quality.RETURNED


@dataclass
class ThresholdAlarms:
    """Which alarms are active now. ``next_number`` gives durable, strictly rising alarm numbers."""

    config: AlarmConfig
    next_number: Callable[[], int]
    active: dict[str, Alarm] = field(default_factory=dict)
    newest: Sample | None = None
    heard_steady_us: int | None = None  # when the last fresh reading arrived, or we started
    forecast_us: int = 0
    engine_away_since_us: int | None = None
    # What a reading's way, and the first connection, may add to a silence: nothing on a true clock, half an hour on
    # one that runs 300 times faster.
    transport_us: int = 0
    start_up_us: int = 0

    def on_samples(
        self, samples: tuple[Sample, ...], now_us: int, steady_us: int | None = None
    ) -> list[Alarm]:
        """Alarms raised or cleared by new glucose readings, which may arrive late and out of order.

        Without ``steady_us`` the wall clock is trusted, as in a replay.
        """
        steady_us = now_us if steady_us is None else steady_us
        for sample in samples:
            if (
                sample.kind != "cgm_mgdl"
                or sample.amends
                or sample.deleted
                or sample.quality & NOT_FROM_A_SENSOR
            ):
                continue
            if sample.time_us > now_us + MAX_AHEAD_US:
                continue
            if self.newest is None or sample.time_us > self.newest.time_us:
                self.newest = sample
                self.heard_steady_us = steady_us
        return self.on_time(now_us, steady_us)

    def on_time(self, now_us: int, steady_us: int | None = None) -> list[Alarm]:
        """Alarms raised or cleared because time has passed. Call at least once a minute."""
        steady_us = now_us if steady_us is None else steady_us
        if self.heard_steady_us is None:
            self.heard_steady_us = steady_us
        if self.newest is not None and self.newest.time_us > now_us + MAX_AHEAD_US:
            self.newest = None  # the clock was set back: what was the newest proves nothing any more
        changes = self._signal(now_us, steady_us)
        if now_us - self.forecast_us > MAX_READING_AGE_MIN * US_PER_MIN:
            changes += self._judge("predicted_low", False, True, float("nan"), now_us)
        if self.newest is None or self._age_s(now_us) > MAX_READING_AGE_MIN * 60:
            return changes
        glucose_mgdl = self.newest.value
        c = self.config
        low_side = (("urgent_low", c.urgent_low_mgdl), ("low", c.low_mgdl))
        high_side = (("urgent_high", c.urgent_high_mgdl), ("high", c.high_mgdl))
        for name, limit in low_side:
            over = glucose_mgdl >= limit + HYSTERESIS_MGDL
            changes += self._judge(name, glucose_mgdl < limit, over, glucose_mgdl, now_us)
        for name, limit in high_side:
            over = glucose_mgdl <= limit - HYSTERESIS_MGDL
            changes += self._judge(name, glucose_mgdl > limit, over, glucose_mgdl, now_us)
        return changes

    def on_forecast(self, forecast: Forecast, now_us: int) -> list[Alarm]:
        """A low that is coming, when none is there yet: the median 30 min ahead, or the chance of one, says so."""
        if not self.config.predicted_low or PREDICTED_LOW_HORIZON_MIN not in forecast.horizons_min:
            return []
        self.forecast_us = forecast.made_at_us
        p50_mgdl = forecast.p50[forecast.horizons_min.index(PREDICTED_LOW_HORIZON_MIN)]
        fresh = forecast.data_age_s <= MAX_READING_AGE_MIN * 60 and forecast.status == "ok"
        already = "low" in self.active or "urgent_low" in self.active
        # Who wants to be warned only further down is not warned of 70; a chance that is not told (nan) says nothing.
        counts = self.config.low_mgdl >= CHANCE_OF_MGDL
        likely = counts and forecast.low_chance >= LOW_CHANCE and self._is_above(CHANCE_OF_MGDL)
        still = counts and forecast.low_chance >= LOW_CHANCE_OVER
        coming = fresh and not already and (likely or p50_mgdl < self.config.low_mgdl)
        over = already or not fresh or (p50_mgdl >= self.config.low_mgdl + HYSTERESIS_MGDL and not still)
        return self._judge("predicted_low", coming, over, p50_mgdl, now_us)

    def on_health(
        self,
        engine_up: bool,
        store_ok: bool,
        now_us: int,
        steady_us: int,
        *,
        repaired: bool = False,
        space_low: bool = False,
    ) -> list[Alarm]:
        """The hub's own troubles: an engine that stays away, a store that takes nothing, was damaged, is full."""
        if engine_up:
            self.engine_away_since_us = None
        elif self.engine_away_since_us is None:
            self.engine_away_since_us = steady_us
        away_us = 0 if self.engine_away_since_us is None else steady_us - self.engine_away_since_us
        down = away_us > ENGINE_PATIENCE_MIN * US_PER_MIN
        changes = self._judge("engine_down", down, engine_up, float("nan"), now_us)
        for name, holds in (
            ("store_failed", not store_ok),
            ("store_repaired", repaired),
            ("store_space", space_low),
        ):
            changes += self._judge(name, holds, not holds, float("nan"), now_us)
        return changes

    @property
    def level(self) -> int:
        """The strongest active alarm's level: what a wearable should show now."""
        return max((a.level for a in self.active.values()), default=NONE)

    def _is_above(self, limit_mgdl: float) -> bool:
        return self.newest is not None and self.newest.value >= limit_mgdl

    def _signal(self, now_us: int, steady_us: int) -> list[Alarm]:
        assert self.heard_steady_us is not None
        limit_us = self.config.signal_loss_min * US_PER_MIN + self.transport_us
        if self.newest is None:
            limit_us += self.start_up_us
        old = self.newest is not None and now_us - self.newest.time_us > limit_us
        lost = old or steady_us - self.heard_steady_us > limit_us
        heard = not lost and self.newest is not None
        return self._judge("signal_loss", lost, heard, float("nan"), now_us)

    def _judge(self, name: str, raised: bool, over: bool, value: float, now_us: int) -> list[Alarm]:
        if raised and name not in self.active:
            self.active[name] = self._alarm(name, True, value, now_us)
            return [self.active[name]]
        if over and name in self.active:
            del self.active[name]
            return [self._alarm(name, False, value, now_us)]
        return []

    def _alarm(self, name: str, raised: bool, value: float, now_us: int) -> Alarm:
        return Alarm(
            number=self.next_number(),
            time_us=now_us,
            name=name,
            level=LEVELS[name],
            raised=raised,
            value=value,
            data_age_s=self._age_s(now_us),
        )

    def _age_s(self, now_us: int) -> float:
        return (now_us - self.newest.time_us) / US_PER_S if self.newest else float("inf")
