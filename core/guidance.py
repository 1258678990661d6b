"""What learning tells the filter: its process stays the filter's own, its parameters are opened, moved or pulled.

Guidance is part of the twin's history like an event: a rewind meets it again, a snapshot holds it.

- ``open``: a change of context is suspected. The covariance of the log-parameters is multiplied, so that the next
  readings move them further (covariance inflation; Anderson & Anderson, Mon Weather Rev 1999;127:2741).
- ``move``: another context's posterior takes the place of the filter's, and parameters return to it from now on.
- ``pull``: the consolidated posterior N(m*, P*) is taken in as an observation of the parameters. For a Gaussian that is
  elastic weight consolidation's penalty ½(θ − m*)ᵀF*(θ − m*) with F* = P*⁻¹ (Kirkpatrick, PNAS 2017;114:3521, eq. 3;
  online form: Schwarz, ICML 2018, eq. 9). From now on parameters return to m* (the penalty in continuous time).
- ``shift``: parameters, and where they return to, move by so much: what a filter does that knows of a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

Array = NDArray[np.float64]
KINDS: Final = ("open", "move", "pull", "shift")
MAX_FACTOR: Final = 16.0


class Guidance(msgspec.Struct, frozen=True, array_like=True):
    """It acts before the first event after ``time_us``. θ is float64[N_THETA] of the model."""

    time_us: int
    kind: str
    theta: tuple[float, ...] = ()
    cov: tuple[float, ...] = ()  # lower triangle by rows: of move and pull
    factor: float = 1.0  # of open: multiplies the variance

    def checked(self, n_theta: int) -> Guidance:
        """Self; InputError when it cannot be meant."""
        if self.kind not in KINDS:
            raise InputError(f"unknown kind {self.kind[:20]!r}", where="guidance")
        numbers = np.array([*self.theta, *self.cov, self.factor])
        if not np.isfinite(numbers).all() or not 1.0 <= self.factor <= MAX_FACTOR:
            raise InputError("numbers out of range", where="guidance")
        if self.kind != "open" and len(self.theta) != n_theta:
            raise InputError("wrong number of parameters", where="guidance.theta")
        if self.kind in ("move", "pull"):
            if len(self.cov) != n_theta * (n_theta + 1) // 2:
                raise InputError("wrong size", where="guidance.cov")
            if float(np.linalg.eigvalsh(unpacked(self.cov)).min()) <= 0.0:
                raise InputError("not a covariance", where="guidance.cov")
        return self


def packed(matrix: Array) -> tuple[float, ...]:
    """Lower triangle of a symmetric matrix, by rows."""
    return tuple(matrix[np.tril_indices(len(matrix))].tolist())


def unpacked(lower: Sequence[float]) -> Array:
    """The symmetric matrix of a lower triangle by rows."""
    n = round((np.sqrt(8.0 * len(lower) + 1.0) - 1.0) / 2.0)
    out = np.zeros((n, n))
    out[np.tril_indices(n)] = lower
    return np.asarray(out + np.tril(out, -1).T)
