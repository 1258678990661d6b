"""Linear structural causal models: simulate, intervene, and ask what would have been.

Each node is a sum of its causes times a weight, a constant, and noise of its own (Pearl 2009, eq. 5.1). With
additive noise a counterfactual is exact: abduct each node's noise from what was seen, act, predict (sec. 7.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.causal.graph import Edge, Graph
from core.errors import InputError

Floats = NDArray[np.float64]


class LinearScm(msgspec.Struct, frozen=True):
    """``weights``: one for each edge of ``graph``; ``constants`` and ``noise_sd``: 0 and 1 where not given."""

    graph: Graph
    weights: dict[Edge, float]
    constants: dict[str, float] = {}
    noise_sd: dict[str, float] = {}

    def __post_init__(self) -> None:
        if set(self.weights) != set(self.graph.edges):
            raise InputError("each edge needs exactly one weight", where="linear model")
        self.graph.check(*self.constants, *self.noise_sd)

    def sample(
        self, n: int, rng: np.random.Generator, do: Mapping[str, float] | None = None
    ) -> dict[str, Floats]:
        """``n`` draws of every node (float64[n] each), under ``do`` if given."""
        noise = {name: self.noise_sd.get(name, 1.0) * rng.standard_normal(n) for name in self.graph.order()}
        return self._predict(noise, do or {})

    def counterfactual(
        self, seen: Mapping[str, float | Floats], do: Mapping[str, float]
    ) -> dict[str, Floats]:
        """What every node would have been under ``do``, given that ``seen`` (all nodes) was.

        Node values may be arrays of equal length. InputError when a node was not seen: its noise is unknown then.
        """
        self.graph.check(*do)
        missing = [n for n in self.graph.nodes if n not in seen]
        if missing:
            raise InputError(f"not seen: {', '.join(missing)}", where="counterfactual")
        values = {name: np.asarray(seen[name], dtype=np.float64) for name in self.graph.nodes}
        noise = {name: values[name] - self._explained(name, values) for name in self.graph.order()}
        return self._predict(noise, do)

    def total_effect(self, treatment: str, outcome: str) -> float:
        """Change of the outcome by one more unit of the treatment: over directed paths, the sum of products."""
        self.graph.check(treatment, outcome)
        effect = 0.0
        for path in self.graph.directed_paths(treatment, outcome):
            effect += float(np.prod([self.weights[edge] for edge in pairwise(path)]))
        return effect

    def _explained(self, name: str, values: Mapping[str, Floats]) -> Floats:
        total = np.asarray(self.constants.get(name, 0.0))
        for cause in sorted(self.graph.parents(name)):
            total = total + self.weights[cause, name] * values[cause]
        return total

    def _predict(self, noise: Mapping[str, Floats], do: Mapping[str, float]) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for name in self.graph.order():
            free = self._explained(name, values) + noise[name]
            values[name] = np.full_like(noise[name], do[name]) if name in do else free
        return values
