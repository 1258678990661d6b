"""A twin as a hub keeps it: looks at the context and the night's work included (core.learning), as edge.engine does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from core import learning
from core.memory import Memory
from core.messages import Sample
from core.patient import Patient
from core.replay import Episode
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_H

FIRST_NIGHT_US: Final = US_PER_DAY  # a batch wants a whole day
NIGHT_H: Final = 3.0  # local
LOOK_US: Final = 6 * US_PER_H


class KeptTwin(Twin):
    """``observe`` takes samples in time order, of a record that begins at ``start_us`` (a local midnight)."""

    def __init__(self, patient: Patient, start_us: int, seed: int) -> None:
        super().__init__(patient)
        self.memory, self.kept = Memory(), list[tuple[int, Episode]]()
        self._rng = np.random.default_rng((seed, 83))
        self._night_us = start_us + FIRST_NIGHT_US + round(NIGHT_H * US_PER_H)
        self._look_us = start_us + LOOK_US
        self._number = 0

    def observe(self, events: Sequence[Sample]) -> None:  # type: ignore[override]
        """As a hub: what is due before a sample is done before it."""
        waiting = list(events)
        while waiting:
            due_us = min(self._night_us, self._look_us)
            upto = next((k for k, s in enumerate(waiting) if s.time_us > due_us), len(waiting))
            super().observe(waiting[:upto])
            waiting = waiting[upto:]
            if not waiting:
                return
            if due_us == self._night_us:
                self._work(due_us)
                self._night_us += US_PER_DAY
            if due_us == self._look_us:
                self.memory = learning.look(self, self.memory, due_us)
                self._look_us += LOOK_US

    def _work(self, now_us: int) -> None:
        found = learning.night(self, self.memory, self.kept, now_us, self._rng)
        self.guide(*found.guidance)
        self.kept = [item for item in self.kept if item[0] not in found.drop]
        for episode in found.keep:
            self._number += 1
            self.kept.append((self._number, episode))
        self.memory = found.memory
