"""What the twin holds in packed form, as plain named values: for whoever reads it without our code.

Names are those of the equations (core/models/hovorka.py). Covariances are lower triangles by rows, in the order of the names beside them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from core import correction_pool, replay, snapshot
from core.correction_layout import AT_HIGH, AT_LOW, AT_SEEN, AT_W, HORIZONS_MIN, N_BIN, SIZE, H, K
from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.gate import N_SCALAR
from core.guidance import Array
from core.memory import PLAIN
from core.models import hovorka as model
from core.track import STATE_SIZE
from core.units import US_PER_H, US_PER_MIN

_WORDS: Final = {
    **PLAIN,
    "sensor_slow": "slow error of the sensor", "sensor_error": "fast error of the sensor",
    "disturbance": "glucose that nothing in the record explains", "s1": "insulin under the skin, first depot",
    "s2": "insulin under the skin, second depot", "insulin": "insulin in plasma",
    "x1": "insulin's action on transport", "x2": "insulin's action on disposal", "x3": "insulin's action on the liver",
    "q1": "glucose in plasma", "q2": "glucose in the tissues", "d1": "food in the gut, first depot",
    "d2": "food in the gut, second depot", "c": "glucose where the sensor sits",
}  # fmt: skip
DRIVERS: Final = (
    ("long_acting_precipitate", "mU"), ("long_acting_site", "mU"), ("exercise_y", "1/min"), ("exercise_z", "1"),
)  # fmt: skip
HELD: Final = (
    ("basal", "mU/min"),
    ("heart_rate_above_rest", "1/min"),
    ("heart_rate_at_rest", "1/min"),
    ("local_hour", "h"),
)
_SCALARS: Final = (  # of an episode, in the order of core.replay
    ("has_basal", "1 yes, 0 no"), ("basal_told", "minutes before the start; -1: never"),
    ("long_acting_given", "minutes before the start; -1: never"), ("ln_restlessness", "ln of a multiple"),
    ("ln_sensor_noise", "ln of a multiple"), ("sensor_white_variance", "(mg/dL)²"),
)  # fmt: skip
CONSTANTS: Final = (
    ("bw", "kg"), ("egp0", "mmol/kg/min"), ("f01", "mmol/kg/min"), ("k12", "1/min"), ("ka1", "1/min"),
    ("ka2", "1/min"), ("ka3", "1/min"), ("sit", "L/mU/min"), ("sid", "L/mU/min"), ("sie", "L/mU"), ("ke", "1/min"),
    ("vi", "L/kg"), ("vg", "L/kg"), ("ti", "min"), ("ag", "1"), ("tg", "min"), ("rth", "mmol/L"), ("rcl", "1/min"),
    ("ts", "min"), ("k_revert", "1/min"), ("g_revert", "mmol/L"), ("tau_d", "min"), ("k_long", "1/min"),
    ("k_site", "1/min"), ("circ_ln", "ln of a multiple"),
)  # fmt: skip
RANGES: Final = ("below 80 mg/dL", "80 to 180 mg/dL", "180 mg/dL and above")


def episode(data: replay.Episode) -> tuple[dict[str, Any], list[tuple[int, str, float]]]:
    """(what it is and the filter's state at its start, its events as (time_us, kind, value)). DecodeError when it is none."""
    state, minutes, kinds, values = replay.content(data)
    n = model.N
    mean, sd, drivers, held, scalars = np.split(state, np.cumsum([n, n, model.N_DRIVER, len(HELD)]).tolist())
    events = [
        (data.from_us + round(float(m) * US_PER_MIN), kind, single(v))
        for m, kind, v in zip(minutes, kinds, values, strict=True)
    ]
    told = {
        "from_us": data.from_us,
        "stratum": data.stratum,
        "context": data.context,
        "level": data.level,
        "told_nats": data.told,
        "start": {
            "state": _state(mean, sd),
            "inputs": _named(DRIVERS, drivers) + _named(HELD, held),
            "scalars": _named(_SCALARS, scalars),
        },
    }
    return told, events


def checkpoint(data: bytes) -> dict[str, Any]:
    """The newest point of a twin's checkpoint (core/snapshot.py). DecodeError when it is none."""
    body = snapshot.opened(data)
    track = body.head
    told: dict[str, Any] = {
        "model": body.model,
        "patient": body.patient,
        "prior_version": body.prior.version if body.prior else None,
        "changing": body.changing,
        "state": None,
        "guidance": [
            {"time_us": g.time_us, "kind": g.kind, "theta": g.theta, "covariance": g.cov, "factor": g.factor}
            for g in body.guidance
        ],
        "sensor_clocks": [
            {
                "source": source,
                "prompt": prompt,
                "last_us": last_us,
                "hours": [
                    {"time_us": hour * US_PER_H, "least_delay_min": least, "readings": count}
                    for hour, least, count in hours
                ],
            }
            for source, prompt, last_us, hours in body.clocks
        ],
    }
    if track is None:
        return told
    flat, learn = np.frombuffer(track.state, "<f8"), np.frombuffer(track.learn, "<f8")
    if flat.size != STATE_SIZE or learn.size != SIZE or not 0 <= track.nominal < len(body.nominals):
        raise DecodeError("wrong size", where="snapshot")
    nominal, n = body.nominals[track.nominal], model.N
    consts = np.frombuffer(nominal.consts, "<f8")
    if consts.size != len(CONSTANTS):
        raise DecodeError("wrong size", where="snapshot")
    mean, root, drivers, held, _ = np.split(
        flat, [n, n + n * n, n + n * n + model.N_DRIVER, STATE_SIZE - N_SCALAR]
    )
    factor = root.reshape((n, n))
    cov = factor.T @ factor
    told |= {
        "time_us": track.time_us,
        "state": _state(mean, np.sqrt(np.maximum(np.diag(cov), 0.0))),
        "covariance": cov[np.tril_indices(n)].tolist(),
        "inputs": _named(DRIVERS, drivers) + _named(HELD, held),
        "constants": _named(CONSTANTS, consts),
        "assumed": dict(nominal.assumed),
        "returns_to": _named(tuple((name, "ln of a multiple") for name in model.NAMES[:5]), track.pull),
        "outliers": [{"source": s, "kind": kind, "seq": seq} for s, kind, seq in track.outliers],
        "correction": {
            "horizons_min": HORIZONS_MIN,
            "ranges": RANGES,
            "weights_mgdl": _by_horizon(learn[AT_W:AT_LOW], K),
            "half_width_below": learn[AT_LOW:AT_HIGH].reshape((H, N_BIN)).tolist(),
            "half_width_above": learn[AT_HIGH:AT_SEEN].reshape((H, N_BIN)).tolist(),
            "forecasts_seen": learn[AT_SEEN : AT_SEEN + H * N_BIN].reshape((H, N_BIN)).tolist(),
        },
    }
    return told


def start(data: bytes) -> dict[str, Any] | None:
    """Where a correction begins, or what a person's data moved in it (core/correction_pool.py). None when it is of other
    shipped weights; DecodeError when it is none."""
    known = correction_pool.read(data, POPULATION)
    if known is None:
        return None
    return {
        "horizons_min": HORIZONS_MIN,
        "ranges": RANGES,
        "weights_mgdl": _by_horizon(known.weights, K),
        "ln_half_width_below": known.low.reshape((H, N_BIN)).tolist(),
        "ln_half_width_above": known.high.reshape((H, N_BIN)).tolist(),
    }


def single(value: float) -> float:
    """The shortest decimal that is this single-precision number: what was 5.3 is not told as 5.300000190734863."""
    return float(str(np.float32(value)))


def _state(mean: Array, sd: Array) -> list[dict[str, Any]]:
    return [
        {"name": name, "words": _WORDS[name], "unit": _unit(name, unit), "mean": float(m), "sd": float(s)}
        for name, unit, m, s in zip(model.NAMES, model.UNITS, mean, sd, strict=True)
    ]


def _unit(name: str, unit: str) -> str:
    return "ln of a multiple" if name.startswith("ln_") else unit


def _named(names: tuple[tuple[str, str], ...], values: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, "unit": unit, "value": float(v)}
        for (name, unit), v in zip(names, values, strict=False)
    ]


def _by_horizon(flat: Array, rows: int) -> list[list[float]]:
    table: list[list[float]] = flat.reshape((rows, H)).tolist()
    return table
