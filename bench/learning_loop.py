"""Two more questions to learning: does it stay stable when the doses follow it, and do its intervals hold?

Closed loop: a virtual person of another structure whose basal rate and boluses are multiplied by what the twin has learned
of their sensitivity, so that every error of the twin comes back to it as data. Calibration: people of the twin's own
structure, drawn from the night's own prior; how often the night's 90 % intervals hold the truth.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from bench.report import Figure
from bench.truth import START_US, US_PER_MIN
from core import learning, refine
from core.consolidate import (
    N_CONSTANTS,
    N_NAMES,
    WITHIN_SD,
    base_of,
    fresh_anchor,
    merged,
    posterior,
    read_night,
)
from core.memory import NAMES, Memory
from core.messages import Sample
from core.models import hovorka as model
from core.patient import Patient
from core.twin import Twin
from core.units import US_PER_DAY
from firmware_sim.person import Playback, VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

LOOP_SEED: Final = 400
FOLLOW_DAY: Final = 4
FACTOR_LIMITS: Final = (0.5, 2.0)
STEADY_LN: Final = 0.25  # how far ln s may differ between the last two decades of days
SAFE_SHARE: Final = 0.5  # of the model's cap on |ln|
MATCHED_SEED: Final = 500
Z90: Final = 1.644854
_SOURCES: Final = {"cgm_mgdl": "cgm", "bolus_u": "pump", "basal_uph": "pump", "heart_rate_bpm": "strap"}


class Followed(Playback):
    """A life whose insulin is multiplied by ``factor``."""

    factor = 1.0

    def _dose(self, counted_g: float, of_day: int) -> float:
        usual = self._p.therapy
        ratio = tuple((start, value / self.factor) for start, value in usual.carb_ratio_g_per_u)
        scaled = type(usual)(
            **{
                **{name: getattr(usual, name) for name in usual.__dataclass_fields__},
                "carb_ratio_g_per_u": ratio,
                "correction_mgdl_per_u": usual.correction_mgdl_per_u / self.factor,
            }
        )
        try:
            self._p.therapy = scaled
            return super()._dose(counted_g, of_day)
        finally:
            self._p.therapy = usual

    def _basal(self, of_day: int, in_effort: bool) -> float:
        rate = round(self._p.therapy.basal_at(of_day) * self.factor * (0.5 if in_effort else 1.0), 3)
        if rate != self._basal_now:
            self._basal_now = rate
            self._tell("basal_uph", rate)
        return rate


class Loop(NamedTuple):
    """A person who followed the twin: ln s in the middle and last third of the days, and what came of it."""

    seed: int
    middle: float
    late: float
    furthest: float
    in_range_pct: float
    low_pct: float


def followed(seed: int, days: int) -> Loop:
    """One person who follows the twin for ``days``."""
    person = VirtualPerson(seed, sensor=AVERAGE_NOISE)
    play = Followed(person, START_US)
    twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg))
    known, kept, number = Memory(), [], 0
    rng = np.random.default_rng(seed)
    start_ln_s, course, far, sequence = math.nan, [], 0.0, 0
    for quarter in range(4 * days):
        samples = []
        for time_us, kind, value in play.live(360):
            sequence += 1
            samples.append(Sample(time_us, kind, value, _SOURCES.get(kind, "meter"), sequence))
        twin.observe(samples)
        now_us = START_US + (quarter + 1) * 360 * US_PER_MIN
        known = learning.look(twin, known, now_us)
        if quarter % 4 == 3 and quarter >= 7:
            found = learning.night(twin, known, kept, now_us, rng)
            known = found.memory
            twin.guide(*found.guidance)
            kept = [item for item in kept if item[0] not in found.drop]
            for episode in found.keep:
                number += 1
                kept.append((number, episode))
            anchor = known.anchor()
            assert anchor is not None
            theta = posterior(anchor, twin.patient.therapy, twin.consts()).theta()[0]
            course.append((quarter / 4, float(theta[0])))
            far = max(far, float(np.max(np.abs(theta - np.array(anchor.base_mean[N_CONSTANTS:])))))
            far = max(far, float(np.max(np.abs(found.record.mean[:N_CONSTANTS]))))
            if quarter // 4 >= FOLLOW_DAY:
                if math.isnan(start_ln_s):
                    start_ln_s = float(theta[0])
                low, high = FACTOR_LIMITS
                play.factor = min(max(math.exp(start_ln_s - float(theta[0])), low), high)
    plasma = play.truth().plasma_mgdl[FOLLOW_DAY * 1440 :]
    days_of, values = np.array(course).T
    middle = float(np.mean(values[(days_of >= days / 3) & (days_of < 2 * days / 3)]))
    late = float(np.mean(values[days_of >= 2 * days / 3]))
    inside = 100 * float(np.mean((plasma >= 70) & (plasma <= 180)))
    return Loop(seed, middle, late, far, inside, 100 * float(np.mean(plasma < 70)))


def closed_loop(loops: list[Loop], days: int) -> tuple[tuple[tuple[str, ...], ...], list[Figure]]:
    """Rows and figures of people who followed the twin for ``days``."""
    rows = [
        (
            f"virtual {one.seed}",
            f"{one.middle:+.2f}",
            f"{one.late:+.2f}",
            f"{one.furthest:.2f}",
            f"{one.in_range_pct:.0f} %",
            f"{one.low_pct:.1f} %",
        )
        for one in loops
    ]
    moved, furthest = [abs(one.late - one.middle) for one in loops], [one.furthest for one in loops]
    limit = SAFE_SHARE * model.LN_CAP
    return tuple(rows), [
        Figure(
            f"doses follow the twin, {days} days: ln s of the last third against the middle",
            f"≤ {STEADY_LN}",
            f"{max(moved):.2f}",
            reached=max(moved) <= STEADY_LN,
        ),
        Figure(
            "… furthest any parameter went (cap 3)",
            f"≤ {limit:g}",
            f"{max(furthest):.2f}",
            reached=max(furthest) <= limit,
        ),
    ]


def covered(k: int) -> list[bool]:
    """Of each parameter of person ``k``, drawn from the prior that the night uses: does the 90 % interval hold it?"""
    rng = np.random.default_rng([MATCHED_SEED, k])
    truth, samples = matched_person(rng)
    twin = Twin(Patient(timezone="UTC", weight_kg=75.0))
    twin.observe(samples)
    now_us = START_US + 2 * US_PER_DAY
    night, _ = read_night(twin, START_US + US_PER_DAY, now_us)
    point = twin.track_at(START_US + US_PER_DAY)
    assert point is not None
    anchor = merged(fresh_anchor(*base_of(point)), night)
    found = posterior(anchor, twin.patient.therapy, twin.consts())
    return [bool(hit) for hit in np.abs(found.mean - truth) <= Z90 * found.sd()]


def calibration(people: list[list[bool]]) -> tuple[tuple[tuple[str, ...], ...], Figure]:
    """Coverage of the truth by one night's 90 % intervals, of all people together."""
    inside = {name: [hits[i] for hits in people] for i, name in enumerate(NAMES)}
    total = [hit for hits in inside.values() for hit in hits]
    share = float(np.mean(total))
    rows = tuple((name, f"{np.mean(hits):.2f}", str(len(hits))) for name, hits in inside.items())
    # Parameters of one person err together: the doubt is that between people.
    doubt = float(np.std([np.mean(hits) for hits in people])) / math.sqrt(len(people))
    return (*rows, ("all", f"{share:.3f} ± {doubt:.3f}", str(len(total)))), Figure(
        "90 % intervals of parameters, people of the twin's own structure",
        "0.87–0.93",
        f"{share:.3f}",
        reached=0.87 <= share <= 0.93,
    )


def matched_person(rng: np.random.Generator) -> tuple[np.ndarray, list[Sample]]:
    """(true parameters in the order of NAMES, two days of samples) of a body of the twin's own structure."""
    consts = model.make_consts(bw=75.0, ag=model.DEFAULTS[model.AG] * 0.85)
    while True:
        truth = np.zeros(N_NAMES)
        truth[:N_CONSTANTS] = [s for _, s in refine.CONSTANTS] * rng.standard_normal(N_CONSTANTS)
        truth[NAMES.index("rcl")] += refine.LN_RCL
        own = refine.consts_with(consts, truth[:N_CONSTANTS])
        theta = np.array([0.3, 0.0, 0.0, 0.0, 0.0]) + np.array(
            [0.35, 0.2, 0.2, 0.25, 0.2]
        ) * rng.standard_normal(5)
        truth[N_CONSTANTS:] = theta
        basal = model.basal_from_glucose(own, 7.0, theta[model.LN_S], theta[model.LN_EGP0])
        if 5.0 < basal < 60.0:
            break
    day = truth[N_CONSTANTS:] + WITHIN_SD[N_CONSTANTS:] * rng.standard_normal(5)
    points = np.zeros((model.N, 1))
    points[: model.N_THETA, 0] = day
    points[model.N_LINEAR :, 0] = model.steady_state(own, basal, day[model.LN_S], day[model.LN_TI], 7.0)
    dynamics = np.tile([0.0, 60.0, 0.0], (model.N_LINEAR, 1))
    dynamics[model.SENSOR_SLOW] = dynamics[model.SENSOR] = (0.0, 11.0, 5.0)
    dynamics[model.DISTURBANCE] = (0.0, 30.0, 0.008)
    drivers, held = np.zeros(4), np.array([basal, 0.0, 70.0, 0.0])
    nodes, work = np.zeros((5, model.N_INPUT)), np.zeros(model.WORK_SIZE)
    phi, noise = np.zeros((8, 8)), np.zeros((8, 8))
    model.transition(5.0, dynamics, phi, noise)
    samples = [Sample(START_US, "basal_uph", basal * 0.06, "pump", 0)]
    effect = math.exp(-theta[model.LN_S])
    for step in range(2 * 288):
        time_us = START_US + 5 * step * US_PER_MIN
        minute = 5 * step % 1440
        if minute in (450, 765, 1110):
            carbs = float(rng.choice([30.0, 45.0, 60.0]))
            dose = round(carbs / 11.0 * effect * 1.3, 2)
            samples.append(Sample(time_us, "carbs_g", carbs, "meter", step))
            samples.append(Sample(time_us, "bolus_u", dose, "pump", step))
            eaten = carbs * math.exp(0.3 * rng.standard_normal())
            points[model.N_LINEAR + model.D1] += model.meal_mmol_per_kg(own, eaten, day[model.LN_AG])
            points[model.N_LINEAR + model.S1] += 1000.0 * dose
            points[model.LN_TG] = day[model.LN_TG] + refine.SD_MEAL_TG * rng.standard_normal()
        held[model.LOCAL_H] = minute / 60.0
        model.drive(drivers, held, own, 5.0, 2, nodes)
        model.sweep(points, nodes, own, 2.5, 2, work)
        keep = points[: model.N_THETA, 0].copy()
        points[: model.N_LINEAR, 0] = phi @ points[: model.N_LINEAR, 0] + noise @ rng.standard_normal(8)
        points[: model.N_THETA, 0] = keep
        points[model.N_LINEAR :] = np.maximum(points[model.N_LINEAR :], 0.0)
        value = float(np.clip(model.observe(points, 0) + rng.standard_normal(), 40.0, 400.0))
        samples.append(Sample(time_us + 5 * US_PER_MIN, "cgm_mgdl", value, "cgm", step))
    return truth, samples
