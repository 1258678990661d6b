"""Every write, sync, truncation, deletion and read of the store's files fails in turn.

After each: what was acknowledged is there, or a typed error says what is wrong; nothing else is ever returned; and
a disk that was only full, or failed once, takes the store's next call.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.errors import HometwinError, StoreError
from core.units import US_PER_MIN
from edge.store.store import Store
from tests.edge.store.conftest import open_store
from tests.edge.test_hub import KEY as HUB_KEY
from tests.edge.test_hub import HandClock, make_hub, reading, ring_until
from tests.system.faults.disk import (
    FULL,
    IOERR_DELETE,
    IOERR_FSYNC,
    IOERR_READ,
    IOERR_TRUNCATE,
    IOERR_WRITE,
    Action,
    Disk,
    FailFrom,
    Flip,
    Op,
    Short,
)
from tests.system.faults.ledger import Call, Figures, Ledger, no_other_key_opens
from tests.system.faults.power_cut import get_files, put_files

NAME = "replay.sqlite"
LOG = NAME + "-wal"
# The log is copied into the file when it has this many pages (1,000 in a hub). The prepared store's log ends a
# little before, so that the calls below reach it.
CHECKPOINT_PAGES = 60
PREPARED_PAGES = 50

pytestmark = pytest.mark.timeout(600)

CALLS = [
    Call("append", 1),
    Call("enqueue", 1),
    Call("append", 300),
    Call("number"),
    Call("put", 7),
    Call("append", 2),
    Call("enqueue", 2),
    Call("append", 1),
]


@dataclass(frozen=True)
class Prepared:
    """A store that a power cut left with a long log, and what it had acknowledged."""

    files: dict[str, bytes]
    ledger: Ledger


@pytest.fixture(autouse=True)
def early_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.store.database._CHECKPOINT_PAGES", CHECKPOINT_PAGES)


@pytest.fixture
def prepared(folder: Path) -> Prepared:
    ledger = Ledger()
    with open_store(folder / NAME) as store:
        for call in (Call("append", 530), Call("enqueue", 1), Call("put", 1)):
            ledger.make(store, call)
        while (folder / LOG).stat().st_size < PREPARED_PAGES * 4120:
            ledger.make(store, Call("number"))
        return Prepared(get_files(folder, (NAME, LOG)), ledger)


def attempt(store: Store, ledger: Ledger, call: Call) -> HometwinError | None:
    """Make the call; the error when the store refuses it."""
    ledger.begin(call)
    try:
        ledger.make(store, call)
    except HometwinError as error:
        return error
    return None


def live_through(path: Path, ledger: Ledger, plan: FailFrom, *, killed: bool = False) -> list[HometwinError]:
    """Open, call, close on a failing disk; then open again on a good one and compare. The errors that were told.

    ``killed``: the files are taken as they are before the store closes.
    """
    errors: list[HometwinError] = []
    with Disk(plan):
        try:
            store = open_store(path)
        except HometwinError as error:
            errors.append(error)
        else:
            for call in CALLS:
                error = attempt(store, ledger, call)
                if error is None:
                    continue
                errors.append(error)
                plan.mended = True
                if attempt(store, ledger.copy(), Call("number")) is not None:
                    break  # in doubt: only opening again tells
                ledger.refused()
            plan.mended &= not plan.lasting  # a disk that died is dead when the store closes, too
            files = get_files(path.parent, (NAME, LOG))
            try:
                store.close()
            except HometwinError as error:
                errors.append(error)
            if killed:
                put_files(path.parent, files)
    with open_store(path) as store:
        ledger.check(store)
    no_other_key_opens(path)
    return errors


def count_of(path: Path, ledger: Ledger, picks: Callable[[Op], bool]) -> int:
    """How many operations of this kind there are when nothing fails."""
    plan = FailFrom(picks, 1 << 30, None)
    assert live_through(path, ledger, plan) == []
    return plan.seen


FAULTS: dict[str, tuple[str, Action, bool]] = {
    "full disk": ("write", FULL, True),
    "short write": ("write", Short(0), False),
    "write error": ("write", IOERR_WRITE, False),
    "dead disk": ("write", IOERR_WRITE, True),
    "sync error": ("sync", IOERR_FSYNC, False),
    "syncs that fail from now on": ("sync", IOERR_FSYNC, True),
    "truncation error": ("truncate", IOERR_TRUNCATE, False),
    "deletion error": ("delete", IOERR_DELETE, False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_write_fails_in_turn_and_nothing_acknowledged_is_lost(
    folder: Path, prepared: Prepared, fault: str, figures: Figures
) -> None:
    kind, action, lasting = FAULTS[fault]
    path, rng = folder / NAME, random.Random(fault)
    put_files(folder, prepared.files)
    many = count_of(path, prepared.ledger.copy(), lambda op: op.kind == kind)
    told = records = 0
    for n in range(many):
        put_files(folder, prepared.files)
        ledger = prepared.ledger.copy()
        once = Short(rng.randrange(1, 4096)) if isinstance(action, Short) else action
        try:
            plan = FailFrom(lambda op: op.kind == kind, n, once, lasting)
            errors = live_through(path, ledger, plan, killed=n % 2 == 1)
        except (AssertionError, StoreError) as error:
            raise AssertionError(f"{fault} at {kind} {n} of {many}: {error}") from error
        told += bool(errors)
        records += ledger.checked
        assert all(isinstance(error, StoreError) for error in errors), errors
        if fault == "full disk":
            assert all("no space left" in str(error) and error.mend for error in errors), errors
    figures(
        f"{fault}: {many} faults injected one by one, {told} were told to the caller, {records} records checked",
        faults=many,
        records=records,
    )
    assert many


def test_each_operation_of_making_a_store_fails_in_turn_and_the_next_attempt_makes_it(
    folder: Path, figures: Figures
) -> None:
    """Also the names that Python gives, not SQLite: see test_power_cut.py for those."""
    changes = ("open", "write", "sync", "truncate", "delete", "read")
    path = folder / NAME

    def picks(op: Op) -> bool:
        return op.kind in changes

    put_files(folder, {})
    plan = FailFrom(picks, 1 << 30, None)
    with Disk(plan):
        open_store(path).close()
    told = 0
    for n in range(plan.seen):
        put_files(folder, {})
        with Disk(FailFrom(picks, n, IOERR_WRITE)) as disk, contextlib.suppress(HometwinError):
            open_store(path).close()
            told -= 1
        told += 1
        assert disk.injected == 1
        with open_store(path) as store:
            Ledger().check(store)
    figures(
        f"{plan.seen} faults injected while a store is made, {told} were told to the caller", faults=plan.seen
    )
    assert told > plan.seen // 2


@pytest.mark.parametrize("fault", ["read error", "bit flip"])
def test_each_read_fails_in_turn_and_nothing_wrong_is_returned(
    folder: Path, prepared: Prepared, fault: str, figures: Figures
) -> None:
    """A store with a checkpointed file and a short log, so that both are read at opening and later."""
    path, rng = folder / NAME, random.Random(fault)
    put_files(folder, prepared.files)
    ledger = prepared.ledger.copy()
    open_store(path).close()
    with open_store(path) as store:
        ledger.make(store, Call("append", 20))
        ledger.make(store, Call("number"))
        # A log whose last commit reads wrong looks like one that was cut before it (edge/store/wal.py).
        almost = ledger.copy()
        almost.begin(Call("put", 9))
        ledger.make(store, Call("put", 9))
        files = get_files(folder, (NAME, LOG))

    def read_all(plan: FailFrom) -> str:
        put_files(folder, files)
        now = almost.copy() if fault == "bit flip" else ledger.copy()
        with Disk(plan):
            try:
                with open_store(path) as store:
                    now.check(store)
            except HometwinError as error:
                return type(error).__name__
        return "right"

    plan = FailFrom(lambda op: op.kind == "read", 1 << 30, None)
    assert read_all(plan) == "right"
    outcomes: dict[str, int] = {}
    for n in range(plan.seen):
        action = IOERR_READ if fault == "read error" else Flip(rng.randrange(1 << 15))
        outcome = read_all(FailFrom(lambda op: op.kind == "read", n, action))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    figures(f"{fault}: {plan.seen} reads failed one by one: {outcomes}", faults=plan.seen)
    assert sum(outcomes.values()) == plan.seen


@pytest.mark.parametrize(
    ("code", "closed"),
    [(FULL, False), (IOERR_WRITE, False), (IOERR_WRITE, True)],
    ids=["full", "dead", "read only"],
)
async def test_a_hub_whose_disk_fails_rings_all_the_same_says_so_and_goes_on_when_it_is_mended(
    folder: Path, code: int, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if closed:  # what a disk says that was mounted anew to be read only
        monkeypatch.setattr("edge.store.database.os.access", lambda *_a, **_k: False)
    clock = HandClock()
    plan = FailFrom(lambda op: op.kind == "write", 0, code, lasting=True)
    with Disk() as disk:
        hub, watch = make_hub(folder, clock)
        await hub.take((reading(clock, 120),))
        disk.decide = plan
        clock.us += 5 * US_PER_MIN
        low = reading(clock, 45)
        with pytest.raises(StoreError) as caught:
            await hub.take((low,))  # so the sensor's session does not count it as ours
        assert caught.value.mend
        await hub._act_on(hub.alarms.on_health(True, hub._store_ok, clock.us, hub._steady_us()))
        assert set(hub.alarms.active) == {"urgent_low", "low", "store_failed"}
        await ring_until(hub, lambda: watch.written == [2])
        plan.mended = True
        await hub.take((low,))  # the sensor gives it again
        await hub._act_on(hub.alarms.on_health(True, hub._store_ok, clock.us, hub._steady_us()))
        assert set(hub.alarms.active) == {"urgent_low", "low"}
        hub.thread.close()
        hub.store.close()
    with Store.open(folder / NAME, HUB_KEY, hub_id="home", clock=clock) as store:
        assert [sample.value for _, sample in store.read(0, 10)] == [120, 45]
        assert store.check().ok
