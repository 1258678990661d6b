"""Many bodies in step, each with constants, parameters and inputs of its own.

For in-silico trials, and for looking at one record under many parameters at once. It is the model alone: no
filter, no noise. Columns lie side by side (float64[n_state, n_batch]), so that the compiler works on as many
people at once as the vector unit holds; each moves exactly as it would alone (to rounding).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from core.errors import InputError
from core.models import hovorka as model
from core.models import hovorka_crowd as kernels
from core.solvers.rk4 import MAX_STEP_MIN, NARROW, tile_size
from core.units import MGDL_PER_MMOLL

Array = model.Array

LONGEST_MIN: Final = 5.0  # inputs are held at least this often, as in the filter


class Crowd:
    """Bodies at rest under their basal rate, from which they are moved on together.

    consts: float64[n, N_CONST]. theta: float64[n, 5] log-multiples. basal_mupm, glucose_mmoll: float64[n].
    hour: local hour at the start, the same for all.
    """

    def __init__(
        self, consts: Array, theta: Array, basal_mupm: Array, glucose_mmoll: Array, hour: float = 0.0
    ) -> None:
        self.n = n = len(consts)
        shapes = (np.shape(consts), np.shape(theta), np.shape(basal_mupm), np.shape(glucose_mmoll))
        if n == 0 or shapes != ((n, model.N_CONST), (n, model.N_THETA), (n,), (n,)):
            raise InputError("arrays of a crowd do not fit together", where="crowd")
        if not all(np.all(np.isfinite(v)) for v in (consts, theta, basal_mupm, glucose_mmoll)):
            raise InputError("a crowd needs finite numbers", where="crowd")
        self._width = width = -(-n // NARROW) * NARROW
        fill = np.minimum(np.arange(width), n - 1)  # idle columns repeat the last body
        self._consts = np.ascontiguousarray(np.asarray(consts, float)[fill].T)
        self._points = np.zeros((model.N, width))
        self._points[: model.N_THETA] = np.asarray(theta, float)[fill].T
        for j, k in enumerate(fill):
            self._points[model.N_LINEAR :, j] = model.steady_state(
                consts[k], basal_mupm[k], theta[k, model.LN_S], theta[k, model.LN_TI], glucose_mmoll[k]
            )
        self._drivers = np.zeros((model.N_DRIVER, width))
        self._held = np.zeros((4, width))
        self._held[model.BASAL] = np.asarray(basal_mupm, float)[fill]
        self._held[model.HR_REST] = 70.0
        self._held[model.LOCAL_H] = hour
        self._own = kernels.settle(self._points, self._consts)
        self._half_min = math.nan  # of which ``_fades`` are
        self._fades = np.zeros((4, width))
        self._nodes = np.zeros((5, model.N_INPUT, width))
        self._work = np.zeros(tile_size(model.N_STATE, kernels.N_TILE, NARROW))

    # ---- acts: float64[n] each, or one number for all -------------------------------------------------

    def bolus(self, units: Array | float) -> None:
        """Rapid insulin now, U."""
        self._state(model.S1)[:] += 1000.0 * self._given(units)

    def long_acting(self, units: Array | float) -> None:
        """Pen insulin now, U."""
        self._drivers[model.L1, : self.n] += 1000.0 * self._given(units)

    def meal(self, carbs_g: Array | float) -> None:
        """Carbohydrate now, g."""
        share = self._consts[model.AG, : self.n] * np.exp(self._points[model.LN_AG, : self.n])
        per_g = share * model.MMOL_PER_G / self._consts[model.BW, : self.n]
        self._state(model.D1)[:] += per_g * self._given(carbs_g)

    def basal(self, rate_uph: Array | float) -> None:
        """Pump rate from here on, U/h."""
        self._held[model.BASAL, : self.n] = self._given(rate_uph) * 1000.0 / 60.0

    def heart(self, above_rest_bpm: Array | float, rest_bpm: Array | float) -> None:
        """Heart rate from here on: how far above rest, and rest, 1/min."""
        self._held[model.HR_EXCESS, : self.n] = self._given(above_rest_bpm)
        self._held[model.HR_REST, : self.n] = self._given(rest_bpm)

    def disturb(self, flux: Array | float) -> None:
        """Glucose flux that nothing known explains, mmol/kg/min; it fades with the model's time constant."""
        given = np.broadcast_to(np.asarray(flux, float), (self.n,))
        if not np.all(np.isfinite(given)):
            raise InputError("a flux must be finite", where="crowd")
        self._points[model.DISTURBANCE, : self.n] = given

    # ---- moving and reading off -----------------------------------------------------------------------

    def advance(self, minutes: float) -> None:
        """All on by ``minutes`` under the inputs held."""
        if not (math.isfinite(minutes) and minutes >= 0.0):
            raise InputError("minutes must be a number ≥ 0", where="crowd")
        left = float(minutes)  # an integer would compile kernels of its own
        while left > 0.0:
            dt_min = min(left, LONGEST_MIN)
            n_steps = 1 if dt_min <= MAX_STEP_MIN else 2
            half_min = 0.5 * dt_min / n_steps
            if half_min != self._half_min:
                self._half_min, self._fades = half_min, kernels.fading(self._consts, half_min)
            kernels.drive_own(
                self._drivers, self._held, self._consts, self._fades, half_min, n_steps, self._nodes
            )
            kernels.sweep_own(self._points, self._nodes, self._own, 2.0 * half_min, n_steps, self._work)
            self._held[model.LOCAL_H] = (self._held[model.LOCAL_H, 0] + dt_min / 60.0) % 24.0
            self._points[model.DISTURBANCE] *= self._nodes[2 * n_steps, model.U_D]
            left -= dt_min

    @property
    def plasma_mgdl(self) -> Array:
        """Plasma glucose now: float64[n]."""
        return np.asarray(self._state(model.Q1) * MGDL_PER_MMOLL / self._consts[model.VG, : self.n])

    @property
    def sensed_mgdl(self) -> Array:
        """Interstitial glucose now, as a perfect sensor shows it: float64[n]."""
        return np.asarray(self._state(model.C) * MGDL_PER_MMOLL)

    @property
    def state(self) -> Array:
        """A copy of the state block: float64[N_STATE, n]."""
        return self._points[model.N_LINEAR :, : self.n].copy()

    def _state(self, row: int) -> Array:
        return self._points[model.N_LINEAR + row, : self.n]

    def _given(self, value: Array | float) -> Array:
        given = np.broadcast_to(np.asarray(value, float), (self.n,))
        if not np.all(np.isfinite(given) & (given >= 0.0)):
            raise InputError("an act must be a number ≥ 0", where="crowd")
        return given
