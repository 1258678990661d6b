"""What an identified effect equals, as an expression in the distribution of what is measured.

Expressions are data: they print as formulas and evaluate on a table of probabilities. A table is an array with
one axis per variable; an axis of length 1 means that the value does not depend on that variable.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class P(msgspec.Struct, frozen=True):
    """P(of | given) of the observed joint distribution."""

    of: tuple[str, ...]
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"P({', '.join(self.of)}{' | ' + ', '.join(self.given) if self.given else ''})"


class Product(msgspec.Struct, frozen=True):
    """Product of factors; empty is 1."""

    factors: tuple[Expression, ...]

    def __str__(self) -> str:
        return " ".join(f"[{f}]" if isinstance(f, Sum) else str(f) for f in self.factors) or "1"


class Sum(msgspec.Struct, frozen=True):
    """Sum over all values of some variables."""

    over: tuple[str, ...]
    term: Expression

    def __str__(self) -> str:
        return f"Σ_{{{', '.join(self.over)}}} {self.term}"


class Quotient(msgspec.Struct, frozen=True):
    """One expression over another: how a distribution that is itself an expression is conditioned."""

    numerator: Expression
    denominator: Expression

    def __str__(self) -> str:
        return f"[{self.numerator}] / [{self.denominator}]"


Expression = P | Product | Sum | Quotient


def summed(over: Sequence[str], term: Expression) -> Expression:
    """Σ over ``over``; no Σ for nothing, and marginals of a joint stay a joint."""
    gone = tuple(over)
    if not gone:
        return term
    if isinstance(term, P) and not term.given:
        left = tuple(n for n in term.of if n not in gone)
        if len(left) + len(gone) == len(term.of):
            return P(left) if left else Product(())
    return Sum(gone, term)


def conditional(joint: Expression, of: str, given: Sequence[str], variables: Sequence[str]) -> Expression:
    """P'(of | given) where P' is the distribution ``joint`` over ``variables``."""
    if isinstance(joint, P) and not joint.given:
        return P((of,), tuple(given))
    rest = [v for v in variables if v != of and v not in given]
    top = summed(rest, joint)
    return Quotient(top, summed([of], top)) if given else top


def evaluate(expression: Expression, table: Floats, names: Sequence[str]) -> Floats:
    """The expression's value on a joint table: float64 with one axis per name, length 1 where it is constant.

    nan where something is divided by a probability of zero (positivity fails there).
    """
    axis = {name: k for k, name in enumerate(names)}
    if isinstance(expression, P):
        keep = {*expression.of, *expression.given}
        joint = table.sum(axis=tuple(k for n, k in axis.items() if n not in keep), keepdims=True)
        if not expression.given:
            return joint
        base = joint.sum(axis=tuple(axis[n] for n in expression.of), keepdims=True)
        return _divide(joint, base)
    if isinstance(expression, Product):
        value: Floats = np.ones((1,) * len(names))
        for factor in expression.factors:
            value = value * evaluate(factor, table, names)
        return value
    if isinstance(expression, Sum):
        value = evaluate(expression.term, table, names)
        for name in expression.over:
            # A sum over a variable the term does not depend on would count it once, not once per value.
            k = axis[name]
            value = value.sum(axis=k, keepdims=True) * (table.shape[k] if value.shape[k] == 1 else 1)
        return value
    return _divide(
        evaluate(expression.numerator, table, names), evaluate(expression.denominator, table, names)
    )


def _divide(top: Floats, bottom: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = np.where(bottom > 0, top / bottom, np.nan)
    return result
