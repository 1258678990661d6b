"""Fit the correction's prior on recordings of many people, and write it down as source.

The prior that ships was fitted on the first halves of seven recordings of T1D-UOM (Alsuhaymi et al.,
University of Manchester, 2025, CC BY 4.0). Each person weighs the same.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core import correction as corr
from core import lows
from core.messages import Sample
from core.patient import Patient
from core.predictive import outlook
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_MIN

Array = corr.Array

EFFECTIVE_ROWS: Final = 700.0  # weight of one person, in quarter hours
RIDGE: Final = 20.0  # on scaled features, in the same rows
# First guess of how hard a person's own data must pull: equally in all directions, and along what is seen.
PERSON_RIDGE: Final = 30.0
PERSON_GRAM: Final = 300.0
SCATTER_GUESS: Final = 4.0  # people that this guess counts as
SCATTER_STEPS: Final = 8
SCATTER_ROWS: Final = 4000.0  # of one person at most: rows of long records repeat each other
CLIP_MGDL: Final = 150.0
SEEN_TO_MGDL: Final = 180.0  # from higher up no low comes within half an hour


class Rows(NamedTuple):
    """Forecasts noted each quarter of an hour by one person, with what came."""

    time_us: Array
    x: Array  # float64[n, K], unscaled
    psi: Array  # float64[n, N_PSI]
    base: Array  # float64[n, H]
    target: Array  # float64[n, H], nan where unknown
    band: Array
    glucose: Array  # reading at the time


def collect(patient: Patient, samples: Sequence[Sample], until_us: int | None = None) -> Rows:
    """Run a twin that knows nothing over a record and note what its correction would see."""
    twin = Twin(patient, population=corr.neutral())
    twin.observe(samples)
    entries = [e for e in twin.record.entries if until_us is None or e.time_us < until_us]
    notes: list[tuple[float, Array, Array, Array, float, float]] = []
    seen = np.nan
    for entry in entries:
        twin._before(entry.time_us)
        track = twin._track
        assert track is not None
        track.apply(entry)
        track.seen_us = entry.time_us
        pushed = track.learn[corr.AT_TIMES + 2]
        if entry.kind == "cgm_mgdl" and pushed != seen and not np.isnan(pushed):
            seen = pushed
            x, psi, base, band = track.last_note()
            x[1:] = x[1:] * track.population.scaler[1, 1:] + track.population.scaler[0, 1:]
            notes.append((float(entry.time_us), x, psi, base, float(band), entry.value))
    cgm = [(e.time_us, e.value) for e in entries if e.kind == "cgm_mgdl"]
    time_us = np.array([n[0] for n in notes])
    return Rows(
        time_us,
        np.array([n[1] for n in notes]),
        np.array([n[2] for n in notes]),
        np.array([n[3] for n in notes]),
        targets(np.array([t for t, _ in cgm], float), np.array([v for _, v in cgm]), time_us),
        np.array([n[4] for n in notes]),
        np.array([n[5] for n in notes]),
    )


def collect_lows(
    patient: Patient, samples: Sequence[Sample], population: corr.Population
) -> tuple[Array, NDArray[np.bool_]]:
    """What core.lows would see each quarter of an hour, and whether a low came: float64[n, N], bool[n]."""
    twin = Twin(patient, population=population)
    cgm = sorted((s.time_us, s.value) for s in samples if s.kind == "cgm_mgdl")
    time_us = np.array([t for t, _ in cgm], dtype=np.int64)
    low_us = np.array([t for t, value in cgm if value < lows.LOW_MGDL], dtype=np.int64)
    ahead = np.array(lows.AHEAD_MIN)
    rows, came = [], []
    position, last_us = 0, time_us[0] + US_PER_DAY if len(cgm) else 0  # the first day knows nobody
    ordered = sorted(samples, key=lambda s: s.time_us)
    for t_us, value in cgm:
        if t_us - last_us < corr.PUSH_MIN * US_PER_MIN or not lows.LOW_MGDL <= value < SEEN_TO_MGDL:
            continue
        upto = position
        while upto < len(ordered) and ordered[upto].time_us <= t_us:
            upto += 1
        twin.observe(ordered[position:upto])
        position, last_us = upto, t_us
        track = twin._at(int(t_us))
        near = outlook(track, ahead, ())
        if not track.corrected() or t_us + lows.WITHIN_MIN * US_PER_MIN > time_us[-1]:
            continue
        rows.append(lows.features(value, *lows.slopes(track.learn), near.mean, near.low))
        next_low = int(np.searchsorted(low_us, t_us, side="right"))
        came.append(next_low < len(low_us) and low_us[next_low] - t_us <= lows.WITHIN_MIN * US_PER_MIN)
    return np.array(rows).reshape(-1, lows.N), np.array(came, dtype=bool)


def targets(cgm_us: Array, cgm_mgdl: Array, time_us: Array) -> Array:
    """Readings at each horizon, interpolated between readings at most BRIDGE_MIN apart, else nan."""
    out = np.full((time_us.size, corr.H), np.nan)
    for k, horizon in enumerate(corr.HORIZONS_MIN):
        due = time_us + horizon * US_PER_MIN
        after = np.clip(np.searchsorted(cgm_us, due), 1, cgm_us.size - 1)
        t0, t1 = cgm_us[after - 1], cgm_us[after]
        share = (due - t0) / np.maximum(t1 - t0, 1.0)
        value = cgm_mgdl[after - 1] + share * (cgm_mgdl[after] - cgm_mgdl[after - 1])
        known = (t1 - t0 <= corr.BRIDGE_MIN * US_PER_MIN) & (due >= t0) & (due <= t1)
        out[known, k] = value[known]
    return out


def fit(people: Sequence[Rows]) -> corr.Population:
    """The prior: scaling, mean weights, how far a person may differ, and the shape of the band.

    How far a person may differ is learned by empirical Bayes: each person's weights are inferred under the
    current covariance, and their scatter around the mean, with a structured guess counted as SCATTER_GUESS
    people, is the next one (EM for a random-effects regression: Laird & Ware, Biometrics 1982;38:963).
    """
    stacked = np.concatenate([rows.x for rows in people])
    weight = np.concatenate([np.full(len(rows.x), 1.0 / len(rows.x)) for rows in people]) / len(people)
    centre = weight @ stacked
    spread = np.sqrt(weight @ (stacked - centre) ** 2)
    spread[spread < 1e-9] = 1.0
    centre[0], spread[0] = 0.0, 1.0
    scaled = [np.clip((r.x - centre) / spread, -corr.CLIP_SD, corr.CLIP_SD) for r in people]
    moments = [_moments(x, rows) for x, rows in zip(scaled, people, strict=True)]
    gram = np.mean([m.gram for m in moments], axis=0)
    moment = np.mean([m.moment for m in moments], axis=0)
    square = np.mean([m.square for m in moments], axis=0)
    weights = np.linalg.solve(gram + RIDGE / EFFECTIVE_ROWS * np.eye(corr.K), moment)
    var = square - 2.0 * np.sum(weights * moment, axis=0) + np.sum(weights * (gram @ weights), axis=0)
    guess = np.linalg.inv(PERSON_RIDGE * np.eye(corr.K) + PERSON_GRAM * gram) * corr.NOISE_INFLATION
    cov = _scatter(moments, weights, var, guess)
    beta, low, high = _fit_band(people, scaled, weights)
    return corr.Population(centre, spread, weights, cov, var, beta, low, high)


class _Moments(NamedTuple):
    """One person's rows with all targets known, as means over ``rows`` of them."""

    rows: int
    gram: Array  # float64[K, K]
    moment: Array  # float64[K, H]
    square: Array  # float64[H]


def _moments(x: Array, rows: Rows) -> _Moments:
    error = np.clip(rows.target - rows.base, -CLIP_MGDL, CLIP_MGDL)
    ok = np.isfinite(error).all(axis=1)
    x, error = x[ok], error[ok]
    n = max(1, len(x))
    return _Moments(len(x), x.T @ x / n, x.T @ error / n, np.sum(error**2, axis=0) / n)


def _scatter(people: Sequence[_Moments], weights: Array, var: Array, guess: Array) -> Array:
    """Covariance of persons' weights, in units of residual variance: float64[K, K]."""
    cov = guess
    mean = weights
    scale = np.sqrt(np.maximum(var, 1e-9))
    for _ in range(SCATTER_STEPS):
        precision = np.linalg.inv(cov)
        total, persons = SCATTER_GUESS * guess, []
        for person in people:
            n = min(person.rows, SCATTER_ROWS) / corr.NOISE_INFLATION
            posterior = np.linalg.inv(precision + n * person.gram)
            persons.append(posterior @ (precision @ mean + n * person.moment))
            total = total + posterior
        mean = np.mean(persons, axis=0)
        for own in persons:
            away = (own - mean) / scale
            total = total + away @ away.T / corr.H
        cov = total / (SCATTER_GUESS + len(people))
        cov = 0.5 * (cov + cov.T)
    return np.asarray(cov, dtype=np.float64)


def _fit_band(people: Sequence[Rows], scaled: list[Array], weights: Array) -> tuple[Array, Array, Array]:
    beta = np.zeros((corr.N_PSI, corr.H))
    low, high = np.zeros((corr.H, corr.N_BIN)), np.zeros((corr.H, corr.N_BIN))
    for k in range(corr.H):
        gram, moment = 1e-4 * np.eye(corr.N_PSI), np.zeros(corr.N_PSI)
        errors = []
        for x, rows in zip(scaled, people, strict=True):
            error = rows.target[:, k] - rows.base[:, k] - x @ weights[:, k]
            ok = np.isfinite(error)
            log_size = np.log(np.abs(error[ok]) + 3.0)
            gram += rows.psi[ok].T @ rows.psi[ok] / max(1, ok.sum())
            moment += rows.psi[ok].T @ log_size / max(1, ok.sum())
            errors.append((error[ok], rows.psi[ok], rows.band[ok]))
        beta[:, k] = np.linalg.solve(gram, moment)
        z = np.concatenate([e / np.exp(np.clip(p @ beta[:, k], 0.0, 5.0)) for e, p, _ in errors])
        band = np.concatenate([b for _, _, b in errors])
        for b in range(corr.N_BIN):
            part = z[band == b] if (band == b).sum() >= 200 else z
            low[k, b] = max(0.3, -float(np.quantile(part, 0.05)))
            high[k, b] = max(0.3, float(np.quantile(part, 0.95)))
    return beta, low, high


def to_source(population: corr.Population) -> str:
    """Python source of core/correction_prior.py. Numbers are kept as float32: their own error is larger."""
    triangle = population.cov[np.tril_indices(corr.K)]
    parts = (
        *population.scaler,
        population.weights,
        triangle,
        population.var,
        population.beta,
        population.low,
        population.high,
    )
    raw = b"".join(np.asarray(part, "<f4").tobytes() for part in parts)
    text = base64.b85encode(zlib.compress(raw, 9)).decode()
    lines = "\n".join(f'    r"""{text[i : i + 96]}"""' for i in range(0, len(text), 96))
    return _TEMPLATE.replace("@@", lines)


_TEMPLATE: Final = '''"""Population prior of the online correction. Written by core.population; do not edit.

Fitted on the first halves of seven recordings of T1D-UOM (Alsuhaymi et al., University of Manchester, 2025,
CC BY 4.0).
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

import numpy as np

from core.correction_layout import N_BIN, N_PSI, Array, H, K, Population


def _load(text: str) -> Population:
    numbers = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4").astype(np.float64)
    sizes = (K, K, K * H, K * (K + 1) // 2, H, N_PSI * H, H * N_BIN, H * N_BIN)
    parts: list[Array] = list(np.split(numbers, np.cumsum(sizes)[:-1]))
    cov = np.zeros((K, K))
    cov[np.tril_indices(K)] = parts[3]
    cov = np.tril(cov) + np.tril(cov, -1).T
    return Population(
        parts[0],
        parts[1],
        parts[2].reshape((K, H)),
        cov,
        parts[4],
        parts[5].reshape((N_PSI, H)),
        parts[6].reshape((H, N_BIN)),
        parts[7].reshape((H, N_BIN)),
    )


_TEXT: Final = (
@@
)

POPULATION: Final = _load(_TEXT)
'''
