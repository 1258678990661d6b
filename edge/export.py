"""``hometwin export``: everything that the hub holds of the person, in open formats, with a manifest of hashes.

The running hub gives it page by page over its control socket; without a hub the store is opened for it. What is in
``samples.csv`` is the record itself, amendments and deletions included; ``events.csv`` is what stands of it today, in
the form that ``hometwin replay`` reads.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from core.errors import InputError
from core.units import check_value
from core.version import VERSION
from edge.config import HubConfig
from edge.desk import Ask, at_the_desk
from edge.store.files import is_there
from edge.store.journal import check_chain, read_line

NOT_INCLUDED: Final = (
    "pairing keys of the devices, keys of the store, certificates: secrets, not record",
    "messages that wait for the cloud: made of what is here",
    "the device passkeys of the settings",
    "by what the hub goes on where it was (numbers of messages and commands, alarms that still ring, noise already given"
    " for privacy, what is asked of sensors and cloud again): nothing of it is of the person's life",
)
AREAS: Final = ("alarms", "nights", "posterior", "replay")  # of the archive; there may be others
SAMPLE_COLUMNS: Final = (
    "row", "time", "kind", "value", "source", "seq", "quality", "received", "amends_source", "amends_seq", "deleted",
    "steady_us",
)  # fmt: skip
AGGREGATE_COLUMNS: Final = (
    "start", "width_s", "kind", "source", "count", "mean", "min", "max", "sd", "doubtful",
)  # fmt: skip


def export(config: HubConfig, target: Path) -> list[str]:
    """Write the folder ``target``, or the archive when its name ends in .zip. InputError when something is there."""
    _require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A folder of our own beside it, because what is removed in the end must be ours.
        with tempfile.TemporaryDirectory(prefix="hometwin-export-", dir=target.parent) as place:
            made = Path(place) / target.stem
            made.mkdir(mode=0o700)
            with at_the_desk(config) as ask:
                counts = _Writer(config, ask, made).write()
            if target.suffix.lower() == ".zip":
                made = _zipped(made)
            _require_free(target)
            made.rename(target)
    except OSError as err:
        raise InputError(f"cannot be written: {err.strerror}", where=str(target)) from None
    lines = [f"{name}: {count}" for name, count in counts.items()]
    return [*lines, f"written to {target}, readable by everybody who gets it: keep it as you keep the key"]


def _require_free(target: Path) -> None:
    if is_there(target):
        raise InputError("exists already and is kept", where=str(target), mend="name a new one")


class _Writer:
    def __init__(self, config: HubConfig, ask: Ask, folder: Path) -> None:
        self._config, self._ask, self._folder = config, ask, folder
        self._counts: dict[str, int] = {}
        self._notes = list(NOT_INCLUDED)

    def write(self) -> dict[str, int]:
        begin = self._ask({"do": "export"})
        self._samples(begin)
        self._aggregates()
        audit = self._audit(begin["audit_newest"])
        self._lines("audit.jsonl", audit)
        for area in sorted({*AREAS, *begin["areas"]}):
            self._json(f"{area}.json", self._area(area))
        self._json("advice.json", begin["advice"])
        self._json("advice_notes.json", begin["advice_notes"])
        self._json("policy.json", begin["policy"])
        self._json("prior.json", begin["prior"])
        self._json("settings.json", self._settings())
        if begin["snapshot"]:
            with self._open("twin.msgpack") as file:
                file.buffer.write(base64.b64decode(begin["snapshot"]))
        self._manifest(begin, _thinned(audit))
        return self._counts

    def _samples(self, begin: dict[str, Any]) -> None:
        """Both files in one pass, in the order in which the hub stored them."""
        amended = {(source, kind, seq): row for source, kind, seq, row in begin["amended"]}
        standing = unusable = 0
        with self._open("events.csv") as file:
            events = csv.writer(file, lineterminator="\n")
            events.writerow(("time", "kind", "value"))

            def rows() -> Iterator[tuple[Any, ...]]:
                nonlocal standing, unusable
                for (
                    row,
                    time_us,
                    kind,
                    value,
                    source,
                    seq,
                    quality,
                    received_us,
                    amends,
                    deleted,
                    steady_us,
                ) in self._pages(begin["rows"]):
                    key, target = (source, kind, seq), amends or ("", "")
                    told = (_iso(time_us), kind, repr(float(value)))
                    own = amends and (amends[0], kind, amends[1])
                    if not deleted and key not in amended and (not own or amended.get(own) == row):
                        try:
                            check_value(kind, float(value))
                            events.writerow(told)
                            standing += 1
                        except InputError:
                            unusable += 1
                    yield (
                        row,
                        *told,
                        source,
                        seq,
                        quality,
                        _iso(received_us),
                        *target,
                        int(deleted),
                        steady_us,
                    )

            self._csv("samples.csv", SAMPLE_COLUMNS, rows())
        self._counts["events.csv"] = standing
        if unusable:
            self._notes.append(f"{unusable} readings that no sensor can mean are in samples.csv only")

    def _pages(self, last_row: int) -> Iterator[list[Any]]:
        after = 0
        while page := self._ask({"do": "export.samples", "after": after})["samples"]:
            for item in page:
                if item[0] > last_row:
                    return
                yield item
            after = page[-1][0]

    def _aggregates(self) -> None:
        def rows() -> Iterator[tuple[Any, ...]]:
            after = 0
            while page := self._ask({"do": "export.aggregates", "after": after})["aggregates"]:
                for number, source, kind, width_us, buckets in page:
                    after = number
                    for start_us, size, *numbers, doubtful in buckets:
                        told = ["" if n is None else n for n in numbers]
                        yield _iso(start_us), width_us // 1_000_000, kind, source, size, *told, doubtful

        self._csv("aggregates.csv", AGGREGATE_COLUMNS, rows())

    def _audit(self, newest: str) -> list[str]:
        lines: list[str] = []
        while True:
            page = self._ask({"do": "audit", "after": len(lines)})
            lines += page["lines"]
            if not page["lines"] or hashlib.blake2b(lines[-1].encode(), digest_size=32).hexdigest() == newest:
                check_chain(lines)
                return lines

    def _area(self, area: str) -> list[Any]:
        items: list[Any] = []
        after = 0
        while page := self._ask({"do": "export.archive", "area": area, "after": after})["items"]:
            items += page
            after = page[-1]["number"]
        return items

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = msgspec.to_builtins(self._config)
        for device in settings["device"]:
            device.pop("passkey", None)
        patient = None
        if self._config.patient is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                patient = self._config.path(self._config.patient).read_text(encoding="utf-8")
        return {"hub": settings, "patient_toml": patient}

    def _manifest(self, begin: dict[str, Any], thinned: list[tuple[int, int, int]]) -> None:
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(self._folder.iterdir())
        }
        for name, count in self._counts.items():
            files[name]["records"] = count
        self._json(
            "manifest.json",
            {
                "format": "hometwin export 1",
                "program": VERSION,
                "hub_id": self._config.hub_id,
                "made_at": _iso(begin["now_us"]),
                "rows": begin["rows"],
                "rows_missing": _outside(begin["missing"], thinned),  # lost to damage: see audit.jsonl
                # First and last row, and how many readings of these became averages in aggregates.csv. Whatever stayed
                # bears the first numbers of its span.
                "rows_thinned": thinned,
                "store_generation": begin["generation"],
                "audit_newest": begin["audit_newest"],
                "files": files,
                "not_included": self._notes,
            },
        )

    # --- files

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[TextIO]:
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file

    def _csv(self, name: str, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
        with self._open(name) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            count = 0
            for row in rows:
                writer.writerow(row)
                count += 1
        self._counts[name] = count

    def _lines(self, name: str, lines: list[str]) -> None:
        with self._open(name) as file:
            file.writelines(f"{line}\n" for line in lines)
        self._counts[name] = len(lines)

    def _json(self, name: str, content: Any) -> None:
        with self._open(name) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
        if isinstance(content, list):
            self._counts[name] = len(content)


def _thinned(audit: list[str]) -> list[tuple[int, int, int]]:
    """Spans of rows in which readings became averages: first, last, how many. Older hubs did not note the rows."""
    marks = [entry.detail for entry in map(read_line, audit) if entry.what == "store.thinned"]
    return sorted((m["first_row"], m["last_row"], m["readings"]) for m in marks if "first_row" in m)


def _outside(gaps: list[tuple[int, int]], spans: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """What of the gaps, first and last row each, lies in none of the spans; both are in order."""
    left: list[tuple[int, int]] = []
    for first, last in gaps:
        begin = first
        for low, high, _ in spans:
            if begin <= min(low - 1, last):
                left.append((begin, min(low - 1, last)))
            begin = max(begin, high + 1)
        if begin <= last:
            left.append((begin, last))
    return left


def _iso(time_us: int) -> str:
    """ISO 8601 in UTC, to the microsecond; a time that no calendar has stays a number of microseconds."""
    try:
        return (
            datetime.fromtimestamp(time_us // 1_000_000, UTC)
            .replace(microsecond=time_us % 1_000_000)
            .isoformat()
        )
    except (ValueError, OverflowError, OSError):
        return str(time_us)


def _zipped(folder: Path) -> Path:
    """An archive of ``folder`` beside it, durable."""
    place = folder.with_name(folder.name + ".zip")
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{folder.name}/{path.name}")
        raw.flush()
        os.fsync(raw.fileno())
    return place
