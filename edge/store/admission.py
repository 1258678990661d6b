"""What a sample and a name must be to be kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from core.errors import InputError
from core.messages import Sample

_INT64: Final = 1 << 63
_MAX_NAME_BYTES: Final = 200  # of sources, kinds and blobs


@lru_cache(maxsize=64)  # most samples come from few sources
def checked_name(name: str, what: str) -> bytes:
    """The name's bytes; InputError when there are none or too many."""
    encoded = name.encode(errors="replace")
    if not 0 < len(encoded) <= _MAX_NAME_BYTES or encoded.decode() != name:
        raise InputError(f"name of a {what} must be text of 1..{_MAX_NAME_BYTES} bytes", where="store")
    return encoded


def normal(sample: Sample, received_us: int, steady_us: int) -> Sample:
    """The sample as the store keeps it: plain types, within 64 bits."""
    time_us, kind, source, seq, quality = (
        sample.time_us,
        sample.kind,
        sample.source,
        sample.seq,
        sample.quality,
    )
    amends = sample.amends
    in_bounds = -_INT64 <= time_us < _INT64 and -_INT64 <= seq < _INT64 and 0 <= quality < 1 << 31
    if not in_bounds or (amends and not -_INT64 <= amends[1] < _INT64):
        raise InputError("a sample's number does not fit 64 bits", where="store.append")
    for name in (source, kind, amends[0]) if amends else (source, kind):
        checked_name(str(name), "source or kind")
    if amends == (source, seq):
        raise InputError("a sample cannot amend itself", where="store.append")
    value, deleted = float(sample.value), bool(sample.deleted)
    return Sample(time_us, kind, value, source, seq, int(quality), received_us, amends, deleted, steady_us)
