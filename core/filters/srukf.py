"""Square-root unscented Kalman filter in structured form. It knows nothing of any model.

The state is (z, x). The linear block z (parameters, sensor error, disturbance) moves by a lower-triangular
matrix, z⁺ = μ + Φ(z−μ) + N·w, whatever x does; the state block x moves by the model's flow, which reads z.
The covariance is Uᵀ·U with U upper triangular: row j of U is column j of the Cholesky factor, so every loop
below runs along memory. Sigma points are mean ± √n·U_j with weights 1/2n (cubature: no weight is negative):

* z needs no factorisation: Φ keeps it triangular;
* each pair X± is rotated to half difference δ and half sum s: P_xx = Σ(δδᵀ + ssᵀ)/n, and the δ that belong
  to z are already in place;
* noise of z is folded in by Givens rotations within the first rows of U; what spills into the columns of
  x joins the rest, and only that rest is triangularised, by Householder reflections.

The scalar update is Carlson's (N. A. Carlson, AIAA J. 1973;11:1259), run from the last row so that U stays
triangular. Against filterpy's UKF on the same points the results agree to 1e-8 (tests/core/filters).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from core.jit import jit, specialise
from core.solvers.rk4 import tile_size

# Squared length below which a column of the factor counts as zero: an empty stomach decays for ever, and
# its underflow would end in 0/0. Far below any quantity's own rounding.
TINY: Final = 1e-80

# Names that ``make_predict`` replaces by a model's own. Lengths known when compiling let loops vectorise.
N_LINEAR = 0
N_STATE = 0
HEIGHT = 0  # rows to triangularise, rounded up to a multiple of 8
LENGTH = 0  # N_LINEAR + N_STATE, rounded up to a multiple of 8


def sweep(points: Any, nodes: Any, consts: Any, h_min: float, n_steps: int, work: Any) -> None:
    """Solver hook: advance the state rows of ``points``."""
    raise NotImplementedError


def transition(dt_min: float, dynamics: Any, phi: Any, noise: Any) -> None:
    """Model hook: Φ and noise factor N (both lower triangular) of the linear block for ``dt_min``."""
    raise NotImplementedError


def triangularise(work: Any) -> None:
    """Hook: Householder reflections of the state rows."""
    raise NotImplementedError


def _padded(n: int) -> int:
    return (n + 7) // 8 * 8


def workspace_size(n_linear: int, n_state: int, n_param: int) -> int:
    """Length of the flat float64 workspace that ``predict`` needs."""
    n = n_linear + n_state
    height = _padded(n_state + n + n_linear)
    own = n_state * (height + n_state) + (n_linear + 1) * _padded(n) + 2 * n_linear * n_linear + 2 * n * n
    return own + tile_size(n_state, n_param)


def _triangularise(work: Any) -> None:
    """Householder reflections of a tall block at the front of ``work``.

    The block is held by state: entries of state i over all rows are work[i·HEIGHT …], HEIGHT a multiple of 8,
    unused rows zero. R (diagonal ≥ 0) goes behind the block, N_STATE wide; zeros stand in for what is
    finished, so that every loop has the same fixed length. Eight partial sums keep the processor busy where
    the compiler must not reorder a sum. Offsets are built from loop counters only: then it can prove them
    non-negative and leaves out Python's wrap-around of negative indices.
    """
    done = N_STATE * HEIGHT
    for k in range(N_STATE):
        scale = 0.0
        sign = 1.0
        for j in range(k, N_STATE):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
            for q in range(HEIGHT // 8):
                v = k * HEIGHT + 8 * q
                x = j * HEIGHT + 8 * q
                s0 += work[v] * work[x]
                s1 += work[v + 1] * work[x + 1]
                s2 += work[v + 2] * work[x + 2]
                s3 += work[v + 3] * work[x + 3]
                s4 += work[v + 4] * work[x + 4]
                s5 += work[v + 5] * work[x + 5]
                s6 += work[v + 6] * work[x + 6]
                s7 += work[v + 7] * work[x + 7]
            dot = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            if j == k:
                pivot = work[k * HEIGHT + k]
                norm = math.sqrt(dot)
                if dot < TINY:
                    norm = 0.0
                    scale = 0.0
                else:
                    beta = norm if pivot <= 0.0 else -norm
                    sign = 1.0 if beta > 0.0 else -1.0
                    work[k * HEIGHT + k] = pivot - beta
                    scale = 1.0 / (beta * (pivot - beta))  # −2/|v|²
                work[done + k * N_STATE + k] = norm
                continue
            f = scale * dot
            for r in range(HEIGHT):
                work[j * HEIGHT + r] += f * work[k * HEIGHT + r]
            work[done + k * N_STATE + j] = sign * work[j * HEIGHT + k]
            work[j * HEIGHT + k] = 0.0


def _predict(
    mean: Any, factor: Any, nodes: Any, consts: Any, dynamics: Any, dt_min: float, n_steps: int, work: Any
) -> None:
    """Advance ``mean`` float64[n] and upper-triangular ``factor`` float64[n, n] in place by ``dt_min``.

    nodes, consts: as the solver wants them. dynamics: float64[n_linear, 3] rows (μ, τ or model's own, SD).
    work: float64[workspace_size]. Nothing is allocated.
    """
    n = N_LINEAR + N_STATE
    done = N_STATE * HEIGHT  # the triangle of the state block, N_STATE wide
    upper = done + N_STATE * N_STATE  # rows of z, LENGTH each, and one row of spill
    spill = upper + N_LINEAR * LENGTH
    at = spill + LENGTH
    phi = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    noise = work[at : at + N_LINEAR * N_LINEAR].reshape((N_LINEAR, N_LINEAR))
    at += N_LINEAR * N_LINEAR
    points = work[at : at + 2 * n * n].reshape((n, 2 * n))
    at += 2 * n * n
    root_n = math.sqrt(float(n))
    half = 0.5 / root_n

    for i in range(n):
        m = mean[i]
        for j in range(i + 1):
            step = root_n * factor[j, i]
            points[i, j] = m + step
            points[i, n + j] = m - step
        for j in range(i + 1, n):
            points[i, j] = m
            points[i, n + j] = m
    sweep(points, nodes, consts, dt_min / n_steps, n_steps, work[at:])

    # State rows: mean, then rotated pairs.
    for i in range(upper):
        work[i] = 0.0
    for i in range(LENGTH * (N_LINEAR + 1)):
        work[upper + i] = 0.0
    for i in range(N_STATE):
        row = N_LINEAR + i
        total = 0.0
        for j in range(n):
            total += points[row, j] + points[row, n + j]
        m = total / (2 * n)
        mean[row] = m
        for j in range(N_LINEAR):
            work[upper + j * LENGTH + row] = half * (points[row, j] - points[row, n + j])
        for j in range(N_LINEAR, n):
            work[i * HEIGHT + j - N_LINEAR] = half * (points[row, j] - points[row, n + j])
        for j in range(n):
            work[i * HEIGHT + N_STATE + j] = half * (points[row, j] + points[row, n + j] - 2.0 * m)

    # Linear rows: mean and factor by Φ (bottom up for the mean, so that entries still needed are intact).
    transition(dt_min, dynamics, phi, noise)
    for i in range(N_LINEAR - 1, -1, -1):
        m = 0.0
        for k in range(i + 1):
            m += phi[i, k] * (mean[k] - dynamics[k, 0])
        mean[i] = dynamics[i, 0] + m
    for j in range(N_LINEAR):
        for i in range(j, N_LINEAR):
            total = 0.0
            for k in range(j, i + 1):
                total += phi[i, k] * factor[j, k]
            work[upper + j * LENGTH + i] = total

    # Noise of the linear block by Givens rotations; the spill into states joins the rows to triangularise.
    for col in range(N_LINEAR):
        for i in range(LENGTH):
            work[spill + i] = 0.0
        for i in range(col, N_LINEAR):
            work[spill + i] = noise[i, col]
        for i in range(col, N_LINEAR):
            line = upper + i * LENGTH
            b = work[spill + i]
            if b * b < TINY:
                continue
            a = work[line + i]
            r = math.sqrt(a * a + b * b)
            inverse = 1.0 / r
            c = a * inverse
            s = b * inverse
            for k in range(LENGTH):
                a = work[line + k]
                b = work[spill + k]
                work[line + k] = c * a + s * b
                work[spill + k] = c * b - s * a
            work[line + i] = r
            work[spill + i] = 0.0
        for i in range(N_STATE):
            work[i * HEIGHT + N_STATE + n + col] = work[spill + N_LINEAR + i]

    triangularise(work)
    for j in range(N_LINEAR):
        for i in range(j, n):
            factor[j, i] = work[upper + j * LENGTH + i]
    for j in range(N_STATE):
        for i in range(j, N_STATE):
            factor[N_LINEAR + j, N_LINEAR + i] = work[done + j * N_STATE + i]


def make_predict(
    name: str,
    sweep: Callable[..., None],
    transition: Callable[..., None],
    n_linear: int,
    n_state: int,
) -> Callable[..., None]:
    """``_predict`` compiled for one model and solver (both compiled functions)."""
    length = _padded(n_linear + n_state)
    height = _padded(n_state + n_linear + n_state + n_linear)
    return specialise(
        _predict,
        name,
        sweep=sweep,
        transition=transition,
        triangularise=specialise(_triangularise, name, N_STATE=n_state, HEIGHT=height),
        N_LINEAR=n_linear,
        N_STATE=n_state,
        HEIGHT=height,
        LENGTH=length,
    )


@jit
def update(mean: Any, factor: Any, row: Any, residual: float, variance: float, gain: Any) -> float:
    """Condition on ``residual`` = y − row·mean with noise ``variance``; returns the innovation variance.

    row: float64[n] observation row. gain: float64[2 n] scratch; its first half leaves as K·S.
    Carlson's rank-one update from the last row to the first.
    """
    n = mean.size
    for i in range(2 * n):
        gain[i] = 0.0
    for i in range(n):
        h = row[i]
        if h != 0.0:
            for j in range(i + 1):
                gain[n + j] += h * factor[j, i]
    alpha = variance
    for j in range(n - 1, -1, -1):
        f = gain[n + j]
        if f * f < TINY:
            continue
        before = alpha
        alpha += f * f
        shrink = math.sqrt(before / alpha)
        mix = f / math.sqrt(before * alpha)
        for k in range(j, n):
            entry = factor[j, k]
            factor[j, k] = shrink * entry - mix * gain[k]
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
            f += row[i] * factor[j, i]
        total += f * f
    return total


@jit
def add_noise(factor: Any, vector: Any) -> None:
    """Factor of Uᵀ·U + v·vᵀ in place; ``vector`` float64[n] is consumed."""
    n = vector.size
    for j in range(n):
        b = vector[j]
        if b * b < TINY:
            continue
        a = factor[j, j]
        r = math.sqrt(a * a + b * b)
        c = a / r
        s = b / r
        factor[j, j] = r
        for k in range(j + 1, n):
            a = factor[j, k]
            b = vector[k]
            factor[j, k] = c * a + s * b
            vector[k] = c * b - s * a
