"""What a store has acknowledged, and whether it still holds exactly that.

The same calls serve every test here: chosen at random, made on a real store, noted before and after. Every
sample follows from its row, so an invented, changed or misplaced one shows. When the process or the disk goes away
in the middle of a call, that one call may have taken effect or not, but only as a whole.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from core.errors import StoreError, TamperedError
from core.messages import Sample
from edge.store.store import Store
from tests.edge.store.conftest import KEY, open_store, reading

EVERYTHING = 1 << 30
WRONG_KEY = bytes(reversed(KEY))


_asked: dict[str, int] = {}


def asked(name: str, default: int) -> int:
    """The environment's ``HOMETWIN_<name>``. It is taken out: a hub refuses settings that it does not know."""
    if name not in _asked:
        _asked[name] = int(os.environ.pop(f"HOMETWIN_{name}", default))
    return _asked[name]


class Figures(Protocol):
    """The fixture that tells what a test saw. Counts: kills, cuts, faults, records."""

    def __call__(self, text: str, **counts: int) -> None:
        """Tell it."""


class Call(NamedTuple):
    """One call of a store: ``append`` n samples, ``enqueue``, ``done`` number, ``put`` n, ``number``.

    ``rotate``, ``reseal`` n records and ``keep`` change no content that is judged here.
    """

    do: str
    n: int = 0


# Mostly single samples as a sensor gives them; now and then a backfill that folds.
SIZES = [1] * 40 + [5, 50, 300]


def chosen(rng: random.Random, store: Store) -> Call:
    """A call as a hub might make it next."""
    match rng.randrange(12):
        case 0 | 1:
            return Call("enqueue", store.last_row)
        case 2 if store.pending_count() > 3:
            return Call("done", store.pending(1)[0][0])
        case 3:
            return Call("put", store.last_row)
        case 4:
            return Call("number")
        case 5 if store.keys.rotating:
            return Call("reseal", 8)
        case 6 if not store.keys.rotating:
            return Call("rotate")
        case 7:
            return Call("keep")
    return Call("append", rng.choice(SIZES))


def make(store: Store, call: Call) -> int:
    """Make the call; the number that it gave, or 0."""
    match call.do:
        case "append":
            first = store.last_row
            store.append(reading(n) for n in range(first, first + call.n))
        case "enqueue":
            return store.enqueue(b"message %d" % call.n, sample_row=max(store.sample_pointer, call.n))
        case "done":
            store.done([call.n])
        case "put":
            store.put_blob("state", state(call.n))
        case "number":
            return store.next_number("alarm")
        case "rotate":
            store.keys.rotate_data()
        case "reseal":
            store.keys.reseal(call.n)
        case "keep":
            store.archive.keep("replay", bytes(900), 5000)
            store.note("hub", "test.kept")
    return 0


@dataclass
class Ledger:
    """The acknowledged content of one store."""

    rows: int = 0
    outbox: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    last_number: int = 0  # of the outbox, ever
    blob: bytes | None = None
    counter: int = 0
    under_way: Call | None = None
    checked: int = 0  # records compared so far

    def copy(self) -> Ledger:
        """An independent copy that has checked nothing yet."""
        return Ledger(
            self.rows,
            list(self.outbox),
            list(self.numbers),
            self.last_number,
            self.blob,
            self.counter,
            self.under_way,
        )

    def begin(self, call: Call) -> None:
        """``call`` may take effect from now on."""
        self.under_way = call

    def end(self, result: int) -> None:
        """It was acknowledged."""
        assert self.under_way is not None
        self._apply(self.under_way, result)
        self.under_way = None

    def make(self, store: Store, call: Call) -> None:
        """Make ``call`` on ``store`` and note it."""
        self.begin(call)
        self.end(make(store, call))

    def refused(self) -> None:
        """The store said that the call was not done and that it goes on: then nothing of it may be there."""
        self.under_way = None

    def check(self, store: Store, *, after_row: int = 0) -> None:
        """Exactly what was acknowledged is there, in order, or that and the call under way. It counts then.

        ``after_row``: rows up to this one were compared before. AssertionError when anything is missing, changed
        or invented; TamperedError when the store itself says so.
        """
        report = store.check()
        if not report.ok:
            raise TamperedError(str(report.first_bad))
        found = store.read(after_row, EVERYTHING)
        assert [row for row, _ in found] == list(range(after_row + 1, store.last_row + 1))
        for row, sample in found:
            assert facts(sample) == facts(reading(row - 1)), f"row {row} is not what was written"
        pending = store.pending(EVERYTHING)
        payloads = [data for _, data in pending]
        numbers = [number for number, _ in pending]
        assert numbers == sorted(set(numbers))
        there = (store.last_row, payloads, store.get_blob("state"))
        if there != self._state():
            assert self.under_way is not None, f"{described(there)} instead of {described(self._state())}"
            before = described(self._state())
            self._apply(self.under_way, numbers[-1] if numbers else 0)
            assert there == self._state(), (
                f"{described(there)}, neither {before} nor {self.under_way} made on it"
            )
        assert numbers == self.numbers
        self.under_way = None
        number = store.next_number("alarm")
        assert number > self.counter, "a number was given out twice"
        self.counter = number
        self.checked += len(found) + len(pending) + 2

    def _state(self) -> tuple[int, list[bytes], bytes | None]:
        return self.rows, self.outbox, self.blob

    def _apply(self, call: Call, result: int) -> None:
        match call.do:
            case "append":
                self.rows += call.n
            case "enqueue":
                assert result > self.last_number, "a message number was given out twice"
                self.last_number = result
                self.outbox.append(b"message %d" % call.n)
                self.numbers.append(result)
            case "done":
                place = self.numbers.index(call.n)
                del self.outbox[place], self.numbers[place]
            case "put":
                self.blob = state(call.n)
            case "number":
                assert result > self.counter, "a number was given out twice"
                self.counter = result


def state(n: int) -> bytes:
    """A blob of several pages, as the engine's snapshot is, with its number all over."""
    return b"state %08d " % n * 1500


def no_other_key_opens(path: Path) -> None:
    """Whatever became of the store: to another key it is closed."""
    with pytest.raises(StoreError):
        open_store(path, WRONG_KEY).close()


def facts(sample: Sample) -> tuple[object, ...]:
    """What a sample says, without when it came."""
    return (sample.key, sample.time_us, sample.value, sample.quality, sample.amends, sample.deleted)


def described(content: tuple[int, list[bytes], bytes | None]) -> str:
    """A store's content in short."""
    rows, outbox, blob = content
    return f"{rows} samples, {len(outbox)} messages, blob {(blob or b'')[:14]!r}"
