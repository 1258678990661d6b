"""Can the effect be computed from what is measured? If so how, and if not, for want of what?

The ID algorithm of Shpitser & Pearl (AAAI 2006, figure 3): sound and complete for effects in semi-Markovian
graphs. Backdoor and front-door sets come first because their estimators are better understood; ID decides.
A refusal names the unmeasured common causes that would have to be measured.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import msgspec

from core.causal.criteria import frontdoor_set, minimal_adjustment
from core.causal.estimand import Expression, P, Product, conditional, summed
from core.causal.graph import Graph, Names, Projection
from core.errors import InputError, RefusedError

BACKDOOR: Final = "backdoor"
FRONTDOOR: Final = "front-door"
GENERAL: Final = "general"
NO_EFFECT: Final = "no effect"
NOT_IDENTIFIED: Final = "not identified"
MOST_NAMED: Final = 3  # sets of confounders larger than this are not searched for a smallest one


class Identification(msgspec.Struct, frozen=True):
    """How P(outcome | do(treatment)) follows from the measured distribution, or why it does not."""

    treatment: str
    outcome: str
    method: str
    adjustment: tuple[str, ...] = ()  # backdoor: what to adjust for
    mediators: tuple[str, ...] = ()  # front-door
    estimand: Expression | None = None
    confounders: tuple[str, ...] = ()  # not identified: unmeasured causes whose measurement would be enough

    @property
    def identified(self) -> bool:
        return self.method != NOT_IDENTIFIED

    def words(self) -> str:
        """One sentence for a person."""
        pair = f"the effect of {self.treatment} on {self.outcome}"
        if self.method == NO_EFFECT:
            return f"{self.treatment} does not cause {self.outcome} in this graph"
        if self.method == BACKDOOR:
            return f"{pair} is identified by adjusting for {', '.join(self.adjustment) or 'nothing'}"
        if self.method == FRONTDOOR:
            return f"{pair} is identified through {', '.join(self.mediators)} (front-door)"
        if self.method == GENERAL:
            return f"{pair} is identified as {self.estimand}"
        return f"{pair} is not identified: {' and '.join(self.confounders)} would have to be measured"

    def required(self) -> Identification:
        """Self when identified, else RefusedError that names the unmeasured confounder."""
        if not self.identified:
            raise RefusedError(
                self.words(), where="causal effect", mend="record it, or ask the mechanistic twin instead"
            )
        return self


def identify(graph: Graph, treatment: str, outcome: str) -> Identification:
    """Identify the effect of one measured node on another. InputError for wrong names."""
    adjustment = minimal_adjustment(graph, treatment, outcome)  # checks the names as well
    if outcome not in graph.descendants([treatment]):
        return Identification(treatment, outcome, NO_EFFECT, estimand=P((outcome,)))
    if adjustment is not None:
        estimand = summed(
            adjustment,
            Product((P((outcome,), (treatment, *adjustment)), P(adjustment)))
            if adjustment
            else P((outcome,), (treatment,)),
        )
        return Identification(treatment, outcome, BACKDOOR, adjustment=adjustment, estimand=estimand)
    projection = graph.project()
    answer = id_algorithm(projection, frozenset([treatment]), frozenset([outcome]))
    if isinstance(answer, Hedge):
        return Identification(
            treatment, outcome, NOT_IDENTIFIED, confounders=_wanting(graph, treatment, outcome, answer)
        )
    mediators = frontdoor_set(graph, treatment, outcome)
    if mediators is not None:
        return Identification(treatment, outcome, FRONTDOOR, mediators=mediators, estimand=answer)
    return Identification(treatment, outcome, GENERAL, estimand=answer)


class Hedge(msgspec.Struct, frozen=True):
    """Witness that an effect is not identified: two nested C-forests (Shpitser & Pearl 2006, def. 6)."""

    outer: Names
    inner: Names


def id_algorithm(projection: Projection, treatments: Names, outcomes: Names) -> Expression | Hedge:
    """P(outcomes | do(treatments)) as an expression, or the hedge that forbids it."""
    everything = frozenset(projection.order)
    if not (treatments <= everything and outcomes <= everything) or treatments & outcomes:
        raise InputError("treatments and outcomes must be different measured nodes", where="id_algorithm")
    return _identify(projection, outcomes, treatments, P(projection.order), everything)


def _identify(g: Projection, y: Names, x: Names, p: Expression, within: Names) -> Expression | Hedge:
    """Lines 1–7 of ID. ``p``: the distribution over ``within``, possibly at fixed values of other nodes."""
    nodes = tuple(n for n in g.order if n in within)
    if not x:
        return summed([n for n in nodes if n not in y], p)
    relevant = g.ancestors(y, within)
    if relevant != within:
        return _identify(g, y, x & relevant, summed([n for n in nodes if n not in relevant], p), relevant)
    idle = within - x - g.ancestors(y, within, cut_into=x)
    if idle:
        return _identify(g, y, x | idle, p, within)
    parts = g.components(within - x)
    if len(parts) > 1:
        factors: list[Expression] = []
        for part in parts:
            factor = _identify(g, part, within - part, p, within)
            if isinstance(factor, Hedge):
                return factor
            factors.append(factor)
        return summed([n for n in nodes if n not in y and n not in x], Product(tuple(factors)))
    inner = parts[0]
    whole = g.components(within)
    if len(whole) == 1:
        return Hedge(within, inner)
    holder = next(part for part in whole if inner <= part)
    chain = Product(tuple(conditional(p, n, g.before(n, within), nodes) for n in nodes if n in holder))
    if holder == inner:
        return summed([n for n in nodes if n in inner and n not in y], chain)
    return _identify(g, y, x & holder, chain, holder)


def _wanting(graph: Graph, treatment: str, outcome: str, hedge: Hedge) -> tuple[str, ...]:
    """The fewest latent nodes whose measurement would identify the effect; those in the hedge first."""
    pairs = graph.project().behind
    inside = {name for pair, names in pairs.items() if pair <= hedge.outer for name in names}
    hidden = [n for n in graph.nodes if n in graph.latent]
    hidden.sort(key=lambda n: n not in inside)
    for size in range(1, MOST_NAMED + 1):
        for chosen in combinations(hidden, size):
            projection = graph.measuring(chosen).project()
            answer = id_algorithm(projection, frozenset([treatment]), frozenset([outcome]))
            if not isinstance(answer, Hedge):
                return chosen
    return tuple(n for n in graph.nodes if n in inside)
