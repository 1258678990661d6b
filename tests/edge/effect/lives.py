"""A record of somebody who often corrects: the twin's own model, lived in closed loop."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from core import closed_loop as loop
from core.messages import Sample
from core.units import US_PER_MIN
from core.virtual import Habits, draw_life, draw_person, meal_steps
from edge.replay.outputs import iso

START_US = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
# Restless days, meals often unsaid, and not every high is corrected.
HABITS = Habits(
    counting_cv=0.5, therapy_error=0.2, unannounced_main=0.3, correction_chance=0.06, disturbance_sd=0.006
)


def samples(seed: int, days: int, heart: bool = True) -> list[Sample]:
    """Glucose, doses, counted meals, sugar and heart rate, from START_US."""
    person = draw_person(np.random.default_rng([seed, 0]), HABITS)
    meals, life = draw_life(np.random.default_rng([seed, 1]), person, HABITS, days)
    out = np.empty((1, len(life), loop.N_OUT))
    eaten = meal_steps(meals, len(life))
    loop.live(
        person.start.copy(),
        person.consts,
        person.dynamics,
        person.therapy,
        loop.usual_policy()[None],
        eaten[None],
        life,
        out,
        np.zeros(loop.N_MEMORY),
    )
    found = []
    for k, row in enumerate(out[0]):
        events = [("cgm_mgdl", row[loop.O_CGM]), ("bolus_u", row[loop.O_BOLUS])]
        events.append(("carbs_g", eaten[k, loop.COUNTED] + row[loop.O_RESCUE]))
        if heart:
            events.append(("heart_rate_bpm", 62.0 + k % 7 + life[k, loop.L_HEART]))
        if k % loop.STEPS_PER_DAY % 12 == 0:
            events.append(("basal_uph", row[loop.O_BASAL]))
        time_us = START_US + 5 * k * US_PER_MIN
        found += [Sample(time_us, kind, float(value), kind, k) for kind, value in events if value > 0]
    return found


def write(path: Path, seed: int, days: int, heart: bool = True) -> None:
    """The same as an event file (UTC)."""
    lines = [f"{iso(s.time_us)},{s.kind},{s.value:.3f}" for s in samples(seed, days, heart)]
    path.write_text("\n".join(("time,kind,value", *lines)) + "\n", encoding="utf-8")
