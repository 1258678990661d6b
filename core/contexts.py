"""Contexts: has the person's life changed, since when, to something known, and what may it be?

Each night's batch is asked what shift of insulin sensitivity it shows, and how much likelier that is under a change than
under none, or under another context's anchor (``after_night``): signed drift of the parameters.
By day, every six hours, the filter is run over the last twelve with the present anchor's parameters, with others in
their place, and with sensitivity a step lower or higher; the last six are scored (multiple-model estimation,
Magill, IEEE TAC 1965;10:434). Either way differences of log-likelihood are summed up from zero (Page, Biometrika
1954;41:100, whose cumulative sum this is). Beside them runs the CUSUM of the normalised innovations squared, which
finds what no shift of sensitivity explains.

An alarm is told with when it began, how large it is, and what it may be. Names are candidates, by rules on what else
changed (heart rate at rest, activity, meals, time of day); where they do not tell, the words say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from core.consolidate import CONTEXT_SD, N_CONSTANTS, fresh_anchor, merged, posterior, shift_seen, split
from core.guidance import Array, Guidance, packed
from core.memory import USUAL, Anchor, Context, Day, Memory, NightInfo
from core.models import hovorka as model
from core.record import cgm_quarters
from core.replay import ACTIVE_BPM, STILL_SD
from core.units import US_PER_DAY, US_PER_H

if TYPE_CHECKING:
    from core.twin import Twin

EVERY_US: Final = 6 * US_PER_H
BURN_US: Final = 6 * US_PER_H  # insulin's actions have reached what the parameters say
STEP: Final = 0.4  # of ln sensitivity: a third less, or half as much again
TRIED: Final = (0.25, 0.5, 0.75)  # sizes of a shift, once one is found
CLIP: Final = 3.0  # nats one look may add: an unlogged meal alone alarms nobody
ALARM: Final = 5.0  # nats: e⁵ = 150 times likelier since the sum left zero
KNOWN_NATS: Final = 1.0  # a context that was met before is likelier than one never met
BACK: Final = 6.0  # a context that is known needs two looks at least
# A night's batch tells a shift of sensitivity better than any look. On 168 nights of people without a change (development
# seeds 740–747, 750–755) what it showed had .40 of the stated variance, with longer tails than a normal: .5 is counted.
# Alarms at 3.5 nats: 1–2 of those nights were false; at 2.5: 3; at 4.5: at most one, and a day later.
NIGHT_STEP: Final = 0.3
SHIFT_VAR: Final = 0.5
NIGHT_ALARM: Final = 3.5
NIGHT_BACK: Final = 2.5
LEAST_APART: Final = 0.2  # contexts nearer than this are told apart as if they were so far
ONSET_NIGHT_US: Final = 3 * US_PER_DAY  # so far back nights can leave the usual anchor
ONSET_US: Final = 2 * US_PER_DAY  # so far back a change may begin
SETTLE_US: Final = 36 * US_PER_H  # so long a change counts as in progress
DWELL_US: Final = 18 * US_PER_H  # between two changes
MIN_NIGHTS: Final = 5  # of an anchor: with fewer it is itself too unsure for anything to differ from it
MIN_QUARTERS: Final = 13  # of six hours' 24 quarters of an hour with a reading
OPEN_FACTOR: Final = 4.0
OPEN_FACTOR_AGAIN: Final = 2.0
SCATTER_SLACK: Final = 1.0  # MODELS F: iid false alarms rarer than every 55 days
SCATTER_ALARM: Final = 20.0
SCATTER_CAP: Final = 9.0
SCATTER_RATE: Final = 0.05  # how fast the usual size of innovations is followed, per look
FEVER_BPM: Final = 4.0
HABIT_MIN: Final = 25.0  # minutes a day of activity
HOLIDAY_H: Final = 1.0
HOLIDAY_CARBS: Final = 0.35
DAYTIME_NATS: Final = 2.5  # a look; prednisolone in the morning leaves the night alone
NIGHT_ENDS_H: Final = 7.0
KEPT_GAINS: Final = 8
NAMES: Final = ("illness", "resistance", "steroid course", "exercise habit", "new insulin", "holiday")


class Looked(NamedTuple):
    """The memory after a look, and what the filter must be told."""

    memory: Memory
    guidance: tuple[Guidance, ...] = ()


def look(twin: Twin, memory: Memory, now_us: int) -> Looked:
    """Look once; before EVERY_US has passed since the last time nothing happens."""
    last = memory.look
    if 0 <= now_us - last.looked_us < EVERY_US:
        return Looked(memory)
    looked = msgspec.structs.replace(last, looked_us=now_us)
    anchor, usual = memory.anchor(), memory.anchor(USUAL)
    seen = cgm_quarters(twin.record.between(now_us - EVERY_US, now_us))
    ready = anchor is not None and usual is not None and _nights(usual) >= MIN_NIGHTS
    start_us = now_us - EVERY_US - BURN_US
    if not ready or seen < MIN_QUARTERS or twin.track_at(start_us) is None:
        return Looked(msgspec.structs.replace(memory, look=looked))
    places = {number: _theta(twin, memory, number) for number, _ in memory.anchors}
    here = places[memory.current]
    spans = (start_us, now_us - EVERY_US, now_us)
    base = evidence(twin, here, *spans)

    def gain(theta: Array) -> float:
        return _clipped(evidence(twin, theta, *spans) - base)

    gained = gain(shifted(here, -STEP)), gain(shifted(here, STEP))
    assert anchor is not None
    # A context whose own nights are few is a guess still: it can be left, not yet be found to have changed.
    settled = _nights(anchor) >= MIN_NIGHTS
    more = max(0.0, last.more + gained[0]) if settled else 0.0
    less = max(0.0, last.less + gained[1]) if settled else 0.0
    known = dict(last.back)
    back = tuple(
        (number, max(0.0, known.get(number, 0.0) + gain(theta)))
        for number, theta in places.items()
        if number != memory.current
    )
    scatter, nis_mean = _scatter(twin, last.scatter, last.nis_mean, now_us)
    looked = msgspec.structs.replace(
        looked,
        more=more,
        less=less,
        more_from_us=last.more_from_us if last.more > 0.0 else now_us - EVERY_US,
        less_from_us=last.less_from_us if last.less > 0.0 else now_us - EVERY_US,
        back=back,
        scatter=scatter,
        nis_mean=nis_mean,
        gains=(*last.gains, (now_us, *gained))[-KEPT_GAINS:],
    )
    memory = msgspec.structs.replace(memory, look=looked)
    best = max(back, key=lambda pair: pair[1], default=(USUAL, 0.0))
    calm = now_us >= last.open_until_us - SETTLE_US + DWELL_US  # nobody's life changes twice a day
    if best[1] > BACK and calm:
        return _return(twin, memory, best[0], now_us - EVERY_US - BURN_US, now_us)
    sums = (
        (more, looked.more_from_us, -1.0),
        (less, looked.less_from_us, 1.0),
    )
    largest, since_us, sign = max(sums)
    if largest > ALARM and calm:
        return _compare(twin, memory, sign, max(since_us, now_us - ONSET_US), now_us)
    if scatter > SCATTER_ALARM:
        words = (
            "glucose has moved less predictably than usual for some hours; the cause cannot be told from here"
            " (meals not on record, a failing sensor or infusion set, the start of an illness?)"
        )
        return Looked(_opened(memory, now_us, words), (Guidance(now_us, "open", factor=OPEN_FACTOR_AGAIN),))
    return Looked(memory)


def after_night(twin: Twin, memory: Memory, read: NightInfo, now_us: int) -> Looked:
    """Signed drift: what a night's batch adds to the sums, before it joins any anchor; perhaps a change or a return.

    While a sum runs, the night is judged by the anchor without the nights since it left zero.
    """
    anchor, usual = memory.anchor(), memory.anchor(USUAL)
    if anchor is None or usual is None or _nights(usual) < MIN_NIGHTS:
        return Looked(memory)
    last = memory.look

    def against(known: Anchor) -> tuple[float, float]:
        shift, sd = shift_seen(read, posterior(known, twin.patient.therapy, twin.consts()))
        return shift, SHIFT_VAR * sd * sd

    sums: list[tuple[float, int, float, float]] = []  # (sum, since, sign, shift)
    for sign, was, since_us in (
        (-1.0, last.drift_more, last.drift_more_from_us),
        (1.0, last.drift_less, last.drift_less_from_us),
    ):
        kept = split(anchor, since_us)[0] if was > 0.0 else anchor
        shift, var = against(kept)
        gain = (sign * NIGHT_STEP * shift - 0.5 * NIGHT_STEP**2) / var
        total = max(0.0, was + _clipped(gain)) if _nights(anchor) >= MIN_NIGHTS else 0.0
        sums.append((total, since_us if was > 0.0 else read.from_us, sign, shift))
    back: list[tuple[int, float]] = []
    known_back = dict(last.drift_back)
    here = _ln_s(twin, anchor)
    for number, other in memory.anchors:
        if number == memory.current or _nights(other) == 0:
            continue
        shift, var = against(other)
        apart = here - _ln_s(twin, other)
        apart = math.copysign(max(abs(apart), LEAST_APART), apart)
        gain = (0.5 * apart**2 - apart * shift) / var
        back.append((number, max(0.0, known_back.get(number, 0.0) + _clipped(gain))))
    memory = msgspec.structs.replace(
        memory,
        look=msgspec.structs.replace(
            last,
            drift_more=sums[0][0],
            drift_more_from_us=sums[0][1],
            drift_less=sums[1][0],
            drift_less_from_us=sums[1][1],
            drift_back=tuple(back),
        ),
    )
    best = max(back, key=lambda pair: pair[1], default=(USUAL, 0.0))
    if memory.current != USUAL and best[1] > NIGHT_BACK:
        return _return(twin, memory, best[0], read.from_us, now_us)
    total, since_us, sign, shift = max(sums)
    if total <= NIGHT_ALARM:
        return Looked(memory)
    if memory.current == USUAL and back:  # as it was once before?
        kept = split(anchor, since_us)[0]
        away = {n: _ln_s(twin, a) - _ln_s(twin, kept) for n, a in memory.anchors if n != USUAL}
        nearest = min(away, key=lambda n: abs(away[n] - shift))
        if abs(away[nearest] - shift) < LEAST_APART:
            return _return(twin, memory, nearest, since_us, now_us)
    size = min(max(abs(shift), TRIED[0]), TRIED[-1])
    return _change(twin, memory, sign * size, max(since_us, now_us - ONSET_NIGHT_US), now_us)


def _ln_s(twin: Twin, anchor: Anchor) -> float:
    return float(posterior(anchor, twin.patient.therapy, twin.consts()).mean[N_CONSTANTS + model.LN_S])


def _clipped(gain: float) -> float:
    return min(max(gain, -CLIP), CLIP)


def evidence(twin: Twin, theta: Array, start_us: int, from_us: int, to_us: int) -> float:
    """Log-likelihood of the CGM readings of (from, to] under θ held since ``start_us``."""
    track = twin.track_at(start_us)
    assert track is not None
    track.teach = False
    twin.run(track, start_us)
    cov = packed(np.diag(np.square(STILL_SD)))
    track.guided(Guidance(start_us, "move", tuple(theta.tolist()), cov))
    track.dynamics[: model.N_THETA, 2] = STILL_SD
    twin.run(track, from_us, after_us=to_us)
    track.evidence = 0.0
    twin.run(track, to_us, after_us=to_us)
    return track.evidence


def shifted(theta: Array, ln_shift: float) -> Array:
    """θ with another sensitivity."""
    out = theta.copy()
    out[model.LN_S] += ln_shift
    return out


def _nights(anchor: Anchor) -> int:
    return anchor.nights + len(anchor.recent)


def _theta(twin: Twin, memory: Memory, number: int) -> Array:
    anchor = memory.anchor(number)
    assert anchor is not None
    return posterior(anchor, twin.patient.therapy, twin.consts()).theta()[0]


def _scatter(twin: Twin, scatter: float, nis_mean: float, now_us: int) -> tuple[float, float]:
    squares = [min(i.z * i.z, SCATTER_CAP) for i in twin.innovations(now_us - EVERY_US, now_us)]
    for square in squares:
        scatter = max(0.0, scatter + square / nis_mean - 1.0 - SCATTER_SLACK)
    if squares:
        nis_mean += SCATTER_RATE * (float(np.mean(squares)) - nis_mean)
    return scatter, min(max(nis_mean, 0.3), 3.0)


def _opened(memory: Memory, now_us: int, words: str) -> Memory:
    """All sums begin anew, and a change is in progress."""
    cleared = msgspec.structs.replace(
        memory.look,
        more=0.0,
        less=0.0,
        back=(),
        drift_more=0.0,
        drift_less=0.0,
        drift_back=(),
        scatter=0.0,
        open_until_us=now_us + SETTLE_US,
        opened_for=words,
    )
    return msgspec.structs.replace(memory, look=cleared)


def _return(twin: Twin, memory: Memory, number: int, at_us: int, now_us: int) -> Looked:
    """A stored anchor fits better: go there, from ``at_us`` on."""
    left, found = memory.context(), memory.context(number)
    assert found is not None
    if left is not None and left.number != USUAL:
        memory = memory.with_context(msgspec.structs.replace(left, to_us=at_us))
    if number != USUAL:
        memory = memory.with_context(
            msgspec.structs.replace(found, to_us=0, returns=(*found.returns, at_us)[-8:])
        )
    anchor = memory.anchor(number)
    assert anchor is not None
    theta, cov = posterior(anchor, twin.patient.therapy, twin.consts()).theta()
    words = (
        "back to the usual life"
        if number == USUAL
        else f"again as in {_month(twin, found.from_us)}: {found.words}"
    )
    memory = _begun(_opened(memory, now_us, words), number, at_us)
    cov = cov + np.diag(np.square(STILL_SD))
    return Looked(memory, (Guidance(at_us, "move", tuple(theta.tolist()), packed(cov)),))


def _begun(memory: Memory, number: int, from_us: int) -> Memory:
    look = msgspec.structs.replace(memory.look, changed_us=from_us)
    return msgspec.structs.replace(memory, current=number, look=look)


def _compare(twin: Twin, memory: Memory, sign: float, onset_us: int, now_us: int) -> Looked:
    """How large a shift of this sign is by the filter's evidence, and whether a stored anchor does as well."""
    here = _theta(twin, memory, memory.current)
    spans = (onset_us, min(onset_us + BURN_US, now_us - EVERY_US), now_us)
    tried = {sign * size: evidence(twin, shifted(here, sign * size), *spans) for size in TRIED}
    shift = max(tried, key=lambda s: tried[s])
    stored = {
        number: evidence(twin, _theta(twin, memory, number), *spans)
        for number, _ in memory.anchors
        if number != memory.current
    }
    nearest = max(stored, key=lambda number: stored[number], default=memory.current)
    if stored and stored[nearest] >= tried[shift] - KNOWN_NATS:
        return _return(twin, memory, nearest, now_us - EVERY_US - BURN_US, now_us)
    return _change(twin, memory, shift, onset_us, now_us)


def _change(twin: Twin, memory: Memory, shift: float, onset_us: int, now_us: int) -> Looked:
    """Something new: open plasticity where it began, and a context with an anchor of its own."""
    current = memory.context()
    usual_days = [d for d in memory.days if d.context == USUAL]
    today = msgspec.structs.replace(
        day_of(twin, onset_us, now_us, memory.current), shift_by_day=by_day(twin, memory, shift, onset_us)
    )
    if current is not None and current.number != USUAL:
        # The context goes on, more or less than was thought: learn on, no name of its own.
        total = current.ln_shift + shift
        words, names = describe(twin, total, current.from_us, now_us, usual_days, today)
        changed = msgspec.structs.replace(
            current, ln_shift=total, words=words, candidates=names, name=_name(names, total)
        )
        memory = _opened(memory.with_context(changed), now_us, words)
        return Looked(memory, (Guidance(onset_us, "open", factor=OPEN_FACTOR_AGAIN),))
    usual = memory.anchor(USUAL)
    assert usual is not None
    kept, claimed = split(usual, onset_us)
    after = posterior(kept, twin.patient.therapy, twin.consts())
    mean = after.mean.copy()
    mean[N_CONSTANTS + model.LN_S] += shift
    sd = np.sqrt(np.diag(after.cov) + CONTEXT_SD**2)
    fresh = fresh_anchor(mean, sd, "the usual life, shifted")
    for night in claimed:
        fresh = merged(fresh, night)
    number = 1 + max((c.number for c in memory.contexts), default=USUAL)
    words, names = describe(twin, shift, onset_us, now_us, usual_days, today)
    context = Context(number, _name(names, shift), words, names, onset_us, ln_shift=shift)
    memory = memory.with_anchor(USUAL, kept).with_context(context).with_anchor(number, fresh)
    memory = _begun(_opened(memory, now_us, words), number, onset_us)
    theta, cov = posterior(fresh, twin.patient.therapy, twin.consts()).theta()
    moved = Guidance(onset_us, "move", tuple(theta.tolist()), packed(cov))
    return Looked(memory, (moved, Guidance(onset_us, "open", factor=OPEN_FACTOR_AGAIN)))


# ---- names -----------------------------------------------------------------------------------------------


def day_of(twin: Twin, from_us: int, to_us: int, context: int) -> Day:
    """What the record of (from, to] looks like, per day."""
    entries = twin.record.between(from_us, to_us)
    days = max((to_us - from_us) / US_PER_DAY, 0.25)
    rates = np.array([e.value for e in entries if e.kind == "heart_rate_bpm"])
    rest = float(np.quantile(rates, 0.1)) if rates.size >= 24 else math.nan
    active = 5.0 * float(np.sum(rates > rest + ACTIVE_BPM)) / days if rates.size >= 24 else math.nan
    meals = [(twin.local.hour(e.time_us), e.value) for e in entries if e.kind == "carbs_g"]
    grams = sum(g for _, g in meals)
    hour = sum(h * g for h, g in meals) / grams if grams > 0.0 else math.nan
    bolus = sum(e.value for e in entries if e.kind == "bolus_u") / days
    return Day(to_us, context, rest, active, grams / days, hour, bolus)


def by_day(twin: Twin, memory: Memory, sign: float, from_us: int) -> float:
    """How much more the looks of the day say for a shift than those of the night, nats a look."""
    day: list[float] = []
    night: list[float] = []
    for at_us, more, less in memory.look.gains:
        if at_us > from_us:
            middle = twin.local.hour(at_us - EVERY_US // 2)
            (night if middle < NIGHT_ENDS_H else day).append(more if sign < 0.0 else less)
    return float(np.mean(day) - np.mean(night)) if day and night else 0.0


def describe(
    twin: Twin, ln_shift: float, from_us: int, now_us: int, usual: Sequence[Day], now: Day
) -> tuple[str, tuple[str, ...]]:
    """(words, candidates with the likeliest first) of a shift of insulin sensitivity."""
    need = math.expm1(-ln_shift)
    amount = f"about {abs(100 * need):.0f} % {'more' if need > 0 else 'less'} insulin than usual"
    start = f"since {_weekday(twin, from_us)}"
    points = candidates(ln_shift, (now_us - from_us) / US_PER_DAY, usual, now)
    order = sorted(points, key=lambda name: (-points[name][0], NAMES.index(name)))
    first, second = order[0], order[1]
    if points[first][0] >= 2.0 and points[first][0] > points[second][0]:
        return f"needs {amount} {start}, as with {_with(first)} ({points[first][1]})", (first,)
    open_names = tuple(
        name for name in order if points[name][0] >= points[first][0] - 1.0 and points[name][0] > 0
    )
    listed = ", ".join(_with(name) for name in open_names)
    return f"needs {amount} {start}; why cannot be told from here: {listed}, or another cause", open_names


def candidates(ln_shift: float, days: float, usual: Sequence[Day], now: Day) -> dict[str, tuple[float, str]]:
    """Points and the reason for them, of every name. Without a record of usual days nothing but the sign counts."""
    more = ln_shift < 0.0
    counts = dict.fromkeys(NAMES, 0.0)
    whys: dict[str, list[str]] = {name: [] for name in NAMES}

    def usually(name: str) -> float:
        values = [getattr(day, name) for day in usual]
        values = [v for v in values if math.isfinite(v)]
        return float(np.median(values)) if len(values) >= 3 else math.nan

    def add(name: str, count: float, why: str = "") -> None:
        counts[name] += count
        if why:
            whys[name].append(why)

    rest = now.rest_bpm - usually("rest_bpm")
    active = now.active_min - usually("active_min")
    hour = now.meal_hour - usually("meal_hour")
    carbs = now.carbs_g / usually("carbs_g") - 1.0 if usually("carbs_g") > 0 else math.nan
    if more:
        add("illness", 1.0)
        add("resistance", 1.0)
        add("steroid course", 1.0)
        if rest >= FEVER_BPM:
            add("illness", 2.0, f"resting heart rate {rest:.0f} per minute higher")
        if days >= 7.0 and not rest >= FEVER_BPM:
            add("resistance", 1.5, f"for {days:.0f} days, heart rate as usual")
        if now.shift_by_day >= DAYTIME_NATS and not rest >= FEVER_BPM:
            add("steroid course", 0.5, "by day more than by night")  # meals speak by day: no proof
    else:
        add("exercise habit", 1.0)
        if active >= HABIT_MIN:
            add("exercise habit", 2.0, f"{active:.0f} min a day more in motion")
    add("new insulin", 0.5)
    add("holiday", 0.5)
    if abs(hour) >= HOLIDAY_H:
        add("holiday", 1.5, f"meals {abs(hour):.1f} h {'later' if hour > 0 else 'earlier'}")
    if abs(carbs) >= HOLIDAY_CARBS:
        add("holiday", 1.0, f"{abs(100 * carbs):.0f} % {'more' if carbs > 0 else 'less'} carbohydrate")
    return {name: (counts[name], ", ".join(whys[name])) for name in NAMES}


def _name(names: Sequence[str], ln_shift: float) -> str:
    """Short: the cause when there is one candidate, else only what is known."""
    return names[0] if len(names) == 1 else f"{'more' if ln_shift < 0.0 else 'less'} insulin needed"


def _with(name: str) -> str:
    article = {"illness": "an illness", "resistance": "a lasting resistance to insulin"}
    return article.get(name, f"a {name}" if name[0] not in "aeiou" else f"an {name}")


def _weekday(twin: Twin, time_us: int) -> str:
    when = datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(ZoneInfo(twin.patient.timezone))
    return f"{when:%A} {when.day} {when:%B}"


def _month(twin: Twin, time_us: int) -> str:
    when = datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(ZoneInfo(twin.patient.timezone))
    return f"{when:%B} {when.year}"
