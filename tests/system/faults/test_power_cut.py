"""Power cuts, honest ones: unsynced writes are lost or torn, and every acknowledged sample is still there."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.errors import StoreError
from edge.store.store import Store
from tests.edge.store.conftest import open_store
from tests.system.faults.disk import LIE, Disk, Op
from tests.system.faults.ledger import Figures, Ledger, asked, chosen, no_other_key_opens
from tests.system.faults.power_cut import Keep, PowerCut, put_files, record_names

CUTS = asked("POWER_CUTS", 180)
SEED = asked("FAULT_SEED", 20260101)
CALLS = 240
# The log is copied into the file when it has this many pages (1,000 in a hub): several times in these calls.
CHECKPOINT_PAGES = 150
# Of the cuts, this many are cut a second time while the store recovers.
AGAIN_EVERY = 6

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def early_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.store.database._CHECKPOINT_PAGES", CHECKPOINT_PAGES)


@dataclass
class Life:
    """One recorded life of a store, and what it had acknowledged at every moment."""

    log: list[Op]
    moments: list[int] = field(default_factory=list)  # length of the log
    ledgers: list[Ledger] = field(default_factory=list)

    def remember(self, ledger: Ledger) -> None:
        self.moments.append(len(self.log))
        self.ledgers.append(ledger.copy())

    def acknowledged(self, at: int) -> Ledger | None:
        """What counted after ``at`` operations; None before there was a store."""
        place = bisect_right(self.moments, at)
        return self.ledgers[place - 1].copy() if place else None


def lived(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    decide: Callable[[Op], str | None] = lambda _: None,
    after_open: Callable[[Store], object] = lambda _: None,
    calls: int = CALLS,
) -> Life:
    """Make a store, work with it, close it, open it again and work on; everything recorded."""
    rng = random.Random(SEED)
    disk = Disk(decide, record=True)
    life = Life(disk.log)
    ledger = Ledger()
    with monkeypatch.context() as patched, disk:
        record_names(disk, patched)
        for _ in range(2):
            with open_store(folder / "replay.sqlite") as store:
                after_open(store)
                life.remember(ledger)
                for _ in range(calls // 2 if ledger.rows else calls):
                    call = chosen(rng, store)
                    ledger.begin(call)
                    life.remember(ledger)
                    ledger.make(store, call)
                    life.remember(ledger)
    return life


def checked(folder: Path, ledger: Ledger | None) -> Ledger:
    """Open what a cut left; AssertionError or StoreError when something acknowledged is not there."""
    after = ledger or Ledger()
    if ledger is not None:
        assert (folder / "replay.sqlite").exists(), "the store is gone"
    with open_store(folder / "replay.sqlite") as store:
        after.check(store)
    no_other_key_opens(folder / "replay.sqlite")
    return after


def test_no_acknowledged_sample_is_lost_in_a_power_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    life = lived(folder, monkeypatch)
    kinds = [op.kind for op in life.log]
    assert kinds.count("write") > CALLS
    begun, ended = life.moments[0], life.moments[2 * CALLS]
    copied = [op.name == "replay.sqlite" and op.kind == "sync" for op in life.log[begun:ended]].count(True)
    assert copied > 1, "the log was never copied into the file while it was in use"
    rng = random.Random(SEED)
    left = folder / "left"
    left.mkdir()
    power, at, records, again = PowerCut(), 0, 0, 0
    # Half of them in the making of the store and around it, where names change; the rest everywhere.
    moments = sorted(
        [rng.randrange(begun + 20) for _ in range(CUTS // 4)]
        + [rng.randrange(len(life.log) + 1) for _ in range(CUTS - CUTS // 4)]
    )
    for number, moment in enumerate(moments):
        while at < moment:
            power.follow(life.log[at])
            at += 1
        keep = (Keep.NONE, Keep.SOME, Keep.SOME, Keep.ALL)[number % 4]
        files = power.cut(keep, rng)
        put_files(left, files)
        what = f"cut after {moment} of {len(life.log)} operations, unsynced writes {keep.value}"
        try:
            ledger = life.acknowledged(moment)
            if number % AGAIN_EVERY == 0:
                ledger = cut_while_recovering(left, files, ledger, rng, monkeypatch)
                again += 1
            records += checked(left, ledger).checked
        except (AssertionError, StoreError) as error:
            raise AssertionError(f"{what}: {error}") from error
    figures(
        f"seed {SEED}: {len(moments) + again} power cuts survived ({again} of them during recovery), "
        f"{len(life.log)} file operations recorded, {records} records checked",
        cuts=len(moments) + again,
        records=records,
    )
    assert records > CUTS


def cut_while_recovering(
    left: Path,
    files: dict[str, bytes],
    ledger: Ledger | None,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
) -> Ledger | None:
    """Open what a cut left, and cut the power again while that goes on."""
    before = None if ledger is None else ledger.copy()
    disk = Disk(record=True)
    with monkeypatch.context() as patched, disk:
        record_names(disk, patched)
        checked(left, ledger)
    power, moment = PowerCut(files), rng.randrange(len(disk.log) + 1)
    for op in disk.log[:moment]:
        power.follow(op)
    put_files(left, power.cut(Keep.SOME, rng))
    return before


@pytest.mark.parametrize(
    ("weakness", "after_open"),
    [
        ("syncs that lie", lambda _: None),
        ("synchronous=NORMAL", lambda store: store._db.execute("PRAGMA synchronous = NORMAL")),
    ],
)
def test_the_check_itself_finds_loss_where_syncs_are_missing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    weakness: str,
    after_open: Callable[[Store], object],
    figures: Figures,
) -> None:
    """Without this the test above would prove nothing: weaken the store, and it must fail."""

    def decide(op: Op) -> str | None:
        return LIE if weakness == "syncs that lie" and op.kind == "sync" else None

    life = lived(folder, monkeypatch, decide, after_open, calls=60)
    rng = random.Random(SEED)
    left = folder / "left"
    left.mkdir()
    lost = 0
    moments = sorted(rng.sample(range(life.moments[0], len(life.log)), 12))
    for moment in moments:
        power = PowerCut()
        for op in life.log[:moment]:
            power.follow(op)
        put_files(left, power.cut(Keep.NONE, rng))
        try:
            checked(left, life.acknowledged(moment))
        except (AssertionError, StoreError):
            lost += 1
    figures(f"{weakness}: {lost} of {len(moments)} cuts lost something acknowledged")
    assert lost > 2
