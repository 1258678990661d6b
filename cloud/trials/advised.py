"""The twin's advice as a trial's policy: a twin follows one simulated person and decides on their doses.

The twin knows what a clinic would (weight, therapy settings) and what a hub would have on record: glucose readings,
doses, basal rates, sugar, and meals as they were counted and when they were said, or not at all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.trials.plan import Arm
from core import closed_loop as loop
from core.advice_types import Policy
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_MIN
from core.virtual import Person

START_US: Final = 20_000 * US_PER_DAY  # some midnight UTC: a trial has no calendar
STEP_US: Final = round(loop.STEP_MIN * US_PER_MIN)


class Adviser:
    """Decides in one arm of one person's life."""

    def __init__(self, arm: Arm, person: Person, seed: int) -> None:
        self._arm, self._therapy = arm, person.therapy
        ratio, correction = self._settings(0)
        basal = tuple(
            (f"{hour:02d}:00", float(rate))
            for hour, rate in enumerate(arm.basal_factor * person.therapy[loop.T_BASAL])
        )
        known = Therapy(
            basal_profile=basal,
            carb_ratio_g_per_u=ratio,
            correction_mgdl_per_u=correction,
            target_mgdl=arm.target_mgdl,
        )
        self._twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg, therapy=known), seed=seed)
        self._told = 0  # steps of which the twin knows
        self._rate_uph = -1.0
        self._asked = self._refused = 0

    @property
    def count(self) -> tuple[int, int]:
        """How often it was asked, and how often it refused."""
        return self._asked, self._refused

    def decide(self, step: int, plate: NDArray[np.float64], course: NDArray[np.float64]) -> None:
        """Fill in the dose of ``step``: plate float64[n_steps, 3] of meals, course float64[n_steps, 5] lived so far."""
        self._tell(step, plate, course)
        arm = self._arm
        ratio, correction = self._settings(step)
        policy = Policy(
            target_mgdl=arm.target_mgdl,
            carb_ratio_g_per_u=ratio,
            correction_mgdl_per_u=correction,
            max_dose_u=arm.max_bolus_u,
            max_iob_u=max(arm.max_iob_u, arm.dose_step_u),
            dose_step_u=arm.dose_step_u,
            draws=arm.advice_draws,
        )
        counted_g = float(plate[step, loop.COUNTED])
        answer = self._twin.advise(
            START_US + step * STEP_US, counted_g, policy, "meal" if counted_g > 0 else "correction"
        )
        self._asked += 1
        dose_u = answer.dose_u
        if answer.refused is not None:
            self._refused += 1
            dose_u = loop.CALCULATOR if arm.when_refused == "calculator" else 0.0
        plate[step, loop.DECIDED] = dose_u

    def _settings(self, step: int) -> tuple[float, float]:
        """(g/U, mg/dL/U) in use at this step."""
        hour = step % loop.STEPS_PER_DAY // 12
        return (
            float(self._therapy[loop.T_RATIO, hour] * self._arm.carb_ratio_factor),
            float(self._therapy[loop.T_CORRECTION, hour] * self._arm.correction_factor),
        )

    def _tell(self, step: int, plate: NDArray[np.float64], course: NDArray[np.float64]) -> None:
        """What a hub would have on record up to the reading of ``step``."""
        samples: list[Sample] = []
        for k in range(self._told, step + 1):
            row, now_us = course[k], START_US + k * STEP_US
            values = [("cgm_mgdl", float(row[loop.O_CGM]))]
            if k < step:
                rate = float(row[loop.O_BASAL])
                values += [
                    ("bolus_u", float(row[loop.O_BOLUS])),
                    ("carbs_g", float(plate[k, loop.COUNTED] + row[loop.O_RESCUE])),
                ]
                if rate != self._rate_uph or k % loop.STEPS_PER_DAY == 0:
                    samples.append(Sample(now_us, "basal_uph", rate, "pump", k))
                    self._rate_uph = rate
            samples += [Sample(now_us, kind, value, kind, k) for kind, value in values if value > 0]
        # The reading of this step is told now; its doses, meals and basal with the next.
        self._twin.observe(samples)
        self._told = step
