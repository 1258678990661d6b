"""What callers of the store rely on."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from core.errors import InputError, StoreError
from core.messages import Quality, Sample
from edge.store import store as store_module
from edge.store.arrivals import RECEIVED_STEP_US
from edge.store.head import HEAD_ROW
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, open_store, reading

Opened = Callable[..., Store]


def test_append_returns_only_what_was_new_in_order_with_arrival_time(path: Path) -> None:
    clock = FixedClock(START_US + 1)
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        store.append([reading(5)])
        new = store.append([reading(7), reading(5), reading(6), reading(7)])
    assert [s.seq for s in new] == [7, 6]
    assert {s.received_us for s in new} == {START_US + RECEIVED_STEP_US}


def test_first_record_of_a_key_wins(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append([reading(1, value=100.0)])
    assert store.append([reading(1, value=50.0)]) == ()
    assert [s.value for _, s in store.read(0, 10)] == [100.0]


def test_same_number_of_other_source_or_kind_is_another_sample(path: Path, opened: Opened) -> None:
    store = opened(path)
    new = store.append([reading(1), reading(1, source="cgm2"), reading(1, kind="smbg_mgdl")])
    assert len(new) == 3
    assert store.cursors("cgm") == {"cgm_mgdl": 1, "smbg_mgdl": 1}
    assert store.cursors("nobody") == {}


def test_samples_survive_folds_and_reopening_exactly(path: Path, opened: Opened) -> None:
    wanted = [
        reading(n, kind, source, quality=n % 3, value=n / 7 if n % 50 == 0 else n / 10)
        for n in range(2 * FOLD_SAMPLES + 20)
        for kind, source in [("cgm_mgdl", "cgm"), ("heart_rate_bpm", "strap")]
    ]
    store = opened(path)
    for at in range(0, len(wanted), 100):
        store.append(wanted[at : at + 100])
    before = store.read(0, 10_000)
    store.close()
    again = opened(path)
    assert again.read(0, 10_000) == before
    assert [row for row, _ in before] == list(range(1, len(wanted) + 1))
    assert [(s.key, s.time_us, s.value, s.quality) for _, s in before] == [
        (s.key, s.time_us, s.value, s.quality) for s in wanted
    ]
    assert again.check().records["segments"] == len(wanted) // FOLD_SAMPLES


def test_duplicates_are_found_in_the_tail_and_in_every_segment(path: Path, opened: Opened) -> None:
    store = opened(path)
    samples = [reading(n) for n in range(3 * FOLD_SAMPLES + 10)]
    store.append(samples)
    assert store.append(reversed(samples)) == ()
    late = reading(10**6)
    assert [s.seq for s in store.append([*samples[::50], late])] == [late.seq]


def test_late_readings_between_old_ones_are_kept_and_sorted_by_time(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(0, 1200, 2))
    store.append(reading(n) for n in range(1, 1200, 2))
    assert [s.seq for s in store.between(START_US, START_US + 1200 * 300_000_000)] == list(range(1200))
    assert [s.seq for _, s in store.read(599, 3)] == [1198, 1, 3]


def test_read_pages_across_segments_and_tail(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(2 * FOLD_SAMPLES + 7))
    pages, row = [], 0
    while page := store.read(row, 100):
        pages += page
        row = page[-1][0]
    assert [s.seq for _, s in pages] == list(range(2 * FOLD_SAMPLES + 7))
    assert store.read(store.last_row, 5) == []
    assert store.read(0, 0) == []


def test_between_takes_the_start_and_leaves_the_end(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(5))
    found = store.between(reading(1).time_us, reading(3).time_us)
    assert [s.seq for s in found] == [1, 2]


def test_between_selects_kinds(path: Path, opened: Opened) -> None:
    store = opened(path)
    for n in range(FOLD_SAMPLES):
        store.append([reading(n), reading(n, "carbs_g", "hand")])
    found = store.between(0, 1 << 60, ["carbs_g"])
    assert len(found) == FOLD_SAMPLES
    assert {s.kind for s in found} == {"carbs_g"}
    assert store.between(0, 1 << 60, ["steps"]) == []


class TestAmendments:
    def amend(self, number: int, target: int, **fields: object) -> Sample:
        return reading(number, "carbs_g", "hand", amends=("hand", target), **fields)

    def live(self, store: Store) -> list[int]:
        return [s.seq for s in store.between(0, 1 << 60, ["carbs_g"])]

    @pytest.mark.parametrize("fold", [2, 256])
    def test_replacement_stands_for_the_original(
        self, path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, fold: int
    ) -> None:
        monkeypatch.setattr(store_module, "FOLD_SAMPLES", fold)
        store = opened(path)
        store.append([reading(1, "carbs_g", "hand"), self.amend(2, 1), reading(3, "carbs_g", "hand")])
        assert self.live(store) == [2, 3]
        store.close()
        assert self.live(opened(path)) == [2, 3]

    def test_deletion_removes_the_original_and_itself(self, path: Path, opened: Opened) -> None:
        store = opened(path)
        store.append([reading(1, "carbs_g", "hand"), self.amend(2, 1, deleted=True)])
        assert self.live(store) == []
        assert len(store.read(0, 10)) == 2  # the record itself is never edited

    def test_two_corrections_of_one_record_count_once(self, path: Path, opened: Opened) -> None:
        store = opened(path)
        store.append([reading(1, "carbs_g", "hand"), self.amend(2, 1), self.amend(3, 1)])
        assert self.live(store) == [3]

    def test_correction_of_a_correction_leaves_the_last(self, path: Path, opened: Opened) -> None:
        store = opened(path)
        store.append([reading(1, "carbs_g", "hand"), self.amend(2, 1), self.amend(3, 2)])
        assert self.live(store) == [3]

    def test_amendment_may_come_before_its_original(self, path: Path, opened: Opened) -> None:
        store = opened(path)
        store.append([self.amend(2, 1), reading(1, "carbs_g", "hand")])
        assert self.live(store) == [2]

    def test_amendment_reaches_only_its_own_kind(self, path: Path, opened: Opened) -> None:
        store = opened(path)
        store.append([reading(1, "bolus_u", "hand"), self.amend(2, 1)])
        assert len(store.between(0, 1 << 60)) == 2

    def test_a_sample_cannot_amend_itself(self, path: Path, opened: Opened) -> None:
        with pytest.raises(InputError, match="amend itself"):
            opened(path).append([self.amend(2, 2)])


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 1 << 63},
        {"time_us": -(1 << 63) - 1},
        {"source": "x" * 201},
        {"source": "\ud800"},
        {"quality": -1},
        {"time_us": 1.5},
        {"time_us": True},
        {"time_us": None},
        {"time_us": float("nan")},
        {"seq": 1.0},
        {"seq": False},
        {"seq": "7"},
        {"quality": 1.5},
        {"quality": "x"},
        {"value": "x"},
        {"value": "7"},
        {"value": None},
        {"value": 10**400},
        {"value": [1.0]},
        {"source": ["cgm"]},
        {"source": 7},
        {"amends": ("hand", 1.5)},
        {"amends": ("hand", True)},
        {"amends": ("hand", 1 << 63)},
        {"amends": ("hand",)},
        {"amends": ()},
        {"amends": ["hand", 1]},
        {"amends": (7, 1)},
        {"amends": 7},
    ],
)
def test_a_sample_that_cannot_be_kept_is_refused_and_nothing_of_its_batch_stored(
    path: Path, opened: Opened, fields: dict[str, object]
) -> None:
    store = opened(path)
    for batch in ([reading(1), reading(2, **fields)], [reading(2, **fields)]):  # type: ignore[arg-type]
        with pytest.raises(InputError):
            store.append(batch)
    assert store.last_row == 0
    assert store.append([reading(1)])


def test_quality_flags_come_back_as_given(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append([reading(1, quality=Quality.BACKFILLED | Quality.CLOCK_DOUBT)])
    store.close()
    [(_, sample)] = opened(path).read(0, 1)
    assert Quality(sample.quality) == Quality.BACKFILLED | Quality.CLOCK_DOUBT


def test_blobs_are_replaced_whole_and_survive_reopening(path: Path, opened: Opened) -> None:
    store = opened(path)
    assert store.get_blob("engine") is None
    for data in (b"", b"x" * 100_000, b"last"):
        store.put_blob("engine", data)
        store.put_blob("bonds", b"other")
        assert store.get_blob("engine") == data
    store.close()
    assert opened(path).get_blob("engine") == b"last"


def test_outbox_numbers_never_repeat_even_when_it_is_empty_again(path: Path, opened: Opened) -> None:
    store = opened(path)
    first = [store.enqueue(b"%d" % n) for n in range(3)]
    store.done(first)
    assert store.pending(10) == []
    store.close()
    again = opened(path)
    assert again.enqueue(b"more") == max(first) + 1
    assert again.pending_count() == 1


def test_outbox_keeps_order_and_ignores_unknown_numbers(path: Path, opened: Opened) -> None:
    store = opened(path)
    numbers = [store.enqueue(b"%d" % n) for n in range(5)]
    store.done([numbers[1], numbers[1], 99, -4, 0])
    assert store.pending(3) == [(numbers[0], b"0"), (numbers[2], b"2"), (numbers[3], b"3")]
    assert store.pending(0) == []


def test_sample_pointer_moves_with_its_message_and_never_back(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(10))
    store.enqueue(b"batch", sample_row=6)
    with pytest.raises(InputError):
        store.enqueue(b"batch", sample_row=5)
    with pytest.raises(InputError):
        store.enqueue(b"batch", sample_row=11)
    store.enqueue(b"alarm")
    store.close()
    again = opened(path)
    assert again.sample_pointer == 6
    assert again.pending_count() == 2


def test_counters_rise_by_name_across_restarts(path: Path, opened: Opened) -> None:
    store = opened(path)
    base = START_US // 1000
    assert [store.next_number("alarm") for _ in range(3)] == [base, base + 1, base + 2]
    assert store.next_number("hand") == base
    store.close()
    assert opened(path).next_number("alarm") == base + 3


def numbers(store: Store) -> tuple[int, int, int]:
    return store.next_number("alarm"), store.next_number("hand"), store.enqueue(b"message")


def test_a_store_made_anew_never_gives_out_numbers_of_the_one_before(folder: Path) -> None:
    clock = FixedClock()
    used: list[tuple[int, int, int]] = []
    for life in range(3):
        with Store.open(folder / f"{life}.sqlite", KEY, hub_id=HUB, clock=clock) as store:
            used += [numbers(store) for _ in range(20)]
        clock.us += 60_000_000
    assert all(b > a for before, after in pairwise(used) for a, b in zip(before, after, strict=True))


def test_an_older_copy_put_back_never_gives_out_numbers_again(folder: Path, path: Path) -> None:
    clock = FixedClock()
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        numbers(store)
    shutil.copy(path, folder / "copy")
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        lost = [numbers(store) for _ in range(20)]
    shutil.copy(folder / "copy", path)
    clock.us += 60_000_000
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        assert all(a > b for a, b in zip(numbers(store), lost[-1], strict=True))


@pytest.mark.parametrize("step_us", [-3_600_000_000, -START_US, -2 * START_US, 3_600_000_000])
def test_numbers_rise_whatever_the_clock_does(path: Path, step_us: int) -> None:
    clock = FixedClock()
    with Store.open(path, KEY, hub_id=HUB, clock=clock) as store:
        before = numbers(store)
        clock.us += step_us
        between = numbers(store)
        clock.us -= step_us
        after = numbers(store)
    assert all(a < b < c for a, b, c in zip(before, between, after, strict=True))
    assert after[0] < START_US


def test_numbers_begin_at_one_under_a_clock_before_1970(path: Path) -> None:
    with Store.open(path, KEY, hub_id=HUB, clock=FixedClock(-5)) as store:
        assert numbers(store) == (1, 1, 1)


def test_no_space_left_loses_nothing_and_the_store_goes_on(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.append(reading(n) for n in range(300))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    try:
        for room in range(0, 9000, 600):  # the limit falls into every part of a transaction
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            for n in range(1000 + room, 1004 + room):
                rows = store.last_row
                try:
                    store.append([reading(n)])
                except StoreError:
                    refused += 1
                    assert store.last_row == rows
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = store.read(0, 1000)
    assert refused > 20
    assert store.append([reading(5000)])
    assert store.check().ok
    store.close()
    assert opened(path).read(0, 1000)[:-1] == kept


def test_threads_may_share_a_store(path: Path, opened: Opened) -> None:
    store = opened(path)

    def work(source: str) -> None:
        for n in range(100):
            store.append([reading(n, source=source)])
            store.next_number("shared")

    threads = [threading.Thread(target=work, args=(f"s{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.last_row == 400
    assert store.next_number("shared") == START_US // 1000 + 400
    assert all(store.cursors(f"s{i}") == {"cgm_mgdl": 99} for i in range(4))


def test_a_closed_store_says_so(path: Path, opened: Opened) -> None:
    store = opened(path)
    store.close()
    store.close()
    for call in (lambda: store.append([reading(1)]), lambda: store.read(0, 1), store.check):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_a_write_of_unknown_outcome_stops_the_store(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    store.append([reading(1)])

    def interrupted(sample: Sample) -> None:
        raise KeyboardInterrupt  # after the commit, before memory knows

    monkeypatch.setattr(store._index, "add_tail", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.append([reading(2)])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="in doubt"):
        store.append([reading(3)])
    store.close()
    assert [s.seq for _, s in opened(path).read(0, 9)] == [1, 2]


def test_a_head_that_is_gone_while_the_store_is_used_is_put_back_and_told(path: Path) -> None:
    """A sample that comes alone puts it back, which said nothing."""
    with open_store(path) as store, structlog.testing.capture_logs() as logs:
        store.append([reading(0)])
        assert logs == []
        store._db.execute("DELETE FROM tail WHERE number = ?", (HEAD_ROW,))
        store.append([reading(1)])
        assert [entry["event"] for entry in logs] == ["store.head_was_missing"]
        assert store.check().ok
    with open_store(path) as store:
        assert store.last_row == 2
