"""A twin as bytes: everything that its continuation depends on, so that it continues to the last bit.

Layout: 8 bytes magic, 32 bytes BLAKE2b of the rest, then zlib of a MessagePack struct. No pickle: bytes from
disk never run code. Anything that is not such a snapshot raises DecodeError and nothing else.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from core.correction import SIZE as LEARN_SIZE
from core.correction_pool import mark_of, read
from core.errors import DecodeError, HometwinError
from core.guidance import Guidance
from core.messages import Prior
from core.nominal import Nominal, Tuning
from core.patient import Patient
from core.record import RANK, Entry
from core.sensor_clock import Watch
from core.track import STATE_SIZE, Track

if TYPE_CHECKING:
    from core.twin import Checkpoint, Twin

MAGIC: Final = b"HTwin\x00\x00\x02"
KEEP_POINTS: Final = 5
MAX_BYTES: Final = 256 << 20  # decompressed; a fortnight of 1-min data is about 2 MiB


class _Nominal(msgspec.Struct, frozen=True, array_like=True):
    consts: bytes
    dynamics: bytes
    basal_mupm: float
    fasting_mmoll: float
    rest_bpm: float
    background: bool
    assumed: tuple[tuple[str, str], ...]
    own_dynamics: bytes
    prior_version: int


class _Track(msgspec.Struct, frozen=True, array_like=True):
    time_us: int
    seen_us: int
    state: bytes
    learn: bytes
    nominal: int
    outliers: tuple[tuple[str, str, int], ...]
    calibrations: int
    pull: tuple[float, ...] = ()
    start: int = -1  # which of the snapshot's starts; -1: the shipped one


class _Snapshot(msgspec.Struct, frozen=True):
    model: str
    kernel: str  # NAME of the model: its layout version
    patient: Patient
    prior: Prior | None
    seed: int
    tuning: tuple[float, ...]
    nominals: tuple[_Nominal, ...]
    head: _Track | None
    checkpoints: tuple[_Track, ...]
    start_us: int | None
    dirty_us: int | None
    prior_from_us: int
    times: bytes
    values: bytes
    kinds: bytes
    qualities: tuple[int, ...]
    sources: tuple[str, ...]
    source_of: bytes
    seqs: tuple[int, ...]
    other_seen: tuple[
        tuple[str, str, int, int], ...
    ]  # keys without an event: deleted, replaced, unused kinds
    cancelled: tuple[tuple[str, str, int, int], ...]
    floor_us: int | None
    ignored_old: int
    clocks: tuple[tuple[str, bool, int, tuple[tuple[int, float, int], ...]], ...] = ()
    guidance: tuple[Guidance, ...] = ()
    changing: str = ""
    starts: tuple[bytes, ...] = ()  # of corrections (core.correction_pool)
    correction: bytes = (
        b""  # mark of the shipped prior that the learned weights began at; empty: before there was one
    )


_KINDS: Final = tuple(RANK)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Snapshot)


def dump(twin: Twin) -> bytes:
    """Bytes of a twin."""
    record = twin.record
    entries = record.entries
    sources = tuple(sorted({e.source for e in entries}))
    source_index = {name: i for i, name in enumerate(sources)}
    in_entries = {(e.source, e.kind, e.seq) for e in entries}
    nominals: list[Nominal] = []
    starts: list[bytes] = []

    def pack(track: Track, calibrations: int) -> _Track:
        index = next((i for i, known in enumerate(nominals) if known is track.nominal), None)
        if index is None:
            index = len(nominals)
            nominals.append(track.nominal)
        start = b"" if track.start is None else track.start.to_bytes(twin.population)
        if start and start not in starts:
            starts.append(start)
        return _Track(
            track.time_us,
            track.seen_us,
            track.state.tobytes(),
            track.learn.tobytes(),
            index,
            tuple(track.outliers),
            calibrations,
            track.pull,
            starts.index(start) if start else -1,
        )

    head = None if twin._track is None else pack(twin._track, twin._calibrations)
    points = tuple(pack(point.track, point.calibrations) for point in _spread(twin._checkpoints))
    body = _Snapshot(
        model=twin.model_name,
        kernel=twin.model.NAME,
        patient=twin.patient,
        prior=twin.prior,
        seed=twin.seed,
        tuning=tuple(twin.tuning),
        nominals=tuple(
            _Nominal(
                n.consts.tobytes(),
                n.dynamics.tobytes(),
                n.basal_mupm,
                n.fasting_mmoll,
                n.rest_bpm,
                n.background,
                n.assumed,
                n.own_dynamics.tobytes(),
                n.prior_version,
            )
            for n in nominals
        ),
        head=head,
        checkpoints=points,
        start_us=twin._start_us,
        dirty_us=twin._dirty_us,
        prior_from_us=twin._prior_from_us,
        times=np.array([e.time_us for e in entries], dtype="<i8").tobytes(),
        values=np.array([e.value for e in entries], dtype="<f8").tobytes(),
        kinds=bytes(_KINDS.index(e.kind) for e in entries),
        qualities=tuple(e.quality for e in entries),
        sources=sources,
        source_of=np.array([source_index[e.source] for e in entries], dtype="<u4").tobytes(),
        seqs=tuple(e.seq for e in entries),
        other_seen=tuple((*key, at) for key, at in record.seen.items() if key not in in_entries),
        cancelled=tuple((*key, at) for key, at in record.cancelled.items()),
        floor_us=record.floor_us,
        ignored_old=record.ignored_old,
        clocks=tuple(
            (source, watch.prompt, watch.last_us, tuple(watch.hours))
            for source, watch in twin._clocks.watches.items()
        ),
        guidance=tuple(twin._guidance),
        changing=twin.changing,
        starts=tuple(starts),
        correction=mark_of(twin.population),
    )
    packed = zlib.compress(_encoder.encode(body), 1)
    return MAGIC + hashlib.blake2b(packed, digest_size=32).digest() + packed


def _spread(points: list[Checkpoint]) -> list[Checkpoint]:
    """Every checkpoint costs 50 kB, and a replay of days only milliseconds: the ends and a few between."""
    if len(points) <= KEEP_POINTS:
        return points
    step = (len(points) - 1) / (KEEP_POINTS - 1)
    return [points[round(i * step)] for i in range(KEEP_POINTS)]


def load(data: bytes, make: type[Twin]) -> Twin:
    """The twin in ``data``; DecodeError for anything else."""
    body = opened(data)
    try:
        return _build(body, make)
    except (ValueError, TypeError, IndexError, HometwinError) as err:
        raise DecodeError(f"snapshot cannot be used: {type(err).__name__}", where="snapshot") from None


def opened(data: bytes) -> _Snapshot:
    """What ``data`` holds, to read it without running it; DecodeError for anything that is no snapshot."""
    if len(data) < 40 or data[:5] != MAGIC[:5]:
        raise DecodeError("not a twin snapshot", where="snapshot")
    if data[:8] != MAGIC:
        raise DecodeError("snapshot of another version", where="snapshot", mend="run the record again")
    if hashlib.blake2b(data[40:], digest_size=32).digest() != data[8:40]:
        raise DecodeError("snapshot is damaged", where="snapshot", mend="run the record again")
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(data[40:], MAX_BYTES)
        if not inflate.eof:
            raise DecodeError("snapshot is truncated or too large", where="snapshot")
        return _decoder.decode(raw)
    except (zlib.error, msgspec.MsgspecError, ValueError, TypeError, HometwinError) as err:
        raise DecodeError(f"snapshot cannot be used: {type(err).__name__}", where="snapshot") from None


def _build(body: _Snapshot, make: type[Twin]) -> Twin:
    twin = make(body.patient, body.model, body.prior, body.seed)
    if body.kernel != twin.model.NAME:
        raise DecodeError("snapshot of another model version", where="snapshot")
    if body.correction and body.correction != mark_of(twin.population):
        raise DecodeError("snapshot of another shipped correction", where="snapshot")
    twin.tuning = Tuning(*body.tuning)
    n_linear, n_const = twin.model.N_LINEAR, twin.model.N_CONST
    nominals = []
    for n in body.nominals:
        consts = np.frombuffer(n.consts, "<f8").copy()
        dynamics = np.frombuffer(n.dynamics, "<f8").copy()
        own = np.frombuffer(n.own_dynamics, "<f8").copy()
        if consts.size != n_const or not dynamics.size == own.size == n_linear * 3:
            raise DecodeError("wrong size", where="snapshot")
        nominals.append(
            Nominal(
                consts,
                dynamics.reshape((n_linear, 3)),
                n.basal_mupm,
                n.fasting_mmoll,
                n.rest_bpm,
                n.background,
                n.assumed,
                own.reshape((n_linear, 3)),
                n.prior_version,
            )
        )

    def unpack(packed: _Track) -> Track:
        track = twin._new_track(nominals[packed.nominal], packed.time_us)
        state, learn = np.frombuffer(packed.state, "<f8"), np.frombuffer(packed.learn, "<f8")
        if state.size != STATE_SIZE or learn.size != LEARN_SIZE:
            raise DecodeError("wrong size", where="snapshot")
        track.state[:] = state
        track.learn[:] = learn
        if packed.pull and len(packed.pull) != twin.model.N_THETA:
            raise DecodeError("wrong size", where="snapshot")
        track.pull = packed.pull
        track.start = None if packed.start < 0 else read(body.starts[packed.start], twin.population)
        track.bind(track.nominal)
        track.seen_us = packed.seen_us
        track.outliers = list(packed.outliers)
        return track

    twin._guidance = [each.checked(twin.model.N_THETA) for each in body.guidance]
    twin.changing = body.changing
    twin._restore_tracks(
        None if body.head is None else (unpack(body.head), body.head.calibrations),
        [(unpack(point), point.calibrations) for point in body.checkpoints],
        body.start_us,
        body.dirty_us,
        body.prior_from_us,
    )
    times, values = np.frombuffer(body.times, "<i8"), np.frombuffer(body.values, "<f8")
    source_of = np.frombuffer(body.source_of, "<u4")
    columns = (times, values, body.kinds, body.qualities, source_of, body.seqs)
    if len({len(column) for column in columns}) != 1:
        raise DecodeError("columns differ in length", where="snapshot")
    record = twin.record
    for time_us, value, kind_index, quality, source_index, seq in zip(
        times.tolist(),
        values.tolist(),
        body.kinds,
        body.qualities,
        source_of.tolist(),
        body.seqs,
        strict=True,
    ):
        kind, source = _KINDS[kind_index], body.sources[source_index]
        record.entries.append(Entry(time_us, RANK[kind], source, seq, kind, value, quality))
        record.seen[(source, kind, seq)] = time_us
    for source, kind, seq, at in body.other_seen:
        record.seen[(source, kind, seq)] = at
    record.cancelled = {(source, kind, seq): at for source, kind, seq, at in body.cancelled}
    record.floor_us, record.ignored_old = body.floor_us, body.ignored_old
    for source, prompt, last_us, hours in body.clocks:
        twin._clocks.watches[source] = watch = Watch()
        watch.prompt, watch.last_us, watch.hours = prompt, last_us, list(hours)
    return twin
