"""Classical Runge–Kutta of order 4 with a fixed step, over a batch, joined to a model at import time.

The glucose model is not stiff (|λ| ≤ 0.14/min) and its inputs jump, so adaptive steps gain nothing; at
2.5 min the error is about 2e-4 mmol/L (tests/core/solvers). Callers split steps at events, so within a step
the inputs are smooth. They come sampled at the step's start, middle and end ("nodes"), which keeps order 4.

The batch is worked off in tiles of ``LANES`` columns that lie in one flat array at distances known when
compiling: only then does the compiler see that the lanes are independent and use the vector unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from core.jit import specialise

MAX_STEP_MIN: Final = 2.5  # longest RK4 step; halving it changes forecasts by < 1e-2 mg/dL
WIDE: Final = 40  # lanes for 38 sigma points of the glucose model: two idle, a multiple of any vector width
NARROW: Final = (
    16  # for a crowd whose columns have constants of their own: with 8, calls and stalls cost a fifth more
)
ONE: Final = 1  # for one trajectory: idle lanes cost half as much again (bench speed)

# Names that ``make_sweep`` replaces by a model's own.
LANES = WIDE
N_LINEAR = 0
N_STATE = 0


def load(points: Any, first: int, used: int, consts: Any, work: Any) -> None:
    """Model hook: parameters of the ``used`` columns from ``first`` on into the parameter rows of the tile.

    Idle lanes behind them repeat column ``first``, a good one: no NaN, no denormals.
    """
    raise NotImplementedError


def rhs(work: Any, consts: Any, nodes: Any, k: int, first: int) -> None:
    """Model hook: for all lanes, slope rows = time derivative at the stage rows, under inputs of node ``k``.

    ``first`` is the column of lane 0, for models whose columns have constants and inputs of their own.
    """
    raise NotImplementedError


def tile_size(n_state: int, n_param: int, lanes: int = WIDE) -> int:
    """Length of the tile: stage, slope, start, sum and parameter rows."""
    return (4 * n_state + n_param) * lanes


def _sweep(points: Any, nodes: Any, consts: Any, h_min: float, n_steps: int, work: Any) -> None:
    """Advance the state rows of every column of ``points`` in place by ``n_steps`` steps of ``h_min``.

    points: float64[n_linear + n_state, n_batch], rows below ``n_linear`` are read only.
    nodes: float64[≥ 2 n_steps + 1, n_inputs] at half-step spacing. work: float64[≥ tile_size]; rows of the
    tile are stage, slope, start, sum (n_state each), then parameters. States are clipped at zero: amounts
    and concentrations have no negative meaning, and a sigma point may ask for one.
    """
    size = N_STATE * LANES
    half = 0.5 * h_min
    sixth = h_min / 6.0
    third = h_min / 3.0
    first = 0
    while first < points.shape[1]:
        used = min(LANES, points.shape[1] - first)
        load(points, first, used, consts, work)
        at = max(first, 0)  # as it is; but only so does the compiler know, and copies vectors
        for i in range(N_STATE):
            for lane in range(used):
                work[i * LANES + lane] = max(points[N_LINEAR + i, at + lane], 0.0)
            for lane in range(used, LANES):
                work[i * LANES + lane] = max(points[N_LINEAR + i, at], 0.0)
        for step in range(n_steps):
            node = 2 * step
            rhs(work, consts, nodes, node, first)
            for i in range(size):
                x = work[i]
                k = work[size + i]
                work[2 * size + i] = x
                work[3 * size + i] = x + sixth * k
                work[i] = x + half * k
            rhs(work, consts, nodes, node + 1, first)
            for i in range(size):
                k = work[size + i]
                work[3 * size + i] += third * k
                work[i] = work[2 * size + i] + half * k
            rhs(work, consts, nodes, node + 1, first)
            for i in range(size):
                k = work[size + i]
                work[3 * size + i] += third * k
                work[i] = work[2 * size + i] + h_min * k
            rhs(work, consts, nodes, node + 2, first)
            for i in range(size):
                # The exact solution never crosses zero; a step far from any therapy's size might.
                work[i] = max(work[3 * size + i] + sixth * work[size + i], 0.0)
        for i in range(N_STATE):
            for lane in range(used):
                points[N_LINEAR + i, at + lane] = work[i * LANES + lane]
        first += LANES


def make_sweep(
    name: str,
    load: Callable[..., None],
    rhs: Callable[..., None],
    n_linear: int,
    n_state: int,
    lanes: int = WIDE,
) -> Callable[..., None]:
    """``_sweep`` compiled for one model. ``load`` and ``rhs`` are plain functions that use these globals:

    LANES, AT_SLOPE and AT_PARAM (where the slope and parameter rows of the tile start).
    """
    places = {"LANES": lanes, "AT_SLOPE": n_state * lanes, "AT_PARAM": 4 * n_state * lanes}
    label = f"{name}_{lanes}"
    return specialise(
        _sweep,
        label,
        load=specialise(load, label, **places),
        rhs=specialise(rhs, label, **places),
        N_LINEAR=n_linear,
        N_STATE=n_state,
        LANES=lanes,
    )
