"""d-separation, criteria and identification: textbook graphs, properties, and truth by truncated factorisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.causal import criteria
from core.causal.estimand import evaluate
from core.causal.graph import Graph
from core.causal.identify import (
    BACKDOOR,
    FRONTDOOR,
    GENERAL,
    NO_EFFECT,
    NOT_IDENTIFIED,
    Hedge,
    id_algorithm,
    identify,
)
from core.errors import InputError, RefusedError


def graph(edges: str, latent: str = "") -> Graph:
    """``"Z>A Z>Y A>Y"``; nodes in order of appearance."""
    pairs = tuple((e[0], e[2]) for e in edges.split())
    return Graph(tuple(dict.fromkeys(n for p in pairs for n in p)), pairs, frozenset(latent))


CONFOUNDED = graph("Z>A Z>Y A>Y")
FRONT = graph("U>A U>Y A>M M>Y", "U")
M_BIAS = graph("A>Y U>A U>L V>L V>Y", "UV")
NAPKIN = graph("W>R R>X X>Y U>W U>X V>W V>Y", "UV")
BOW = graph("A>Y U>A U>Y", "U")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n = draw(st.integers(3, 6))
    names = tuple("ABCDEF"[:n])
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    edges = [p for p in pairs if draw(st.booleans())]
    hidden = []
    for k in range(draw(st.integers(0, 3))):
        a, b = draw(st.sampled_from(pairs))
        hidden.append(f"U{k}")
        edges += [(f"U{k}", a), (f"U{k}", b)]
    return Graph((*hidden, *names), tuple(edges), frozenset(hidden))


def blocked_by_paths(g: Graph, x: str, y: str, known: frozenset[str]) -> bool:
    """d-separation by its definition: every undirected path is walked. The slow twin of ``d_separated``."""
    around = {n: g.parents(n) | g.children(n) for n in g.nodes}

    def walks(path: tuple[str, ...]) -> bool:
        if path[-1] == y:
            return any(
                (node in known)
                if not ((a, node) in g.edges and (b, node) in g.edges)
                else not (g.descendants([node]) & known)
                for a, node, b in zip(path, path[1:], path[2:], strict=False)
            )
        return all(walks((*path, n)) for n in around[path[-1]] if n not in path)

    return walks((x,))


def truth(g: Graph, tables: dict[str, np.ndarray], do: dict[str, int]) -> np.ndarray:
    """Joint distribution under ``do``: the truncated factorisation."""
    joint = np.ones((2,) * len(g.nodes))
    for k, name in enumerate(g.nodes):
        shape = [1] * len(g.nodes)
        shape[k] = 2
        joint = joint * (np.eye(2)[do[name]].reshape(shape) if name in do else tables[name])
    return joint


def random_tables(g: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    tables = {}
    for k, name in enumerate(g.nodes):
        shape = [2 if n in g.parents(name) else 1 for n in g.nodes]
        one = rng.uniform(0.1, 0.9, size=shape)
        tables[name] = np.concatenate([1 - one, one], axis=k)
    return tables


def test_a_collider_blocks_until_it_or_its_effect_is_known() -> None:
    g = graph("A>C B>C C>D")
    assert g.d_separated("A", "B")
    assert not g.d_separated("A", "B", "C")
    assert not g.d_separated("A", "B", "D")
    assert graph("A>B B>C").d_separated("A", "C", "B")


@given(graphs(), st.data())
@settings(max_examples=120, deadline=None)
def test_d_separation_is_what_all_paths_say(g: Graph, data: st.DataObject) -> None:
    x, y = data.draw(st.permutations(g.nodes))[:2]
    known = frozenset(n for n in g.nodes if n not in (x, y) and data.draw(st.booleans()))
    assert g.d_separated([x], [y], known) == blocked_by_paths(g, x, y, known)


def test_textbook_graphs() -> None:
    assert identify(CONFOUNDED, "A", "Y").adjustment == ("Z",)
    found = identify(FRONT, "A", "Y")
    assert (found.method, found.mediators) == (FRONTDOOR, ("M",))
    # M-bias: adjusting for L opens a path; nothing is the right set.
    assert criteria.adjustment_sets(M_BIAS, "A", "Y") == [()]
    assert not criteria.is_backdoor(M_BIAS, "A", "Y", ["L"])
    assert identify(NAPKIN, "X", "Y").method == GENERAL
    assert identify(CONFOUNDED, "Y", "A").method == NO_EFFECT


def test_an_effect_of_the_treatment_is_never_adjusted_for() -> None:
    g = graph("Z>A Z>Y A>M M>Y")
    assert not criteria.is_backdoor(g, "A", "Y", ["Z", "M"])
    assert criteria.minimal_adjustment(g, "A", "Y") == ("Z",)


def test_refusal_names_the_unmeasured_confounder() -> None:
    found = identify(CONFOUNDED.hiding("Z"), "A", "Y")
    assert found.method == NOT_IDENTIFIED
    assert found.confounders == ("Z",)
    with pytest.raises(RefusedError, match="Z would have to be measured"):
        found.required()
    # Two hidden causes, of which one does no harm: only the other is named.
    g = graph("A>Y U>A U>Y V>B V>Y B>Y", "UV")
    assert identify(g, "A", "Y").confounders == ("U",)
    assert identify(BOW.measuring("U"), "A", "Y").method == BACKDOOR


def test_hedge_is_a_pair_of_nested_components() -> None:
    hedge = id_algorithm(BOW.project(), frozenset("A"), frozenset("Y"))
    assert hedge == Hedge(frozenset("AY"), frozenset("Y"))


@given(graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_what_is_identified_equals_what_do_gives(g: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.permutation(g.measured)[:2]
    found = identify(g, str(x), str(y))
    if not found.identified:
        assert found.confounders
        assert set(found.confounders) <= g.latent
        assert identify(g.measuring(found.confounders), str(x), str(y)).identified
        return
    tables = random_tables(g, rng)
    hidden = tuple(k for k, n in enumerate(g.nodes) if n in g.latent)
    assert found.estimand is not None
    names = g.measured
    value = evaluate(found.estimand, truth(g, tables, {}).sum(axis=hidden), names)
    value = np.moveaxis(value, (names.index(x), names.index(y)), (0, 1))
    for level in (0, 1):
        real = truth(g, tables, {str(x): level})
        at = g.nodes.index(y)
        real = real.sum(axis=tuple(k for k in range(real.ndim) if k != at))
        ours = value[min(level, value.shape[0] - 1)].reshape(2, -1)
        np.testing.assert_allclose(ours, np.broadcast_to(real[:, None], ours.shape), atol=1e-12)


@given(graphs(), st.data())
@settings(max_examples=80, deadline=None)
def test_minimal_sets_are_valid_minimal_and_found_whenever_one_exists(g: Graph, data: st.DataObject) -> None:
    x, y = data.draw(st.permutations(g.measured))[:2]
    others = [n for n in g.measured if n not in (x, y)]
    valid = [
        set(c)
        for size in range(len(others) + 1)
        for c in itertools.combinations(others, size)
        if criteria.is_backdoor(g, x, y, c)
    ]
    one = criteria.minimal_adjustment(g, x, y)
    assert (one is None) == (not valid)
    listed = [set(s) for s in criteria.adjustment_sets(g, x, y)]
    assert all(s in valid and not any(v < s for v in valid) for s in listed)
    if one is not None:
        assert set(one) in listed


def test_wrong_graphs_and_names_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="cycle"):
        graph("A>B B>A")
    with pytest.raises(InputError, match="unknown node"):
        Graph(("A",), (("A", "B"),))
    with pytest.raises(InputError, match="twice"):
        Graph(("A", "A"), ())
    with pytest.raises(InputError, match="not measured"):
        identify(BOW, "U", "Y")
    with pytest.raises(InputError, match="the same"):
        identify(CONFOUNDED, "A", "A")
    with pytest.raises(InputError, match="unknown node"):
        identify(CONFOUNDED, "A", "Q")
