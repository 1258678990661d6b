"""What a correction does, asked of records: one person's or many people's, by every estimator, beside the naive figure.

The graph decides first. A node without a column is unmeasured, and the answer is then a refusal that names it. A node that
never varied in the moments compared is not adjusted for: they are all of one kind, and the answer is about that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.causal import estimate as est
from core.causal.effect import METHODS, Answer, estimate_effect
from core.causal.graph import Graph
from core.causal.identify import identify
from core.causal.moments import Moments
from core.causal.twin_graph import INSULIN, LATER, twin_graph
from core.errors import RefusedError

MIN_PEOPLE: Final = (
    10  # with fewer, days count as what is independent, and the answer is about these people alone
)
MIN_ARM: Final = (
    20  # as ``estimate.MIN_EFFECTIVE``: before weighting, an arm cannot be worth more than it holds
)
MIN_DAYS: Final = 10  # of a person, on which an arm lies: moments of one evening are one evening's word
MAIN: Final = "doubly robust"
TREATED: Final = "treated"


class Tried(NamedTuple):
    """One estimator's answer, or why it gives none."""

    method: str
    target: str  # all: every moment that could be; treated: those at which there was a correction
    answer: Answer | None
    refused: str


class Arm(NamedTuple):
    """Moments of one kind, and on how many days of a person they lie."""

    n: int
    days: int


class FromRecords(NamedTuple):
    """The answer: ``main`` is doubly robust, of the moments at which there was a correction."""

    main: Answer
    tried: tuple[Tried, ...]
    everywhere: est.Estimate  # all moments as they stand, adjusted for nothing
    naive: est.Estimate  # the same among those at which both could happen
    always_the_same: tuple[str, ...]  # nodes that never varied
    treated: Arm
    untreated: Arm
    people: int
    by: str  # what counts as independent: person | day
    chance: float  # of a correction at such a moment

    def words(self) -> str:
        """What was compared."""
        return (
            f"{self.treated.n} corrections on {self.treated.days} days, and {self.untreated.n} moments without one on "
            f"{self.untreated.days}"
        )


def ask(people: Sequence[Moments]) -> FromRecords:
    """Estimate from all people's moments. RefusedError when the effect is not identified, or nothing can be compared."""
    together, person, day = joined(people)
    identify(graph_of(together.columns), INSULIN, LATER).required()
    fit = together.eligible
    given = together.columns[INSULIN][fit] > 0
    treated, untreated = (
        Arm(int(np.count_nonzero(arm)), int(np.unique(day[fit][arm]).size)) for arm in (given, ~given)
    )
    if min(treated.n, untreated.n) < MIN_ARM or min(treated.days, untreated.days) < MIN_DAYS:
        raise RefusedError(
            f"no comparison: {treated.n} corrections on {treated.days} days, and {untreated.n} moments at which one could "
            f"have been given and was not on {untreated.days}; {MIN_ARM} of each on {MIN_DAYS} days is the least",
            where="causal effect",
            mend="ask of a longer record, of more people's, or set the threshold to where corrections begin",
        )
    groups = person if len(people) >= MIN_PEOPLE else day
    kept = together.where(fit)
    of = groups[fit]
    same = tuple(n for n, v in kept.columns.items() if n not in (INSULIN, LATER) and not _varies(v))
    graph = graph_of(kept.columns, same)
    columns = {n: v for n, v in kept.columns.items() if n not in same}
    tried = [_try(graph, columns, method, of, "all") for method in METHODS]
    tried.append(_try(graph, columns, MAIN, of, TREATED))
    main = tried[-1]
    if main.answer is None:
        raise RefusedError(
            main.refused, where="causal effect", mend="ask of a longer record, or of more people's"
        )
    return FromRecords(
        main.answer,
        tuple(tried),
        est.naive(together.columns[LATER], together.columns[INSULIN], groups),
        est.naive(kept.columns[LATER], kept.columns[INSULIN], of),
        same,
        treated,
        untreated,
        len(people),
        "person" if groups is person else "day",
        float(kept.columns[INSULIN].mean()),
    )


def joined(people: Sequence[Moments]) -> tuple[Moments, NDArray[np.int64], NDArray[np.int64]]:
    """(all moments, number of the person, number of the person's day) row by row; columns that all of them have."""
    if not people or not sum(p.eligible.size for p in people):
        raise RefusedError("no moment of decision in the record", where="causal effect")
    names = [n for n in people[0].columns if all(n in p.columns for p in people)]
    columns = {n: np.concatenate([p.columns[n] for p in people]) for n in names}
    time_us = np.concatenate([p.time_us for p in people])
    person = np.repeat(np.arange(len(people)), [p.time_us.size for p in people])
    date = np.concatenate([p.day for p in people])
    _, day = np.unique(np.column_stack([person, date]), axis=0, return_inverse=True)
    dose = np.concatenate([p.dose_u for p in people])
    eligible = np.concatenate([p.eligible for p in people])
    return Moments(columns, time_us, dose, eligible, date), person, day.reshape(-1)


def graph_of(columns: dict[str, NDArray[np.float64]], same: Sequence[str] = ()) -> Graph:
    """The twin's graph, nodes without a column latent, those that never vary left out (they are conditioned on)."""
    whole = twin_graph(illness_recorded=True)
    nodes = tuple(n for n in whole.nodes if n not in same)
    edges = tuple((a, b) for a, b in whole.edges if a in nodes and b in nodes)
    return Graph(nodes, edges, frozenset(n for n in nodes if n not in columns))


def _varies(values: NDArray[np.float64]) -> bool:
    seen = values[np.isfinite(values)]
    return bool(seen.size and np.ptp(seen) > 0)


def _try(
    graph: Graph, columns: dict[str, NDArray[np.float64]], method: str, groups: NDArray[np.int64], target: str
) -> Tried:
    try:
        found = estimate_effect(graph, columns, INSULIN, LATER, method, groups, target)
    except RefusedError as err:
        return Tried(method, target, None, err.what)
    return Tried(method, target, found, "")
