"""What every reader fills: samples, and a count of everything that was not taken, with the first place.

Nothing is dropped silently. What cannot be meant (a dose of a thousand units, a sensor's error code) is left
out and counted; a text that says "below what I can measure" becomes that bound and is flagged.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from core.errors import InputError
from core.events import FILE_SOURCE
from core.messages import Quality, Sample
from core.units import KINDS, MGDL_PER_MMOLL, US_PER_DAY, US_PER_S

# Before it no glucose sensor for homes existed: a device that says so never had its clock set.
EARLIEST_US: Final = 946_684_800 * US_PER_S  # 2000-01-01
# A recording ends before it is read; a day allows for a wrong zone and a fast clock.
FUTURE_US: Final = US_PER_DAY
# Two uploaders of one sensor differ by seconds; the fastest sensor gives a reading each 60 s.
SAME_READING_US: Final = 30 * US_PER_S
# Half of all readings below this: no living person in mg/dL, anybody in mmol/L.
MMOLL_MEDIAN: Final = 30.0


class Record(NamedTuple):
    """A recording in time order. ``notes`` say what was assumed, left out or flagged, and how often."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    format: str = "event file"
    owners: frozenset[str] = frozenset()  # digests of what says whose recording this is


@dataclass
class Collector:
    """Takes what a reader finds; ``finish`` gives the record. ``name`` of the file goes into errors."""

    name: str
    format: str
    now_us: int = field(default_factory=lambda: time.time_ns() // 1000)
    samples: list[Sample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    first_place: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seq: int = 0
    undecided: int = 0  # local times in a repeated hour that nothing tells apart
    impossible: int = 0  # local times in an hour that a clock change skips
    owners: set[str] = field(default_factory=set)

    def skip(self, why: str, place: str) -> None:
        """Count something that is not taken. ``place``: line or record, never a value."""
        self.skipped[why] += 1
        self.first_place.setdefault(why, place)

    def owner(self, *words: str) -> None:
        """Note whose recording this is, by a name or number in it. Only its digest is kept; empty words say nothing."""
        text = "\n".join(" ".join(word.split()).casefold() for word in words)
        if text.strip():
            self.owners.add(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())

    def remark(self, text: str) -> None:
        """A note said once, however often it applies."""
        if text not in self.remarks:
            self.remarks.append(text)

    def add(self, time_us: int, kind: str, value: float | None, place: str, quality: int = 0) -> None:
        """Take one value in the unit of its kind, or count why not. Doses and meals of zero say nothing."""
        if value is None or not math.isfinite(value):
            self.skip(f"{kind} without a usable number", place)
            return
        spec = KINDS[kind]
        if value == 0 and kind in ("bolus_u", "carbs_g", "long_acting_u"):
            self.skip(f"{kind} of zero", place)
            return
        if not spec.low <= value <= spec.high:
            self.skip(f"{kind} outside {spec.low:g}..{spec.high:g} {spec.unit}", place)
            return
        self.seq += 1
        self.take(Sample(time_us, kind, value, FILE_SOURCE, self.seq, quality), place)

    def take(self, sample: Sample, place: str) -> None:
        """Take a sample whose value is known to be possible, unless its time is not."""
        if sample.time_us < EARLIEST_US:
            self.skip("record before the year 2000 (a clock never set)", place)
        elif sample.time_us > self.now_us + FUTURE_US:
            year = _year(sample.time_us)
            self.skip(f"record in the future (year {year}), set aside", place)
        else:
            self.samples.append(sample)

    def finish(self) -> Record:
        """The record in time order without duplicates; InputError when it is empty or contradicts its unit."""
        self._check_unit()
        samples = self._without_duplicates()
        if not samples:
            raise InputError(
                f"holds no usable records ({self.format})",
                where=self.name,
                mend="; ".join(self._counted()[:3]) or "export a period in which there are readings",
            )
        if self.undecided:
            self.remark(
                f"{self.undecided} times fall in the hour that a clock change repeats and nothing tells which: "
                "the first was taken"
            )
        if self.impossible:
            self.remark(
                f"{self.impossible} times fall in an hour that a clock change skips: is the time zone right?"
            )
        flagged = sum(1 for s in samples if s.quality & Quality.SENSOR_WARNING)
        if flagged:
            self.remark(
                f"{flagged} glucose readings at the end of the sensor's range: kept as that bound, flagged"
            )
        return Record(tuple(samples), (*self.remarks, *self._counted()), self.format, frozenset(self.owners))

    def _check_unit(self) -> None:
        for kind in ("cgm_mgdl", "smbg_mgdl"):
            values = sorted(s.value for s in self.samples if s.kind == kind)
            impossible = sum(n for why, n in self.skipped.items() if why.startswith(f"{kind} outside"))
            if values and (len(values) >= 5 or impossible) and values[len(values) // 2] < MMOLL_MEDIAN:
                raise InputError(
                    f"{kind}: the values look like mmol/L, the file says mg/dL",
                    where=self.name,
                    mend="export again with the right unit",
                )
            if impossible > len(values) and impossible >= 3:
                raise InputError(
                    f"{kind}: most values are impossible in the unit that the file declares",
                    where=self.name,
                    mend="check mg/dL against mmol/L and export again",
                )

    def _without_duplicates(self) -> list[Sample]:
        kept: list[Sample] = []
        seen: set[tuple[int, str, float]] = set()
        last_us: dict[str, int] = {}
        for sample in sorted(self.samples, key=lambda s: (s.time_us, s.seq)):
            key = (sample.time_us, sample.kind, sample.value)
            if key in seen:
                self.skipped["duplicate"] += 1
                continue
            if sample.kind == "cgm_mgdl":
                before = last_us.get(sample.kind)
                if before is not None and sample.time_us - before < SAME_READING_US:
                    self.skipped["second sensor reading within 30 s of another"] += 1
                    continue
                last_us[sample.kind] = sample.time_us
            seen.add(key)
            kept.append(sample)
        return kept

    def _counted(self) -> list[str]:
        lines = []
        for why, count in self.skipped.most_common():
            place = self.first_place.get(why)
            lines.append(f"left out, {count} × {why}" + (f" (first: {place})" if place else ""))
        return lines


def mgdl_per(unit: str, where: str) -> float:
    """mg/dL in one of ``unit``; InputError when the unit is not one of the two."""
    word = unit.strip().lower().replace(" ", "")
    if word in ("mg/dl", "mgdl", "mg"):
        return 1.0
    if word in ("mmol/l", "mmoll", "mmol"):
        return MGDL_PER_MMOLL
    raise InputError(
        "the glucose unit is not declared", where=where, mend="export with mg/dL or mmol/L stated"
    )


def number(value: object) -> float | None:
    """A finite float of a JSON number or a text with decimal point; None otherwise (true and false too)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _year(time_us: int) -> str:
    try:
        return str(datetime.fromtimestamp(time_us / 1e6, UTC).year)
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"
