"""What hub and engine say to each other over their Unix socket. The hub asks, the engine answers."""

from __future__ import annotations

import msgspec

from core.messages import Contribution, DoseAdvice, Estimate, Forecast, Prior, Sample, StandingPolicy

HORIZONS_MIN = (30.0, 60.0, 120.0, 240.0, 360.0)


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First word of the hub: whom the twin is of, and where it stood."""

    patient_toml: str
    snapshot: bytes | None
    row: int  # last store row inside the snapshot
    prior: Prior | None = None
    memory: bytes = b""  # of core.memory; empty: none yet


class Observe(msgspec.Struct, frozen=True, tag=True):
    """Samples in store order, up to and including store row ``row``."""

    row: int
    samples: tuple[Sample, ...]


class Ask(msgspec.Struct, frozen=True, tag=True):
    """What do you think now?"""

    now_us: int
    horizons_min: tuple[float, ...] = HORIZONS_MIN


class SetPrior(msgspec.Struct, frozen=True, tag=True):
    """A new population prior from the cloud, verified by the hub."""

    prior: Prior


class Blur(msgspec.Struct, frozen=True):
    """The privacy budget for what is contributed (core.privacy)."""

    epsilon: float
    delta: float
    releases: int


class AskSnapshot(msgspec.Struct, frozen=True, tag=True):
    """Hand over everything that you know. ``blur``: the contribution with noise for that budget."""

    now_us: int
    blur: Blur | None = None
    correction: bool = False  # tell in the contribution also what was learned in the correction


class AskAdvice(msgspec.Struct, frozen=True, tag=True):
    """What to do now, within a standing policy that the hub has verified?"""

    now_us: int
    carbs_g: float
    question: str
    policy: StandingPolicy
    advice_id: str


class Night(msgspec.Struct, frozen=True, tag=True):
    """Begin the night's work, with the replay memory as the store holds it: (number, episode)."""

    now_us: int
    kept: tuple[tuple[int, bytes], ...] = ()


class AskNight(msgspec.Struct, frozen=True, tag=True):
    """Is the night's work over?"""


ToEngine = Hello | Observe | Ask | SetPrior | AskSnapshot | AskAdvice | Night | AskNight


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Answer to Hello. ``row`` is what the twin holds: 0 when the snapshot was absent or unusable."""

    row: int
    restored: bool
    note: str = ""


class Done(msgspec.Struct, frozen=True, tag=True):
    """Answer to Observe and SetPrior. ``refused`` counts samples that the twin could not use."""

    row: int
    refused: int = 0


class Answer(msgspec.Struct, frozen=True, tag=True):
    """Answer to Ask. None: the twin has nothing that it could say honestly yet."""

    estimate: Estimate | None
    forecast: Forecast | None
    note: str = ""
    context: str = ""  # what is going on in this person's life, in words
    changing: str = ""  # a change of context in progress: nothing is advised
    night_due: bool = False


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """Answer to AskSnapshot: the twin's bytes, the row they reach, and what was learned beyond the prior."""

    row: int
    data: bytes
    contribution: Contribution | None
    memory: bytes = b""


class Advised(msgspec.Struct, frozen=True, tag=True):
    """Answer to AskAdvice: advice (a refusal is one too), or why there is none."""

    advice: DoseAdvice | None
    note: str = ""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot answer this hub at all, and why: the text of an error, which never holds health data."""

    reason: str


class NightDone(msgspec.Struct, frozen=True, tag=True):
    """Answer to AskNight: ``over`` with what the store must keep and let go, or why there is nothing."""

    over: bool
    keep: tuple[bytes, ...] = ()  # episodes
    drop: tuple[int, ...] = ()
    record: bytes = b""  # core.memory.NightRecord
    why: str = ""


FromEngine = Ready | Done | Answer | Snapshot | Advised | NightDone | Refused
