"""Is it refused when it must be, and right when it is answered?

Identification on random graphs with latent causes, beside y0 (the ID algorithm) and pgmpy (adjustment sets), and
beside the truth: a random discrete model on each graph, its interventional distribution by truncated factorisation.
Then effects that are known: the printed examples, random linear models, and a virtual population in which those who
inject are those who are high (``bench.indication``).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rich.progress import track

from bench import indication
from bench.report import Figure, Section, Table
from core.causal import criteria
from core.causal import estimate as est
from core.causal.effect import AGREE_Z, estimate_effect
from core.causal.estimand import Expression, evaluate
from core.causal.graph import Graph
from core.causal.identify import BACKDOOR, FRONTDOOR, NO_EFFECT, Identification, identify
from core.causal.on_twin import DRAWS, STRUCTURE_LN_SD
from core.causal.scm import LinearScm
from core.errors import EnvironmentMissing, RefusedError

GRAPHS: Final = 1000
GRAPH_SEED: Final = 40_000
LINEAR_SEED: Final = 50_000
LINEAR: Final = 1000
LINEAR_ROWS: Final = 500
EXACT: Final = 1e-9  # probabilities: anything further from the truth is a wrong estimand
COVERAGE: Final = (0.93, 0.97)  # 95 ± 3 standard errors of 1,000 draws


@dataclass(frozen=True)
class Case:
    """A random graph and the question put to it."""

    graph: Graph
    treatment: str
    outcome: str
    rng: np.random.Generator


def case(seed: int) -> Case:
    """4–7 measured nodes, 1–3 latent common causes of random pairs; the treatment comes before the outcome."""
    rng = np.random.default_rng([GRAPH_SEED, seed])
    n, hidden = int(rng.integers(4, 8)), int(rng.integers(1, 4))
    names = [f"V{k}" for k in range(n)]
    density = rng.uniform(0.3, 0.7)
    edges = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :] if rng.random() < density]
    for k in range(hidden):
        a, b = rng.choice(n, 2, replace=False)
        edges += [(f"U{k}", names[a]), (f"U{k}", names[b])]
    latent = tuple(f"U{k}" for k in range(hidden))
    first, second = sorted(rng.choice(n, 2, replace=False))
    return Case(Graph((*latent, *names), tuple(edges), frozenset(latent)), names[first], names[second], rng)


def joint(graph: Graph, tables: dict[str, np.ndarray], do: dict[str, int]) -> np.ndarray:
    """The distribution of all nodes, latent ones too, by truncated factorisation."""
    product = np.ones((2,) * len(graph.nodes))
    for k, name in enumerate(graph.nodes):
        shape = [1] * len(graph.nodes)
        shape[k] = 2
        product = product * (np.eye(2)[do[name]].reshape(shape) if name in do else tables[name])
    return product


def random_tables(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    tables = {}
    for k, name in enumerate(graph.nodes):
        shape = [2 if other in graph.parents(name) else 1 for other in graph.nodes]
        one = rng.uniform(0.1, 0.9, size=shape)
        tables[name] = np.concatenate([1 - one, one], axis=k)
    return tables


def worst_error(c: Case, estimand: Expression, tables: dict[str, np.ndarray]) -> float:
    """Largest difference between an estimand and P(outcome | do(treatment))."""
    graph, names = c.graph, c.graph.measured
    hidden = tuple(k for k, n in enumerate(graph.nodes) if n in graph.latent)
    value = evaluate(estimand, joint(graph, tables, {}).sum(axis=hidden), names)
    value = np.moveaxis(value, (names.index(c.treatment), names.index(c.outcome)), (0, 1))
    worst = 0.0
    at = graph.nodes.index(c.outcome)
    for level in (0, 1):
        real = joint(graph, tables, {c.treatment: level})
        real = real.sum(axis=tuple(k for k in range(real.ndim) if k != at))
        ours = value[min(level, value.shape[0] - 1)].reshape(2, -1)
        worst = max(worst, float(np.max(np.abs(ours - real[:, None]))))
    return worst


class Peers:
    """y0 and pgmpy behind one question each."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import networkx
                from pgmpy.base import DAG
                from pgmpy.identification import Adjustment
                from y0.algorithm.identify import identify_outcomes
                from y0.dsl import Variable
                from y0.graph import NxMixedGraph
        except ImportError as err:
            raise EnvironmentMissing(
                f"the Python package {err.name} is not installed",
                where="bench causal",
                mend="pip install 'hometwin[bench]'",
            ) from None
        logging.getLogger("pgmpy").setLevel(logging.CRITICAL)
        self._networkx, self._dag, self._adjustment = networkx, DAG, Adjustment
        self._identify, self._variable, self._mixed = identify_outcomes, Variable, NxMixedGraph

    def identified(self, c: Case) -> bool:
        """By y0's ID algorithm on the projected graph."""
        v = self._variable
        projection = c.graph.project()
        mixed = self._mixed.from_edges(
            nodes=[v(n) for n in projection.order],
            directed=[(v(a), v(b)) for a, b in sorted(projection.directed)],
            undirected=[tuple(v(n) for n in sorted(pair)) for pair in projection.confounded],
        )
        return self._identify(mixed, {v(c.treatment)}, {v(c.outcome)}) is not None

    def adjustment(self, c: Case) -> tuple[str, ...] | None:
        """pgmpy's minimal adjustment set; None when it says there is none."""
        dag: Any = self._dag()
        dag.add_nodes_from(c.graph.nodes)
        dag.add_edges_from(c.graph.edges)
        dag.latents = set(c.graph.latent)
        dag.with_role(role="exposures", variables={c.treatment}, inplace=True)
        dag.with_role(role="outcomes", variables={c.outcome}, inplace=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, success = self._adjustment(variant="minimal").identify(dag)
        return tuple(sorted(found.get_role("adjustment"))) if success else None

    def separated(self, graph: Graph, x: str, y: str, known: set[str]) -> bool:
        """By networkx."""
        dag = self._networkx.DiGraph(list(graph.edges))
        dag.add_nodes_from(graph.nodes)
        return bool(self._networkx.is_d_separator(dag, {x}, {y}, known))


def identification(count: int) -> tuple[Table, list[Figure]]:
    """Ours, y0's and pgmpy's answers on the same graphs, each judged by the truth."""
    peers = Peers()
    ours, pgm = Counter[str](), Counter[str]()
    methods = Counter[str]()
    worst, apart, asked, sets_apart = 0.0, 0, 0, 0
    for seed in track(range(count), description="random graphs"):
        c = case(seed)
        found = identify(c.graph, c.treatment, c.outcome)
        tables = random_tables(c.graph, c.rng)
        methods[found.method] += 1
        known = peers.identified(c)
        if found.estimand is not None:
            error = worst_error(c, found.estimand, tables)
            worst = max(worst, error)
            ours["wrong acceptance"] += error > EXACT or not known
        else:
            ours["wrong refusal"] += known
        _judge_pgmpy(c, peers, tables, pgm, found)
        sets_apart += not _sets_hold(c)
        for _ in range(10):
            x, y = (str(n) for n in c.rng.permutation(c.graph.nodes)[:2])
            given = {n for n in c.graph.nodes if n not in (x, y) and c.rng.random() < 0.4}
            apart += c.graph.d_separated([x], [y], given) != peers.separated(c.graph, x, y, given)
            asked += 1
    figures = [
        Figure(
            f"effects accepted wrongly, {count} random graphs with latent causes",
            "0",
            f"{ours['wrong acceptance']} (worst error of a probability {worst:.0e})",
            f"{pgm['wrong acceptance']} (pgmpy's adjustment sets)",
            ours["wrong acceptance"] == 0,
        ),
        Figure(
            "effects refused wrongly, by y0's ID",
            "0",
            str(ours["wrong refusal"]),
            reached=not ours["wrong refusal"],
        ),
        Figure(f"d-separation unlike networkx's, {asked} questions", "0", str(apart), reached=apart == 0),
        Figure(
            "minimal sets that are not minimal or not valid", "0", str(sets_apart), reached=sets_apart == 0
        ),
    ]
    rows = tuple((name, str(methods[name])) for name in sorted(methods, key=lambda m: -methods[m]))
    more = (
        ("pgmpy gives an adjustment set that does not give the effect", str(pgm["wrong acceptance"])),
        ("pgmpy gives none where one exists", str(pgm["wrong refusal"])),
    )
    return Table(
        "How effects of random graphs are identified", ("verdict", "graphs"), (*rows, *more)
    ), figures


def _judge_pgmpy(
    c: Case, peers: Peers, tables: dict[str, np.ndarray], pgm: Counter[str], found: Identification
) -> None:
    """Its set put into the adjustment formula, against the truth."""
    chosen = peers.adjustment(c)
    if chosen is None:
        pgm["wrong refusal"] += (
            found.method == BACKDOOR
            or criteria.minimal_adjustment(c.graph, c.treatment, c.outcome) is not None
        )
        return
    if set(chosen) & c.graph.latent:
        pgm["wrong acceptance"] += 1
        return
    pgm["wrong acceptance"] += worst_error(c, criteria_formula(c, chosen), tables) > EXACT


def criteria_formula(c: Case, chosen: tuple[str, ...]) -> Expression:
    """Σ_z P(y | x, z) P(z)."""
    from core.causal.estimand import P, Product, summed

    if not chosen:
        return P((c.outcome,), (c.treatment,))
    return summed(chosen, Product((P((c.outcome,), (c.treatment, *chosen)), P(chosen))))


def _sets_hold(c: Case) -> bool:
    found = criteria.adjustment_sets(c.graph, c.treatment, c.outcome)
    one = criteria.minimal_adjustment(c.graph, c.treatment, c.outcome)
    if (one is None) != (not found):
        return False
    return all(
        criteria.is_backdoor(c.graph, c.treatment, c.outcome, s)
        and not any(
            criteria.is_backdoor(c.graph, c.treatment, c.outcome, [n for n in s if n != left]) for left in s
        )
        for s in found
    )


def linear(count: int) -> tuple[Table, list[Figure]]:
    """Random linear models on random graphs: recover and cover where identified, refuse where not."""
    covered, errors, rough, refused, wrong = Counter[str](), Counter[str](), 0.0, 0, 0
    tried: Counter[str] = Counter()
    rough_covered = 0
    for seed in track(range(count), description="random linear models"):
        c = case(seed + 7 * GRAPHS)
        rng = np.random.default_rng([LINEAR_SEED, seed])
        model = LinearScm(
            c.graph, {e: float(rng.choice([-1, 1]) * rng.uniform(0.3, 1.2)) for e in c.graph.edges}
        )
        records = model.sample(LINEAR_ROWS, rng)
        seen = {name: records[name] for name in c.graph.measured}
        truth = model.total_effect(c.treatment, c.outcome)
        found = identify(c.graph, c.treatment, c.outcome)
        if found.method not in (BACKDOOR, FRONTDOOR):
            try:
                estimate_effect(c.graph, seen, c.treatment, c.outcome)
                wrong += 1
            except RefusedError:
                refused += found.method != NO_EFFECT
            continue
        answer = estimate_effect(c.graph, seen, c.treatment, c.outcome, "g-computation").estimate
        plain = est.naive(seen[c.outcome], seen[c.treatment])
        tried[found.method] += 1
        covered[found.method] += answer.covers(truth)
        errors[found.method] += (answer.effect - truth) ** 2  # type: ignore[assignment]
        rough += (plain.effect - truth) ** 2
        rough_covered += plain.covers(truth)
    total = sum(tried.values())
    share = sum(covered.values()) / total
    rows = [
        (
            f"ours, {name}",
            str(tried[name]),
            f"{(errors[name] / tried[name]) ** 0.5:.3f}",
            f"{100 * covered[name] / tried[name]:.1f} %",
        )
        for name in tried
    ]
    rows.append(
        (
            "adjusted for nothing",
            str(total),
            f"{(rough / total) ** 0.5:.3f}",
            f"{100 * rough_covered / total:.1f} %",
        )
    )
    figures = [
        Figure(
            f"random linear models: 95 % interval covers the effect ({total} models)",
            f"{100 * COVERAGE[0]:.0f}–{100 * COVERAGE[1]:.0f} %",
            f"{100 * share:.1f} %",
            f"{100 * rough_covered / total:.1f} % (adjusted for nothing)",
            COVERAGE[0] <= share <= COVERAGE[1],
        ),
        Figure("… answered although not identified", "0", f"{wrong} (refused {refused})", reached=wrong == 0),
    ]
    return Table(
        f"Random linear models of {LINEAR_ROWS} rows",
        ("method", "models", "RMSE of the effect", "covered"),
        tuple(rows),
    ), figures


def examples() -> Table:
    """MODELS G, with its printed values."""
    rng = np.random.default_rng(1)
    n = 200_000
    z = (rng.random(n) < 0.5).astype(float)
    a = (rng.random(n) < 0.2 + 0.6 * z).astype(float)
    y = 150 + 60 * z - 20 * a + 15 * rng.standard_normal(n)
    cells = ((1, 0, 81, 87), (1, 1, 192, 263), (0, 0, 234, 270), (0, 1, 55, 80))
    stones = np.array([(t, s, k < good) for t, s, good, m in cells for k in range(m)], dtype=float)
    graph = Graph(("Z", "A", "Y"), (("Z", "A"), ("Z", "Y"), ("A", "Y")))
    model = LinearScm(graph, {("Z", "A"): 0.6, ("Z", "Y"): 60.0, ("A", "Y"): -20.0}, {"Y": 150.0})
    other = float(model.counterfactual({"Z": 1.0, "A": 0.0, "Y": 200.0}, {"A": 1.0})["Y"])
    return Table(
        "Printed examples",
        ("example", "printed", "ours"),
        (
            ("illness and insulin, naive", "+16", f"{est.naive(y, a).effect:+.2f}"),
            ("illness and insulin, strata", "−20", f"{est.standardise(y, a, z).effect:+.2f}"),
            ("illness and insulin, weights", "−20", f"{est.ipw(y, a, z).effect:+.2f}"),
            ("illness and insulin, doubly robust", "−20", f"{est.doubly_robust(y, a, z).effect:+.2f}"),
            ("counterfactual of Z=1, A=0, Y=200", "180", f"{other:.1f}"),
            ("kidney stones, naive", "−.0457", f"{est.naive(stones[:, 2], stones[:, 0]).effect:+.4f}"),
            (
                "kidney stones, adjusted",
                "+.0537",
                f"{est.standardise(stones[:, 2], stones[:, 0], stones[:, 1]).effect:+.4f}",
            ),
        ),
    )


def indicated(measuring: indication.Measuring, quick: bool) -> tuple[Table, list[Figure], list[str]]:
    """Confounding by indication in the virtual population."""
    seeds = measuring.seeds
    got = indication.measure(measuring)
    ours = got.ours.estimate
    rows = (
        ("adjusted for nothing", _interval(got.naive)),
        (
            "ours, doubly robust, those who corrected",
            _interval(ours),
        ),
        ("the twin, g-computation, at the same corrections", _ends(got.twin.twin_effect, *got.twin_interval)),
        ("… if its equations held", _within(got.twin.twin_effect, got.twin.twin_sd)),
        ("the same lives without the correction", f"{got.truth:+.1f} ± {got.truth_se:.1f}"),
        ("the dose alone: the twin", _ends(*got.twin_alone)),
        (
            "the dose alone: the same lives, no correction for 2 h",
            f"{got.alone:+.1f} ± {got.alone_se:.1f}",
        ),
    )
    seen = ", ".join(
        f"×{k:g} {'passes' if c.agree else 'is seen'} (z {c.z:+.1f})" for k, c in got.wrong_twins
    )
    figures = [
        Figure(
            "correction's effect after 2 h, virtual population: naive sign",
            "wrong (above 0)",
            f"{got.naive.effect:+.1f} mg/dL",
            reached=got.naive.low > 0,
        ),
        Figure(
            "… ours covers the truth, and excludes nothing done",
            f"{got.truth:+.1f} mg/dL",
            _interval(ours),
            f"{got.naive.effect:+.1f} (naive)",
            None if quick else ours.covers(got.truth) and ours.high < 0,
        ),
        Figure(
            "… refused for all moments, and when illness is not recorded",
            "both",
            f"{bool(got.refused_everywhere)}, {bool(got.refused_unrecorded)}",
            reached=bool(got.refused_everywhere and got.refused_unrecorded),
        ),
        Figure(
            "the twin's own answer and ours from records, apart by standard errors",
            f"at most {AGREE_Z:.2f}",
            f"{abs(got.twin.z):.2f}",
            reached=None if quick else got.twin.agree,
        ),
        Figure(
            "… the twin's 95 % interval covers the truth",
            f"{got.truth:+.1f} mg/dL",
            _ends(got.twin.twin_effect, *got.twin_interval),
            f"{ours.effect:+.1f} (ours from records)",
            None if quick else got.twin_interval[0] <= got.truth <= got.twin_interval[1],
        ),
        Figure(
            "… of the dose alone, which these records cannot tell",
            f"{got.alone:+.1f} mg/dL",
            _ends(*got.twin_alone),
            reached=None if quick else got.twin_alone[1] <= got.alone <= got.twin_alone[2],
        ),
    ]
    notes = [
        f"indication: {got.people} people of firmware_sim, seeds {seeds[0]}–{seeds[-1]}, {indication.DAYS} days, "
        f"{got.treated} corrections, {ours.n} moments at which one could correct; intervals by person; the E-value of "
        f"ours is {got.ours.e_value.point:.1f}, of its near end {got.ours.e_value.interval:.1f}",
        f"refused for all moments: {got.refused_everywhere}",
        f"refused unrecorded: {got.refused_unrecorded}",
        f"the twin: one per person (weight told, no therapy), has seen all up to the correction; {DRAWS} draws of state and "
        "parameters each; who waits gives the same dose at a later reading above their threshold with chance "
        f"{got.chance:.3f}, as the records have it; other reactions (sugar, smaller meal boluses) are in the truth and not "
        f"in the twin; its interval holds the error of its structure (ln SD {STRUCTURE_LN_SD:g}); the comparison "
        "with the records is of the posterior alone, or no wrong model could be seen",
        f"twin less truth, over the same corrections, interval by person: {_interval(got.twin_error)}; of the dose alone "
        f"{_interval(got.alone_error)}, where its 90 % intervals, structure included, hold {100 * got.alone_covered:.0f} % of single effects",
        f"would the comparison see a wrong twin? its effect of a dose {seen}",
    ]
    return (
        Table("What a correction does to glucose 2 h later, mg/dL", ("who says", "effect"), rows),
        figures,
        notes,
    )


def _within(mean: float, sd: float) -> str:
    return f"{mean:+.1f} ({mean - AGREE_Z * sd:+.1f} to {mean + AGREE_Z * sd:+.1f})"


def _ends(mean: float, low: float, high: float) -> str:
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _interval(e: est.Estimate) -> str:
    return f"{e.effect:+.1f} ({e.low:+.1f} to {e.high:+.1f})"


def run(quick: bool = False) -> Section:
    """The section. ``quick``: a tenth of it."""
    share = 10 if quick else 1
    measuring = indication.Measuring(indication.SEEDS[:12] if quick else indication.SEEDS)
    graphs, figures = identification(GRAPHS // share)
    models, more = linear(LINEAR // share)
    people, most, notes = indicated(measuring, quick)
    return Section(
        "causal",
        "identification, and effects that are known",
        (graphs, models, examples(), people),
        (
            f"graphs: 4–7 measured nodes, 1–3 latent causes, seeds {GRAPH_SEED}/0–{GRAPHS // share - 1}; truth by "
            "truncated factorisation of a random discrete model on each",
            "pgmpy's figure is of its minimal adjustment set put into the adjustment formula; it answers for adjustment "
            "alone, so effects it cannot see otherwise are not counted against it",
            *notes,
        ),
        tuple([*figures, *more, *most]),
    )
