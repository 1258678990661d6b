"""``hometwin export``: everything that the hub holds of the person, in open formats, with a manifest of hashes.

The running hub gives it page by page over its control socket; without a hub the store is opened for it. What is in
``samples.csv`` is the record itself, amendments and deletions included; ``events.csv`` is what stands of it today, in
the form that ``hometwin replay`` reads. README.txt explains every file and column (edge/export_readme.py).
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
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from core.errors import DecodeError, InputError
from core.messages import Quality, decode
from core.units import check_value
from core.version import VERSION
from edge import export_plain as shapes
from edge.config import HubConfig
from edge.desk import Ask, at_the_desk
from edge.engine_link import REPLAY_AREA, SavedTwin
from edge.export_readme import about, readme
from edge.store.files import is_there
from edge.store.journal import check_chain, read_line

NOT_INCLUDED: Final = (
    "pairing keys of the devices, keys of the store, certificates, passkeys of the settings: secrets, not record",
    "readings in messages that wait for the cloud: they are in samples.csv",
    "numbers that machines know each other by (of the cloud's questions and answers, of commands over MQTT): nothing of them"
    " is of the person's life",
    "earlier points of the engine's checkpoint, which are made of the record: they are in twin.msgpack only",
    "the programs' logs: they hold neither readings nor doses",
    "what the cloud holds: it is not on this hub",
)
AREAS: Final = ("alarms", "nights", "posterior", "replay")  # of the archive; there may be others
SAMPLE_COLUMNS: Final = (
    "row", "time", "kind", "value", "source", "seq", "quality", "received", "amends_source", "amends_seq", "deleted",
    "steady_us",
)  # fmt: skip
AGGREGATE_COLUMNS: Final = (
    "start", "width_s", "kind", "source", "count", "mean", "min", "max", "sd", "doubtful",
)  # fmt: skip
PATIENT_FILE: Final = "patient.toml"
REPLAY_COLUMNS: Final = ("episode", "time", "kind", "value")


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
                writer = _Writer(config, ask, made)
                writer.write()
            if target.suffix.lower() == ".zip":
                made = _zipped(made)
            _require_free(target)
            made.rename(target)
    except OSError as err:
        raise InputError(f"cannot be written: {err.strerror}", where=str(target)) from None
    lines = [f"{name}: {count}" for name, count in writer.counts.items()]
    lines += [f"missing: {what}" for what in writer.missing or ["nothing that is known of"]]
    return [
        *lines,
        f"README.txt explains them; written to {target}, readable by everybody who gets it: keep it as you keep the key",
    ]


def _require_free(target: Path) -> None:
    if is_there(target):
        raise InputError("exists already and is kept", where=str(target), mend="name a new one")


class _Writer:
    def __init__(self, config: HubConfig, ask: Ask, folder: Path) -> None:
        self._config, self._ask, self._folder = config, ask, folder
        self.counts: dict[str, int] = {}
        self.missing: list[str] = []  # in sentences
        self._notes = list(NOT_INCLUDED)
        self._thinned = self._returned = 0
        self._unreadable: Counter[str] = Counter()

    def write(self) -> None:
        """Everything, README and manifest last."""
        begin = self._ask({"do": "export"})
        if "hub" not in begin:
            raise InputError("the hub that runs is of an older version", where="export", mend="restart it")
        self._samples(begin)
        self._aggregates()
        audit = self._audit(begin["audit_newest"])
        self._lines("audit.jsonl", audit)
        for area in sorted({*AREAS, *begin["areas"]}):
            if area == REPLAY_AREA:
                self._replay()
            else:
                self._json(f"{area}.json", list(self._area(area)))
        self._lines("outbox.jsonl", (json.dumps(m, ensure_ascii=False) for m in self._outbox()))
        self._json("advice.json", begin["advice"])
        self._json("advice_notes.json", begin["advice_notes"])
        self._json("policy.json", begin["policy"])
        self._json("prior.json", shapes.prior(begin["prior"]))
        self._json("hub.json", shapes.hub(begin["hub"]))
        patient = self._patient()
        self._json("settings.json", self._settings(patient))
        if begin["snapshot"]:
            self._twin(base64.b64decode(begin["snapshot"]))
        if begin["set_aside"]:
            names = ", ".join(begin["set_aside"])
            self._notes.append(
                f"damaged files that a repair set aside beside the store, sealed ({names}): what could be read of"
                " them is here already"
            )
        facts = self._facts(begin, _thinned(audit))
        with self._open("README.txt") as file:
            made_at = shapes.iso(begin["now_us"])
            names_of_files = [path.name for path in self._folder.iterdir()]
            config = self._config
            file.write(
                readme(config.hub_id, made_at, config.timezone, names_of_files, self.missing, self._notes)
            )
        self._manifest(begin, facts)

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
                    told = (shapes.iso(time_us), kind, repr(float(value)))
                    own = amends and (amends[0], kind, amends[1])
                    if not deleted and key not in amended and (not own or amended.get(own) == row):
                        try:
                            check_value(kind, float(value))
                            events.writerow(told)
                            standing += 1
                        except InputError:
                            unusable += 1
                    self._returned += bool(quality & Quality.RETURNED)
                    yield (
                        row,
                        *told,
                        source,
                        seq,
                        quality,
                        shapes.iso(received_us),
                        *target,
                        int(deleted),
                        steady_us,
                    )

            self._csv("samples.csv", SAMPLE_COLUMNS, rows())
        self.counts["events.csv"] = standing
        if unusable:
            self._notes.append(
                f"{unusable} readings that no sensor can mean are in samples.csv only, not in events.csv"
            )

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
                        self._thinned += size + doubtful
                        told = ["" if n is None else n for n in numbers]
                        yield shapes.iso(start_us), width_us // 1_000_000, kind, source, size, *told, doubtful

        self._csv("aggregates.csv", AGGREGATE_COLUMNS, rows())

    def _audit(self, newest: str) -> list[str]:
        lines: list[str] = []
        while True:
            page = self._ask({"do": "audit", "after": len(lines)})
            lines += page["lines"]
            if not page["lines"] or hashlib.blake2b(lines[-1].encode(), digest_size=32).hexdigest() == newest:
                check_chain(lines)
                return lines

    def _area(self, area: str) -> Iterator[dict[str, Any]]:
        shape = shapes.SHAPES.get(area)
        for item in self._items(area):
            content = item["content"]
            if shape is not None:
                try:
                    content = shape(content)
                except shapes.Unknown:
                    self._unreadable[f"{area}.json"] += 1
            yield {**item, "content": content}

    def _items(self, area: str) -> Iterator[dict[str, Any]]:
        after = 0
        while page := self._ask({"do": "export.archive", "area": area, "after": after})["items"]:
            yield from page
            after = page[-1]["number"]

    def _replay(self) -> None:
        """What learning plays again: each piece, and all their events in one table."""
        pieces: list[dict[str, Any]] = []

        def rows() -> Iterator[tuple[Any, ...]]:
            for item in self._items(REPLAY_AREA):
                try:
                    told, events = shapes.episode(item["content"])
                except shapes.Unknown:
                    self._unreadable[f"{REPLAY_AREA}.json"] += 1
                    pieces.append(item)
                    continue
                pieces.append({**item, "content": {**told, "events": len(events)}})
                for time_us, kind, value in events:
                    yield item["number"], shapes.iso(time_us), kind, repr(value)

        self._csv("replay_events.csv", REPLAY_COLUMNS, rows())
        self._json(f"{REPLAY_AREA}.json", pieces)

    def _outbox(self) -> Iterator[dict[str, Any]]:
        after = 0
        while page := self._ask({"do": "export.outbox", "after": after})["messages"]:
            for message in page:
                yield {**message, "message": shapes.dated(shapes.with_correction(message["message"]))}
            after = page[-1]["number"]

    def _twin(self, data: bytes) -> None:
        with self._open("twin.msgpack") as file:
            file.buffer.write(data)
        try:
            saved = decode(data, SavedTwin)
        except DecodeError:
            self._unreadable["twin.msgpack"] += 1
            return
        for name, tell in (("memory.json", shapes.learned), ("twin.json", shapes.twin)):
            try:
                self._json(name, tell(saved))
            except shapes.Unknown:
                self._unreadable["twin.msgpack"] += 1

    def _patient(self) -> str | None:
        """The text of the patient file, which is written as it is too: the other commands take it as --patient."""
        if self._config.patient is None:
            return None
        path = self._config.path(self._config.patient)
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            self.missing.append(f"the patient file: {path.name} cannot be read")
            return None
        with self._open(PATIENT_FILE) as file:
            file.write(text)
        return text

    def _settings(self, patient: str | None) -> dict[str, Any]:
        settings: dict[str, Any] = msgspec.to_builtins(self._config)
        for device in settings["device"]:
            device.pop("passkey", None)
        return {"hub": settings, "patient_toml": patient}

    def _facts(self, begin: dict[str, Any], spans: list[tuple[int, int, int]]) -> dict[str, Any]:
        """What is not here, in numbers, and in sentences in ``missing``."""
        count = sum(last - first + 1 for first, last in begin["missing"])
        thinned = min(count, self._thinned)
        repair = begin["hub"].get("repair")
        uncounted = isinstance(repair, dict) and (
            repair.get("rows_lost", 0) is None or "segments" in repair.get("others_lost", {})
        )
        if lost := count - thinned:
            self.missing.append(
                f"{lost} records that damage took; manifest.json says which rows, audit.jsonl when. Among the newer rows"
                f" stands what came back: {self._returned} from the cloud (quality 32), and what sensors told again"
            )
        if uncounted:
            self.missing.append(
                "an unknown number of records that a repair could not count (hub.json: repair)"
            )
        if thinned:
            self.missing.append(f"{thinned} old readings one by one: they are averages in aggregates.csv")
        for name, count_of in sorted(self._unreadable.items()):
            items = "1 item" if count_of == 1 else f"{count_of} items"
            self.missing.append(f"{items} of another version, unreadable here, in {name}: as stored")
        return {
            "rows": begin["rows"],
            "rows_missing": _outside(begin["missing"], spans),  # lost to damage: see audit.jsonl
            # First and last row, and how many readings of these became averages in aggregates.csv. Whatever stayed
            # bears the first numbers of its span.
            "rows_thinned": spans,
            "readings_thinned": thinned,
            "rows_lost": lost,
            "rows_returned": self._returned,
            "rows_lost_before_repair": uncounted,
            "unreadable": dict(self._unreadable),
            "missing": self.missing,
        }

    def _manifest(self, begin: dict[str, Any], facts: dict[str, Any]) -> None:
        files = {
            path.name: {
                "text": about(path.name).text,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(self._folder.iterdir())
        }
        for name, count in self.counts.items():
            files[name]["records"] = count
        self._json(
            "manifest.json",
            {
                "format": "hometwin export 1",
                "program": VERSION,
                "hub_id": self._config.hub_id,
                "made_at": shapes.iso(begin["now_us"]),
                **facts,
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
        self.counts[name] = count

    def _lines(self, name: str, lines: Iterable[str]) -> None:
        count = 0
        with self._open(name) as file:
            for line in lines:
                file.write(f"{line}\n")
                count += 1
        self.counts[name] = count

    def _json(self, name: str, content: Any) -> None:
        with self._open(name) as file:
            json.dump(shapes.dated(content), file, indent=1, ensure_ascii=False)
            file.write("\n")
        if isinstance(content, list):
            self.counts[name] = len(content)


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
