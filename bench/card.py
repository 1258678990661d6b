"""What a year of one real person writes to the card: the hub's own calls on its store, every one of them.

One recording is played again and again until a year is full. Each sample is stored and queued by itself, as sensors
give them; after each glucose reading the twin's estimate and forecast are queued; each message is acknowledged by
itself; once an hour of the person's time the twin's snapshot is kept. Counted are the bytes that the process hands to the
kernel (``wchar`` in /proc/self/io): write-ahead log, its folding back into the file, and everything else.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from bench.recordings import data_folder, load
from bench.report import Figure, Section, Table
from core.messages import HubStatus, Sample, SampleBatch, encode
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from edge.engine_link import SNAPSHOT_EVERY_US
from edge.hub import STATUS_EVERY_US
from edge.store.store import Store

KEY: Final = bytes(32)
PERSON: Final = "2307"
# As measured on the twin after days of readings: MessagePack of Estimate, Forecast and the engine's snapshot.
ESTIMATE_B: Final = 2255
FORECAST_B: Final = 509
SNAPSHOT_B: Final = 228_000
# A 32 GB card of 1,000 erase cycles, a tenth of them usable because small writes are not, lives 10 years with
# 800 MB a day. A sixteenth of that leaves room for the rest of the system.
BOUND_MB_PER_DAY: Final = 50.0


class _Clock:
    us = booted_us = 0

    def now_us(self) -> int:
        return self.us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


def _year(days: int) -> Iterator[Sample]:
    """The recording, again and again, with the numbers that sensors give."""
    [path] = sorted(data_folder().glob(f"*{PERSON}*.csv.gz"))[:1]
    samples = sorted(load(path).samples, key=lambda s: s.time_us)
    first_us, length_us = samples[0].time_us, samples[-1].time_us - samples[0].time_us + US_PER_H
    shift_us, end_us, seq = 0, first_us + days * US_PER_DAY, 0
    while True:
        for s in samples:
            time_us = s.time_us + shift_us
            if time_us >= end_us:
                return
            seq += 1
            number = time_us // US_PER_MIN if s.kind == "cgm_mgdl" else seq
            yield Sample(time_us, s.kind, s.value, s.kind.split("_")[0], number)
        shift_us += length_us


def _written() -> int:
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise OSError("this kernel does not count what a process writes")


def run(quick: bool = False) -> Section:
    """Play the year on the fastest folder there is; bytes do not depend on it."""
    import sqlite_utils  # noqa: F401 - migrations run here then, and not in another process

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    days = 14 if quick else 365
    rng, clock = random.Random(1), _Clock()
    place = Path(
        tempfile.mkdtemp(prefix="hometwin-card-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    )
    by_day: list[int] = []
    samples = commits = 0
    try:
        path = place / "replay.sqlite"
        store: Store | None = None
        day = begun = status_us = snapshot_us = 0
        status = encode(HubStatus(0, "0", True, {"cgm": "live", "pump": "live"}, {"samples.stored": 1}, 0))
        for sample in _year(days):
            clock.us = sample.time_us + 2_000_000
            if store is None:
                store = Store.open(path, KEY, hub_id="bench", clock=clock)
                clock.booted_us = clock.us - US_PER_MIN
                store.arrivals.steady = lambda: clock.us - clock.booted_us
                generation, begun, day = store.generation, _written(), sample.time_us // US_PER_DAY
            if sample.time_us // US_PER_DAY != day:
                by_day.append(_written() - begun)
                begun, day = _written(), sample.time_us // US_PER_DAY
            store.append([sample])
            samples += 1
            messages = [store.enqueue(encode(SampleBatch((sample,))), sample_row=store.last_row)]
            if sample.kind == "cgm_mgdl":
                messages += [store.enqueue(rng.randbytes(n)) for n in (ESTIMATE_B, FORECAST_B)]
            if clock.us - status_us >= STATUS_EVERY_US:
                status_us = clock.us
                messages.append(store.enqueue(status))
            for number in messages:
                store.done([number])
            if clock.us - snapshot_us >= SNAPSHOT_EVERY_US:
                snapshot_us = clock.us
                store.put_blob("engine", rng.randbytes(SNAPSHOT_B))
        assert store is not None
        commits = store.generation - generation
        record_b = store._db.execute(
            "SELECT sum(length(sealed)) FROM (SELECT sealed FROM segments UNION ALL SELECT sealed FROM tail)"
        ).fetchone()[0]
        store.close()
        size_b = path.stat().st_size
    finally:
        shutil.rmtree(place)
    by_day.sort()
    mean_mb = sum(by_day) / len(by_day) / 1e6
    rows = (
        ("written a day, MB: mean", f"{mean_mb:.1f}"),
        ("… median, highest", f"{by_day[len(by_day) // 2] / 1e6:.1f}, {by_day[-1] / 1e6:.1f}"),
        ("written in the year, GB", f"{sum(by_day) / 1e9:.1f}"),
        ("transactions a day", f"{commits / len(by_day):,.0f}"),
        ("samples", f"{samples:,}"),
        ("file after it, MB", f"{size_b / 1e6:.2f}"),
        ("sealed record, bytes per sample", f"{record_b / samples:.2f}"),
    )
    figure = Figure(
        "written to the card, MB a day",
        f"≤ {BOUND_MB_PER_DAY:.0f}",
        f"{mean_mb:.1f} (highest day {by_day[-1] / 1e6:.1f})",
        reached=None if quick else by_day[-1] / 1e6 <= BOUND_MB_PER_DAY,
    )
    note = (
        "the snapshot's and the messages' sizes were measured on the twin and are played as noise; "
        "logs, other programs and the card's own amplification come on top"
    )
    title = f"what {days} days of a real person write to the card"
    return Section(
        "card",
        title,
        (Table(f"recording {PERSON}, played again and again", ("", "ours"), rows),),
        (note,),
        (figure,),
    )
