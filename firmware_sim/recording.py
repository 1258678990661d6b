"""Recordings of a person, and which device plays which event.

File: CSV (optionally .gz) with columns ``time,kind,value``; ISO-8601 times, naive ones in the person's zone;
any order. The kinds are the project's vocabulary, spelled out here because nothing of ours is imported.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from firmware_sim.errors import SimError
from firmware_sim.octets import utc_us

KINDS: Final = frozenset(
    [
        "cgm_mgdl",
        "smbg_mgdl",
        "bolus_u",
        "basal_uph",
        "long_acting_u",
        "carbs_g",
        "heart_rate_bpm",
        "sbp_mmhg",
        "dbp_mmhg",
        "spo2_pct",
        "weight_kg",
        "temp_c",
        "steps",
        "drug_mg",
        "plasma_ngml",
    ]
)
DEVICES: Final = ("cgm", "strap", "pump", "meter", "watch")


class Event(NamedTuple):
    """One reading or act: microseconds UTC, kind, value in the kind's unit."""

    time_us: int
    kind: str
    value: float


def parse_time(text: str, zone: ZoneInfo) -> int:
    """Microseconds UTC of an ISO-8601 time (naive: in ``zone``, the earlier one where the clock repeats)."""
    moment = dt.datetime.fromisoformat(text)
    return utc_us(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def parse_span(text: str) -> int:
    """Microseconds of a span such as ``7d``, ``36h`` or ``90m``."""
    unit_s = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}.get(text[-1:])
    try:
        span_us = int(float(text[:-1]) * (unit_s or 0) * 1_000_000)
    except (ValueError, OverflowError):
        span_us = 0
    if unit_s is None or span_us <= 0:
        raise SimError(f"not a span of time: {text[:40]!r}", where="--for", mend="write 7d, 36h or 90m")
    return span_us


def read_recording(path: Path, zone: ZoneInfo) -> list[Event]:
    """All events of a file in time order (equal times keep the file's order), or SimError naming the line."""
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
            return sorted(_rows(lines, str(path), zone), key=lambda event: event.time_us)
    except FileNotFoundError:
        raise SimError("no such file", where=str(path), mend="check --recording") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as err:
        what = getattr(err, "strerror", None) or "not a readable CSV file"
        raise SimError(f"cannot be read: {what}", where=str(path)) from None


def recording_text(events: Iterable[tuple[int, str, float]]) -> str:
    """The file's text of (time_us, kind, value), times in UTC to the minute: nothing here happens in between."""
    rows = [
        f"{dt.datetime.fromtimestamp(time_us // 1_000_000, dt.UTC):%Y-%m-%dT%H:%MZ},{kind},{value:g}"
        for time_us, kind, value in events
    ]
    return "\n".join(("time,kind,value", *rows)) + "\n"


def write_person(folder: Path, text: str, patient: str) -> list[Path]:
    """``events.csv.gz`` and ``patient.toml`` in ``folder``, which is made; SimError for a file that is there already."""
    # No time in the header: the same person gives the same bytes again.
    contents = {"events.csv.gz": gzip.compress(text.encode(), mtime=0), "patient.toml": patient.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in contents:
            if (folder / name).exists():
                raise SimError("is there already", where=str(folder / name), mend="name a new folder")
        for name, data in contents.items():
            (folder / name).write_bytes(data)
    except OSError as err:
        raise SimError(f"cannot be written: {err.strerror}", where=str(folder), mend="check --out") from None
    return [folder / name for name in contents]


def _rows(lines: Iterable[str], name: str, zone: ZoneInfo) -> Iterator[Event]:
    rows = csv.reader(lines)
    header = next(rows, [])
    if [h.strip() for h in header] != ["time", "kind", "value"]:
        raise SimError("the first line must be 'time,kind,value'", where=f"{name}:1")
    for row in rows:
        if not row:
            continue
        where = f"{name}:{rows.line_num}"
        if len(row) != 3:
            raise SimError(f"{len(row)} columns where 3 belong", where=where)
        time_text, kind, value_text = (cell.strip() for cell in row)
        if kind not in KINDS:
            raise SimError(
                f"unknown kind {kind[:40]!r}", where=where, mend="use one of " + " ".join(sorted(KINDS))
            )
        try:
            time_us = parse_time(time_text, zone)
        except (ValueError, OverflowError):
            raise SimError("not an ISO-8601 time", where=where) from None
        try:
            value = float(value_text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):  # the text itself may be a reading, so it is not repeated
            raise SimError("the value is not a number", where=where)
        yield Event(time_us, kind, value)


def share_out(events: Iterable[Event]) -> tuple[dict[str, list[Event]], int]:
    """Events per device, and how many no device here can measure.

    A person with any basal record wears a pump, which then gives the boluses; without one they inject with a
    pen and write doses into the logbook meter.
    """
    events = list(events)
    on_pump = any(event.kind == "basal_uph" for event in events)
    owner = {
        "cgm_mgdl": "cgm",
        "heart_rate_bpm": "strap",
        "basal_uph": "pump",
        "bolus_u": "pump" if on_pump else "meter",
        "long_acting_u": "meter",
        "smbg_mgdl": "meter",
        "carbs_g": "meter",
    }
    shares: dict[str, list[Event]] = {device: [] for device in DEVICES}
    orphans = 0
    for event in events:
        if event.kind in owner:
            shares[owner[event.kind]].append(event)
        else:
            orphans += 1
    return shares, orphans
