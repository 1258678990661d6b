"""The store beside plain SQLite and beside sealing each row by itself, in one run on one disk.

Every commit waits for the disk (synchronous=FULL) for all. "One by one" is what sensors do, "in batches" a
backfill. Speed is from the made store to its closed file, so a round is four folds long: the hub's store stays open for
months, and what a shorter one measures is opening and closing (it stands in the notes). The ways take turns, and what counts is the median of
the rounds, so that a disk that is busy for a while is busy for all. Bytes per sample are of the closed file; log bytes
are what one commit adds to the write-ahead log, which is what wears a card. Alone: ``python -m bench.store [--folder DIR]``, e.g. on the card itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console

from bench.report import Figure, Section, Table, show
from core.messages import Sample
from edge.store.sealing import best_cipher
from edge.store.store import Store

START_US: Final = 1_767_225_600_000_000
BOOTED_US: Final = START_US - 40_123_456_789
KEY: Final = bytes(32)
SAMPLES: Final = 100_000  # some five months of a CGM, a strap and a pump
SINGLES: Final = 1_024  # a round one by one: four folds
FIRST_SINGLES: Final = 256
SINGLE_ROUNDS: Final = 15
LOG_SINGLES: Final = 900  # few enough that the log is not folded back meanwhile
BATCH: Final = 1_024
ROUNDS: Final = 5
TARGET_B: Final = 3.9  # PEERS 5: sealed tail, folded every 256
TARGET_SPEED: Final = 0.7  # of plain SQLite

Arrival = tuple[int, Sample]  # when it came, microseconds UTC
Batches = Iterable[Sequence[Arrival]]
Begin = Callable[[], None]  # called once the store is made


class _Clock:
    us = START_US

    def now_us(self) -> int:
        return self.us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


def person(samples: int, *, stamp_us: int = 1, seed: int = 1) -> list[Arrival]:
    """Synthetic samples: a CGM (5 min), a strap stamped to ``stamp_us``, a pump with basal, boluses, meals."""
    rng = random.Random(seed)
    made: list[Arrival] = []
    level, slope, pulse, history = 130.0, 0.0, 70.0, 0
    for step in range(samples // 2 + 1):
        time_us = START_US + step * 300_000_000
        slope = 0.8 * slope + rng.gauss(0, 2.5)
        level = min(400.0, max(45.0, level + slope - (level - 140) * 0.01))
        pulse = 70 + 0.9 * (pulse - 70) + rng.gauss(0, 3)
        came_us = time_us + int(rng.expovariate(1 / 1.5e6))
        made.append((came_us, Sample(time_us, "cgm_mgdl", float(round(level)), "cgm", time_us // 60_000_000)))
        beat_us = time_us + rng.randrange(1_000_000) // stamp_us * stamp_us
        made.append(
            (beat_us + 20_000, Sample(beat_us, "heart_rate_bpm", float(round(pulse)), "strap", beat_us))
        )
        for every, kind, value in (
            (12, "basal_uph", rng.choice([0.8, 0.85, 1.1])),
            (60, "bolus_u", round(rng.random() * 8, 1)),
            (70, "carbs_g", float(rng.randrange(5, 90))),
        ):
            if step % every == every // 2:
                history += 1
                made.append((came_us, Sample(time_us, kind, value, "pump", history)))
    made.sort(key=lambda item: item[0])
    return made[:samples]


def ours(path: Path, batches: Batches, begin: Begin = lambda: None) -> int:
    """Our store."""
    clock = _Clock()
    with Store.open(path, KEY, hub_id="bench", clock=clock) as store:
        store.arrivals.steady = lambda: clock.us - BOOTED_US
        begin()
        for batch in batches:
            clock.us = batch[-1][0]
            store.append(sample for _, sample in batch)
        return _log_bytes(path)


def plain(path: Path, batches: Batches, begin: Begin = lambda: None, *, unique: bool = False) -> int:
    """Rows in clear, names as numbers, as a careful design would; ``unique`` finds duplicates, as we do."""
    db = _database(path)
    db.execute("CREATE TABLE s (t INTEGER, k INTEGER, v REAL, n INTEGER, q INTEGER, r INTEGER)")
    if unique:
        db.execute("CREATE UNIQUE INDEX i ON s (k, n)")
    kinds: dict[tuple[str, str], int] = {}
    begin()
    for batch in batches:
        db.execute("BEGIN")
        for came_us, s in batch:
            row = (s.time_us, kinds.setdefault((s.source, s.kind), len(kinds)), s.value, s.seq, s.quality)
            db.execute("INSERT OR IGNORE INTO s VALUES (?, ?, ?, ?, ?, ?)", (*row, came_us))
        db.execute("COMMIT")
    return _closed(db, path)


def plain_unique(path: Path, batches: Batches, begin: Begin = lambda: None) -> int:
    """The same with an index over the natural key."""
    return plain(path, batches, begin, unique=True)


def sealed_rows(path: Path, batches: Batches, begin: Begin = lambda: None) -> int:
    """The naive way: each row JSON under AES-GCM; nothing detects a duplicate, a swap or a dropped row."""
    db, cipher = _database(path), AESGCM(KEY)
    db.execute("CREATE TABLE s (n INTEGER PRIMARY KEY, sealed BLOB)")
    begin()
    for batch in batches:
        db.execute("BEGIN")
        for came_us, s in batch:
            nonce = os.urandom(12)
            text = json.dumps([s.time_us, s.kind, s.value, s.source, s.seq, s.quality, came_us]).encode()
            db.execute("INSERT INTO s (sealed) VALUES (?)", (nonce + cipher.encrypt(nonce, text, None),))
        db.execute("COMMIT")
    return _closed(db, path)


def _database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = FULL",
        "cache_size = -1024",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


def _closed(db: sqlite3.Connection, path: Path) -> int:
    log_bytes = _log_bytes(path)
    db.close()
    return log_bytes


def _log_bytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


Way = Callable[[Path, Batches, Begin], int]
WAYS: Final[dict[str, Way]] = {
    "plain SQLite": plain,
    "plain SQLite, duplicates found": plain_unique,
    "each row sealed, JSON": sealed_rows,
    "ours": ours,
}


@dataclass(frozen=True)
class _Measured:
    bytes_per_sample: float
    log_bytes: int
    samples_per_s: float
    cpu_us: float


def _measure(way: Way, made: Sequence[Arrival], size: int, folder: Path) -> _Measured:
    path = folder / "bench.sqlite"
    batches = [made[at : at + size] for at in range(0, len(made), size)]
    cpu_s = wall_s = 0.0

    def begin() -> None:
        nonlocal cpu_s, wall_s
        cpu_s, wall_s = time.process_time(), time.perf_counter()

    log_bytes = way(path, batches, begin)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    size_bytes = path.stat().st_size
    for file in folder.iterdir():
        file.unlink()
    return _Measured(size_bytes / len(made), log_bytes, len(made) / wall_s, 1e6 * cpu_s / len(made))


def _alone_bytes(made: Sequence[Arrival], folder: Path) -> int:
    """Bytes of our file when samples come one by one. Nothing waits for the disk: time is not measured here."""
    path, clock = folder / "bench.sqlite", _Clock()
    with Store.open(path, KEY, hub_id="bench", clock=clock) as store:
        store.arrivals.steady = lambda: clock.us - BOOTED_US
        store._db.execute("PRAGMA synchronous = OFF")
        for clock.us, sample in made:
            store.append((sample,))
    size_bytes = path.stat().st_size
    for file in folder.iterdir():
        file.unlink()
    return size_bytes


def _in_turns(made: Sequence[Arrival], size: int, rounds: int, folder: Path) -> dict[str, list[_Measured]]:
    """Rounds of all ways, by way."""
    found = [{name: _measure(way, made, size, folder) for name, way in WAYS.items()} for _ in range(rounds)]
    return {name: [measured[name] for measured in found] for name in WAYS}


def _speed(found: dict[str, list[_Measured]], of: str = "ours") -> float:
    """Samples a second beside plain SQLite's of the same round: the median."""
    pairs = zip(found[of], found["plain SQLite"], strict=True)
    return median(mine.samples_per_s / theirs.samples_per_s for mine, theirs in pairs)


def _questions(made: Sequence[Arrival], folder: Path) -> str:
    path = folder / "bench.sqlite"
    ours(path, [made[at : at + BATCH] for at in range(0, len(made), BATCH)])
    begun_s = time.perf_counter()
    with Store.open(path, KEY, hub_id="bench", clock=_Clock()) as store:
        opened_s = time.perf_counter()
        end_us = made[-1][1].time_us
        store.between(end_us - 86_400_000_000, end_us)
        day_s = time.perf_counter()
        assert store.check().ok
        checked_s = time.perf_counter()
    return (
        f"{len(made)} samples: open and authenticate all {1e3 * (opened_s - begun_s):.0f} ms, "
        f"read the last day {1e3 * (day_s - opened_s):.1f} ms, "
        f"full check {1e3 * (checked_s - day_s):.0f} ms"
    )


def run(quick: bool = False, folder: Path | None = None) -> Section:
    """Measure in a new folder under ``folder``."""
    # A process that carries sqlite_utils migrates in place; else ours would pay for another process here.
    import sqlite_utils  # noqa: F401

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    samples, rounds = (10_000, 1) if quick else (SAMPLES, ROUNDS)
    made, regular = person(samples), person(samples, stamp_us=1_000_000)
    place = Path(tempfile.mkdtemp(prefix="hometwin-bench-", dir=folder))
    try:
        turns = 1 if quick else SINGLE_ROUNDS
        one = _in_turns(made[:SINGLES], 1, turns, place)
        first = _in_turns(made[:FIRST_SINGLES], 1, turns, place)
        many = _in_turns(made, BATCH, rounds, place)
        few = {name: _measure(way, made[:LOG_SINGLES], 1, place).log_bytes for name, way in WAYS.items()}
        even = {name: _measure(way, regular, BATCH, place).bytes_per_sample for name, way in WAYS.items()}
        alone_b, empty_b = _alone_bytes(made, place), _alone_bytes([], place)
        note = _questions(made, place)
    finally:
        shutil.rmtree(place)
    rows = tuple(
        (
            name,
            f"{many[name][0].bytes_per_sample:.1f}",
            f"{even[name]:.1f}",
            f"{few[name] / LOG_SINGLES:,.0f}",
            f"{median(m.samples_per_s for m in one[name]):,.0f}",
            f"{_speed(one, name):.2f}",
            f"{median(m.cpu_us for m in one[name]):.0f}",
            f"{median(m.samples_per_s for m in many[name]):,.0f}",
            f"{_speed(many, name):.2f}",
            f"{median(m.cpu_us for m in many[name]):.1f}",
        )
        for name in WAYS
    )
    columns = (
        "",
        "B/sample",
        "B/sample, strap stamped to 1 s",
        "log B/commit",
        "one by one /s",
        "× plain",
        "CPU µs",
        f"in batches of {BATCH} /s",
        "× plain",
        "CPU µs each",
    )
    sizes_b = {name: many[name][0].bytes_per_sample for name in WAYS}
    figures = (
        Figure(
            "bytes per sealed sample, strap stamped to 1 µs",
            f"≤ {TARGET_B}",
            f"{sizes_b['ours']:.2f}",
            f"{sizes_b['plain SQLite']:.1f} (plain, in clear)",
            None if quick else sizes_b["ours"] <= TARGET_B,
        ),
        Figure(
            "… that came one by one, not in batches, beyond an empty store",
            f"≤ {TARGET_B}",
            f"{(alone_b - empty_b) / samples:.2f} (whole file {alone_b / samples:.2f})",
            "–",
            None if quick else alone_b - empty_b <= TARGET_B * samples,
        ),
        Figure(
            "… to 1 s",
            f"≤ {TARGET_B}",
            f"{even['ours']:.2f}",
            "–",
            None if quick else even["ours"] <= TARGET_B,
        ),
        *(
            Figure(
                f"speed of durable {what}, × plain SQLite",
                f"≥ {TARGET_SPEED}",
                f"{_speed(found):.2f}",
                f"{_speed(found, 'plain SQLite, duplicates found'):.2f} (plain, duplicates found)",
                None if quick else _speed(found) >= TARGET_SPEED,
            )
            for what, found in (("samples one by one", one), (f"batches of {BATCH}", many))
        ),
    )
    return Section(
        name="store",
        title="the encrypted store beside plain SQLite",
        tables=(Table(f"{samples:,} samples, every commit on the disk", columns, rows),),
        notes=(
            note,
            f"an empty store is {empty_b} bytes, a page for each table, as any that keeps more than samples; the 3.9 of the "
            "target were measured on a file of samples only",
            f"one by one, the first {FIRST_SINGLES} of a new store with its closing: {_speed(first):.2f} × plain SQLite",
            f"cipher {best_cipher().name}; PEERS 5 has {TARGET_B} B/sample on its own samples",
            f"the ways take turns, and speeds are medians: of {SINGLE_ROUNDS} rounds of {SINGLES} samples one by one, "
            f"of {ROUNDS} rounds of all in batches",
        ),
        figures=figures,
    )


def main() -> int:
    """Print to the terminal only."""
    parser = argparse.ArgumentParser(prog="python -m bench.store")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write (default: a temporary folder)"
    )
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    show(run(given.quick, given.folder), Console(width=150))
    return 0


if __name__ == "__main__":
    sys.exit(main())
