"""What a sample and a name must be to be kept."""

from __future__ import annotations

from typing import Final

from core.errors import InputError
from core.messages import Sample

_INT64: Final = 1 << 63
_MAX_NAME_BYTES: Final = 200  # of sources, kinds and blobs


def checked_name(name: str, what: str) -> bytes:
    """The name's bytes; InputError when there are none or too many."""
    encoded = name.encode(errors="replace")
    if not 0 < len(encoded) <= _MAX_NAME_BYTES or encoded.decode() != name:
        raise InputError(f"name of a {what} must be text of 1..{_MAX_NAME_BYTES} bytes", where="store")
    return encoded


def normal(sample: Sample, received_us: int, steady_us: int) -> Sample:
    """The sample as the store keeps it: plain types, within 64 bits."""
    numbers = (sample.time_us, sample.seq, *(sample.amends or ("", 0))[1:])
    if not all(-_INT64 <= number < _INT64 for number in numbers) or not 0 <= sample.quality < 1 << 31:
        raise InputError("a sample's number does not fit 64 bits", where="store.append")
    for name in (sample.source, sample.kind, *(sample.amends or ())[:1]):
        checked_name(str(name), "source or kind")
    if sample.amends == (sample.source, sample.seq):
        raise InputError("a sample cannot amend itself", where="store.append")
    return Sample(
        sample.time_us,
        sample.kind,
        float(sample.value),
        sample.source,
        sample.seq,
        int(sample.quality),
        received_us,
        sample.amends,
        bool(sample.deleted),
        steady_us,
    )
