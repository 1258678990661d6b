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
_NO_WHOLE: Final = "a sample's time and number must be whole numbers"
_NO_NUMBER: Final = "a sample's value and quality must be numbers, its source and kind text"
_OF_ITSELF: Final = "a sample cannot amend itself"


@lru_cache(maxsize=64)  # most samples come from few sources
def checked_name(name: str, what: str) -> bytes:
    """The name's bytes; InputError when there are none or too many."""
    encoded = name.encode(errors="replace") if isinstance(name, str) else b""
    if not 0 < len(encoded) <= _MAX_NAME_BYTES or encoded.decode() != name:
        raise InputError(f"name of a {what} must be text of 1..{_MAX_NAME_BYTES} bytes", where="store")
    return encoded


def normal(samples: Sequence[Sample], received_us: int, steady_us: int) -> list[Sample]:
    """The samples as the store keeps them: plain types, within 64 bits. InputError when one cannot be.

    Column by column, as a backfill of thousands waits for this; one by itself, as sensors send them.
    """
    try:
        if len(samples) < 2:
            return [_normal(sample, received_us, steady_us) for sample in samples]
        return _normal_columns(samples, received_us, steady_us)
    except (TypeError, ValueError, OverflowError):  # of float() and int(), of a name that is no text
        raise InputError(_NO_NUMBER, where="store.append") from None


def _normal_columns(samples: Sequence[Sample], received_us: int, steady_us: int) -> list[Sample]:
    times_us, seqs = [s.time_us for s in samples], [s.seq for s in samples]
    sources, kinds = [s.source for s in samples], [s.kind for s in samples]
    qualities = _all_of(int, [s.quality for s in samples])
    amended = [s.amends for s in samples]
    targets = [(s.source, s.seq, s.amends) for s in samples if s.amends is not None]
    for _, _, amends in targets:
        _check_amends(amends)
    numbers = [*times_us, *seqs, *(amends[1] for _, _, amends in targets)]
    if set(map(type, numbers)) != {int}:
        raise InputError(_NO_WHOLE, where="store.append")
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
    if type(time_us) is not int or type(seq) is not int:
        raise InputError(_NO_WHOLE, where="store.append")
    if type(quality) is not int:
        [quality] = _all_of(int, [quality])
    if not (-_INT64 <= time_us < _INT64 and -_INT64 <= seq < _INT64 and 0 <= quality < 1 << 31):
        raise InputError(_TOO_LONG, where="store.append")
    checked_name(sample.source, "source or kind")
    checked_name(sample.kind, "source or kind")
    if amends is not None:
        _check_amends(amends)
        if not -_INT64 <= amends[1] < _INT64:
            raise InputError(_TOO_LONG, where="store.append")
        checked_name(amends[0], "source or kind")
        if amends == (sample.source, seq):
            raise InputError(_OF_ITSELF, where="store.append")
    value = sample.value
    if type(value) is not float:
        [value] = _all_of(float, [value])
    deleted = bool(sample.deleted)
    return Sample(
        time_us, sample.kind, value, sample.source, seq, quality, received_us, amends, deleted, steady_us
    )


def _check_amends(amends: object) -> None:
    if type(amends) is not tuple or len(amends) != 2 or type(amends[1]) is not int:
        raise InputError("what a sample amends must be a source and a whole number", where="store.append")


def _all_of(kind: type[_Plain], values: list[Any]) -> list[_Plain]:
    """The values as plain ones of this kind; what only reads like a number is none."""
    kinds = set(map(type, values))
    if kinds == {kind}:
        return values
    if any(issubclass(k, str | bytes | bytearray) for k in kinds) or (
        kind is int and not all(issubclass(k, int) for k in kinds)
    ):
        raise TypeError
    return list(map(kind, values))
