"""Causal graphs as data: what causes what, and which of it is measured.

A graph is directed and acyclic. A node that is not measured (``latent``) has a name like any other, so that a
refusal can say what one would have to measure. For identification the latent nodes are projected away
(Verma & Pearl, UAI 1990): what is left is a semi-Markovian graph whose ↔ edges remember which latent nodes
they stand for. Terms follow Pearl, Causality, 2nd ed., 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from core.errors import InputError

Edge = tuple[str, str]
Names = frozenset[str]


class Graph(msgspec.Struct, frozen=True):
    """Nodes in the order given, edges (cause, effect), and the names of nodes that nobody measures.

    InputError for an unknown name, a name given twice, or a cycle.
    """

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    latent: Names = frozenset()

    def __post_init__(self) -> None:
        known = set(self.nodes)
        if len(known) != len(self.nodes):
            raise InputError("a node is given twice", where="causal graph")
        for name in (*(n for edge in self.edges for n in edge), *self.latent):
            if name not in known:
                raise InputError(f"unknown node {name[:40]!r}", where="causal graph")
        if len(self.order()) != len(self.nodes):
            raise InputError(
                "the edges form a cycle", where="causal graph", mend="a cause comes before its effect"
            )

    @property
    def measured(self) -> tuple[str, ...]:
        """Nodes that are not latent, in order."""
        return tuple(n for n in self.nodes if n not in self.latent)

    def check(self, *names: str) -> None:
        """InputError for a name that is not in the graph."""
        for name in names:
            if name not in self.nodes:
                raise InputError(
                    f"unknown node {name[:40]!r}",
                    where="causal graph",
                    mend=f"one of {', '.join(self.nodes)}",
                )

    def parents(self, node: str) -> Names:
        return frozenset(a for a, b in self.edges if b == node)

    def children(self, node: str) -> Names:
        return frozenset(b for a, b in self.edges if a == node)

    def ancestors(self, nodes: Iterable[str]) -> Names:
        """The nodes themselves and everything that causes them, directly or not."""
        return closure(nodes, ((b, a) for a, b in self.edges))

    def descendants(self, nodes: Iterable[str]) -> Names:
        """The nodes themselves and everything they cause, directly or not."""
        return closure(nodes, self.edges)

    def order(self) -> tuple[str, ...]:
        """Causes before effects; among equals as given. Shorter than ``nodes`` if there is a cycle."""
        left = list(self.nodes)
        done: list[str] = []
        while left:
            ready = next((n for n in left if not any(a in left for a in self.parents(n))), None)
            if ready is None:
                break
            left.remove(ready)
            done.append(ready)
        return tuple(done)

    def without_edges(self, into: Iterable[str] = (), out_of: Iterable[str] = ()) -> Graph:
        """Mutilated graph: no edges into these nodes, none out of those."""
        ends, starts = frozenset(into), frozenset(out_of)
        kept = tuple((a, b) for a, b in self.edges if b not in ends and a not in starts)
        return Graph(self.nodes, kept, self.latent)

    def measuring(self, names: Iterable[str]) -> Graph:
        """The same causes, with these latent nodes measured."""
        return Graph(self.nodes, self.edges, self.latent - frozenset(names))

    def hiding(self, names: Iterable[str]) -> Graph:
        """The same causes, with these nodes not measured."""
        return Graph(self.nodes, self.edges, self.latent | frozenset(names))

    def d_separated(self, x: Iterable[str], y: Iterable[str], given: Iterable[str] = ()) -> bool:
        """True when every path between ``x`` and ``y`` is blocked by ``given`` (Pearl 2009, def. 1.2.3).

        By reachability along (node, came from below?) states: Koller & Friedman 2009, algorithm 3.1.
        """
        start, target, known = frozenset(x), frozenset(y), frozenset(given)
        self.check(*start, *target, *known)
        if start & target:
            return False
        opened = self.ancestors(known)  # a collider is open when it or a descendant is known
        seen: set[tuple[str, bool]] = set()
        waiting = [(n, True) for n in start - known]
        while waiting:
            node, from_below = waiting.pop()
            if (node, from_below) in seen:
                continue
            seen.add((node, from_below))
            if node in target and node not in known:
                return False
            if from_below and node not in known:
                waiting += [(p, True) for p in self.parents(node)]
                waiting += [(c, False) for c in self.children(node)]
            elif not from_below:
                if node not in known:
                    waiting += [(c, False) for c in self.children(node)]
                if node in opened:
                    waiting += [(p, True) for p in self.parents(node)]
        return True

    def directed_paths(self, x: str, y: str) -> Iterator[tuple[str, ...]]:
        """Every path x → … → y."""
        useful = self.ancestors([y])

        def walk(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
            if path[-1] == y:
                yield path
                return
            for child in sorted(self.children(path[-1]) & useful, key=self.nodes.index):
                yield from walk((*path, child))

        if x in useful:
            yield from walk((x,))

    def project(self) -> Projection:
        """The semi-Markovian graph over the measured nodes."""
        measured = self.measured
        directed = {(a, b) for a in measured for b in self._through_latent([a]) if a != b}
        behind: dict[frozenset[str], set[str]] = {}
        for hidden in self.latent:
            reached = sorted(self._through_latent([hidden]))
            for i, a in enumerate(reached):
                for b in reached[i + 1 :]:
                    behind.setdefault(frozenset((a, b)), set()).add(hidden)
        order = tuple(n for n in self.order() if n in measured)
        return Projection(
            order,
            frozenset(directed),
            frozenset(behind),
            {pair: frozenset(names) for pair, names in behind.items()},
        )

    def _through_latent(self, starts: Iterable[str]) -> Names:
        """Measured nodes reached by directed paths whose inner nodes are all latent."""
        reached: set[str] = set()
        seen: set[str] = set()
        waiting = [c for s in starts for c in self.children(s)]
        while waiting:
            node = waiting.pop()
            if node in self.latent:
                if node not in seen:
                    seen.add(node)
                    waiting += self.children(node)
            else:
                reached.add(node)
        return frozenset(reached)


class Projection(msgspec.Struct, frozen=True):
    """Measured nodes (causes first), → edges, ↔ edges, and the latent nodes behind each ↔."""

    order: tuple[str, ...]
    directed: frozenset[Edge]
    confounded: frozenset[Names]
    behind: dict[Names, Names]

    def ancestors(self, nodes: Iterable[str], within: Names, cut_into: Names = frozenset()) -> Names:
        """Ancestors (and selves) among ``within``, after cutting edges into ``cut_into``."""
        backward = ((b, a) for a, b in self.directed if a in within and b in within and b not in cut_into)
        return closure(frozenset(nodes) & within, backward)

    def components(self, within: Names) -> list[Names]:
        """C-components of the subgraph: nodes joined by paths of ↔ edges. In causal order of their first node."""
        pairs = [tuple(pair) for pair in self.confounded if pair <= within]
        both = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        left = [n for n in self.order if n in within]
        found: list[Names] = []
        while left:
            part = closure([left[0]], both)
            found.append(part)
            left = [n for n in left if n not in part]
        return found

    def before(self, node: str, within: Names) -> tuple[str, ...]:
        """Nodes of ``within`` that come before ``node`` in causal order."""
        return tuple(n for n in self.order[: self.order.index(node)] if n in within)


def closure(starts: Iterable[str], edges: Iterable[Edge]) -> Names:
    """Everything reachable from ``starts`` along ``edges``, the starts included."""
    following: dict[str, list[str]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += following.get(node, ())
    return frozenset(seen)
