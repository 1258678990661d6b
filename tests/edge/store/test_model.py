"""Any sequence of calls, with restarts between, gives what a plain list would give."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.messages import Sample
from edge.store import store as store_module
from edge.store.arrivals import RECEIVED_STEP_US
from edge.store.store import Store
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
BOOTED_US = START_US - 5 * 10**9
KINDS = ("cgm_mgdl", "carbs_g")
SOURCES = ("cgm", "hand")
NEW = st.builds(
    Sample,
    time_us=st.integers(0, 30).map(lambda n: START_US + n * 60_000_000),
    kind=st.sampled_from(KINDS),
    value=st.one_of(st.integers(0, 400).map(float), st.floats(0, 400)),
    source=st.sampled_from(SOURCES),
    seq=st.integers(0, 25),
    quality=st.integers(0, 15),
)


@st.composite
def amendments(draw: st.DrawFn) -> Sample:
    sample = draw(NEW)
    target = (draw(st.sampled_from(SOURCES)), draw(st.integers(0, 25)))
    if target == (sample.source, sample.seq):
        return sample
    return Sample(
        *(getattr(sample, f) for f in sample.__struct_fields__[:7]),
        amends=target,
        deleted=draw(st.booleans()),
    )


class StoreMachine(RuleBasedStateMachine):
    """The model: a list of samples, a dict of blobs, a list of messages, counters."""

    @initialize(fold=st.integers(2, 9))
    def start(self, fold: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=FAST, prefix="hometwin-model-"))
        self.fold = mock.patch.object(store_module, "FOLD_SAMPLES", fold)  # folds happen all the time
        self.fold.start()
        self.clock = FixedClock()
        self.samples: list[Sample] = []
        self.blobs: dict[str, bytes] = {}
        self.messages: list[tuple[int, bytes]] = []
        self.counters: dict[str, int] = {}
        self.pointer = self.last_message = 0
        self.store = self.open()

    def open(self) -> Store:
        store = Store.open(self.folder / "s.sqlite", KEY, hub_id=HUB, clock=self.clock)
        store.arrivals.steady = lambda: self.clock.us - BOOTED_US
        return store

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert self.store.check().ok
            self.store.close()
            self.fold.stop()
            shutil.rmtree(self.folder)

    @rule(samples=st.lists(st.one_of(NEW, NEW, amendments()), max_size=12), step_us=st.integers(0, 10**6))
    def append(self, samples: list[Sample], step_us: int) -> None:
        self.clock.us += step_us
        received_us = -(-self.clock.us // RECEIVED_STEP_US) * RECEIVED_STEP_US
        wanted = []
        for sample in samples:
            if sample.key not in {s.key for s in self.samples}:
                fields = {f: getattr(sample, f) for f in sample.__struct_fields__}
                arrived = {"received_us": received_us, "steady_us": received_us - BOOTED_US}
                wanted.append(Sample(**{**fields, **arrived}))
                self.samples.append(wanted[-1])
        assert self.store.append(samples) == tuple(wanted)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule()
    def crash(self) -> None:
        """What kill -9 leaves: the files as they are, write-ahead log included."""
        self.store._db.execute("PRAGMA wal_autocheckpoint = 0")
        copy = self.folder.with_name(self.folder.name + "-copy")
        copy.mkdir()
        for file in self.folder.iterdir():
            shutil.copy(file, copy)
        self.store.close()
        shutil.rmtree(self.folder)
        copy.rename(self.folder)
        self.store = self.open()

    @rule(after=st.integers(-1, 60), limit=st.integers(0, 30))
    def read(self, after: int, limit: int) -> None:
        rows = list(enumerate(self.samples, 1))
        assert self.store.read(after, limit) == rows[max(0, after) :][:limit]

    @rule(
        start=st.integers(-1, 31),
        span=st.integers(0, 31),
        kinds=st.sets(st.sampled_from(KINDS)),
    )
    def between(self, start: int, span: int, kinds: set[str]) -> None:
        start_us = START_US + start * 60_000_000
        end_us = start_us + span * 60_000_000
        last_amendment = {
            (s.amends[0], s.kind, s.amends[1]): row for row, s in enumerate(self.samples) if s.amends
        }
        live = [
            s
            for row, s in enumerate(self.samples)
            if s.key not in last_amendment
            and not s.deleted
            and (s.amends is None or last_amendment[s.amends[0], s.kind, s.amends[1]] == row)
            and start_us <= s.time_us < end_us
            and (not kinds or s.kind in kinds)
        ]
        assert self.store.between(start_us, end_us, kinds) == sorted(live, key=lambda s: s.time_us)

    @rule(name=st.sampled_from(["engine", "bonds", "größe"]), data=st.binary(max_size=40))
    def put_blob(self, name: str, data: bytes) -> None:
        self.store.put_blob(name, data)
        self.blobs[name] = data

    @rule(data=st.binary(max_size=20), step=st.integers(0, 5))
    def enqueue(self, data: bytes, step: int) -> None:
        self.pointer = min(len(self.samples), self.pointer + step)
        number = self.store.enqueue(data, sample_row=self.pointer)
        assert number > self.last_message
        self.last_message = number
        self.messages.append((number, data))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        numbers = data.draw(st.sets(st.sampled_from([n for n, _ in self.messages] + [10**6, -1])))
        self.store.done(numbers)
        self.messages = [m for m in self.messages if m[0] not in numbers]

    @rule(name=st.sampled_from(["alarm", "hand"]))
    def count(self, name: str) -> None:
        self.counters[name] = max(self.clock.us // 1000, self.counters.get(name, 0) + 1)
        assert self.store.next_number(name) == self.counters[name]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        store = self.store
        assert store.last_row == len(self.samples)
        assert store.pending(5) == self.messages[:5]
        assert store.pending_count() == len(self.messages)
        assert store.sample_pointer == self.pointer
        for name in ("engine", "bonds", "größe"):
            assert store.get_blob(name) == self.blobs.get(name)
        for source in SOURCES:
            greatest: dict[str, int] = {}
            for sample in self.samples:
                if sample.source == source:
                    greatest[sample.kind] = max(sample.seq, greatest.get(sample.kind, sample.seq))
            assert store.cursors(source) == greatest


TestStoreAgainstPlainLists = StoreMachine.TestCase
TestStoreAgainstPlainLists.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
