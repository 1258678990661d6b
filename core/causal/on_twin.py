"""g-computation on the mechanistic twin: what ``do(dose)`` does on average, by the twin's own equations.

The g-formula (Robins, Math Modelling 1986;7:1393) with the twin in place of a regression: at each moment of decision (θ, x) is
drawn from the posterior of everything known then, the dose is set, the equations are integrated, and the draws are
averaged. Nothing of the confounders need be measured, for the equations say what insulin does; they may be wrong,
which is what ``effect.compare_with_twin`` is for.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError, RefusedError
from core.messages import Sample
from core.predictive import HORIZON_LIMIT_MIN, STEP_MIN, Futures
from core.twin import Twin
from core.units import US_PER_MIN, check_value

Array = NDArray[np.float64]
DRAWS: Final = 200
FACTORS: Final = 199  # values of the structure's error
# How far effects are off by structure: as what-if first found it (decision 9). What-if's own is a little less, of people learned over
# days from all readings at once; nothing says so of the filter's answer, which falls short of effects of the dose alone (docs/causal.md).
STRUCTURE_LN_SD: Final = 0.30


class _Moment(NamedTuple):
    time_us: int
    bolus_u: float
    above_mgdl: float
    futures: Futures


class OnTwin:
    """Moments at which a bolus was decided, and what it does ``after_min`` later to the glucose a sensor shows.

    Two questions: the dose alone (``effects``: nobody does anything else), and the decision (``against_waiting``:
    who does not dose now may dose soon). Records can only answer the second, unless nobody ever doses late.
    """

    def __init__(self, after_min: float, draws: int = DRAWS) -> None:
        """InputError unless ``after_min`` is one of the forecast's steps and there are at least 2 draws."""
        if not (STEP_MIN <= after_min <= HORIZON_LIMIT_MIN and after_min % STEP_MIN == 0):
            raise InputError(
                f"must be a multiple of {STEP_MIN:g} min, at most {HORIZON_LIMIT_MIN:g}", where="after_min"
            )
        if draws < 2:
            raise InputError("must be at least 2", where="draws")
        self._after_min, self._draws = after_min, draws
        self._moments: list[_Moment] = []

    def __len__(self) -> int:
        return len(self._moments)

    def add(self, twin: Twin, time_us: int, bolus_u: float, above_mgdl: float = math.inf) -> None:
        """A moment and its dose, which the twin must not have seen yet; above what the person thinks of dosing.

        What is drawn for one twin is drawn with the same numbers at all its moments, so that what is not known of
        a person is not averaged away over their own moments. Give each person's twin a seed of its own.
        """
        check_value("bolus_u", bolus_u, "do")
        futures = twin.futures(time_us, self._after_min, self._draws)
        self._moments.append(_Moment(time_us, bolus_u, above_mgdl, futures))

    def follow(
        self,
        twin: Twin,
        samples: Sequence[Sample],
        moments: Sequence[tuple[int, float]],
        above_mgdl: float = math.inf,
    ) -> None:
        """``twin`` lives through a record (by time); at each moment (time µs, dose) it has seen all but that dose."""
        times = [s.time_us for s in samples]
        fed = 0
        for time_us, bolus_u in moments:
            upto, after = bisect_left(times, time_us), bisect_right(times, time_us)
            twin.observe(samples[fed:upto])
            twin.observe(s for s in samples[upto:after] if s.kind != "bolus_u")
            self.add(twin, time_us, bolus_u, above_mgdl)
            fed = upto  # the dose of this moment belongs to the past of the next; what is known already is not counted twice

    def effects(self, lower: float = 0.0, upper: float = 1.0) -> Array:
        """mg/dL, float64[moments, draws]: ``upper`` times the dose against ``lower`` times (0: none)."""
        return self._each(lambda k, m: self._paths(m, upper)[:, -1] - self._paths(m, lower)[:, -1])

    def against_waiting(self, chance: float, times: float = 1.0, seed: int = 0) -> Array:
        """mg/dL, float64[moments, draws]: the dose now, against not now and then as the person behaves.

        ``chance``: that the same dose is given, once, at a step at which glucose is still above the moment's
        threshold; found in the records. Each draw meets it along its own undosed course, so a later dose falls
        where this draw is still high. ``times``: what a dose does, times what the twin says (to see whether a wrong
        twin would be noticed).
        """
        if not 0.0 <= chance <= 1.0:
            raise InputError("must lie in 0..1", where="chance")

        def one(k: int, moment: _Moment) -> Array:
            free = self._paths(moment, 0.0)
            rng = np.random.default_rng([seed, k])
            late = (free[:, :-1] > moment.above_mgdl) & (rng.random(free[:, :-1].shape) < chance)
            first = np.where(late.any(axis=1), late.argmax(axis=1), -1)
            waited = free[:, -1].copy()
            for step in np.unique(first[first >= 0]):
                dosed = first == step
                delay_us = round((step + 1) * STEP_MIN * US_PER_MIN)
                waited[dosed] = self._paths(moment, times, delay_us)[dosed, -1]
            found: Array = self._paths(moment, times)[:, -1] - waited
            return found

        return self._each(one)

    def _each(self, one: Callable[[int, _Moment], Array]) -> Array:
        if not self._moments:
            raise RefusedError("no moment at which a dose was decided", where="causal effect")
        return np.array([one(k, m) for k, m in enumerate(self._moments)])

    def _paths(self, moment: _Moment, times: float, delay_us: int = 0) -> Array:
        dose = times * moment.bolus_u
        return moment.futures.paths(((moment.time_us + delay_us, "bolus_u", dose),) if dose else ())


def average(effects: Array) -> tuple[float, float]:
    """(mean, SD) of the average effect over the moments, for ``compare_with_twin``: *if the equations hold*.

    The SD is of what is not known of these people's states and parameters; that the equations are wrong in the same
    way for all is not in it, or a wrong model could never be told from a right one. For that see ``interval``.
    """
    each = effects.mean(axis=0)
    return float(each.mean()), float(each.std(ddof=1))


def interval(effects: Array, level: float = 0.95) -> tuple[float, float]:
    """What the average effect may be, given that the structure of the model errs as well.

    The structure's error is, as in ``counterfactual``, a factor, ln-normal with mean one, here the same for every
    moment, since all twins share the equations. Quadrature over the factor, so the same draws give the same ends.
    """
    each = effects.mean(axis=0)
    normal = NormalDist()
    z = np.array([normal.inv_cdf((k + 0.5) / FACTORS) for k in range(FACTORS)])
    factor = np.exp(STRUCTURE_LN_SD * z - 0.5 * STRUCTURE_LN_SD**2)
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(np.outer(each, factor), (tail, 1.0 - tail))
    return float(low), float(high)
