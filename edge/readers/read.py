"""One way in for every recording: what the file is, is told by its content and never by its name."""

from __future__ import annotations

import gzip
import io
import time
import zlib
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.events import HEADER, parse_events
from core.messages import Sample
from edge.readers import clarity, documents, libreview, nightscout, tables, tidepool
from edge.readers.record import Collector, Record

# Ten years of a one-minute sensor with everything else are 400 MB; a packed file may not grow beyond that.
MAX_BYTES: Final = 512 << 20
KNOWN: Final = (
    "our event CSV (time,kind,value), Nightscout JSON, Tidepool JSON, Dexcom Clarity CSV, LibreView CSV"
)


def read_record(path: Path, zone: ZoneInfo, now_us: int | None = None) -> Record:
    """The recording in a file. ``zone``: the local clock of naive times. ``now_us``: what lies later is set aside.

    Raises InputError (file, line or record, mend) for anything that is not a usable recording.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise InputError(
            "is a folder",
            where=path.name or str(path),
            mend="name the file in it; of hometwin export: events.csv",
        ) from None
    except OSError as err:
        raise InputError(
            f"cannot be read: {err.strerror or type(err).__name__}",
            where=path.name or str(path),
            mend="check the path",
        ) from None
    return read_bytes(data, path.name, zone, now_us)


def read_bytes(data: bytes, name: str, zone: ZoneInfo, now_us: int | None = None) -> Record:
    """As ``read_record``, from bytes. Any bytes give a Record or InputError."""
    now = time.time_ns() // 1000 if now_us is None else now_us
    data = _unpacked(data, name)
    if data.startswith(b"PK\x03\x04"):
        raise InputError(
            "a zip archive or spreadsheet",
            where=name,
            mend="unpack it; from Tidepool export JSON instead of XLSX",
        )
    text = tables.text_of(data, name)
    if not text.strip():
        raise InputError("is empty", where=name, mend="export again")
    if text.lstrip()[0] in "[{":
        return _json(text, name, zone, now)
    first = text.lstrip().split("\n", 1)[0]
    if [word.strip().strip('"').lower() for word in first.split(",")] == HEADER:
        return _events(text, name, zone, now)
    if clarity.matches(text):
        collector = Collector(name, clarity.FORMAT, now)
        clarity.read(text, zone, collector)
        return collector.finish()
    if libreview.matches(text):
        collector = Collector(name, libreview.FORMAT, now)
        libreview.read(text, zone, collector)
        return collector.finish()
    raise InputError("not a recording of a known kind", where=f"{name}: line 1", mend=f"give one of: {KNOWN}")


def _unpacked(data: bytes, name: str) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise InputError("broken gzip file", where=name, mend="copy it again") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=name, mend="export a shorter period")
    return data


def _events(text: str, name: str, zone: ZoneInfo, now_us: int) -> Record:
    collector = Collector(name, "event file", now_us)
    for sample in parse_events(io.StringIO(text.lstrip(), newline=""), zone, name):
        _take_event(collector, sample)
    return collector.finish()


def _take_event(collector: Collector, sample: Sample) -> None:
    place = f"line {sample.seq}"
    if sample.value == 0 and sample.kind in ("bolus_u", "carbs_g", "long_acting_u"):
        collector.skip(f"{sample.kind} of zero", place)
        return
    collector.take(sample, place)


def _json(text: str, name: str, zone: ZoneInfo, now_us: int) -> Record:
    records = documents.records_of(text, name)
    for reader in (tidepool, nightscout):
        if reader.matches(records):
            collector = Collector(name, reader.FORMAT, now_us)
            reader.read(records, zone, collector)
            return collector.finish()
    raise InputError(
        "JSON, but neither Nightscout's nor Tidepool's", where=name, mend=f"give one of: {KNOWN}"
    )
