"""The replay memory: pieces of the person's own record that every update of the parameters is judged by.

An episode is a quarter of a day: the filter's state at its start, what was done, what the sensor said. Each belongs
to a stratum, hour block × what was going on, so that rare situations are not washed out by usual days. Inside
a stratum the memory is a reservoir by random keys: an episode draws a level once, and the lowest level leaves first
(keeping the largest of random keys is a uniform sample without counting: Efraimidis & Spirakis, Inf Process Lett
2006;97:181). Levels are few, so there are ties; among them the episode that tells less of the parameters leaves,
½ log|P₀ P⁻¹| nats of the filter's own covariance. The budget of bytes goes to the strata in equal parts.

A rehearsal runs the filter over every episode with the parameters of the old and of the new anchor and compares the
log-likelihoods of the readings (the prequential score, Dawid, JRSS A 1984;147:278), stratum by stratum.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.gate import SC_BASAL_AT, SC_HAS_BASAL, SC_LN_RESTLESS, SC_LN_SENSOR, SC_LONG_AT, SC_WHITE_VAR
from core.guidance import Array, Guidance, packed
from core.memory import USUAL
from core.messages import decode, encode
from core.models import hovorka as model
from core.record import RANK, Entry, cgm_quarters
from core.track import Track
from core.units import US_PER_H, US_PER_MIN

if TYPE_CHECKING:
    from core.twin import Twin

BUDGET_BYTES: Final = 192 << 10  # of all episodes together: half a year of quarters of days, some 0.7 kB each
BLOCK_US: Final = 6 * US_PER_H
BLOCKS: Final = ("night", "morning", "afternoon", "evening")
LEVELS: Final = 8
MIN_QUARTERS: Final = 13  # of a block's 24 quarters of an hour with a reading
MEAL_G: Final = 20.0
ACTIVE_BPM: Final = 30.0  # above rest
ACTIVE_READINGS: Final = 3
NEW_SENSOR_US: Final = 2 * US_PER_H  # a gap this long: the sensor was changed, or lost
EPSILON: Final = 0.5  # nats per episode: a Bayes factor of 1.6 against the update in one stratum's mean
MIN_EPISODES: Final = 3  # of a stratum, to be heard
REHEARSED: Final = 12  # newest and best of each stratum: bounds the night's work
# Parameters hold still over an episode; the filter's own process noise would forget what is tried.
STILL_SD: Final = (0.05, 0.02, 0.25, 0.10, 0.10)
TELL_SD: Final = (0.40, 0.05, 0.25, 0.20, 0.20)  # what an episode's information is measured from
_KINDS: Final = tuple(RANK)


class Episode(msgspec.Struct, frozen=True, array_like=True):
    """One piece of the record. ``body``: the packed numbers."""

    from_us: int
    stratum: str
    context: int
    level: int
    told: float  # nats
    body: bytes

    @property
    def rank(self) -> tuple[int, float]:
        """Who stays: higher first."""
        return (self.level, self.told)

    @property
    def size(self) -> int:
        return len(self.body) + 48

    def why(self) -> str:
        """In words."""
        return f"level {self.level} of {LEVELS - 1}, tells {self.told:.1f} nats of the parameters"


class _Body(msgspec.Struct, frozen=True, array_like=True):
    state: bytes  # float32: mean, diagonal of the factor, drivers, held, scalars that matter
    minutes: bytes  # float32 from the start
    kinds: bytes
    values: bytes  # float32


_SCALARS: Final = (SC_HAS_BASAL, SC_BASAL_AT, SC_LONG_AT, SC_LN_RESTLESS, SC_LN_SENSOR, SC_WHITE_VAR)
_STATE: Final = 2 * model.N + model.N_DRIVER + 4 + len(_SCALARS)


class Compared(NamedTuple):
    """A stratum's rehearsal: episodes heard, and the change of the mean score, nats per episode."""

    stratum: str
    episodes: int
    change: float


def stratum_of(hour: float, entries: Sequence[Entry], rest_bpm: float, context: int, new_sensor: bool) -> str:
    """Name of the stratum of a block that begins at local ``hour``."""
    block = BLOCKS[int(hour // 6.0) % 4]
    if context != USUAL:
        return f"{block}, out of the usual"
    if new_sensor:
        return f"{block}, new sensor"
    active = sum(e.kind == "heart_rate_bpm" and e.value - rest_bpm > ACTIVE_BPM for e in entries)
    if active >= ACTIVE_READINGS:
        return f"{block}, exercise"
    if any(e.kind == "carbs_g" and e.value >= MEAL_G for e in entries):
        return f"{block}, meal"
    return f"{block}, rest"


def episodes_of(
    twin: Twin, from_us: int, to_us: int, context: int, rng: np.random.Generator
) -> list[Episode]:
    """The whole blocks of (from, to] as episodes."""
    found = []
    hour = twin.local.hour(from_us)
    start_us = from_us + round(((-hour) % 6.0) * US_PER_H)
    track = twin.track_at(from_us)
    if track is None:
        return []
    while start_us + BLOCK_US <= to_us:
        twin.run(track, start_us)
        entries = twin.record.between(start_us, start_us + BLOCK_US)
        here = track.copy()
        here.advance(start_us)
        level = int(rng.integers(LEVELS))
        if cgm_quarters(entries) >= MIN_QUARTERS:
            before = twin.record.between(start_us - NEW_SENSOR_US, start_us)
            new_sensor = not any(e.kind == "cgm_mgdl" for e in before)
            # The middle of the first quarter of an hour, so that rounding cannot put it into the block before.
            hour = twin.local.hour(start_us + 7 * US_PER_MIN)
            name = stratum_of(hour, entries, here.nominal.rest_bpm, context, new_sensor)
            body = _pack(here, entries)
            episode = Episode(start_us, name, context, level, 0.0, body)
            found.append(msgspec.structs.replace(episode, told=round(_told(here, episode), 3)))
        start_us += BLOCK_US
    return found


def choose(
    kept: Sequence[tuple[int, Episode]], new: Sequence[Episode], budget_bytes: int = BUDGET_BYTES
) -> tuple[list[Episode], list[int]]:
    """(new episodes to keep, numbers of kept ones to drop) so that all fit the budget."""
    have = [(number, episode) for number, episode in kept]
    known = {episode.from_us for _, episode in have}
    have += [(-1, episode) for episode in new if episode.from_us not in known]
    total = sum(episode.size for _, episode in have)
    drop: list[int] = []
    while total > budget_bytes:
        sizes: dict[str, int] = {}
        for _, episode in have:
            sizes[episode.stratum] = sizes.get(episode.stratum, 0) + episode.size
        fullest = max(sizes, key=lambda name: (sizes[name], name))
        victim = min(
            (item for item in have if item[1].stratum == fullest),
            key=lambda item: (item[1].rank, item[1].from_us),
        )
        have.remove(victim)
        total -= victim[1].size
        if victim[0] >= 0:
            drop.append(victim[0])
    return [episode for number, episode in have if number < 0], drop


def rehearse(
    track: Track, episodes: Sequence[Episode], old: tuple[Array, Array], new: tuple[Array, Array]
) -> list[Compared]:
    """How the parameters ``new`` (mean, cov of θ) would have done against ``old``, by stratum.

    track: anybody's of this person, for nominal values and tuning; not changed.
    """
    strata: dict[str, list[Episode]] = {}
    for episode in episodes:
        strata.setdefault(episode.stratum, []).append(episode)
    out = []
    for name in sorted(strata):
        heard = sorted(strata[name], key=lambda e: (*e.rank, e.from_us))[-REHEARSED:]
        changes = [score(track, e, *new) - score(track, e, *old) for e in heard]
        out.append(Compared(name, len(heard), float(np.mean(changes))))
    return out


def refused(compared: Sequence[Compared], epsilon: float = EPSILON) -> str:
    """Why an update must not be taken; empty when it may."""
    bad = [c for c in compared if c.episodes >= MIN_EPISODES and c.change < -epsilon]
    if not bad:
        return ""
    worst = min(bad, key=lambda c: c.change)
    return f"{worst.stratum}: score would fall by {-worst.change:.2f} nats an episode, more than {epsilon:g}"


def score(track: Track, episode: Episode, theta: Array, cov: Array) -> float:
    """Log-likelihood of the episode's readings under parameters N(theta, cov)."""
    runner, entries = _unpack(track, episode)
    runner.guided(Guidance(runner.time_us, "move", tuple(theta.tolist()), packed(cov)))
    runner.dynamics[: model.N_THETA, 2] = STILL_SD
    for entry in entries:
        runner.apply(entry)
    return runner.evidence


def _told(track: Track, episode: Episode) -> float:
    runner, entries = _unpack(track, episode)
    start = np.diag(np.square(TELL_SD))
    theta = tuple(runner.mean[: model.N_THETA].tolist())
    runner.guided(Guidance(runner.time_us, "move", theta, packed(start)))
    runner.dynamics[: model.N_THETA, 1:] = (1e12, 1e-6)
    for entry in entries:
        runner.apply(entry)
    k = model.N_THETA
    end = (runner.factor.T @ runner.factor)[:k, :k]
    return max(0.0, 0.5 * float(np.linalg.slogdet(start)[1] - np.linalg.slogdet(end)[1]))


def _pack(track: Track, entries: Sequence[Entry]) -> bytes:
    kept = [e for e in entries if e.kind not in ("weight_kg", "drug_mg")]
    sd = np.sqrt(np.maximum(np.sum(track.factor**2, axis=0), 0.0))
    scalars = [float(track.scalars[at]) for at in _SCALARS]
    now_min = track.time_us / US_PER_MIN
    for place in (1, 2):  # times, kept as minutes ago: float32 cannot hold minutes since 1970
        scalars[place] = now_min - scalars[place] if scalars[place] > 0.0 else -1.0
    state = np.concatenate([track.mean, sd, track.drivers, track.held, scalars])
    body = _Body(
        state.astype("<f4").tobytes(),
        np.array([(e.time_us - track.time_us) / US_PER_MIN for e in kept], dtype="<f4").tobytes(),
        bytes(_KINDS.index(e.kind) for e in kept),
        np.array([e.value for e in kept], dtype="<f4").tobytes(),
    )
    return zlib.compress(encode(body), 6)


class Content(NamedTuple):
    """What an episode holds, in full: float64."""

    state: Array  # mean, sd, drivers, held inputs, scalars
    minutes: Array  # of each event, from the episode's start
    kinds: tuple[str, ...]
    values: Array  # in the unit of the kind


def content(episode: Episode) -> Content:
    """The numbers of an episode; DecodeError for bytes that are none."""
    try:
        inflate = zlib.decompressobj()
        body = decode(inflate.decompress(episode.body, 1 << 20), _Body)
        state = np.frombuffer(body.state, "<f4").astype(np.float64)
        minutes, values = np.frombuffer(body.minutes, "<f4"), np.frombuffer(body.values, "<f4")
        kinds = tuple(_KINDS[k] for k in body.kinds)
    except (zlib.error, ValueError, IndexError) as err:
        raise DecodeError(f"episode cannot be read: {type(err).__name__}", where="replay") from None
    good = state.size == _STATE and len(kinds) == len(minutes) == len(values)
    if not good or not np.isfinite(np.concatenate([state, minutes, values])).all():
        raise DecodeError("episode has the wrong size", where="replay")
    return Content(state, minutes.astype(np.float64), kinds, values.astype(np.float64))


def _unpack(track: Track, episode: Episode) -> tuple[Track, list[Entry]]:
    """A track at the start of the episode, and its events; DecodeError for bytes that are none."""
    state, minutes, kinds, values = content(episode)
    runner = Track(track.patient, track.local, track.nominal, track.tuning, episode.from_us, POPULATION)
    runner.teach = False
    n = model.N
    runner.mean[:] = state[:n]
    runner.factor[:] = np.diag(np.maximum(state[n : 2 * n], 1e-9))
    at = 2 * n
    runner.drivers[:] = state[at : at + model.N_DRIVER]
    runner.held[:] = state[at + model.N_DRIVER : at + model.N_DRIVER + 4]
    scalars = state[-len(_SCALARS) :].tolist()
    now_min = episode.from_us / US_PER_MIN
    for place in (1, 2):
        scalars[place] = now_min - scalars[place] if scalars[place] >= 0.0 else 0.0
    runner.scalars[list(_SCALARS)] = scalars
    runner.bind(runner.nominal)
    entries = [
        Entry(episode.from_us + round(float(m) * US_PER_MIN), RANK[kind], "", i, kind, float(v), 0)
        for i, (m, kind, v) in enumerate(zip(minutes, kinds, values, strict=True))
    ]
    return runner, entries


def to_bytes(episode: Episode) -> bytes:
    """For the store."""
    return encode(episode)


def from_bytes(data: bytes) -> Episode:
    """The episode in ``data``; DecodeError for anything else."""
    return decode(data, Episode)
