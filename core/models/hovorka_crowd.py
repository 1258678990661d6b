"""The glucose model for a crowd: every column is a body with constants, parameters and inputs of its own.

The equations are those of ``hovorka``, word for word: its right-hand side is read again with what stands before its
loop looked up lane by lane, so that nothing is written twice and the filter's kernels stay as fast as they are. What
looks at constants only is worked out once for a crowd (``settle``), what looks at inputs once for every node.

Loops go along the crowd and touch few arrays each: the compiler then proves at run time that these do not overlap,
and fills the vector unit. A loop over a fixed small number of lanes it would unroll first, and leave scalar.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import types
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from core.jit import jit, specialise
from core.models import hovorka
from core.models.hovorka import (
    BASAL,
    CIRC_LN,
    DISTURBANCE,
    EX_Y,
    EX_Z,
    HR_EXCESS,
    HR_REST,
    K_LONG,
    K_SITE,
    L1,
    L2,
    LOCAL_H,
    N_INPUT,
    N_LINEAR,
    N_PARAM,
    N_STATE,
    P_D,
    TAU_D,
    U_D,
    U_INSULIN,
    U_SENS,
    U_Y,
    U_Z,
    Array,
)
from core.solvers.rk4 import NARROW, ONE, make_sweep

# Names that the solver compiles with values of its own.
LANES = NARROW
AT_PARAM = 4 * N_STATE * LANES

# Rows of ``fades``: what is left of each driver and of the disturbance after half a step, and what moves from the
# precipitate to the site.
LONG, SITE, MOVED, FADE_D = range(4)


def _names(lines: list[ast.stmt]) -> list[str]:
    """What these lines give a value to, in their order."""
    return [
        node.id
        for line in lines
        for node in ast.walk(line)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _looks_at_inputs(line: ast.stmt) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "nodes" for node in ast.walk(line))


# The right-hand side: docstring, then what looks at constants or at inputs, then the loop over lanes.
_PLAIN = inspect.getsource(hovorka.rhs)
_, *_BEFORE, _LOOP = ast.parse(_PLAIN).body[0].body  # type: ignore[attr-defined]
_FIXED: Final = [line for line in _BEFORE if not _looks_at_inputs(line)]
_MOVING: Final = [line for line in _BEFORE if _looks_at_inputs(line)]
_OWN: Final = _names(_FIXED)
# Parameter rows of the tile: those of ``hovorka.load``, then everything fixed, then the inputs of a node.
P_OWN: Final = P_D + 1
N_OWN: Final = P_OWN + len(_OWN)
P_INPUT: Final = N_OWN
N_TILE: Final = P_INPUT + N_INPUT


class _ByLane(ast.NodeTransformer):
    """nodes[k, X] and every fixed name become lane j's entry in the tile."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "nodes":
            assert isinstance(node.slice, ast.Tuple)
            return self._entry(f"{P_INPUT} + {ast.unparse(node.slice.elts[-1])}")
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._entry(f"{P_OWN + _OWN.index(node.id)}") if node.id in _OWN else node

    def _entry(self, row: str) -> ast.expr:
        return ast.parse(f"work[AT_PARAM + ({row}) * LANES + j]", mode="eval").body


def _function(argument: str, body: list[ast.stmt]) -> Callable[..., Any]:
    """A function of one argument that sees what ``hovorka.rhs`` sees; its lines count as those of that."""
    plain: Any = hovorka.rhs
    tree = ast.parse(f"def rhs({argument}): pass")
    made = tree.body[0]
    assert isinstance(made, ast.FunctionDef)
    made.body = body
    tree = ast.increment_lineno(ast.fix_missing_locations(tree), plain.__code__.co_firstlineno)
    module = compile(tree, plain.__code__.co_filename, "exec")
    code = next(c for c in module.co_consts if isinstance(c, types.CodeType))
    return types.FunctionType(code, plain.__globals__, "rhs")


def _slopes() -> Callable[..., None]:
    """``hovorka.rhs`` with constants and inputs of each lane: slopes(work)."""
    loop = copy.deepcopy(_LOOP)
    loop.body = [_ByLane().visit(copy.deepcopy(line)) for line in [*_MOVING, *loop.body]]
    return _function("work", [loop])


slopes = specialise(_slopes(), "own", LANES=LANES, AT_SLOPE=N_STATE * LANES, AT_PARAM=AT_PARAM)
_load_one = specialise(hovorka.load, "own", LANES=ONE, AT_PARAM=4 * N_STATE * ONE)
_fixed = _function(
    "consts",
    [*copy.deepcopy(_FIXED), ast.Return(ast.Tuple([ast.Name(n, ast.Load()) for n in _OWN], ast.Load()))],
)


def settle(points: Array, consts: Array) -> Array:
    """What stays as it is while a crowd moves: float64[n_batch / LANES, N_OWN · LANES], tile after tile.

    points: float64[N, n_batch], of which the log-multiples are used. consts: float64[N_CONST, n_batch]. n_batch is a
    multiple of LANES. Row P_D of each tile has no meaning yet.
    """
    own = np.zeros((N_OWN, points.shape[1]))
    work = np.zeros(4 * N_STATE + N_PARAM)
    for j in range(points.shape[1]):
        _load_one(points[:, j : j + 1].copy(), 0, 1, consts[:, j].copy(), work)
        own[:P_OWN, j] = work[4 * N_STATE : 4 * N_STATE + P_OWN]
    own[P_OWN:] = _fixed(consts)
    return own.reshape(N_OWN, -1, LANES).swapaxes(0, 1).reshape(-1, N_OWN * LANES).copy()


def fading(consts: Array, half_min: float) -> Array:
    """Rows LONG to FADE_D for half steps of this length: float64[4, n_batch]. consts: float64[N_CONST, n_batch]."""
    k_long, k_site = consts[K_LONG], consts[K_SITE]
    long, site = np.exp(-k_long * half_min), np.exp(-k_site * half_min)
    moved = k_long / (k_site - k_long) * (long - site)
    return np.array([long, site, moved, np.exp(-half_min / consts[TAU_D])])


def load(points: Any, first: int, used: int, own: Any, work: Any) -> None:
    """Parameter rows of a tile from ``own`` (see ``settle``), and its disturbances."""
    at = max(first, 0)
    for i in range(own.shape[1]):
        work[AT_PARAM + i] = own[at // LANES, i]
    for j in range(used):
        work[AT_PARAM + P_D * LANES + j] = points[DISTURBANCE, at + j]


def rhs(work: Any, own: Any, nodes: Any, k: int, first: int) -> None:
    """nodes: float64[n_nodes, N_INPUT, n_batch], n_batch a multiple of LANES."""
    at = max(first, 0)
    used = min(LANES, nodes.shape[2] - at)  # always LANES; but only so are these short loops not unrolled
    for i in range(N_INPUT):
        for j in range(used):
            work[AT_PARAM + (P_INPUT + i) * LANES + j] = nodes[k, i, at + j]
    slopes(work)


@jit
def drive_own(
    drivers: Any, held: Any, consts: Any, fades: Any, half_min: float, n_steps: int, nodes: Any
) -> None:
    """As ``hovorka.drive``, for a crowd that shares the local hour (that of column 0), in half steps of ``half_min``.

    drivers, held, fades (see ``fading``): float64[4, n_batch]. consts: float64[N_CONST, n_batch]. nodes:
    float64[n_nodes, N_INPUT, n_batch]. An exponential is taken only for who moves or has just moved, and where the
    daily course is not that of the column before.
    """
    n = drivers.shape[1]
    keep_y = math.exp(-half_min / 5.0)
    rest_z = math.exp(-half_min / 600.0)
    at_rest = True
    for j in range(n):
        if drivers[EX_Y, j] != 0.0 or held[HR_EXCESS, j] != 0.0:
            at_rest = False
    for node in range(2 * n_steps + 1):
        if node > 0:
            for j in range(n):
                if at_rest or drivers[EX_Y, j] == 0.0 or held[HR_REST, j] <= 0.0:
                    drivers[EX_Z, j] *= rest_z
                else:
                    ratio = drivers[EX_Y, j] / (0.1 * held[HR_REST, j])
                    r4 = ratio * ratio * ratio * ratio
                    f = r4 / (1.0 + r4)
                    rate = f + 1.0 / 600.0
                    drivers[EX_Z, j] = f / rate + (drivers[EX_Z, j] - f / rate) * math.exp(-rate * half_min)
            for j in range(n):
                drivers[EX_Y, j] = held[HR_EXCESS, j] + (drivers[EX_Y, j] - held[HR_EXCESS, j]) * keep_y
            for j in range(n):
                drivers[L2, j] = drivers[L2, j] * fades[SITE, j] + fades[MOVED, j] * drivers[L1, j]
            for j in range(n):
                drivers[L1, j] *= fades[LONG, j]
            for j in range(n):
                nodes[node, U_D, j] = nodes[node - 1, U_D, j] * fades[FADE_D, j]
        else:
            for j in range(n):
                nodes[node, U_D, j] = 1.0
        for j in range(n):
            nodes[node, U_INSULIN, j] = held[BASAL, j] + consts[K_SITE, j] * drivers[L2, j]
        for j in range(n):
            nodes[node, U_Y, j] = drivers[EX_Y, j]
        for j in range(n):
            nodes[node, U_Z, j] = drivers[EX_Z, j]
        hour = (held[LOCAL_H, 0] + node * half_min / 60.0) % 24.0
        dawn = (hour - 6.7) / 1.6
        bump = math.exp(-0.5 * dawn * dawn)
        circadian, sensitivity = math.nan, 0.0
        for j in range(n):
            if consts[CIRC_LN, j] != circadian:
                circadian = consts[CIRC_LN, j]
                sensitivity = math.exp(-circadian * bump)
            nodes[node, U_SENS, j] = sensitivity


sweep_own = make_sweep("hovorka_own", load, rhs, N_LINEAR, N_STATE, NARROW)
