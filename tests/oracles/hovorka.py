"""The glucose model once more, slowly and plainly: written from the equations, by name, without kernels."""

from __future__ import annotations

import math

import numpy as np

# W10 means, copied from the reference sheet and not from the kernel's table; kappa and Gbar are the project's own.
W10 = {
    "BW": 75.0, "EGP0": 0.0169, "F01": 0.0111, "k12": 0.060, "ka1": 0.0034, "ka2": 0.056, "ka3": 0.024,
    "SIT": 18.41e-4, "SID": 5.05e-4, "SIE": 0.0190, "ke": 0.14, "VI": 0.12, "VG": 0.16, "tI": 55.6,
    "AG": 0.80, "tG": 40.0, "RTh": 9.0, "RCl": 0.01, "tS": 10.7, "kappa": 0.003, "Gbar": 7.5,
}  # fmt: skip
STATES = ("S1", "S2", "I", "x1", "x2", "x3", "Q1", "Q2", "D1", "D2", "C")


def derivative(
    state: dict[str, float],
    par: dict[str, float],
    *,
    u: float,
    s: float = 1.0,
    egp: float = 1.0,
    tg: float = 1.0,
    ti: float = 1.0,
    d: float = 0.0,
    y: float = 0.0,
    z: float = 0.0,
) -> dict[str, float]:
    """Right-hand side. s, egp, tg, ti are multiples of the population's means."""
    p, v = par, state
    t_i, t_g = p["tI"] * ti, p["tG"] * tg
    glucose = v["Q1"] / p["VG"]
    soft = 0.25 * math.log1p(math.exp((glucose - p["RTh"]) / 0.25)) if glucose < 100 else glucose - p["RTh"]
    boost = 1 + 0.3 * z
    if d < 0:
        d = d * glucose / (glucose + 1)
    return {
        "S1": u - v["S1"] / t_i,
        "S2": (v["S1"] - v["S2"]) / t_i,
        "I": v["S2"] / (t_i * p["VI"] * p["BW"]) - p["ke"] * v["I"],
        "x1": p["ka1"] * (s * p["SIT"] * v["I"] - v["x1"]),
        "x2": p["ka2"] * (s * p["SID"] * v["I"] - v["x2"]),
        "x3": p["ka3"] * (s * p["SIE"] * v["I"] - v["x3"]),
        "Q1": p["EGP0"] * egp * math.exp(-v["x3"])
        - p["F01"] / 0.85 * glucose / (glucose + 1)
        - p["RCl"] * p["VG"] * soft
        - v["x1"] * boost * v["Q1"]
        + p["k12"] * v["Q2"]
        + v["D2"] / t_g
        + d
        - 5e-5 * y * v["Q1"]
        - p["kappa"] * (v["Q1"] - p["VG"] * p["Gbar"]),
        "Q2": v["x1"] * boost * v["Q1"] - (p["k12"] + v["x2"] * boost) * v["Q2"],
        "D1": -v["D1"] / t_g,
        "D2": (v["D1"] - v["D2"]) / t_g,
        "C": (glucose - v["C"]) / p["tS"],
    }


def rk4(state: np.ndarray, par: dict[str, float], h_min: float, n_steps: int, **inputs: float) -> np.ndarray:
    """Classical Runge–Kutta with constant inputs."""

    def f(x: np.ndarray) -> np.ndarray:
        slope = derivative(dict(zip(STATES, x, strict=True)), par, **inputs)
        return np.array([slope[name] for name in STATES])

    x = np.array(state, float)
    for _ in range(n_steps):
        k1 = f(x)
        k2 = f(x + 0.5 * h_min * k1)
        k3 = f(x + 0.5 * h_min * k2)
        k4 = f(x + h_min * k3)
        x = x + h_min / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
