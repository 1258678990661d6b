"""Classical Runge–Kutta of order 4 with a fixed step, over a batch, joined to a model at import time.

The glucose model is not stiff (|λ| ≤ 0.14/min) and its inputs jump, so adaptive steps gain nothing; at
2.5 min the error is about 2e-4 mmol/L (tests/core/solvers). Callers split steps at events, so within a step
the inputs are smooth. They come sampled at the step's start, middle and end ("nodes"), which keeps order 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from core.jit import specialise

MAX_STEP_MIN: Final = 2.5  # longest RK4 step; halving it changes forecasts by < 1e-3 mg/dL

# Names that ``make_sweep`` replaces by a model's own.
N_LINEAR = 0
N_STATE = 0
N_PARAM = 0


def load(points: Any, j: int, consts: Any, p: Any) -> None:
    """Model hook: parameters of column ``j`` from its linear block into ``p``."""
    raise NotImplementedError


def rhs(x: Any, p: Any, consts: Any, nodes: Any, k: int, dx: Any) -> None:
    """Model hook: ``dx`` = time derivative of ``x`` under the inputs of node ``k``."""
    raise NotImplementedError


def _sweep(points: Any, nodes: Any, consts: Any, h_min: float, n_steps: int, work: Any) -> None:
    """Advance the state rows of every column of ``points`` in place by ``n_steps`` steps of ``h_min``.

    points: float64[n_linear + n_state, n_batch], rows below ``n_linear`` are read only.
    nodes: float64[≥ 2 n_steps + 1, n_inputs] at half-step spacing. work: float64[≥ 6 n_state + n_param].
    States are clipped at zero first: amounts and concentrations have no negative meaning, and a sigma
    point may ask for one.
    """
    x = work[0:N_STATE]
    stage = work[N_STATE : 2 * N_STATE]
    k1 = work[2 * N_STATE : 3 * N_STATE]
    k2 = work[3 * N_STATE : 4 * N_STATE]
    k3 = work[4 * N_STATE : 5 * N_STATE]
    k4 = work[5 * N_STATE : 6 * N_STATE]
    p = work[6 * N_STATE : 6 * N_STATE + N_PARAM]
    for i in range(N_PARAM):
        p[i] = 0.0
    half = 0.5 * h_min
    sixth = h_min / 6.0
    for j in range(points.shape[1]):
        load(points, j, consts, p)
        for i in range(N_STATE):
            x[i] = max(points[N_LINEAR + i, j], 0.0)
        for step in range(n_steps):
            node = 2 * step
            rhs(x, p, consts, nodes, node, k1)
            for i in range(N_STATE):
                stage[i] = x[i] + half * k1[i]
            rhs(stage, p, consts, nodes, node + 1, k2)
            for i in range(N_STATE):
                stage[i] = x[i] + half * k2[i]
            rhs(stage, p, consts, nodes, node + 1, k3)
            for i in range(N_STATE):
                stage[i] = x[i] + h_min * k3[i]
            rhs(stage, p, consts, nodes, node + 2, k4)
            for i in range(N_STATE):
                # The exact solution never crosses zero; a step far from any therapy's size might.
                x[i] = max(x[i] + sixth * (k1[i] + 2.0 * (k2[i] + k3[i]) + k4[i]), 0.0)
        for i in range(N_STATE):
            points[N_LINEAR + i, j] = x[i]


def make_sweep(
    name: str,
    load: Callable[..., None],
    rhs: Callable[..., None],
    n_linear: int,
    n_state: int,
    n_param: int,
) -> Callable[..., None]:
    """``_sweep`` compiled for one model. ``load`` and ``rhs`` must be compiled functions."""
    return specialise(_sweep, name, load=load, rhs=rhs, N_LINEAR=n_linear, N_STATE=n_state, N_PARAM=n_param)
