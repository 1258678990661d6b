"""What lies where in the learned correction, and what its shipped prior is: for whoever reads it without running it.

Apart from core/correction.py so that the cloud's doors and pages, which only look at bytes, load no compiler.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HORIZONS_MIN: Final = (15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 360.0)
H: Final = len(HORIZONS_MIN)
K: Final = 67  # features
N_PSI: Final = 11  # features of the band's scale
N_BIN: Final = 3  # glucose now: below 80, to 180, above
QUEUE: Final = 26  # 6 h of quarter hours, and a little
RING: Final = 40  # readings at least RING_GAP_MIN apart, for lags to 2 h

# Layout of the flat array.
ROW = 2 + K + 4 * H  # time, range, features, base, target, correction, ln scale
AT_P: Final = 0
AT_W: Final = AT_P + K * K
AT_LOW: Final = AT_W + K * H
AT_HIGH: Final = AT_LOW + H * N_BIN
AT_SEEN: Final = AT_HIGH + H * N_BIN
AT_RING: Final = AT_SEEN + H * N_BIN
AT_MEANS: Final = AT_RING + 2 * RING
AT_COUNT: Final = AT_MEANS + 3  # ring length, ring next, queue length, queue first
AT_TIMES: Final = AT_COUNT + 4  # last reading, its value, last push, last learnt
AT_ACT: Final = AT_TIMES + 4  # last meal, last bolus
AT_QUEUE: Final = AT_ACT + 2
SIZE: Final = AT_QUEUE + QUEUE * ROW


class Population:
    """Prior of the correction: scaling, weights, their covariance, residual variance, band shape."""

    def __init__(
        self,
        centre: Array,
        spread: Array,
        weights: Array,
        cov: Array,
        var: Array,
        beta: Array,
        low: Array,
        high: Array,
    ) -> None:
        self.scaler = np.ascontiguousarray(np.stack([centre, spread]))  # float64[2, K]
        self.weights = weights  # float64[K, H]
        self.cov = cov  # float64[K, K], in units of residual variance
        self.var = var  # float64[H], residual variance, (mg/dL)²
        self.beta = beta  # float64[N_PSI, H], ln scale of the band
        self.low, self.high = low, high  # float64[H, N_BIN], half widths in units of that scale
