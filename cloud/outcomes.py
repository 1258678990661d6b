"""How advice came out, beside what was promised: one outcome per advice, one scorecard per person. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from core.chance import LOW_MGDL, VERY_LOW_MGDL, binomial_cdf, clopper_pearson_upper
from core.messages import DoseAdvice, Sample
from core.units import US_PER_MIN

MIN_READINGS: Final = 20  # of sixty in five hours; with fewer a low may have gone unseen
SUSPEND_AFTER: Final = 20  # outcomes before the adviser can be found wanting
SUSPEND_P: Final = 0.01  # so improbable a number of lows, were the stated chances true, ends the advice


class Outcome(msgspec.Struct, frozen=True):
    """The hours after one advice, as the sensor saw them."""

    readings: int
    lowest_mgdl: float
    in_range: float  # share of readings in 70..180
    in_band: float | None  # share within the predicted 90 % band; None when another dose was taken
    bound_70: float  # what the chance of a low was stated to be at most
    bound_54: float
    followed: bool

    @property
    def below_70(self) -> bool:
        return self.lowest_mgdl < LOW_MGDL

    @property
    def below_54(self) -> bool:
        return self.lowest_mgdl < VERY_LOW_MGDL


class Scorecard(msgspec.Struct, frozen=True):
    """All outcomes of one person. ``p_70``: how improbable so many lows would be, were the bounds true."""

    scored: int
    followed: int
    lows_70: int  # among the followed
    lows_54: int
    stated_70: float  # mean stated bound
    stated_54: float
    p_70: float
    p_54: float
    in_range: float
    in_band: float | None

    @property
    def suspended(self) -> bool:
        """Lows came so much more often than stated that the adviser must stop."""
        return self.followed >= SUSPEND_AFTER and min(self.p_70, self.p_54) < SUSPEND_P


def outcome(advice: DoseAdvice, took_u: float | None, glucose: Sequence[Sample]) -> Outcome | None:
    """Of ``glucose`` (CGM samples by time); None with too few readings in the advice's hours.

    ``took_u``: what the person says was taken; None: nothing was said.
    """
    end_us = advice.for_time_us + round(advice.horizon_min * US_PER_MIN)
    times = [s.time_us for s in glucose]
    kept = glucose[bisect.bisect_right(times, advice.for_time_us) : bisect.bisect_right(times, end_us)]
    if len(kept) < MIN_READINGS:
        return None
    values = [s.value for s in kept]
    followed = took_u is not None and took_u > 0 and abs(took_u - advice.dose_u) <= 0.1 * advice.dose_u + 0.05
    draws = max(1, advice.draws)
    bounds = (
        (advice.p_below_70, advice.p_below_54)
        if advice.adviser_u is not None  # bounds already
        else tuple(
            clopper_pearson_upper(round(p * draws), draws) for p in (advice.p_below_70, advice.p_below_54)
        )
    )
    return Outcome(
        readings=len(kept),
        lowest_mgdl=min(values),
        in_range=sum(LOW_MGDL <= v <= 180.0 for v in values) / len(values),
        in_band=_in_band(advice, kept) if followed and advice.band else None,
        bound_70=bounds[0],
        bound_54=bounds[1],
        followed=followed,
    )


def _in_band(advice: DoseAdvice, glucose: Sequence[Sample]) -> float:
    """Share of readings inside the band, at its own half hours' straight lines."""
    inside = counted = 0
    minutes = [row[0] for row in advice.band]
    for sample in glucose:
        at = (sample.time_us - advice.data_time_us) / US_PER_MIN
        k = bisect.bisect_left(minutes, at)
        if not 0 < k < len(minutes):
            continue
        (t0, low0, _, high0), (t1, low1, _, high1) = advice.band[k - 1], advice.band[k]
        share = (at - t0) / (t1 - t0)
        counted += 1
        inside += low0 + share * (low1 - low0) <= sample.value <= high0 + share * (high1 - high0)
    return inside / counted if counted else 1.0


def scorecard(outcomes: Iterable[Outcome]) -> Scorecard | None:
    """None without an outcome."""
    every = list(outcomes)
    if not every:
        return None
    followed = [o for o in every if o.followed]
    n = len(followed)
    lows_70, lows_54 = sum(o.below_70 for o in followed), sum(o.below_54 for o in followed)
    stated_70 = sum(o.bound_70 for o in followed) / n if n else 0.0
    stated_54 = sum(o.bound_54 for o in followed) / n if n else 0.0
    bands = [o.in_band for o in followed if o.in_band is not None]
    return Scorecard(
        scored=len(every),
        followed=n,
        lows_70=lows_70,
        lows_54=lows_54,
        stated_70=stated_70,
        stated_54=stated_54,
        p_70=_at_least(lows_70, n, stated_70),
        p_54=_at_least(lows_54, n, stated_54),
        in_range=sum(o.in_range for o in every) / len(every),
        in_band=sum(bands) / len(bands) if bands else None,
    )


def _at_least(events: int, n: int, p: float) -> float:
    """P(Binomial(n, p) >= events)."""
    return 1.0 if events == 0 or n == 0 else 1.0 - binomial_cdf(events - 1, n, p)
