"""A population of people from what each one's data say: hierarchical Student-t model over log-parameters.

Person i of stratum g has θ_i; their data are known by the information alone that they add to any prior,
ΔΛ_i and Δη_i (no reading, no posterior: a prior is never counted twice). With y_i = ΔΛ_i⁻¹ Δη_i and one weight
u_i ~ Gamma(ν/2, ν/2) for a person as a whole, so that an absurd one counts little (Pinheiro, Liu and Wu,
J Comput Graph Stat 2001;10:249):

    θ_i | u_i ~ N(μ_g, c_iΣ/u_i)   y_i | θ_i, u_i ~ N(θ_i, c_iΔΛ_i⁻¹/u_i)
    μ_g ~ N(μ, τ_g Σ_a)            μ ~ N(m_a, Σ_a/KAPPA)          Σ ~ inverse-Wishart at Σ_a, NU_EXTRA + dim

(m_a, Σ_a: published values.) c_i, of ν and the number k_i of directions in which the data of i speak, makes Σ the
covariance of people who are normal (``usual_scale``): the t fitted to them would be narrower. One in a hundred is absurd
before data (ABSURD_SHARE): y_i is then spread about m_a like a Cauchy of ABSURD_SD published SDs, and is no word of the
population's (a mixture, since a t alone gets wider where many are absurd, and narrower in all other directions).
ECM (Meng and Rubin 1993; Liu and Rubin 1995), with Λ = Σ⁻¹:

    E:  P_i = (Λ + ΔΛ_i)⁻¹,  m_i = P_i(Λμ_g + Δη_i),  W_i = ΛP_iΔΛ_i,  d_i = (y_i − μ_g)ᵀW_i(y_i − μ_g),
        u_i = (ν + k_i)/(νc_i + d_i),  r_i = P(i is not absurd | y_i)
    M:  (μ_g, μ) by their normal equations, Σ from Σ_i r_i[u_i(m_i − μ_g)(m_i − μ_g)ᵀ + P_i], ν on a grid by the
        likelihood itself; two such steps make a leap (SQUAREM, Varadhan and Roland, Scand J Stat 2008;35:335)
        that is taken when it does not lower the objective

Each pass over the people only adds up (``Sums``), so it may run over chunks, anywhere, in any number.
Directions in which data say nothing do no harm: ΔΛ_i may be singular.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

Floats = NDArray[np.float64]

KAPPA: Final = 4.0  # people whose full knowledge of themselves the published mean is worth
TAU: Final = 0.1  # between strata: a stratum's mean lies √.1 of the published SD around the overall one
NU_EXTRA: Final = 5  # inverse-Wishart of ν = dim + 5
ANCHOR_WEIGHT: Final = NU_EXTRA - 1.0  # ν − dim − 1: people whom the published covariance is worth
NU_GRID: Final = (3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 200.0)
NU_USUAL: Final = 20.0  # before data: nearly Gaussian
SD_LN_NU: Final = 0.5  # few people must not look heavy-tailed by chance: their scatter would seem too small
ABSURD_SHARE: Final = 0.01  # of people, before data
ABSURD_NU: Final = 1.0  # Cauchy: else a tenth of absurd people pass for usual ones of a wider population
ABSURD_SD: Final = 3.0  # published SDs that what they say is spread over
MIN_SHARE: Final = 0.01  # of the published information: below, a direction says nothing beyond rounding
MAX_PASSES: Final = 400
TOLERANCE: Final = 1e-6  # of a published SD (or of a log-SD), per step
LONGEST_LEAP: Final = 64.0  # SQUAREM's step length; a longer one is more often refused than taken
_USUAL: Final = NU_GRID.index(NU_USUAL)


class Anchor(NamedTuple):
    """Published values. ``mean``: float64[n], ``covariance``: float64[n, n], ``tau``: float64[G].

    ``tau[g]``: variance of stratum g's mean around the overall one, in units of ``covariance``.
    """

    mean: Floats
    covariance: Floats
    tau: Floats


class People(NamedTuple):
    """A chunk of people, made by ``stack``. First axis: people."""

    precision: Floats  # [m, n, n] ΔΛ
    vector: Floats  # [m, n] Δη, inside the directions of ΔΛ
    square: Floats  # [m] Δηᵀ ΔΛ⁺ Δη
    directions: Floats  # [m] k
    stratum: NDArray[np.int64]  # [m]
    ln_absurd: (
        Floats  # [m] ln density of what they say, were they absurd; constants left out as in the likelihood
    )


class Point(NamedTuple):
    """Where the iteration stands. ``means``: float64[G, n], ``covariance``: float64[n, n]."""

    means: Floats
    covariance: Floats
    nu: int  # index into NU_GRID


class Sums(NamedTuple):
    """What one pass needs of the people: additive over chunks."""

    people: Floats  # [G] Σ r: an absurd one counts for nobody
    information: Floats  # [G, n, n] Σ ruW: what is known of the stratum's mean
    vector: Floats  # [G, n] Σ ruΛPΔη
    scatter: Floats  # [n, n] Σ r(u(m − μ)(m − μ)ᵀ + P)
    likelihood: Floats  # [len(NU_GRID)]


class Fit(NamedTuple):
    """A fitted population. ``sums`` belong to ``point``: one person can be taken out of them again."""

    point: Point
    mean: Floats  # [n] over all strata
    sums: Sums
    passes: int
    converged: bool
    log_likelihood: float  # of the data, up to a constant of theirs


def anchor_of(mean: Floats, covariance: Floats, tau: Sequence[float]) -> Anchor:
    """Checked published values; InputError when they are no distribution."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    if covariance.shape != (mean.size, mean.size) or not np.all(np.isfinite(covariance)):
        raise InputError("wrong size", where="anchor.covariance")
    if np.min(np.linalg.eigvalsh(covariance)) <= 0 or min(tau) <= 0:
        raise InputError("not positive", where="anchor")
    return Anchor(mean, covariance, np.asarray(tau, float))


def stack(
    precision: Floats,
    vector: Floats,
    stratum: Sequence[int],
    anchor: Anchor,
    min_share: float | Floats = MIN_SHARE,
) -> People:
    """People from ΔΛ [m, n, n] and Δη [m, n], rid of directions with less than ``min_share`` of information.

    The share (one, or one a person) is of the published prior's information in that direction. What is left is positive semidefinite, and Δη lies in its range.
    """
    precision, vector = np.asarray(precision, float), np.asarray(vector, float)
    scale = np.sqrt(np.diag(anchor.covariance))
    values, axes = np.linalg.eigh(precision * np.outer(scale, scale))
    speaks = values > np.broadcast_to(min_share, values.shape[:1])[:, None]
    values = np.where(speaks, values, 0.0)
    along = np.einsum("ikj,ik->ij", axes, vector * scale) * speaks
    square = np.sum(np.divide(along**2, values, out=np.zeros_like(along), where=speaks), axis=1)
    kept = np.asarray(np.einsum("ija,ia,ika->ijk", axes, values, axes) / np.outer(scale, scale))
    told = np.asarray(np.einsum("ija,ia->ij", axes, along) / scale)
    wide = np.asarray(np.linalg.inv(ABSURD_SD**2 * anchor.covariance), np.float64)
    _, _, volume, distance = _apart(kept, told, square, wide, np.broadcast_to(anchor.mean, told.shape))
    return People(
        kept,
        told,
        square,
        speaks.sum(axis=1).astype(float),
        np.asarray(stratum, dtype=np.int64),
        volume + _log_t(speaks.sum(axis=1).astype(float), distance, ABSURD_NU),
    )


def sums_of(people: People, point: Point) -> Sums:
    """The E-step over one chunk."""
    n_strata, n = point.means.shape
    precision = np.asarray(np.linalg.inv(point.covariance), np.float64)
    mu = point.means[people.stratum]
    spread, own, volume, distance = _apart(people.precision, people.vector, people.square, precision, mu)
    pull = own @ precision  # ΛPΔη = Wy
    weight_matrix = np.asarray(precision - precision @ spread @ precision, np.float64)  # W
    nu, k = NU_GRID[point.nu], people.directions
    u = (nu + k) / (nu * _scales(nu, k) + distance)
    off = own - _times(spread, _times(people.precision, mu))  # m − μ
    absurd = math.log(ABSURD_SHARE) + people.ln_absurd
    likelihood = [
        np.logaddexp(math.log1p(-ABSURD_SHARE) + volume + _log_t(k, distance, value), absurd)
        for value in NU_GRID
    ]
    usual = -np.expm1(np.minimum(absurd - likelihood[point.nu], 0.0))  # the chance that they are
    member = np.zeros((people.stratum.size, n_strata))
    member[np.arange(people.stratum.size), people.stratum] = usual
    weighted = member * u[:, None]
    return Sums(
        member.sum(axis=0),
        np.tensordot(weighted, weight_matrix, axes=(0, 0)).reshape(n_strata, n, n),
        weighted.T @ pull,
        ((usual * u)[:, None] * off).T @ off + np.tensordot(usual, spread, axes=1),
        np.array([float(np.sum(of_nu)) for of_nu in likelihood]),
    )


def _apart(
    information: Floats, vector: Floats, square: Floats, precision: Floats, mu: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """(P, PΔη, ½ ln det ΛP, d) of the module's text for people of scatter Λ⁻¹ around ``mu`` [m, n]."""
    inverse = np.linalg.inv(precision + information)
    spread = np.asarray(0.5 * (inverse + np.swapaxes(inverse, 1, 2)), np.float64)
    own = _times(spread, vector)
    toward = mu @ precision
    ahead = toward - _times(spread, toward) @ precision
    distance = square - _dot(vector, own) + _dot(mu, ahead - 2.0 * own @ precision)
    volume = 0.5 * (np.linalg.slogdet(precision)[1] + np.linalg.slogdet(spread)[1])
    return spread, own, np.asarray(volume), np.maximum(distance, 0.0)  # rounding


def _times(matrices: Floats, vectors: Floats) -> Floats:
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", a, b))


def _log_t(k: Floats, distance: Floats, nu: float) -> Floats:
    """ln density of k-dimensional Student's t at a squared distance, its scale times ``usual_scale``; without (2π)^(−k/2) and volume."""
    table = [
        math.lgamma((nu + j) / 2) - math.lgamma(nu / 2) - 0.5 * j * math.log(nu / 2)
        for j in range(int(k.max(initial=0)) + 1)
    ]
    scale = _scales(nu, k)
    bend = 0.5 * (nu + k) * np.log1p(distance / (nu * scale))
    return np.asarray(table)[k.astype(int)] - 0.5 * k * np.log(scale) - bend


def _scales(nu: float, k: Floats) -> Floats:
    """``usual_scale`` of each."""
    return np.array([usual_scale(nu, j) for j in range(int(k.max(initial=0)) + 1)])[k.astype(int)]


@functools.cache
def usual_scale(nu: float, k: int) -> float:
    """c such that a t of ν whose scale matrix is cV fits people who are normal with covariance V best at V itself.

    Weights grow with nearness, so a t fitted to normal people has a smaller scale than their covariance. For them the
    squared distance is χ² of k, and the likelihood's slope in the scale is nought where E[(ν + k)χ²/(νc + χ²)] = k
    (Fisher consistency of an M-estimate: Maronna, Ann Stat 1976;4:51, with Tyler's factor at the normal).
    """
    if k == 0:
        return 1.0
    ln = np.arange(-80.0, 7.0, 0.05)  # trapezoids in ln χ²: the density decays doubly fast above, fast below
    square = np.exp(ln)
    density = np.exp(0.5 * k * ln - 0.5 * square)
    density /= density.sum()
    low, high = 0.0, 1.0
    for _ in range(60):
        c = 0.5 * (low + high)
        pull = (nu + k) * float(density @ (square / (nu * c + square)))
        low, high = (c, high) if pull > k else (low, c)
    return 0.5 * (low + high)


def add(a: Sums, b: Sums) -> Sums:
    """Sums of both."""
    return Sums(*(x + y for x, y in zip(a, b, strict=True)))


def take_out(a: Sums, b: Sums) -> Sums:
    """``a`` without ``b``."""
    return Sums(*(x - y for x, y in zip(a, b, strict=True)))


def no_sums(n_strata: int, n: int) -> Sums:
    """Of nobody."""
    return Sums(
        np.zeros(n_strata),
        np.zeros((n_strata, n, n)),
        np.zeros((n_strata, n)),
        np.zeros((n, n)),
        np.zeros(len(NU_GRID)),
    )


def fit(
    chunks: Sequence[People],
    anchor: Anchor,
    each: Callable[[Point], Iterable[Sums]] | None = None,
    start: Point | None = None,
) -> Fit:
    """ECM of the module's text until nothing moves by TOLERANCE, or MAX_PASSES.

    ``each``: gives the sums of all chunks at a point, when they are not here (``chunks`` is unused then).
    ``start``: an earlier fit's point, from which a few passes may suffice.
    """
    n_strata, n = anchor.tau.size, anchor.mean.size
    point = start if start is not None else _start(anchor)

    def sums_at(at: Point) -> Sums:
        parts = each(at) if each is not None else (sums_of(chunk, at) for chunk in chunks)
        return functools.reduce(add, parts, no_sums(n_strata, n))

    def step(sums: Sums) -> Point:
        return Point(_means(sums, anchor)[0], _covariance(sums, anchor), _best_nu(sums))

    sums, passes, converged = sums_at(point), 1, False
    while passes < MAX_PASSES and not converged:
        one = step(sums)
        sums_one = sums_at(one)
        two = step(sums_one)
        x0, x1, x2 = (_flat(p, anchor) for p in (point, one, two))
        converged = float(np.max(np.abs(x2 - x1))) < TOLERANCE and two.nu == one.nu == point.nu
        first, bend = x1 - x0, x2 - 2.0 * x1 + x0
        length = min(math.sqrt(float(first @ first) / max(float(bend @ bend), 1e-300)), LONGEST_LEAP)
        if length > 1.0 and not converged:
            far = _unflat(x0 + 2.0 * length * first + length**2 * bend, two.nu, anchor)
            sums_far = sums_at(far)
            passes += 1
            if objective(sums_far, far, anchor) >= objective(sums_one, one, anchor):
                two, sums_two = far, sums_far
            else:
                sums_two = sums_at(two)
        else:
            sums_two = sums_at(two)
        point, sums, passes = two, sums_two, passes + 2
    likelihood = float(sums.likelihood[point.nu])
    return Fit(point, _means(sums, anchor)[1], sums, passes, converged, likelihood)


def _flat(point: Point, anchor: Anchor) -> Floats:
    """A point as numbers without bounds: means in published SDs, Cholesky factor with logarithms."""
    scale = np.sqrt(np.diag(anchor.covariance))
    factor = np.linalg.cholesky(point.covariance / np.outer(scale, scale))
    lower = factor[np.tril_indices(scale.size, -1)]
    return np.concatenate([(point.means / scale).ravel(), np.log(np.diag(factor)), lower])


def _unflat(x: Floats, nu: int, anchor: Anchor) -> Point:
    scale = np.sqrt(np.diag(anchor.covariance))
    n, n_strata = scale.size, anchor.tau.size
    factor = np.diag(np.exp(np.clip(x[n_strata * n : n_strata * n + n], -20.0, 20.0)))
    factor[np.tril_indices(n, -1)] = x[n_strata * n + n :]
    covariance = factor @ factor.T * np.outer(scale, scale)
    return Point(x[: n_strata * n].reshape(n_strata, n) * scale, covariance, nu)


def predictive(
    fitted: Fit, anchor: Anchor, stratum: int, without: Sums | None = None
) -> tuple[Floats, Floats]:
    """Mean [n] and covariance [n, n] for a new person of the stratum: scatter plus doubt about the mean.

    Σ is the covariance of the usual people: the absurd few neither widen nor narrow it.
    ``without``: the sums of one person at ``fitted.point``, to be left out (to first order: others' weights
    stay). With nobody left it is the published distribution itself, widened by ``tau`` beyond TAU.
    """
    sums = fitted.sums if without is None else take_out(fitted.sums, without)
    means, _, doubt = _means(sums, anchor)
    covariance = _covariance(sums, anchor) + doubt[stratum]
    return means[stratum], 0.5 * (covariance + covariance.T)


def objective(sums: Sums, point: Point, anchor: Anchor) -> float:
    """Log-likelihood plus the log-priors at a point: what the passes never lower."""
    known = np.linalg.inv(anchor.covariance)
    _, mean, _ = _means(_only_priors(point, anchor), anchor)
    off = point.means - mean
    between = -0.5 * float(np.sum(np.einsum("gi,ij,gj->g", off, known, off) / anchor.tau))
    overall = -0.5 * KAPPA * float((mean - anchor.mean) @ known @ (mean - anchor.mean))
    sign_log = np.linalg.slogdet(point.covariance)[1]
    inner = _inner(anchor)
    wishart = -0.5 * ANCHOR_WEIGHT * (sign_log + float(np.trace(np.linalg.solve(point.covariance, inner))))
    return float(sums.likelihood[point.nu]) + _nu_prior()[point.nu] + between + overall + wishart


def _only_priors(point: Point, anchor: Anchor) -> Sums:
    """Sums as if every stratum's mean were known exactly: their overall mean is the best for these."""
    n_strata, n = point.means.shape
    sure = 1e12 * np.linalg.inv(anchor.covariance)
    sums = no_sums(n_strata, n)
    return sums._replace(information=np.repeat(sure[None], n_strata, axis=0), vector=point.means @ sure)


def _start(anchor: Anchor) -> Point:
    means = np.repeat(anchor.mean[None], anchor.tau.size, axis=0)
    return Point(means, _inner(anchor), _USUAL)


def _inner(anchor: Anchor) -> Floats:
    """What of the published covariance is scatter of people, the rest being doubt about means."""
    return np.asarray(anchor.covariance * (1.0 - TAU - 1.0 / KAPPA))


def _covariance(sums: Sums, anchor: Anchor) -> Floats:
    total = ANCHOR_WEIGHT * _inner(anchor) + sums.scatter
    covariance = total / (ANCHOR_WEIGHT + float(sums.people.sum()))
    return np.asarray(0.5 * (covariance + covariance.T))


def _means(sums: Sums, anchor: Anchor) -> tuple[Floats, Floats, Floats]:
    """(strata's means [G, n], overall mean [n], covariance of each stratum's mean [G, n, n])."""
    known = np.linalg.inv(anchor.covariance)
    between = known[None] / anchor.tau[:, None, None]
    inverse = np.linalg.inv(sums.information + between)
    back = between @ inverse  # how far the overall mean shows through the stratum's data
    lead = KAPPA * known + np.sum(between - back @ between, axis=0)
    doubt = np.linalg.inv(lead)
    mean = doubt @ (KAPPA * known @ anchor.mean + np.einsum("gij,gj->i", back, sums.vector))
    means = np.einsum("gij,gj->gi", inverse, sums.vector + between @ mean)
    through = np.swapaxes(back, 1, 2)
    return means, mean, inverse + through @ doubt @ back


def _nu_prior() -> Floats:
    return np.array([-0.5 * (math.log(nu / NU_USUAL) / SD_LN_NU) ** 2 for nu in NU_GRID])


def _best_nu(sums: Sums) -> int:
    return int(np.argmax(sums.likelihood + _nu_prior()))


def data_share(prior_variance: float, variance: float) -> float:
    """How much of a posterior is data: 1 − variance/prior variance, in [0, 1]; the rest is prior.

    0 where the prior is a point, or where the filter is less sure than its prior.
    """
    return min(max(1.0 - variance / prior_variance, 0.0), 1.0) if prior_variance > 0 else 0.0


def shares(prior_covariance: Floats, covariance: Floats) -> Floats:
    """``data_share`` of each parameter. Both float64[n, n]."""
    both = zip(np.diag(prior_covariance), np.diag(covariance), strict=True)
    return np.array([data_share(float(before), float(after)) for before, after in both])
