"""What the speed bench hands to SciPy is the model."""

from __future__ import annotations

import numpy as np
import pytest

from bench import speed
from core.models import hovorka as model
from tests.oracles import hovorka as oracle


def test_scipys_slopes_are_those_of_the_plain_equations() -> None:
    mean, _ = speed.start()
    x, theta = mean[model.N_LINEAR :].copy(), np.exp(mean[: model.N_THETA])
    take, slopes_of = speed.plain_slopes()
    take(mean)
    slopes = slopes_of(x, 0.0)
    u, sensitivity, y, z, _ = speed.nodes()[2]
    names = dict(zip(oracle.STATES, x, strict=True))
    names["I"] *= sensitivity  # the daily course acts on insulin in the three effects only
    expected = oracle.derivative(
        names, oracle.W10, u=u, s=theta[0], egp=theta[1], tg=theta[2], ti=theta[4], y=y, z=z
    )
    del expected["I"]
    for name, value in expected.items():
        assert slopes[oracle.STATES.index(name)] == pytest.approx(value, rel=1e-9, abs=1e-12), name
