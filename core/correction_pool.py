"""What the corrections of many people have in common, as the start of the next person's.

The online correction (core/correction.py) begins at shipped weights W₀ with covariance C₀ and has covariance P after
what it has learned. It is linear: had it begun at W₀ + S, it would stand P C₀⁻¹ S away from where it stands. So a
start can be given, or changed, at any time, and counts the less the more the person has said; and what a person's own data
moved, whatever the start was, is V = W − W₀ − P C₀⁻¹ S. That is what a hub tells: the start never counts twice.
The widths of the bands go the same way, in logarithms, where what is left of the start is 1/(1 + seen/SEEN_HALF).
Forgetting widens P without moving W, so after months this takes a little too much of the start out.

Pooled is the mean of the middle half of people, weight by weight, drawn to the shipped value as by one more person who
moved nothing. A quarter of all hubs can lie and move it no further than honest ones are apart; and no weight that is sent
out is one person's (a median's would be).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.correction_layout import AT_HIGH, AT_LOW, AT_P, AT_RING, AT_SEEN, AT_W, N_BIN, H, K, Population
from core.errors import DecodeError

Array = NDArray[np.float64]

CELLS: Final = H * N_BIN
SEEN_HALF: Final = 100.0  # targets; the rate at which a band follows is halved by then (core.correction)
MIN_NOTES: Final = 480  # five days of quarter hours: before, it is mostly the start that speaks
MIN_PEOPLE: Final = 10  # fewer are no population, and their mean says too much of each
MAX_WEIGHT: Final = 150.0  # mg/dL; a correction is never larger (core.correction.correct)
MAX_LN: Final = 2.0  # of a band's width: seven times
MARK_BYTES: Final = 8
SIZE_BYTES: Final = MARK_BYTES + 4 * (K * H + 2 * CELLS)


class Start(NamedTuple):
    """A distance from the shipped prior: of a start, or what one person's data moved."""

    weights: Array  # float64[K, H], mg/dL
    low: Array  # float64[H * N_BIN], ln of the factor of each half width
    high: Array

    def to_bytes(self, population: Population) -> bytes:
        """Single precision, with a mark of the shipped prior that it is a distance from."""
        flat = np.concatenate([self.weights.ravel(), self.low, self.high])
        return mark_of(population) + flat.astype("<f4").tobytes()


def mark_of(population: Population) -> bytes:
    """Tells one shipped prior from another: weights of one mean nothing to another."""
    digest = hashlib.blake2b(digest_size=MARK_BYTES)
    for array in (population.scaler, population.weights, population.cov, population.low, population.high):
        digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    return digest.digest()


def read(data: bytes, population: Population) -> Start | None:
    """What ``to_bytes`` gave; None when it is of another shipped prior. DecodeError for anything else."""
    if len(data) != SIZE_BYTES:
        raise DecodeError(f"correction has {len(data)} bytes, not {SIZE_BYTES}", where="correction")
    single = np.frombuffer(data, "<f4", offset=MARK_BYTES)
    if not np.all(np.isfinite(single)):  # before it is converted: signalling NaNs would warn
        raise DecodeError("correction is not finite", where="correction")
    flat = single.astype(np.float64)
    weights, low, high = np.split(flat, [K * H, K * H + CELLS])
    if np.max(np.abs(weights)) > MAX_WEIGHT or np.max(np.abs(flat[K * H :])) > MAX_LN:
        raise DecodeError("correction is beyond all bounds", where="correction")
    return Start(weights.reshape(K, H), low, high) if data[:MARK_BYTES] == mark_of(population) else None


def notes(learn: Array) -> int:
    """How many forecasts the correction has been held against, at the first horizon."""
    return int(learn[AT_SEEN : AT_SEEN + N_BIN].sum())


def told(learn: Array, population: Population, start: Start | None) -> bytes:
    """What a hub says of its correction: ``own`` as bytes; empty while there is too little to say, or when it is no number."""
    if notes(learn) < MIN_NOTES:
        return b""
    mine = own(learn, population, start)
    return mine.to_bytes(population) if all(np.all(np.isfinite(part)) for part in mine) else b""


def own(learn: Array, population: Population, start: Start | None) -> Start:
    """What the person's own data moved, whatever ``start`` the correction ``learn`` was given."""
    weights = learn[AT_W:AT_LOW].reshape(K, H) - population.weights
    low = np.log(learn[AT_LOW:AT_HIGH] / population.low.ravel())
    high = np.log(learn[AT_HIGH:AT_SEEN] / population.high.ravel())
    if start is not None:
        left = _left(learn)
        weights = weights - _pull(learn, population, start.weights)
        low, high = low - left * start.low, high - left * start.high
    return Start(
        np.clip(weights, -MAX_WEIGHT, MAX_WEIGHT),
        np.clip(low, -MAX_LN, MAX_LN),
        np.clip(high, -MAX_LN, MAX_LN),
    )


def begin(learn: Array, population: Population, before: Start | None, after: Start) -> None:
    """Move ``learn`` to where it would stand had it begun at ``after`` rather than at ``before``."""
    old = before if before is not None else Start(np.zeros((K, H)), np.zeros(CELLS), np.zeros(CELLS))
    learn[AT_W:AT_LOW] += _pull(learn, population, after.weights - old.weights).ravel()
    left = _left(learn)
    learn[AT_LOW:AT_HIGH] *= np.exp(left * (after.low - old.low))
    learn[AT_HIGH:AT_SEEN] *= np.exp(left * (after.high - old.high))


def pooled(people: Sequence[Start]) -> Start | None:
    """The start that these people's data (``own``) give to another; None when they are too few."""
    if len(people) < MIN_PEOPLE:
        return None
    cut, share = len(people) // 4, len(people) / (len(people) + 1)

    def middle(parts: Sequence[Array]) -> Array:
        return np.asarray(share * np.sort(np.stack(parts), axis=0)[cut : len(parts) - cut].mean(axis=0))

    return Start(*(middle(parts) for parts in zip(*people, strict=True)))


def _pull(learn: Array, population: Population, start: Array) -> Array:
    """P C₀⁻¹ S. Where forgetting has let P grow beyond C₀, no more than all of the start is left."""
    root = np.linalg.cholesky(population.cov)
    inner = np.linalg.solve(root, learn[AT_P:AT_W].reshape(K, K))
    share, axes = np.linalg.eigh(np.linalg.solve(root, inner.T))
    axes = root @ axes
    return np.asarray(
        axes @ (np.clip(share, 0.0, 1.0)[:, None] * np.linalg.lstsq(axes, start, rcond=None)[0])
    )


def _left(learn: Array) -> Array:
    return 1.0 / (1.0 + learn[AT_SEEN:AT_RING] / SEEN_HALF)
