"""Square-root unscented Kalman filter in structured form. It knows nothing of any model.

The state is (z, x). The linear block z (parameters, sensor error, disturbance) moves by a lower-triangular
matrix, z⁺ = μ + Φ(z−μ) + N·w, whatever x does; the state block x moves by the model's flow, which reads z.
With the covariance as L·Lᵀ, L lower triangular, sigma points mean ± √n·L_j and weights 1/2n (cubature:
no weight is negative):

* rows of z stay triangular: Φ·L_z is lower triangular, no factorisation is needed;
* each pair X± is rotated to half difference δ and half sum s: P_xx = Σ(δδᵀ + ssᵀ)/n, and the columns of δ
  that belong to z are already in place;
* noise of z is folded in by Givens rotations within the first columns; what spills into the x rows joins
  the rest, and only that rest (state rows) is triangularised, by Householder reflections.

The scalar update is Carlson's (N. A. Carlson, AIAA J. 1973;11:1259), run from the last column so that L stays
lower triangular. Against filterpy's UKF on the same points the results agree to 1e-8 (tests/core/filters).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from core.jit import jit, specialise

# Squared length below which a column of the factor counts as zero: an empty stomach decays for ever, and
# its underflow would end in 0/0. Far below any quantity's own rounding.
TINY: Final = 1e-80

# Names that ``make_predict`` replaces by a model's own.
N_LINEAR = 0
N_STATE = 0
N_PARAM = 0


def sweep(points: Any, nodes: Any, consts: Any, h_min: float, n_steps: int, work: Any) -> None:
    """Solver hook: advance the state rows of ``points``."""
    raise NotImplementedError


def transition(dt_min: float, dynamics: Any, phi: Any, noise: Any) -> None:
    """Model hook: Φ and noise factor N (both lower triangular) of the linear block for ``dt_min``."""
    raise NotImplementedError


@jit
def _triangularise(rows: Any, n_rows: int, n_cols: int) -> None:
    """Householder QR of ``rows[:n_rows, :n_cols]`` in place; R with diagonal ≥ 0 is left on top.

    Inner loops run along rows, so they vectorise without reassociating a sum.
    """
    dots = rows[n_rows]  # one spare row is the scratch
    for k in range(n_cols):
        norm2 = 0.0
        for i in range(k, n_rows):
            norm2 += rows[i, k] * rows[i, k]
        if norm2 < TINY:
            for i in range(k, n_rows):
                rows[i, k] = 0.0
            continue
        pivot = rows[k, k]
        norm = math.sqrt(norm2)
        beta = norm if pivot <= 0.0 else -norm
        lead = pivot - beta
        scale = 1.0 / (beta * lead)  # −2/|v|²
        for j in range(k + 1, n_cols):
            dots[j] = lead * rows[k, j]
        for i in range(k + 1, n_rows):
            v = rows[i, k]
            if v != 0.0:
                for j in range(k + 1, n_cols):
                    dots[j] += v * rows[i, j]
        for j in range(k + 1, n_cols):
            dots[j] *= scale
            rows[k, j] += lead * dots[j]
        for i in range(k + 1, n_rows):
            v = rows[i, k]
            if v != 0.0:
                for j in range(k + 1, n_cols):
                    rows[i, j] += v * dots[j]
        if beta < 0.0:
            for j in range(k + 1, n_cols):
                rows[k, j] = -rows[k, j]
        rows[k, k] = norm


def workspace_size(n_linear: int, n_state: int, n_param: int) -> int:
    """Length of the flat float64 workspace that ``predict`` needs."""
    n = n_linear + n_state
    rows = n_state + n + n_linear + 1
    return 2 * n * n + rows * n_state + 2 * n_linear * n_linear + n + 6 * n_state + n_param


def _predict(
    mean: Any, factor: Any, nodes: Any, consts: Any, dynamics: Any, dt_min: float, n_steps: int, work: Any
) -> None:
    """Advance ``mean`` float64[n] and lower-triangular ``factor`` float64[n, n] in place by ``dt_min``.

    nodes, consts: as the solver wants them. dynamics: float64[n_linear, 3] rows (μ, τ or model's own, SD).
    work: float64[workspace_size]. Nothing is allocated.
    """
    n = N_LINEAR + N_STATE
    at = 0
    points = work[at : at + 2 * n * n].reshape((n, 2 * n))
    at += 2 * n * n
    n_rows = N_STATE + n + N_LINEAR
    rows = work[at : at + (n_rows + 1) * N_STATE].reshape((n_rows + 1, N_STATE))
    at += (n_rows + 1) * N_STATE
    phi = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    noise = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    spill = work[at : at + n]
    at += n
    root_n = math.sqrt(float(n))
    inv_root_n = 1.0 / root_n

    for i in range(n):
        m = mean[i]
        for j in range(i + 1):
            step = root_n * factor[i, j]
            points[i, j] = m + step
            points[i, n + j] = m - step
        for j in range(i + 1, n):
            points[i, j] = m
            points[i, n + j] = m
    sweep(points, nodes, consts, dt_min / n_steps, n_steps, work[at:])

    # State rows: mean, then rotated pairs.
    for i in range(N_STATE):
        row = N_LINEAR + i
        total = 0.0
        for j in range(2 * n):
            total += points[row, j]
        m = total / (2 * n)
        mean[row] = m
        for j in range(N_LINEAR):
            factor[row, j] = 0.5 * inv_root_n * (points[row, j] - points[row, n + j])
        for j in range(N_LINEAR, n):
            rows[j - N_LINEAR, i] = 0.5 * inv_root_n * (points[row, j] - points[row, n + j])
        for j in range(n):
            rows[N_STATE + j, i] = inv_root_n * (0.5 * (points[row, j] + points[row, n + j]) - m)

    # Linear rows: mean and factor by Φ (bottom up, so that rows still needed are intact).
    transition(dt_min, dynamics, phi, noise)
    for i in range(N_LINEAR - 1, -1, -1):
        m = 0.0
        for k in range(i + 1):
            m += phi[i, k] * (mean[k] - dynamics[k, 0])
        mean[i] = dynamics[i, 0] + m
        for j in range(i + 1):
            total = 0.0
            for k in range(j, i + 1):
                total += phi[i, k] * factor[k, j]
            factor[i, j] = total

    # Noise of the linear block by Givens rotations; the spill into state rows joins ``rows``.
    for col in range(N_LINEAR):
        for i in range(n):
            spill[i] = noise[i, col] if i < N_LINEAR else 0.0
        for i in range(col, N_LINEAR):
            b = spill[i]
            if b * b < TINY:
                continue
            a = factor[i, i]
            r = math.sqrt(a * a + b * b)
            c = a / r
            s = b / r
            factor[i, i] = r
            for k in range(i + 1, n):
                a = factor[k, i]
                b = spill[k]
                factor[k, i] = c * a + s * b
                spill[k] = c * b - s * a
        for i in range(N_STATE):
            rows[N_STATE + n + col, i] = spill[N_LINEAR + i]

    _triangularise(rows, n_rows, N_STATE)
    for i in range(N_STATE):
        for j in range(i + 1):
            factor[N_LINEAR + i, N_LINEAR + j] = rows[j, i]


def make_predict(
    name: str,
    sweep: Callable[..., None],
    transition: Callable[..., None],
    n_linear: int,
    n_state: int,
    n_param: int,
) -> Callable[..., None]:
    """``_predict`` compiled for one model and solver (both compiled functions)."""
    return specialise(
        _predict,
        name,
        sweep=sweep,
        transition=transition,
        N_LINEAR=n_linear,
        N_STATE=n_state,
        N_PARAM=n_param,
    )


@jit
def update(mean: Any, factor: Any, row: Any, residual: float, variance: float, gain: Any) -> float:
    """Condition on ``residual`` = y − row·mean with noise ``variance``; returns the innovation variance.

    row: float64[n] observation row. gain: float64[2 n] scratch; its first half leaves as K·S.
    Carlson's rank-one update from the last column to the first.
    """
    n = mean.size
    for i in range(n):
        gain[i] = 0.0
        gain[n + i] = 0.0
    for i in range(n):
        h = row[i]
        if h != 0.0:
            for j in range(i + 1):
                gain[n + j] += h * factor[i, j]
    alpha = variance
    for i in range(n - 1, -1, -1):
        f = gain[n + i]
        if f * f < TINY:
            continue
        before = alpha
        alpha += f * f
        shrink = math.sqrt(before / alpha)
        mix = f / math.sqrt(before * alpha)
        for k in range(i, n):
            entry = factor[k, i]
            factor[k, i] = shrink * entry - mix * gain[k]
            gain[k] += f * entry
    for i in range(n):
        mean[i] += gain[i] / alpha * residual
    return alpha


@jit
def output_variance(factor: Any, row: Any) -> float:
    """Variance of row·state under the factor."""
    total = 0.0
    n = row.size
    for j in range(n):
        f = 0.0
        for i in range(j, n):
            f += row[i] * factor[i, j]
        total += f * f
    return total


@jit
def add_noise(factor: Any, vector: Any) -> None:
    """Factor of L·Lᵀ + v·vᵀ in place; ``vector`` float64[n] is consumed."""
    n = vector.size
    for i in range(n):
        b = vector[i]
        if b * b < TINY:
            continue
        a = factor[i, i]
        r = math.sqrt(a * a + b * b)
        c = a / r
        s = b / r
        factor[i, i] = r
        for k in range(i + 1, n):
            a = factor[k, i]
            b = vector[k]
            factor[k, i] = c * a + s * b
            vector[k] = c * b - s * a
