"""What a sample and a name must be to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, TypeVar

from core.errors import InputError
from core.messages import Sample

_Plain = TypeVar("_Plain", int, float, bool)

_INT64: Final = 1 << 63
_MAX_NAME_BYTES: Final = 200  # of sources, kinds and blobs
_TOO_LONG: Final = "a sample's number does not fit 64 bits"
_OF_ITSELF: Final = "a sample cannot amend itself"


@lru_cache(maxsize=64)  # most samples come from few sources
def checked_name(name: str, what: str) -> bytes:
    """The name's bytes; InputError when there are none or too many."""
    encoded = name.encode(errors="replace") if isinstance(name, str) else b""
    if not 0 < len(encoded) <= _MAX_NAME_BYTES or encoded.decode() != name:
        raise InputError(f"name of a {what} must be text of 1..{_MAX_NAME_BYTES} bytes", where="store")
    return encoded


def normal(samples: Sequence[Sample], received_us: int, steady_us: int) -> list[Sample]:
    """The samples as the store keeps them: plain types, within 64 bits.

    Column by column, as a backfill of thousands waits for this; one by itself, as sensors send them.
    """
    if len(samples) < 2:
        return [_normal(sample, received_us, steady_us) for sample in samples]
    times_us, seqs = [s.time_us for s in samples], [s.seq for s in samples]
    sources, kinds = [s.source for s in samples], [s.kind for s in samples]
    qualities = _all_of(int, [s.quality for s in samples])
    amended = [s.amends for s in samples]
    targets = [(s.source, s.seq, s.amends) for s in samples if s.amends] if any(amended) else []
    numbers = [*(amends[1] for _, _, amends in targets), min(times_us), max(times_us), min(seqs), max(seqs)]
    if min(numbers) < -_INT64 or max(numbers) >= _INT64 or min(qualities) < 0 or max(qualities) >= 1 << 31:
        raise InputError(_TOO_LONG, where="store.append")
    for name in {*sources, *kinds, *(amends[0] for _, _, amends in targets)}:
        checked_name(name, "source or kind")
    if any(amends == (source, seq) for source, seq, amends in targets):
        raise InputError(_OF_ITSELF, where="store.append")
    values = _all_of(float, [s.value for s in samples])
    deleted = _all_of(bool, [s.deleted for s in samples])
    received, steady = repeat(received_us), repeat(steady_us)
    fields = (times_us, kinds, values, sources, seqs, qualities, received, amended, deleted, steady)
    return list(map(Sample, *fields))


def _normal(sample: Sample, received_us: int, steady_us: int) -> Sample:
    """``normal`` of one."""
    time_us, seq, quality, amends = sample.time_us, sample.seq, sample.quality, sample.amends
    if type(quality) is not int:
        quality = int(quality)
    if not (-_INT64 <= time_us < _INT64 and -_INT64 <= seq < _INT64 and 0 <= quality < 1 << 31):
        raise InputError(_TOO_LONG, where="store.append")
    checked_name(sample.source, "source or kind")
    checked_name(sample.kind, "source or kind")
    if amends:
        if not -_INT64 <= amends[1] < _INT64:
            raise InputError(_TOO_LONG, where="store.append")
        checked_name(amends[0], "source or kind")
        if amends == (sample.source, seq):
            raise InputError(_OF_ITSELF, where="store.append")
    value = float(sample.value)
    deleted = bool(sample.deleted)
    return Sample(
        time_us, sample.kind, value, sample.source, seq, quality, received_us, amends, deleted, steady_us
    )


def _all_of(kind: type[_Plain], values: list[Any]) -> list[_Plain]:
    return values if set(map(type, values)) == {kind} else list(map(kind, values))
