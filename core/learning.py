"""Learning beside the filter: a look at the context every six hours, and a night's work.

The filter stays as it is. What is learned reaches it as guidance (core.guidance): the night's anchor as an observation,
a change of context as an opening or a move. Pure: twin, memory, episodes and randomness come as arguments; what
must be kept comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from core.consolidate import (
    GAMMA,
    N_CONSTANTS,
    WITHIN_SD,
    Posterior,
    base_of,
    fresh_anchor,
    merged,
    mixed,
    posterior,
    read_night,
)
from core.contexts import DWELL_US, SETTLE_US, Looked, after_night, day_of
from core.contexts import look as look_once
from core.errors import DecodeError, InputError
from core.guidance import Guidance, packed
from core.memory import KEPT_DAYS, USUAL, Context, Memory, NightInfo, NightRecord
from core.replay import BUDGET_BYTES, Compared, Episode, choose, episodes_of, refused, rehearse
from core.units import US_PER_DAY

if TYPE_CHECKING:
    from core.twin import Twin

NIGHT_FROM_H: Final = (
    2.0  # local: hardly anything is eaten or injected, and the machine has nothing else to do
)
NIGHT_TO_H: Final = 6.0
ACROSS_US: Final = (
    6 * 3_600_000_000
)  # a day of which more lies before a change says nothing of either context
NIGHT_LATE_US: Final = 30 * 3_600_000_000  # after so long any hour will do

# How much of what a night tells the filter out of the usual is the usual life's. No probability (a context of a week ends on one day
# of seven) but what errors cost: one that goes on shows in the readings of that day whatever was told, one that is over
# not for eighteen hours (docs/decisions/0015). More of it: ln s in a context strays; less: the first day back is worse.
OVER_SHARE: Final = 0.7


class Protection(NamedTuple):
    """What stands between a night's news and what was known before. All of it, except in experiments."""

    ewc: bool = True
    rehearsal: bool = True
    contexts: bool = True


class Night(NamedTuple):
    """A night's outcome."""

    memory: Memory
    guidance: tuple[Guidance, ...]
    keep: tuple[Episode, ...]
    drop: tuple[int, ...]
    record: NightRecord


def due(memory: Memory, local_hour: float, now_us: int) -> bool:
    """Whether it is time for the night's work."""
    since_us = now_us - memory.night_us
    if memory.night_us and 0 <= since_us < US_PER_DAY // 2:
        return False
    return NIGHT_FROM_H <= local_hour < NIGHT_TO_H or (memory.night_us > 0 and since_us >= NIGHT_LATE_US)


def look(twin: Twin, memory: Memory, now_us: int) -> Memory:
    """Look at the context when it is time; the twin is guided by what is found."""
    looked: Looked = look_once(twin, memory, now_us)
    if looked.guidance:
        twin.guide(*looked.guidance)
    twin.changing = looked.memory.changing(now_us)
    return looked.memory


def night(
    twin: Twin,
    memory: Memory,
    kept: Sequence[tuple[int, Episode]],
    now_us: int,
    rng: np.random.Generator,
    protection: Protection = Protection(),  # noqa: B008  (a constant)
    read: NightInfo | None = None,
) -> Night:
    """The night's work at ``now_us``: batch over the last day, rehearsal, and a new anchor or none.

    kept: the replay memory, by the store's numbers. read: the batch's outcome, where it is known already.
    The twin's record is read; its filter is not guided here (the guidance comes back).
    """
    from_us = now_us - US_PER_DAY
    track = twin.track_at(now_us)
    if track is None:
        raise InputError("there is no record yet", where="night")
    mean, sd, source = base_of(track)
    if memory.context(USUAL) is None:
        usual = Context(USUAL, "usual life", "the usual life", ("usual life",), now_us)
        memory = memory.with_context(usual)
    number = memory.current
    anchor = memory.anchor() or fresh_anchor(mean, sd, source)
    if number == USUAL:  # the prior may have become better since: a new cloud prior, a calibration
        anchor = msgspec.structs.replace(
            anchor, base_mean=tuple(mean.tolist()), base_sd=tuple(sd.tolist()), source=source
        )
    therapy, consts = twin.patient.therapy, track.nominal.consts
    gamma = GAMMA if protection.ewc else 0.0
    compared, readings, why = [], 0, ""
    told: tuple[Guidance, ...] = ()
    try:
        if read is None:
            read, readings = read_night(twin, from_us, now_us)
        memory = memory.with_anchor(number, anchor)
        if protection.contexts:
            memory, told = after_night(twin, memory, read, now_us)
            number, anchor = memory.current, memory.anchor() or anchor
    except (InputError, np.linalg.LinAlgError) as err:
        why = err.what if isinstance(err, InputError) else "the batch found no mode"
    before = after = posterior(anchor, therapy, consts, gamma)
    if read is not None and not why and memory.look.changed_us - read.from_us > ACROSS_US:
        why = "the day lies across a change of context"
    try:
        if read is not None and not why:
            candidate = merged(anchor if protection.ewc else fresh_anchor(mean, sd, source), read, gamma)
            after = posterior(candidate, therapy, consts, gamma)
            if protection.rehearsal and anchor.nights + len(anchor.recent) > 0:
                heard = [e for _, e in kept if e.context == number]
                compared = rehearse(track, heard, _observed(before), _observed(after))
                why = refused(compared)
            if not why:
                anchor = candidate
    except (DecodeError, np.linalg.LinAlgError) as err:
        why = err.what if isinstance(err, DecodeError) else "the batch found no mode"
    accepted = not why
    if not accepted:
        after = before
    memory = memory.with_anchor(number, anchor)
    context = memory.context()
    assert context is not None
    keep: tuple[Episode, ...] = ()
    drop: tuple[int, ...] = ()
    if protection.rehearsal:
        new, gone = choose(kept, episodes_of(twin, from_us, now_us, number, rng), BUDGET_BYTES)
        keep, drop = tuple(new), tuple(gone)
    today = day_of(twin, from_us, now_us, number)
    memory = msgspec.structs.replace(
        memory, days=(*memory.days, today)[-KEPT_DAYS:], night_us=now_us, nights=memory.nights + 1
    )
    pull = told
    if anchor.nights + len(anchor.recent) > 0:
        theta, cov = _coming(twin, memory, after, gamma, now_us)
        pull = (*told, Guidance(now_us, "pull", tuple(theta.tolist()), packed(cov)))
    record = NightRecord(
        now_us,
        context.name,
        accepted,
        why or "taken",
        tuple(after.mean.tolist()),
        tuple(after.sd().tolist()),
        anchor.base_mean,
        anchor.base_sd,
        anchor.source,
        tuple(_row(c) for c in compared),
        readings,
    )
    return Night(memory, pull, keep, drop, record)


def _coming(
    twin: Twin, memory: Memory, found: Posterior, gamma: float, now_us: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the filter is told of the coming day: ``found``, of the present context; out of the usual also that it may be over.

    For DWELL_US after a change was found the context found stands alone: its evidence is of that day.
    """
    here = _observed(found)
    usual = memory.anchor(USUAL)
    if memory.current == USUAL or usual is None or now_us < memory.look.open_until_us - SETTLE_US + DWELL_US:
        return here
    there = posterior(usual, twin.patient.therapy, twin.consts(), gamma)
    return mixed(here, _observed(there), OVER_SHARE)


def _observed(found: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """What the anchor says of a day's parameters: its own uncertainty and that days differ."""
    theta, cov = found.theta()
    return theta, cov + np.diag(WITHIN_SD[N_CONSTANTS:] ** 2)


def _row(compared: Compared) -> tuple[str, int, float]:
    return (compared.stratum, compared.episodes, round(compared.change, 3))
