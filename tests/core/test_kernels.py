"""What all kernels have in common: they allocate nothing, and they are Python that also runs uncompiled."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import _nrt_python, rtsys

import core
from core.jit import JIT_DISABLED
from core.messages import Sample
from core.twin import Twin
from core.units import US_PER_MIN
from tests.core.test_closed_loop import rest, run
from tests.core.test_crowd import people

ROOT = Path(__file__).parents[2]
START_US = 1_767_225_600_000_000
# Of each kernel's tests, those that hold it to its oracle and are quick without a compiler.
UNCOMPILED = {
    "tests/core/models/test_hovorka.py": "kernel_equals or long_acting or exercise_lowers",
    "tests/core/solvers/test_rk4.py": "tight_adaptive or coasting or columns",
    "tests/core/filters/test_srukf.py": "equals_filterpy or without_nan",
    "tests/core/test_crowd.py": "plain_equations",
    "tests/core/test_correction.py": "plain_regression or planted",
    "tests/core/test_sensor_clock.py": "found_within",
}


class Counted:
    """A kernel that counts what each call allocated beyond the header that wraps each array handed in."""

    def __init__(self, kernel: Dispatcher, name: str, calls: Counter[str], taken: Counter[str]) -> None:
        self.kernel, self.name, self.calls, self.taken = kernel, name, calls, taken

    def __call__(self, *args: Any) -> Any:
        before = rtsys.get_allocation_stats().alloc
        result = self.kernel(*args)
        after = rtsys.get_allocation_stats().alloc
        self.calls[self.name] += 1
        self.taken[self.name] += after - before - sum(isinstance(a, np.ndarray) for a in args)
        return result


def a_morning() -> None:
    """Readings, a meal, a bolus, one late, forecasts with and without drawn futures."""
    twin = Twin()
    for n in range(80):
        at = START_US + 5 * n * US_PER_MIN
        twin.observe([Sample(at, "cgm_mgdl", 120.0 + 30.0 * np.sin(n / 9.0), "cgm", n)])
        if n == 40:
            twin.observe([Sample(at, "carbs_g", 50.0, "pump", 1), Sample(at, "bolus_u", 4.0, "pump", 2)])
        if n == 60:
            twin.observe([Sample(at - 10 * US_PER_MIN, "heart_rate_bpm", 120.0, "strap", 1)])
        if n % 10 == 0:
            twin.forecast(at, (30.0, 60.0), paths=20)
    twin.smooth(START_US + 100 * US_PER_MIN, START_US + 300 * US_PER_MIN)


def lives() -> None:
    """A closed loop and a crowd."""
    run(rest(24))
    crowd, _, _ = people()
    crowd.advance(10.0)


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_kernels_allocate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(core.__path__, "core.")]
    a_morning()  # compiles
    lives()
    calls: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, Dispatcher):
                monkeypatch.setattr(module, name, Counted(value, value.py_func.__qualname__, calls, taken))
    _nrt_python.memsys_enable_stats()
    a_morning()
    lives()
    steps = {"_predict__hovorka", "_coast__hovorka", "_sweep__hovorka_40", "_sweep__hovorka_own_16", "update"}
    assert steps | {"drive", "drive_own", "features", "correct", "push", "mature", "live"} <= set(calls)
    del taken["live"]  # a whole life in one call: its scratch is made once for all its steps
    assert {name for name, n in taken.items() if n} == set()


@pytest.mark.skipif(JIT_DISABLED, reason="this is the run without a compiler")
@pytest.mark.parametrize(("path", "chosen"), UNCOMPILED.items(), ids=[Path(p).stem for p in UNCOMPILED])
def test_kernels_hold_to_their_oracles_uncompiled(path: str, chosen: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", path, "-k", chosen],
        cwd=ROOT,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
