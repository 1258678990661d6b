"""Which constants of which model a patient file may override, and within what bounds.

A table of its own, without numba, because the hub checks the file before it starts and must not load a compiler.
Bounds are about tenfold around the model's means (core.models.hovorka, where the units are): beyond them a value is
a slip of the unit or the decimal point. Rates end well before RK4's steps of 2.5 min would become unstable (1.1/min),
and the bounds of k_long and k_site do not meet: their difference is divided by.
"""

from __future__ import annotations

from typing import Final

GLUCOSE: Final[dict[str, tuple[float, float]]] = {
    "bw": (5.0, 400.0), "egp0": (0.002, 0.1), "f01": (0.001, 0.06), "k12": (0.006, 0.5),
    "ka1": (0.0003, 0.03), "ka2": (0.006, 0.5), "ka3": (0.003, 0.2),
    "sit": (2e-4, 2e-2), "sid": (5e-5, 5e-3), "sie": (0.002, 0.2),
    "ke": (0.02, 0.5), "vi": (0.02, 0.6), "vg": (0.04, 0.6), "ti": (10.0, 400.0), "ag": (0.1, 1.0),
    "tg": (8.0, 400.0), "rth": (3.0, 30.0), "rcl": (0.0, 0.1), "ts": (2.0, 60.0),
    "k_revert": (0.0, 0.1), "g_revert": (2.0, 30.0), "tau_d": (3.0, 1440.0),
    "k_long": (0.0001, 0.006), "k_site": (0.009, 0.2), "circ_ln": (-1.0, 1.0),
}  # fmt: skip

MODELS: Final = {"glucose": GLUCOSE}
