"""Backdoor and front-door criteria, and the smallest sets that meet them (Pearl, Causality, 2009, ch. 3.3).

For one treatment. Only measured nodes may be adjusted for.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Final

from core.causal.graph import Graph, Names
from core.errors import InputError

MAX_LISTED_NODES: Final = 16  # 65 thousand subsets: beyond, ask for one minimal set instead of all


def is_backdoor(graph: Graph, treatment: str, outcome: str, given: Iterable[str]) -> bool:
    """True when ``given`` is measured, holds no effect of the treatment, and blocks every path into it (def. 3.3.1)."""
    known = frozenset(given)
    graph.check(treatment, outcome, *known)
    if known & graph.latent or known & graph.descendants([treatment]) or outcome in known:
        return False
    return graph.without_edges(out_of=[treatment]).d_separated([treatment], [outcome], known)


def minimal_adjustment(graph: Graph, treatment: str, outcome: str) -> tuple[str, ...] | None:
    """One adjustment set from which nothing can be left out; None when there is none.

    Complete: if any set meets the criterion, so do the measured ancestors of treatment and outcome that the
    treatment does not cause (van der Zander and colleagues, Artif Intell 2019;270:1). Nodes are left out from
    the last named on, so the order of ``graph.nodes`` says which of several sets is preferred.
    """
    candidates = _candidates(graph, treatment, outcome)
    if not is_backdoor(graph, treatment, outcome, candidates):
        return None
    kept = list(candidates)
    for name in reversed(candidates):
        fewer = [n for n in kept if n != name]
        if is_backdoor(graph, treatment, outcome, fewer):
            kept = fewer
    return tuple(kept)


def adjustment_sets(graph: Graph, treatment: str, outcome: str) -> list[tuple[str, ...]]:
    """All minimal adjustment sets, smallest first."""
    candidates = _candidates(graph, treatment, outcome)
    if len(candidates) > MAX_LISTED_NODES:
        raise InputError(
            f"more than {MAX_LISTED_NODES} candidates",
            where="adjustment_sets",
            mend="use minimal_adjustment",
        )
    found: list[tuple[str, ...]] = []
    for size in range(len(candidates) + 1):
        for chosen in combinations(candidates, size):
            if any(set(smaller) <= set(chosen) for smaller in found):
                continue
            if is_backdoor(graph, treatment, outcome, chosen):
                found.append(chosen)
    return found


def _candidates(graph: Graph, treatment: str, outcome: str) -> tuple[str, ...]:
    graph.check(treatment, outcome)
    if treatment == outcome:
        raise InputError("treatment and outcome are the same", where="causal graph")
    for name in (treatment, outcome):
        if name in graph.latent:
            raise InputError(f"{name!r} is not measured", where="causal graph")
    useful = graph.ancestors([treatment, outcome]) - graph.descendants([treatment]) - {outcome}
    return tuple(n for n in graph.measured if n in useful)


def is_frontdoor(graph: Graph, treatment: str, outcome: str, mediators: Iterable[str]) -> bool:
    """Def. 3.3.3: the mediators are measured, cut every directed path, have no open backdoor path from the
    treatment, and every backdoor path from them to the outcome is blocked by the treatment."""
    chosen = frozenset(mediators)
    graph.check(treatment, outcome, *chosen)
    if not chosen or chosen & graph.latent or chosen & {treatment, outcome}:
        return False
    if not all(chosen & set(path) for path in graph.directed_paths(treatment, outcome)):
        return False
    if not graph.without_edges(out_of=[treatment]).d_separated([treatment], chosen):
        return False
    return graph.without_edges(out_of=chosen).d_separated(chosen, [outcome], [treatment])


def frontdoor_set(graph: Graph, treatment: str, outcome: str) -> tuple[str, ...] | None:
    """The smallest set of mediators that meets the front-door criterion; None when there is none.

    Mediators lie on directed paths: others would add nothing. Without a directed path there is none either.
    """
    graph.check(treatment, outcome)
    between: Names = (graph.descendants([treatment]) & graph.ancestors([outcome])) - {treatment, outcome}
    candidates = [n for n in graph.measured if n in between]
    if len(candidates) > MAX_LISTED_NODES or outcome not in graph.descendants([treatment]):
        return None
    for size in range(1, len(candidates) + 1):
        for chosen in combinations(candidates, size):
            if is_frontdoor(graph, treatment, outcome, chosen):
                return chosen
    return None
