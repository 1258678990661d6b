"""The people of simglucose with a compiled right-hand side: the same equations and integrator, a hundred times faster.

simglucose spends its time on parameters in a pandas row; here they lie in one array, and SciPy's dopri5, which
simglucose uses, calls a compiled function (``compiled=False``: simglucose's own; a day of both differs by less than
1e-11 mg/dL). The equations are those of the UVA/Padova S2008 model (Dalla Man 2007, IEEE TBME 54:1740) in simglucose's form.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from bench.padova import Simulator

NAMES: Final = (
    *("kmax", "kmin", "b", "d", "kabs", "f", "BW", "kp1", "kp2", "kp3", "Fsnc", "ke1", "ke2", "k1", "k2"),
    *("Vm0", "Vmx", "Km0", "m1", "m2", "m4", "m30", "ka1", "ka2", "kd", "Vi", "p2u", "Ib", "ki", "ksc"),
)
(KMAX, KMIN, B, D, KABS, F, BW, KP1, KP2, KP3, FSNC, KE1, KE2, K1, K2, VM0, VMX, KM0, M1, M2, M4, M30,
 KA1, KA2, KD, VI, P2U, IB, KI, KSC) = range(30)  # fmt: skip


@numba.njit(cache=False)
def slopes(x: Any, p: Any, carbs_g: float, insulin_upm: float, stomach_mg: float, eaten_g: float) -> Any:
    """d(state)/dt per minute, float64[13]."""
    out = np.zeros(13)
    liquid_and_solid = x[0] + x[1]
    meal_mg = stomach_mg + 1000.0 * eaten_g
    emptying = p[KMAX]
    if meal_mg > 0.0:
        up = 2.5 / (meal_mg * (1.0 - p[B]))
        down = 2.5 / (meal_mg * p[D])
        emptying = p[KMIN] + 0.5 * (p[KMAX] - p[KMIN]) * (
            math.tanh(up * (liquid_and_solid - p[B] * meal_mg))
            - math.tanh(down * (liquid_and_solid - p[D] * meal_mg))
            + 2.0
        )
    out[0] = 1000.0 * carbs_g - p[KMAX] * x[0]
    out[1] = p[KMAX] * x[0] - emptying * x[1]
    out[2] = emptying * x[1] - p[KABS] * x[2]
    if x[3] >= 0.0:
        production = max(p[KP1] - p[KP2] * x[3] - p[KP3] * x[8], 0.0)
        excreted = p[KE1] * (x[3] - p[KE2]) if x[3] > p[KE2] else 0.0
        appearing = p[F] * p[KABS] * x[2] / p[BW]
        out[3] = production + appearing - p[FSNC] - excreted - p[K1] * x[3] + p[K2] * x[4]
    if x[4] >= 0.0:
        out[4] = p[K1] * x[3] - p[K2] * x[4] - (p[VM0] + p[VMX] * x[6]) * x[4] / (p[KM0] + x[4])
    if x[5] >= 0.0:
        out[5] = p[M1] * x[9] - (p[M2] + p[M4]) * x[5] + p[KA1] * x[10] + p[KA2] * x[11]
    plasma = x[5] / p[VI]
    out[6] = p[P2U] * (plasma - p[IB] - x[6])
    out[7] = p[KI] * (plasma - x[7])
    out[8] = p[KI] * (x[7] - x[8])
    if x[9] >= 0.0:
        out[9] = p[M2] * x[5] - (p[M1] + p[M30]) * x[9]
    if x[10] >= 0.0:
        out[10] = insulin_upm * 6000.0 / p[BW] - (p[KA1] + p[KD]) * x[10]
    if x[11] >= 0.0:
        out[11] = p[KD] * x[10] - p[KA2] * x[11]
    if x[12] >= 0.0:
        out[12] = p[KSC] * (x[3] - x[12])
    return out


class Body:
    """One person at rest, with a sensitivity that may change from day to day."""

    def __init__(self, world: Simulator, name: str, *, compiled: bool = True) -> None:
        self.name = name
        self._world = world
        self._person = world.person(name)
        p = self._person._params
        self.weight_kg = float(p.BW)
        self.vg = float(p.Vg)
        self.basal_uph = float(p.u2ss * p.BW / 6000.0 * 60.0)
        quest = world.quest.loc[world.quest.Name == name].squeeze()
        self.carb_ratio, self.correction = float(quest.CR), float(quest.CF)
        self._nominal = (float(p.Vmx), float(p.kp3))
        self._p = np.array([float(getattr(p, n)) for n in NAMES])
        if compiled:
            self._person._odesolver.f = self._slopes

    def _slopes(self, _t: float, x: Any, action: Any, _params: Any, stomach_mg: float, eaten_g: float) -> Any:
        return slopes(x, self._p, float(action.CHO), float(action.insulin), float(stomach_mg), float(eaten_g))

    def set_sensitivity(self, factor: float) -> None:
        """Multiply insulin's action on uptake and production."""
        self._p[VMX], self._p[KP3] = factor * self._nominal[0], factor * self._nominal[1]
        params = self._person._params
        params.Vmx, params.kp3 = float(self._p[VMX]), float(self._p[KP3])

    @property
    def plasma_mgdl(self) -> float:
        return float(self._person.state[3]) / self.vg

    @property
    def sensed_mgdl(self) -> float:
        """Subcutaneous glucose."""
        return float(self._person.observation.Gsub)

    def minute(self, insulin_u: float, carbs_g: float) -> None:
        """Live one minute: insulin and food of this minute."""
        self._person.step(self._world.action(insulin=insulin_u, CHO=carbs_g))

    def alone(self, dose_u: float, carbs_g: float) -> NDArray[np.float64]:
        """Plasma glucose each 5 min of the next five hours with this now and nothing else, float64[60] mg/dL.

        A fork lives it; the body stays where it is.
        """
        fork = self._world.branch(self._person)
        fork._odesolver.f = self._slopes
        course = np.zeros(60)
        for minute in range(300):
            now = minute == 0
            insulin_u = self.basal_uph / 60.0 + (dose_u if now else 0.0)
            fork.step(self._world.action(insulin=insulin_u, CHO=carbs_g if now else 0.0))
            if minute % 5 == 4:
                course[minute // 5] = float(fork.state[3]) / self.vg
        return course
