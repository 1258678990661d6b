"""What a piece of advice is bound to: the person it is for, and the record it rests on.

Both ends compute the same digests from what they hold. A dose or meal that one of them does not know makes the
digests differ, and the advice void: it was made for another record than this one. Late sensor readings do not,
nor does how a record travelled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from core.messages import Sample
from core.units import US_PER_H

SPAN_US: Final = 6 * US_PER_H  # the life of insulin and food
ACTS: Final = ("bolus_u", "carbs_g", "long_acting_u")
KINDS: Final = (*ACTS, "cgm_mgdl")
INSULIN: Final = ("bolus_u", "long_acting_u")
TRACE_U: Final = 0.1  # rounding of pens and pumps: less insulin than this changes no advice


def digest(samples: Iterable[Sample], data_time_us: int) -> str:
    """32 hex digits over the acts of the six hours before ``data_time_us`` and the reading at it.

    ``samples``: standing records (amendments applied) of KINDS, in any order; others are left out.
    """
    kept = sorted(
        (s.time_us, s.kind, s.value, s.source, s.seq)
        for s in samples
        if (s.kind in ACTS and data_time_us - SPAN_US < s.time_us <= data_time_us)
        or (s.kind == "cgm_mgdl" and s.time_us == data_time_us)
    )
    text = "\n".join(f"{t} {kind} {value!r} {source} {seq}" for t, kind, value, source, seq in kept)
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"evidence").hexdigest()


def insulin_after(samples: Iterable[Sample], time_us: int) -> bool:
    """Whether insulin was taken after a time: advice that rests on data up to then does not know of it."""
    return sum(s.value for s in samples if s.kind in INSULIN and s.time_us > time_us) > TRACE_U


def person_mark(hub_id: str, patient_file: str) -> str:
    """16 hex digits that change when the hub comes to live with somebody else, or their file changes."""
    text = f"{hub_id}\n{patient_file}".encode()
    return hashlib.blake2b(text, digest_size=8, person=b"person").hexdigest()
