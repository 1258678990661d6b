"""Whether a question lies where the model can be trusted, said aloud.

A mechanistic twin answers anything; only near what this person's record holds is the answer worth something
(replay is known to mislead for large changes and for time below range: Vettoretti 2016). ``loud`` cautions mean:
outside the domain. The others tell what the answer rests on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.causal.change import DOSES, PARAMETERS, PULSE, RATE, Do
from core.causal.do import Changed, largest_shift
from core.courses import Act
from core.refine import Fit, Reading
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN

BEYOND_LARGEST: Final = 1.25  # a single dose or meal this much over the record's largest
TOTAL_RANGE: Final = (0.5, 1.6)  # a window's insulin or food beside what it was
BASAL_RANGE: Final = (0.5, 1.5)  # a basal rate beside what it was
LARGEST_FACTOR: Final = 2.0  # of a parameter; people differ by less from day to day
GAP_US: Final = 30 * US_PER_MIN
MAX_GAP_SHARE: Final = 0.2
MIN_LEAD_US: Final = US_PER_DAY  # of readings: below, the person is hardly known
MISFIT_CHI2: Final = 2.0  # whitened residual per reading
# What insulin and food on record leave unexplained, beside the readings' own SD. On a restless day of a person of this model
# it is all of it, and the answer is right: loud only beyond. More than half of the variance is worth a word.
EXPLAINS_NOTHING: Final = 1.3
EXPLAINS_LITTLE: Final = 0.7
LOW_SHARE: Final = (
    0.05  # of courses that the change takes below 54: the body's own defence is not in the model
)
# A dose or meal as a point: its size and what is taken beside it, each as a share of the largest on record, and its hour.
BESIDE_US: Final = 45 * US_PER_MIN
HOURS_PER_UNIT: Final = 6.0  # six hours apart are as far as nothing is from the largest
FAR_POINT: Final = 0.6  # from the nearest on record; ×0.7 or a quarter of an hour's shift stay within, a dose without its usual meal does not
FAR_US: Final = 25 * US_PER_H  # beyond the last reading; a day from now is what people ask for


class Caution(NamedTuple):
    """``loud``: the question leaves the domain in which the model is trustworthy."""

    code: str
    loud: bool
    text: str


class Question(NamedTuple):
    """What is judged."""

    changes: tuple[Do, ...]
    acts: tuple[Act, ...]  # of the window, as they were
    changed: Changed
    record: tuple[Act, ...]
    readings: tuple[Reading, ...]
    fit: Fit
    span_us: tuple[int, int, int]  # start of what was learned from, of the window, end of the window
    last_reading_us: int | None
    share_low: float  # of courses that go below 54 mg/dL only because of the change
    share_high: float  # above 400 mg/dL
    basal_ratio: tuple[float, float]  # least and most of the changed basal rate beside what flowed


def judge(q: Question) -> tuple[Caution, ...]:
    """All that applies, loud ones first."""
    found = [*_sizes(q), *_distance(q), *_readings(q), *_record(q), *_courses(q), *_edges(q)]
    return tuple(sorted(found, key=lambda c: not c.loud))


def _sizes(q: Question) -> Iterable[Caution]:
    names = {"bolus_u": "bolus", "carbs_g": "meal", "long_acting_u": "long-acting dose"}
    for kind in DOSES:
        before, after = _values(q.acts, kind), _values(q.changed.acts, kind)
        if before == after:
            continue
        usual = max(_values(q.record, kind), default=0.0)
        if max(after, default=0.0) > BEYOND_LARGEST * usual:
            yield Caution(
                "size",
                True,
                f"A {names[kind]} is larger than any this person's record holds: how they answer to it was never seen.",
            )
        if sum(before) > 0:
            ratio = sum(after) / sum(before)
            if not TOTAL_RANGE[0] <= ratio <= TOTAL_RANGE[1]:
                yield Caution(
                    "total",
                    True,
                    f"The window's total of {kind} becomes {ratio:.2g} times what it was: a change this large was not tested.",
                )
    least, most = q.basal_ratio
    if least < BASAL_RANGE[0] - 1e-9 or most > BASAL_RANGE[1] + 1e-9:
        yield Caution(
            "basal",
            True,
            "Basal insulin leaves the range the model can follow: without insulin glucose rises faster in people.",
        )
    for name, place in PARAMETERS.items():
        if abs(largest_shift(q.changed.shifts, place)) > math.log(LARGEST_FACTOR) + 1e-9:
            yield Caution("parameter", True, f"{name} leaves what people change from day to day.")
    for change in q.changes:
        if change.target == PULSE:
            yield Caution(
                "activity",
                True,
                "The effect of activity is a population's mean and was not learned from this person.",
            )


def _distance(q: Question) -> Iterable[Caution]:
    """How far what is now done lies from anything this person is known to have done."""
    names = {"bolus_u": "a bolus", "carbs_g": "a meal"}
    beside = {"bolus_u": "carbs_g", "carbs_g": "bolus_u"}
    for kind, words in names.items():
        known = _points(q.record, q.record, kind, beside[kind])
        before = {tuple(row) for row in _points(q.acts, q.acts, kind, beside[kind])}
        largest = np.maximum(known.max(axis=0, initial=0.0), 1e-9)
        for row in _points(q.changed.acts, q.changed.acts, kind, beside[kind]):
            if tuple(row) in before or not known.size:
                continue
            apart = (known - row) / np.array([largest[0], largest[1], HOURS_PER_UNIT])
            hours = np.abs(known[:, 2] - row[2])
            apart[:, 2] = np.minimum(hours, 24.0 - hours) / HOURS_PER_UNIT
            nearest = float(np.sqrt((apart**2).sum(axis=1)).min())
            if nearest > FAR_POINT:
                yield Caution(
                    "distance",
                    True,
                    f"Nothing on this person's record is like {words} of this size, with this beside it, at this hour "
                    f"(distance {nearest:.1f}, trusted to {FAR_POINT:g}).",
                )
                break


def _points(acts: Sequence[Act], among: Sequence[Act], kind: str, other: str) -> NDArray[np.float64]:
    """float64[n, 3] of the acts of a kind: size, the amount of the other kind beside it, hour of the day (UTC)."""
    rows = [
        (
            a.value,
            sum(b.value for b in among if b.kind == other and abs(b.time_us - a.time_us) <= BESIDE_US),
            a.time_us / US_PER_H % 24.0,
        )
        for a in acts
        if a.kind == kind and a.value > 0
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _readings(q: Question) -> Iterable[Caution]:
    first_us, start_us, end_us = q.span_us
    times = np.array([r.time_us for r in q.readings], dtype=np.int64)
    if not times.size:
        yield Caution(
            "no_readings", True, "No glucose reading at all: the answer is that of an average body."
        )
        return
    lead = float(min(start_us, times[-1]) - max(first_us, int(times[0])))
    if lead < MIN_LEAD_US:
        yield Caution(
            "short_record", True, f"Only {max(lead, 0) / US_PER_H:.0f} h of readings lie before the window."
        )
    until_us = min(end_us, int(times[-1]))
    if until_us > start_us:
        edges = np.concatenate(([start_us], times[(times > start_us) & (times < until_us)], [until_us]))
        gaps = np.diff(edges)
        share = float(gaps[gaps > GAP_US].sum()) / (until_us - start_us)
        if share > MAX_GAP_SHARE:
            yield Caution(
                "gaps",
                True,
                f"Readings are missing in {100 * share:.0f} % of the window: what happened then is a guess.",
            )
    ahead_us = end_us - int(times[-1])
    if ahead_us > FAR_US:
        yield Caution("far", True, "The window reaches more than a day past the last reading.")
    elif ahead_us > GAP_US:
        yield Caution(
            "future", False, f"{ahead_us / US_PER_H:.1f} h of the window lie after the last reading."
        )
    if q.fit.chi2_per_reading > MISFIT_CHI2:
        yield Caution(
            "misfit", True, "The model does not fit these readings, even with an unknown disturbance."
        )
    values = np.array([r.value_mgdl for r in q.readings])
    if values.size > 20:
        left = q.fit.open_rmse_mgdl / max(float(values.std()), 1e-9)
        if left > EXPLAINS_NOTHING:
            yield Caution(
                "disturbance",
                True,
                "What the record says of insulin and food explains none of these readings: meals or doses are missing in it, or"
                " the model is not this person's. An effect may be far larger or smaller than said.",
            )
        elif left > EXPLAINS_LITTLE:
            yield Caution(
                "weak_fit",
                False,
                f"What the record says of insulin and food misses these readings by {q.fit.open_rmse_mgdl:.0f} mg/dL (their SD is"
                f" {values.std():.0f}): most of them is put down to what nobody recorded, and an effect may be understated.",
            )


def _record(q: Question) -> Iterable[Caution]:
    kinds = {a.kind for a in q.record}
    touched = {c.target for c in q.changes}
    if not kinds & {"bolus_u", RATE, "long_acting_u"}:
        yield Caution(
            "no_insulin", True, "The record holds no insulin: how this person answers to it is unknown."
        )
    elif "bolus_u" in touched and len(_values(q.record, "bolus_u")) < 3:
        yield Caution(
            "few_boluses", True, "Too few boluses are on record to know how this person answers to them."
        )
    if "carbs_g" not in kinds:
        yield Caution(
            "no_meals", True, "The record holds no meals: what was eaten is guessed from glucose alone."
        )


def _courses(q: Question) -> Iterable[Caution]:
    if q.share_low > LOW_SHARE:
        yield Caution(
            "low",
            True,
            f"The change takes {100 * q.share_low:.0f} % of courses below 54 mg/dL: the body's defence, and what people then"
            " eat, are not in the model.",
        )
    if q.share_high > LOW_SHARE:
        yield Caution("high", True, "Glucose passes 400 mg/dL in some courses: ketosis is not in the model.")
    yield Caution("reaction", False, "Assumes that nothing else is done differently afterwards.")


def _edges(q: Question) -> Iterable[Caution]:
    _, start_us, end_us = q.span_us
    if n := q.changed.moved_out:
        yield Caution(
            "moved_out",
            False,
            f"{n} {'dose or meal is' if n == 1 else 'doses or meals are'} moved past the end of the window, and so left out of this answer.",
        )
    if any(
        c.from_us is not None and c.to_us is not None and (c.from_us < start_us or c.to_us > end_us)
        for c in q.changes
    ):
        yield Caution("cut", False, "A change reaches beyond the window: only its part inside is done.")


def _values(acts: Sequence[Act], kind: str) -> list[float]:
    return [a.value for a in acts if a.kind == kind]
