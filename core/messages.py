"""What rooms and machines say to each other: frozen, typed, reversible.

``Sample`` is the one record of the whole house. Its natural key ``(source, kind, seq)`` makes delivery
exactly once: a sensor's own sequence number, never an arrival counter, wherever the sensor has one.
Records are never edited: a correction or deletion is a new record that ``amends`` an older one.
"""

from __future__ import annotations

import math
from enum import IntFlag
from typing import Final, TypeVar

import msgspec

from core.errors import DecodeError
from core.units import check_value

MAX_MESSAGE_BYTES: Final = 1 << 20  # a batch of 2,000 samples is 120 kB; beyond 1 MiB somebody is hostile


class Quality(IntFlag):
    """What is known against a sample. Zero is good. Flagged samples are kept, never dropped."""

    GOOD = 0
    SENSOR_WARNING = 1  # the sensor itself doubts it (warm-up, calibration due, weak signal)
    BACKFILLED = 2  # arrived late, through the sensor's own history
    CLOCK_DOUBT = 4  # the sensor's clock was wrong or unset when it was taken
    BY_HAND = 8  # a person typed it
    OUTLIER = 16  # set by the twin, never by a codec
    RETURNED = (
        32  # the hub had lost it, and the cloud gave it back: no sensor and no person said it to this store
    )


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One reading or one act. ``value`` is in the unit named by ``kind`` (core.units.KINDS)."""

    time_us: int  # when it happened, microseconds UTC
    kind: str
    value: float
    source: str  # which device or person said so, e.g. "cgm-1" or "hand"
    seq: int  # the source's own number; strictly increasing per (source, kind)
    quality: int = 0
    received_us: int = 0  # when the hub had it durably
    amends: tuple[str, int] | None = None  # (source, seq) of the same kind that this record replaces
    deleted: bool = False  # with amends: the older record never happened
    # The same moment as received_us on the hub's clock that never jumps, since the machine's boot; 0: not known.
    steady_us: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.source, self.kind, self.seq)

    def checked(self, where: str = "") -> Sample:
        """Self, when its value can be meant; InputError otherwise."""
        check_value(self.kind, self.value, where)
        return self


class Estimate(msgspec.Struct, frozen=True, tag=True):
    """The twin's state and parameters at one time, with uncertainty and age."""

    time_us: int
    model: str  # name and version, e.g. "glucose/1"
    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[float, ...]  # lower triangle by rows, len n(n+1)/2
    output_mean: float  # the observed quantity, e.g. glucose in mg/dL
    output_sd: float
    nis: float  # normalised innovation squared of the last reading; nan before the first
    data_age_s: float  # age of the newest reading used; inf before the first
    status: str = "ok"  # ok | warming_up | stale | diverged


class Forecast(msgspec.Struct, frozen=True, tag=True):
    """Predictive distribution of the output at ``made_at_us`` + horizons. All tuples have equal length."""

    made_at_us: int
    model: str
    horizons_min: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    p05: tuple[float, ...]
    p50: tuple[float, ...]
    p95: tuple[float, ...]
    data_age_s: float
    status: str = "ok"
    # Of a CGM reading below 70 mg/dL within 30 min of made_at_us, or now (core.lows); nan: not told.
    low_chance: float = math.nan


class Alarm(msgspec.Struct, frozen=True, tag=True):
    """Raised or cleared. ``number`` rises strictly per hub."""

    number: int
    time_us: int
    name: str  # urgent_low | low | high | urgent_high | signal_loss | predicted_low | engine_down
    level: int  # Alert Level 0x2A06: 0 none, 1 mild, 2 high
    raised: bool  # False: cleared
    value: float  # what crossed the threshold, in the kind's unit; nan when there is none
    data_age_s: float
    delivered: bool = False  # a wearable confirmed the write


class SampleBatch(msgspec.Struct, frozen=True, tag=True):
    """Samples in the order in which the hub stored them."""

    samples: tuple[Sample, ...]


class HubStatus(msgspec.Struct, frozen=True, tag=True):
    """How the hub itself is. Counters only rise."""

    time_us: int
    version: str
    engine_up: bool
    devices: dict[str, str]  # source -> link state
    counters: dict[str, int]
    outbox_pending: int
    person: str = ""  # core.evidence.person_mark: whom this hub lives with now
    # Advice that it holds and that nobody must use: advice_id -> why, in a word of edge.hub_advice. A peer of before this
    # field leaves it out.
    set_aside: dict[str, str] = {}


class Contribution(msgspec.Struct, frozen=True, tag=True):
    """Information that one hub's data added to its prior (MODELS F): never the prior itself."""

    time_us: int
    model: str
    prior_version: int
    names: tuple[str, ...]
    delta_precision: tuple[float, ...]  # lower triangle by rows
    delta_information: tuple[float, ...]
    context: str = ""  # what was going on (illness, holiday …); empty: the person's usual life
    noise_sd: float = 0.0  # in published SDs, of the noise added for privacy (core.privacy); 0: none
    correction: bytes = (
        b""  # what the data moved in the learned correction (core.correction_pool); empty: not told
    )


class Confirmation(msgspec.Struct, frozen=True, tag=True):
    """What the person says was done about a piece of advice. Not a record of insulin: that is a Sample."""

    advice_id: str
    time_us: int
    took_u: float  # 0: not followed


class Resend(msgspec.Struct, frozen=True, tag=True):
    """Samples that the hub had told, and lost to damage since, are asked for; a page at a time."""

    request: int  # random: who does not know it cannot answer
    spans: tuple[
        tuple[int, int], ...
    ]  # first and last microsecond in which they arrived at the hub, or happened
    after: int = 0  # where the answer to the question before ended


class Ack(msgspec.Struct, frozen=True, tag=True):
    """The cloud has these outbox numbers durably."""

    numbers: tuple[int, ...]


class Prior(msgspec.Struct, frozen=True, tag=True):
    """Population prior on log-parameters for one person's stratum."""

    version: int
    model: str
    names: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[float, ...]  # lower triangle by rows
    stratum: str
    provenance: str
    expires_us: int
    correction: bytes = (
        b""  # where the correction begins (core.correction_pool); empty: nothing changes there
    )


class DoseAdvice(msgspec.Struct, frozen=True, tag=True):
    """Advice on one action. Not a medical device's output; every field is shown to the person."""

    advice_id: str
    for_time_us: int
    carbs_g: float
    dose_u: float
    p_below_70: float
    p_below_54: float
    horizon_min: float
    draws: int
    refused: str | None
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    data_time_us: int  # newest reading the advice rests on
    model: str
    approved_by: str  # who approved it, and how
    approved_us: int
    action: str = "bolus"  # bolus | carbs | basal | none
    eat_g: float = 0.0
    why: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # what would change it
    ladder: tuple[tuple[float, float, float], ...] = ()  # (U, upper bounds of P(<70), P(<54))
    band: tuple[tuple[float, float, float, float], ...] = ()  # (min, p05, p50, p95) with the dose
    band_without: tuple[tuple[float, float, float, float], ...] = ()
    max_dose_u: float = 25.0  # the limit that stood over it
    person: str = ""  # core.evidence.person_mark of whom it is for
    evidence: str = ""  # core.evidence.digest of the record it rests on
    adviser_u: float | None = None  # what the adviser said, when the clinician changed the dose


class StandingPolicy(msgspec.Struct, frozen=True, tag=True):
    """What a clinician allows the hub to advise alone, while it is offline too, until it expires."""

    policy_id: str
    person: str  # core.evidence.person_mark
    questions: tuple[str, ...]  # of core.advice_types.QUESTIONS
    max_dose_u: float
    max_iob_u: float
    max_per_day: int
    target_mgdl: float
    carb_ratio_g_per_u: float | None
    correction_mgdl_per_u: float | None
    expires_us: int
    approved_by: str
    approved_us: int
    note: str = ""


class OwnAdvice(msgspec.Struct, frozen=True, tag=True):
    """Advice that a hub gave alone, under a standing policy."""

    advice: DoseAdvice
    policy_id: str


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The answer to one ``Resend``: samples in the order in which the hub once told them."""

    request: int
    after: int  # both as they were asked
    samples: tuple[Sample, ...]
    next: int  # the ``after`` of the next question
    more: bool  # False: nothing is left


Up = SampleBatch | Estimate | Forecast | Alarm | HubStatus | Contribution | Confirmation | OwnAdvice | Resend
Down = Ack | Prior | DoseAdvice | StandingPolicy | Returned


class Downlink(msgspec.Struct, frozen=True):
    """What the cloud signs: bound to hub, strictly increasing, expiring."""

    hub_id: str
    number: int
    issued_us: int
    expires_us: int
    body: Down


class Uplink(msgspec.Struct, frozen=True):
    """What the hub seals. ``number`` is the outbox number: strictly increasing, the key for deduplication."""

    hub_id: str
    number: int
    sent_us: int
    body: Up


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """MessagePack bytes of any message of this module."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """The message in ``data``, or DecodeError (and no other exception) for any other bytes."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"message of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        # The library's text may quote a value, so only its type goes on.
        raise DecodeError(f"not a valid message: {type(err).__name__}") from None
