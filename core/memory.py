"""What a twin keeps of one person beyond the filter: contexts, anchors, and what each night decided.

Plain data without numerics, so that the hub can show what it only stores. Times are µs UTC; matrices are lower
triangles by rows; parameters are those of ``NAMES``, in that order: constants as ln multiples of the published
values, then the filter's log-parameters.
"""

from __future__ import annotations

from typing import Final

import msgspec

from core.errors import DecodeError
from core.messages import decode, encode

VERSION: Final = 1
CONSTANTS: Final = ("sit", "sid", "sie", "ka1", "ka2", "ka3", "k12", "f01", "rcl", "circ_ln")
THETA: Final = ("ln_s", "ln_egp0", "ln_tg", "ln_ag", "ln_ti")
NAMES: Final = (*CONSTANTS, *THETA)
# Title and meaning of what the filter estimates, wherever people read of it: the same in terminal and portal.
TITLES: Final = {
    "ln_s": ("Insulin sensitivity", "how strongly insulin lowers glucose"),
    "ln_egp0": ("Liver glucose output", "glucose made without food"),
    "ln_tg": ("Meal absorption time", "how slowly food arrives"),
    "ln_ag": ("Carbohydrate uptake", "share of counted carbohydrate that arrives"),
    "ln_ti": ("Insulin absorption time", "how slowly a bolus arrives"),
}
PLAIN: Final = {
    "sit": "insulin's action on transport", "sid": "insulin's action on disposal",
    "sie": "insulin's action on the liver", "ka1": "speed of insulin's action on transport", "ka2": "speed of insulin's action on disposal",
    "ka3": "speed of insulin's action on the liver", "k12": "return from the tissues", "f01": "use without insulin",
    "rcl": "loss by the kidneys", "circ_ln": "rise before dawn",
    **{name: title.lower() for name, (title, _) in TITLES.items()},
}  # fmt: skip
IN_PROGRESS: Final = "a change of context is in progress"  # how words begin that forbid advice
USUAL: Final = 0  # the number of the usual life's context
KEPT_CONTEXTS: Final = 12
MAX_TOLD: Final = 390  # characters; the cloud takes 400
KEPT_DAYS: Final = 28


class NightInfo(msgspec.Struct, frozen=True, array_like=True):
    """What one night's batch says of the parameters: information without any prior."""

    from_us: int
    to_us: int
    precision: tuple[float, ...]
    vector: tuple[float, ...]
    lean: tuple[float, ...] = ()  # what the vector is short of (core.marginal); empty: not known


class Anchor(msgspec.Struct, frozen=True):
    """The consolidated posterior of one context: base × information of its nights, older ones fading."""

    base_mean: tuple[float, ...]
    base_sd: tuple[float, ...]
    source: str  # of the base, in words
    precision: tuple[float, ...]
    vector: tuple[float, ...]
    nights: int = 0
    updated_us: int = 0
    recent: tuple[NightInfo, ...] = ()  # not merged yet: a change of context may claim them
    lean: tuple[float, ...] = ()  # of its nights, fading as they do; empty: nothing known of it


class Day(msgspec.Struct, frozen=True, array_like=True):
    """What a day's record looked like; nan where nothing was measured."""

    time_us: int
    context: int
    rest_bpm: float
    active_min: float
    carbs_g: float
    meal_hour: float  # mean local hour of what was eaten
    bolus_u: float
    shift_by_day: float = 0.0  # evidence for a shift by day less that by night, nats a look


class Context(msgspec.Struct, frozen=True):
    """One stretch of life. ``number`` 0 is the usual one."""

    number: int
    name: str
    words: str  # for the person and the clinician
    candidates: tuple[str, ...]  # most likely first; more than one: it cannot be told
    from_us: int
    to_us: int = 0  # 0: it lasts
    ln_shift: float = 0.0  # of insulin sensitivity against the usual life
    returns: tuple[int, ...] = ()  # when it came again


class Look(msgspec.Struct, frozen=True):
    """Sums of the detector."""

    looked_us: int = 0
    more: float = 0.0  # evidence that more insulin is needed than the present context's anchor says
    less: float = 0.0
    drift_more: float = (
        0.0  # as ``more`` and ``less``, of the nights' batches: signed drift of the parameters
    )
    drift_less: float = 0.0
    drift_more_from_us: int = 0
    drift_less_from_us: int = 0
    scatter: float = 0.0  # CUSUM of the normalised innovations squared
    more_from_us: int = 0
    less_from_us: int = 0
    back: tuple[tuple[int, float], ...] = ()  # other contexts, and the evidence for each
    nis_mean: float = 0.9
    gains: tuple[tuple[int, float, float], ...] = ()  # (time, more, less) of the last looks
    open_until_us: int = 0  # a change is in progress until then
    opened_for: str = ""
    drift_back: tuple[tuple[int, float], ...] = ()  # as ``back``, of the nights' batches
    changed_us: int = 0  # when the present context began, as far as is known


class NightRecord(msgspec.Struct, frozen=True):
    """What a night did, kept in the store's archive: the history of every parameter."""

    time_us: int
    context: str
    accepted: bool
    why: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    base_mean: tuple[float, ...]
    base_sd: tuple[float, ...]
    source: str
    strata: tuple[tuple[str, int, float], ...]  # (stratum, episodes, change of its score)
    readings: int
    seconds: float = 0.0


class Memory(msgspec.Struct, frozen=True):
    """All of it."""

    version: int = VERSION
    contexts: tuple[Context, ...] = ()
    anchors: tuple[tuple[int, Anchor], ...] = ()  # by context
    current: int = USUAL
    look: Look = Look()
    days: tuple[Day, ...] = ()
    night_us: int = 0  # when the last night's job ran
    nights: int = 0

    def anchor(self, number: int | None = None) -> Anchor | None:
        """That of a context; of the current one without a number."""
        wanted = self.current if number is None else number
        return next((a for n, a in self.anchors if n == wanted), None)

    def with_anchor(self, number: int, anchor: Anchor) -> Memory:
        others = tuple((n, a) for n, a in self.anchors if n != number)
        return msgspec.structs.replace(self, anchors=tuple(sorted((*others, (number, anchor)), key=_first)))

    def context(self, number: int | None = None) -> Context | None:
        wanted = self.current if number is None else number
        return next((c for c in self.contexts if c.number == wanted), None)

    def with_context(self, context: Context) -> Memory:
        """Replaces the one of that number; beyond KEPT_CONTEXTS the oldest that is over goes, its anchor too."""
        kept = [c for c in self.contexts if c.number != context.number]
        while len(kept) >= KEPT_CONTEXTS:
            kept.remove(next(c for c in kept if c.number != USUAL))
        numbers = {c.number for c in kept} | {context.number, USUAL}
        return msgspec.structs.replace(
            self,
            contexts=tuple(sorted((*kept, context), key=lambda c: c.number)),
            anchors=tuple((n, a) for n, a in self.anchors if n in numbers),
        )

    def told(self, now_us: int) -> str:
        """What goes with a contribution: a change in progress, the unusual context's words, or nothing."""
        context = self.context()
        usual = context is None or context.number == USUAL
        words = self.changing(now_us) or ("" if usual or context is None else context.words)
        return words[:MAX_TOLD]

    def changing(self, now_us: int) -> str:
        """Words while a change of context is in progress, else empty."""
        if now_us >= self.look.open_until_us or not self.look.opened_for:
            return ""
        return f"{IN_PROGRESS}: {self.look.opened_for}"


def _first(pair: tuple[int, Anchor]) -> int:
    return pair[0]


def to_bytes(memory: Memory) -> bytes:
    """For the store."""
    return encode(memory)


def from_bytes(data: bytes) -> Memory:
    """Memory in ``data``; DecodeError when it is none, or of another version."""
    memory = decode(data, Memory)
    n = len(NAMES)
    if memory.version != VERSION:
        raise DecodeError("memory of another version", where="memory.version")
    for _, anchor in memory.anchors:
        sizes = (len(anchor.base_mean), len(anchor.base_sd), len(anchor.vector), len(anchor.precision))
        nights = {(len(i.vector), len(i.precision)) for i in anchor.recent}
        leans = {len(anchor.lean), *(len(i.lean) for i in anchor.recent)}
        if sizes != (n, n, n, n * (n + 1) // 2) or nights - {(n, n * (n + 1) // 2)} or leans - {0, n}:
            raise DecodeError("anchor has the wrong size", where="memory.anchors")
    return memory
