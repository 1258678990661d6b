"""The glucose model for a crowd: every column is a body with constants, parameters and inputs of its own.

The equations are those of ``hovorka``, word for word: its right-hand side is read again with ``consts`` and
``nodes`` looked up lane by lane, so that nothing is written twice and the filter's kernels stay as fast as they are.
"""

from __future__ import annotations

import ast
import inspect
import math
import types
from collections.abc import Callable
from typing import Any, Final

from core.jit import jit, specialise
from core.models import hovorka
from core.models.hovorka import (
    BASAL,
    CIRC_LN,
    DISTURBANCE,
    EGP0,
    EX_Y,
    EX_Z,
    HR_EXCESS,
    HR_REST,
    K_LONG,
    K_SITE,
    L1,
    L2,
    LN_EGP0,
    LN_S,
    LN_TG,
    LN_TI,
    LOCAL_H,
    N_CONST,
    N_INPUT,
    N_LINEAR,
    N_PARAM,
    N_STATE,
    P_D,
    P_EGP,
    P_KTG,
    P_KTI,
    P_SID,
    P_SIE,
    P_SIT,
    SID,
    SIE,
    SIT,
    TAU_D,
    TG,
    TI,
    U_D,
    U_INSULIN,
    U_SENS,
    U_Y,
    U_Z,
    capped,
)
from core.solvers.rk4 import NARROW, make_sweep

# Behind the parameters of ``hovorka.load``, the tile of a crowd has rows of constants and of inputs.
P_CONST: Final = N_PARAM
P_INPUT: Final = P_CONST + N_CONST
N_OWN: Final = P_INPUT + N_INPUT
# Names that the solver compiles with values of its own.
LANES = NARROW
AT_PARAM = 4 * N_STATE * LANES


class _ByLane(ast.NodeTransformer):
    """consts[X] and nodes[k, X] become lane j's entry in the tile; what stood before the loop moves into it."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in ("consts", "nodes"):
            inner = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
            first = P_CONST if node.value.id == "consts" else P_INPUT
            text = f"work[AT_PARAM + ({first} + {ast.unparse(inner)}) * LANES + j]"
            return ast.copy_location(ast.parse(text, mode="eval").body, node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        docstring, *before, loop = node.body
        assert isinstance(loop, ast.For)
        loop.body = [*before, *loop.body]
        node.body = [docstring, loop]
        return node


def _by_lane(function: Callable[..., None]) -> Callable[..., None]:
    """``hovorka.rhs`` with constants and inputs of each lane."""
    tree = _ByLane().visit(ast.parse(inspect.getsource(function)))
    tree = ast.increment_lineno(ast.fix_missing_locations(tree), function.__code__.co_firstlineno)
    module = compile(tree, function.__code__.co_filename, "exec")
    code = next(
        c for c in module.co_consts if isinstance(c, types.CodeType) and c.co_name == function.__name__
    )
    made = types.FunctionType(code, function.__globals__, function.__name__)
    return made


slopes = specialise(
    _by_lane(hovorka.rhs), "own", LANES=LANES, AT_SLOPE=N_STATE * LANES, AT_PARAM=4 * N_STATE * LANES
)


def load(points: Any, j: int, consts: Any, work: Any, lane: int) -> None:
    """Parameters and constants of column ``j``: consts float64[N_CONST, n_batch]."""
    at = AT_PARAM + lane
    for i in range(N_CONST):
        work[at + (P_CONST + i) * LANES] = consts[i, j]
    s = math.exp(capped(points[LN_S, j]))
    work[at + P_SIT * LANES] = s * consts[SIT, j]
    work[at + P_SID * LANES] = s * consts[SID, j]
    work[at + P_SIE * LANES] = s * consts[SIE, j]
    work[at + P_EGP * LANES] = consts[EGP0, j] * math.exp(capped(points[LN_EGP0, j]))
    work[at + P_KTG * LANES] = math.exp(-capped(points[LN_TG, j])) / consts[TG, j]
    work[at + P_KTI * LANES] = math.exp(-capped(points[LN_TI, j])) / consts[TI, j]
    work[at + P_D * LANES] = points[DISTURBANCE, j]


def rhs(work: Any, consts: Any, nodes: Any, k: int, first: int) -> None:
    """nodes: float64[n_nodes, N_INPUT, n_batch], n_batch a multiple of LANES."""
    for i in range(N_INPUT):
        for j in range(LANES):
            work[AT_PARAM + (P_INPUT + i) * LANES + j] = nodes[k, i, first + j]
    slopes(work, consts, nodes, k, first)


@jit
def drive_own(drivers: Any, held: Any, consts: Any, dt_min: float, n_steps: int, nodes: Any) -> None:
    """As ``hovorka.drive``, for a crowd that shares the local hour (that of column 0).

    drivers, held: float64[4, n_batch]. consts: float64[N_CONST, n_batch]. nodes: float64[n_nodes, N_INPUT,
    n_batch]. An exponential is taken again only where a column differs from the one before.
    """
    half = 0.5 * dt_min / n_steps
    keep_y = math.exp(-half / 5.0)
    rest_z = math.exp(-half / 600.0)
    for node in range(2 * n_steps + 1):
        hour = (held[LOCAL_H, 0] + node * half / 60.0) % 24.0
        dawn = (hour - 6.7) / 1.6
        bump = math.exp(-0.5 * dawn * dawn)
        k_long = k_site = tau_d = circadian = math.nan
        keep_long = keep_site = keep_d = sensitivity = share = 0.0
        for j in range(drivers.shape[1]):
            if consts[K_LONG, j] != k_long or consts[K_SITE, j] != k_site:
                k_long, k_site = consts[K_LONG, j], consts[K_SITE, j]
                keep_long, keep_site = math.exp(-k_long * half), math.exp(-k_site * half)
                share = k_long / (k_site - k_long)
            if consts[TAU_D, j] != tau_d:
                tau_d = consts[TAU_D, j]
                keep_d = math.exp(-node * half / tau_d)
            if consts[CIRC_LN, j] != circadian:
                circadian = consts[CIRC_LN, j]
                sensitivity = math.exp(-circadian * bump)
            if node > 0:
                y = drivers[EX_Y, j]
                if y == 0.0 or held[HR_REST, j] <= 0.0:
                    drivers[EX_Z, j] *= rest_z
                else:
                    ratio = y / (0.1 * held[HR_REST, j])
                    r4 = ratio * ratio * ratio * ratio
                    f = r4 / (1.0 + r4)
                    rate = f + 1.0 / 600.0
                    drivers[EX_Z, j] = f / rate + (drivers[EX_Z, j] - f / rate) * math.exp(-rate * half)
                drivers[EX_Y, j] = held[HR_EXCESS, j] + (y - held[HR_EXCESS, j]) * keep_y
                precipitate = drivers[L1, j]
                drivers[L2, j] = drivers[L2, j] * keep_site + share * precipitate * (keep_long - keep_site)
                drivers[L1, j] = precipitate * keep_long
            nodes[node, U_INSULIN, j] = held[BASAL, j] + k_site * drivers[L2, j]
            nodes[node, U_SENS, j] = sensitivity
            nodes[node, U_Y, j] = drivers[EX_Y, j]
            nodes[node, U_Z, j] = drivers[EX_Z, j]
            nodes[node, U_D, j] = keep_d


sweep_own = make_sweep("hovorka_own", load, rhs, N_LINEAR, N_STATE, NARROW)
