"""What the adviser is doing for each hub, in words for the portal's empty state.

Held in memory, and only there: it is of the moment, and why a try was refused may speak of the person's health.
Adviser and portal are parts of one process.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NO_MEAL: Final = "No usual meal is near; the adviser looks again every minute."


class Try(NamedTuple):
    """What goes on now, and how the last try ended (empty before the first)."""

    now: str = ""
    last: str = ""


_tries: dict[str, Try] = {}


def tell(hub_id: str, now: str, last: str | None = None) -> None:
    """Remember ``now``; ``last`` None leaves the end of the last try as it is."""
    _tries[hub_id] = Try(now, _tries.get(hub_id, Try()).last if last is None else last)


def of(hub_id: str) -> Try:
    """The newest; empty words while the adviser has not looked yet."""
    return _tries.get(hub_id, Try())
