"""The single most likely future: one trajectory from the filter's mean, without uncertainty.

A sixtieth of the price of moving the whole distribution; the online correction learns on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.jit import specialise
from core.solvers.rk4 import tile_size

# Names that ``make_coast`` replaces by a model's own.
N_LINEAR = 0
N_STATE = 0
N_INPUT = 0
LOCAL_H = 0


def drive(drivers: Any, held: Any, consts: Any, dt_min: float, n_steps: int, nodes: Any) -> None:
    """Model hook: inputs at nodes."""
    raise NotImplementedError


def sweep(points: Any, nodes: Any, consts: Any, h_min: float, n_steps: int, work: Any) -> None:
    """Solver hook: advance the state rows of ``points``."""
    raise NotImplementedError


def transition(dt_min: float, dynamics: Any, phi: Any, noise: Any) -> None:
    """Model hook: Φ of the linear block."""
    raise NotImplementedError


def observe(points: Any, j: int) -> float:
    """Model hook: output of column ``j``."""
    raise NotImplementedError


def coast_size(n_linear: int, n_state: int, n_param: int, n_input: int) -> int:
    """Length of the workspace."""
    own = n_linear + n_state + 2 * n_linear * n_linear + n_linear + 5 * n_input
    return own + tile_size(n_state, n_param)


def _coast(
    mean: Any, drivers: Any, held: Any, consts: Any, dynamics: Any, dt_min: float, out: Any, work: Any
) -> None:
    """Advance ``mean``, ``drivers`` and the local hour in place by ``out.size`` steps of ``dt_min`` ≤ 5 min.

    out: float64[n_steps], the output after each step. Two RK4 steps each.
    """
    n = N_LINEAR + N_STATE
    points = work[0:n].reshape((n, 1))
    at = n
    phi = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    noise = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    before = work[at : at + N_LINEAR]
    at += N_LINEAR
    nodes = work[at : at + 5 * N_INPUT].reshape((5, N_INPUT))
    at += 5 * N_INPUT
    transition(dt_min, dynamics, phi, noise)
    for i in range(n):
        points[i, 0] = mean[i]
    for step in range(out.size):
        drive(drivers, held, consts, dt_min, 2, nodes)
        held[LOCAL_H] = (held[LOCAL_H] + dt_min / 60.0) % 24.0
        sweep(points, nodes, consts, 0.5 * dt_min, 2, work[at:])
        for i in range(N_LINEAR):
            before[i] = points[i, 0] - dynamics[i, 0]
        for i in range(N_LINEAR):
            total = dynamics[i, 0]
            for j in range(i + 1):
                total += phi[i, j] * before[j]
            points[i, 0] = total
        out[step] = observe(points, 0)
    for i in range(n):
        mean[i] = points[i, 0]


def make_coast(
    name: str,
    drive: Callable[..., None],
    sweep: Callable[..., None],
    transition: Callable[..., None],
    observe: Callable[..., float],
    sizes: tuple[int, int, int, int],
) -> Callable[..., None]:
    """``_coast`` compiled for one model. sizes: linear rows, state rows, inputs, place of the local hour."""
    n_linear, n_state, n_input, local_h = sizes
    return specialise(
        _coast,
        name,
        drive=drive,
        sweep=sweep,
        transition=transition,
        observe=observe,
        N_LINEAR=n_linear,
        N_STATE=n_state,
        N_INPUT=n_input,
        LOCAL_H=local_h,
    )
