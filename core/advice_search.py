"""Searches for a dose or a rate on a grid of whole steps."""

from __future__ import annotations

from collections.abc import Callable

from core.advice_types import Policy
from core.chance import Chance


def within(chance: Chance, policy: Policy) -> bool:
    """Whether both chances keep the policy's limits."""
    return chance.within(policy.max_p_below_70, policy.max_p_below_54)


def largest(passes: Callable[[int], bool], top: int) -> int:
    """The largest of 0..top that passes, when passing is lost but once on the way up; -1 when 0 fails."""
    if not passes(0):
        return -1
    if top == 0 or passes(top):
        return top
    safe, unsafe = 0, top
    while unsafe - safe > 1:
        middle = (safe + unsafe) // 2
        if passes(middle):
            safe = middle
        else:
            unsafe = middle
    return safe


def least(cost: Callable[[int], float], top: int) -> int:
    """The smallest of 0..top after which a cost with one valley does not fall any more."""
    low, high = 0, top
    while low < high:
        middle = (low + high) // 2
        if cost(middle + 1) < cost(middle) - 1e-12:
            low = middle + 1
        else:
            high = middle
    return low
