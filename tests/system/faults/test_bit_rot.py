"""Bits rot on the card: every page of the store's file and every frame of its log is flipped once.

After each: the same content, or a typed error; never other content, and nothing acknowledged missing in silence.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from core.errors import HometwinError
from tests.edge.store.conftest import open_store
from tests.system.faults.ledger import Call, Figures, Ledger, asked, no_other_key_opens
from tests.system.faults.power_cut import get_files, put_files

NAME = "replay.sqlite"
LOG = NAME + "-wal"
PAGE = 4096
FRAME = PAGE + 24
LOG_HEADER = 32
FLIPS = asked("FLIPS", 1)  # of each page and frame
SEED = asked("FAULT_SEED", 20260101)

pytestmark = pytest.mark.timeout(600)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def outcome(folder: Path, files: dict[str, bytes], ledger: Ledger) -> str:
    """``same``, or the error that was told. AssertionError for anything else."""
    put_files(folder, files)
    no_other_key_opens(folder / NAME)
    put_files(folder, files)
    now = ledger.copy()
    try:
        with open_store(folder / NAME) as store:
            now.check(store)
    except HometwinError as error:
        return type(error).__name__
    return "same"


def test_every_page_of_the_file_flipped_once(folder: Path, figures: Figures) -> None:
    ledger = Ledger()
    with open_store(folder / NAME) as store:
        for call in (Call("append", 3000), Call("enqueue", 3), Call("enqueue", 4), Call("put", 5)):
            ledger.make(store, call)
    [(name, whole)] = get_files(folder, (NAME,)).items()
    rng = random.Random(SEED)
    # Every byte of the first page's header, which says how to read all others, and every page.
    places = [*range(100)] + [
        start + rng.randrange(PAGE) for start in range(0, len(whole), PAGE) for _ in range(FLIPS)
    ]
    told: Counter[str] = Counter()
    for at in places:
        bit = rng.randrange(8)
        try:
            told[outcome(folder, {name: flipped(whole, at, bit)}, ledger)] += 1
        except AssertionError as error:
            raise AssertionError(f"bit {bit} of byte {at}: {error}") from error
    figures(
        f"seed {SEED}: {len(places)} flips in {len(whole) // PAGE} pages: {dict(told)}", faults=len(places)
    )
    assert told["TamperedError"] > len(whole) // PAGE // 2


@pytest.fixture
def cut_short(folder: Path) -> tuple[dict[str, bytes], list[tuple[int, Ledger]]]:
    """A store whose process was killed, so that its log is still there; and what each length of log held."""
    ledger = Ledger()
    history: list[tuple[int, Ledger]] = []
    with open_store(folder / NAME) as store:
        for call in [Call("append", 300), Call("put", 1), *[Call("append", 1)] * 12, Call("enqueue", 9)]:
            ledger.make(store, call)
            history.append(((folder / LOG).stat().st_size, ledger.copy()))
        files = get_files(folder, (NAME, LOG))
    return files, history


def test_every_frame_of_the_log_flipped_once(
    folder: Path, cut_short: tuple[dict[str, bytes], list[tuple[int, Ledger]]], figures: Figures
) -> None:
    """A flip in the last commit alone may pass for a cut before it: then exactly that commit is missing."""
    files, history = cut_short
    log, ledger = files[LOG], history[-1][1]
    begin_of_last = history[-2][0]
    almost = history[-2][1].copy()
    almost.begin(Call("enqueue", 9))
    rng = random.Random(SEED)
    places = [*range(LOG_HEADER)]
    for start in range(LOG_HEADER, len(log), FRAME):
        places += [start + n for n in (0, 5, 9, 17)]  # each part of a frame's header
        places += [start + 24 + rng.randrange(PAGE) for _ in range(FLIPS)]
    told: Counter[str] = Counter()
    for at in places:
        bit = rng.randrange(8)
        expected = almost if at >= begin_of_last else ledger
        try:
            found = outcome(folder, {**files, LOG: flipped(log, at, bit)}, expected)
        except AssertionError as error:
            raise AssertionError(f"bit {bit} of byte {at} of {len(log)}: {error}") from error
        told[found] += 1
        if found == "TamperedError":
            # It was said once; the next start goes on with all that came before the damage.
            with open_store(folder / NAME) as store:
                assert store.check().ok
                rows = store.last_row
                assert [row for row, _ in store.read(0, 1 << 30)] == list(range(1, rows + 1))
            if at > LOG_HEADER:
                held = max((past.rows for size, past in history if size <= at - at % FRAME), default=0)
                assert rows >= held
    figures(
        f"seed {SEED}: {len(places)} flips in a log of {len(log) // FRAME} frames: {dict(told)}",
        faults=len(places),
    )
    assert told["TamperedError"] > len(places) // 2


def test_a_flip_in_the_log_is_told_with_what_to_do(
    folder: Path, cut_short: tuple[dict[str, bytes], list[tuple[int, Ledger]]]
) -> None:
    files, _ = cut_short
    put_files(folder, {**files, LOG: flipped(files[LOG], LOG_HEADER + FRAME + 100, 3)})
    with pytest.raises(HometwinError, match="log is damaged") as caught:
        open_store(folder / NAME)
    assert "start again" in caught.value.mend
    assert len(list(folder.glob(NAME + ".damaged-log-*"))) == 1
    open_store(folder / NAME).close()
