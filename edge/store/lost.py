"""What damage took from the store, as far as the cloud may give it back: which spans, how many, what came. Durable.

Rows that are missing can be counted, and the records before and after them say when they had arrived: that span is asked
for. What comes back is judged here, since the cloud must not become a way to write into a hub:

- it answers a question of ours that is still open, and goes on where the answer before it ended;
- it arrived, or happened, within a span that was asked for, and there is no more of it than is missing;
- a record that is here stays as it is, and one that stands for another counts only until somebody corrects that again;
- no device's number rises: numbers above those that the device itself has told wait until it has told greater ones.
  Otherwise an invented number could hide from us what the device tells next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from core.errors import DecodeError, InputError
from core.messages import Quality, Resend, Returned, Sample, decode, encode
from core.units import KINDS, US_PER_DAY, US_PER_H
from edge.store.admission import normal
from edge.store.appending import append_new
from edge.store.journal import read_line
from edge.store.refill import PATIENCE_US, STEP_LEAST_US, STEP_MOST_US

if TYPE_CHECKING:
    from edge.store.head import Head
    from edge.store.repair import RepairReport
    from edge.store.store import Store

BLOB: Final = "lost"
Span = tuple[int, int]  # microseconds UTC, both included
MOST_SPANS: Final = 32  # those nearest to each other are asked for as one
# A reading may be dated so far ahead of its arrival, and an arrival by a clock that was set a little later.
MARGIN_US: Final = 2 * US_PER_H
# Where a clock was set back between the records around a gap, those in it may bear any of its times.
CLOCK_DOUBT_US: Final = US_PER_DAY
# So long a sensor remembers and tells late.
LATE_US: Final = 30 * US_PER_DAY
MOST_UNKNOWN: Final = (
    1 << 20
)  # records that can come back where nobody knows how many are missing: ten years of a CGM
HAND: Final = "hand"
PAGE_LEAST: Final = 100  # records that a page counts for, however few it holds
PEOPLE: Final = frozenset({HAND, "command"})  # edge/hand.py: their numbers are no device's
US_PER_MS: Final = 1000
Key = tuple[str, str, int]  # source, kind, seq


class Ask(msgspec.Struct, frozen=True):
    """An open question to the cloud."""

    request: int
    spans: tuple[Span, ...]
    room: int  # so many can still be missing
    after: int = 0  # the cloud's place up to which it has answered
    again: int = -1  # where to begin anew, as from there on some must wait for a device to speak; -1: nowhere
    came: int = 0  # stored again so far
    seen: int = 0  # told since ``after`` was 0 or ``again``
    number: int = 0  # of the newest question in the outbox
    since_us: int = 0  # patience, counted as refill.Refill does
    waited_us: int = 0

    def question(self) -> Resend:
        """As it goes to the cloud."""
        return Resend(self.request, self.spans, self.after)

    def at(self, now_us: int) -> Ask | None:
        """The question as of now, self when that is as it was; None once patience has ended."""
        step_us = now_us - self.since_us
        if 0 <= step_us < STEP_LEAST_US:
            return self
        waited_us = self.waited_us + min(max(0, step_us), STEP_MOST_US)
        if waited_us > PATIENCE_US:
            return None
        return msgspec.structs.replace(self, since_us=now_us, waited_us=waited_us)


class Lost(msgspec.Struct, frozen=True):
    """What is known of losses. ``gaps``: rows that were asked for, or are; ``spans``: theirs, together."""

    gaps: tuple[tuple[int, int], ...] = ()
    spans: tuple[Span, ...] = ()
    # The newest that may have lost what nobody can count: the name it gave the damaged file, and its first lost row.
    repair: str = ""
    ask: Ask | None = None
    came: int = 0  # in all

    @staticmethod
    def load(store: Store) -> Lost:
        """What the store remembers; nothing when it does not."""
        data = store.get_blob(BLOB)
        try:
            return Lost() if data is None else decode(data, Lost)
        except DecodeError:
            return Lost()

    def save(self, store: Store) -> Lost:
        """Durable on return; self."""
        store.put_blob(BLOB, encode(self))
        return self


def look(store: Store, lost: Lost, request: int, now_us: int, report: RepairReport | None = None) -> Lost:
    """With a question for what is missing and was not asked for yet; ``lost`` itself when that is nothing.

    ``report`` is of the newest repair.
    """
    chain_from = store._head.chain_from  # rows before it are missing because they were thinned
    gaps = tuple((max(a, chain_from), b) for a, b in store.missing_rows() if b >= chain_from)
    new = [gap for gap in gaps if gap not in lost.gaps]
    spans = [_span(store, *gap, now_us) for gap in new]
    room = sum(last - first + 1 for first, last in new)
    repair = lost.repair
    # The name of a log that somebody removed is given again; by name only it was written down before.
    newest = f"{report.set_aside} {report.first_lost_row}" if report else ""
    known = report is None or repair in (newest, report.set_aside)
    if report is not None and not known and (row := _uncounted_row(store, report)):
        repair = newest
        # Of a log that was cut short only what came last is lost: unless the file is damaged too, of before a thinning, where
        # nothing counts what that took.
        old = store._head.chain_from and _is_hit(report)
        first = 0 if old or {"head", "file"} & report.damaged.keys() else report.first_lost_row
        newest_only = report.rows_lost is None and first > 0
        if newest_only:
            begin_us = _span(store, first, first - 1, now_us)[0]
        else:
            begin_us = 0 if "file" in report.damaged else _begun_us(store)
        spans.append((begin_us, _span(store, row + 1, row, now_us)[1]))
        thinned = sum(min(b, row) - a + 1 for a, b in store.missing_rows() if a <= row)
        room = MOST_UNKNOWN if report.rows_lost is None else room + thinned
    if not spans:
        return lost
    # Also what was asked for before: what came back then may be what is lost now, and the cloud knows it by its first arrival.
    spans = joined([*lost.spans, *spans])
    room += lost.ask.room if lost.ask else 0
    ask = Ask(request, tuple(spans), room, came=lost.ask.came if lost.ask else 0, since_us=now_us)
    return Lost(gaps, ask.spans, repair, ask, lost.came)


def _uncounted_row(store: Store, report: RepairReport) -> int:
    """Up to which row a repair may have lost what nobody can count; 0: none.

    Any when the head was lost; else those before the last thinning, where rows are missing anyway: events that were kept,
    and readings whose averages are gone. What was thinned and is known comes and is left out again.
    """
    if report.rows_lost is None:
        return max(1, store.last_row)
    return max(0, store._head.chain_from - 1) if _is_hit(report) else 0


def _is_hit(report: RepairReport) -> bool:
    return bool({"segments", "aggregates"} & {*report.damaged, *report.distrusted})


def _begun_us(store: Store) -> int:
    """Since when this store hears; 0: that is lost. What the cloud has of before may be of whom the hub lived with then."""
    first = [read_line(line) for line in store.journal(0, 1)]
    if not first or first[0].what in ("store.repaired", "store.thinned"):
        return 0  # what was there before it is not known
    heard_us = [s.received_us for _, s in store.read(0, 1)]
    return max(0, min([first[0].time_us, *heard_us]) - CLOCK_DOUBT_US)


def _span(store: Store, first: int, last: int, now_us: int) -> Span:
    """When the missing rows first..last had arrived, by the records around them."""
    before = next((s for row, s in store.read(first - 2, 1) if row == first - 1), None)
    after = next((s for _, s in store.read(last, 1)), None)
    start_us = before.received_us if before else _begun_us(store)
    end_us = after.received_us if after else max(now_us, start_us)
    if end_us < start_us:
        return max(0, end_us - CLOCK_DOUBT_US), start_us + CLOCK_DOUBT_US
    if before is None or after is None or not 0 < before.steady_us < after.steady_us:
        return start_us, end_us
    # By the clock that never jumps, so much time has passed: also before and after the other one was set in between.
    passed_us = after.steady_us - before.steady_us
    return max(0, min(start_us, end_us - passed_us)), max(end_us, start_us + passed_us)


def joined(spans: Iterable[Span]) -> list[Span]:
    """In rising order, apart from one another, and at most MOST_SPANS."""
    apart: list[Span] = []
    for start, end in sorted(spans):
        if apart and start <= apart[-1][1] + 1:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    while len(apart) > MOST_SPANS:
        at = min(range(1, len(apart)), key=lambda i: apart[i][0] - apart[i - 1][1])
        apart[at - 1 : at + 1] = [(apart[at - 1][0], apart[at][1])]
    return apart


def take_back(store: Store, lost: Lost, page: Returned, now_us: int) -> tuple[Lost, int]:
    """Store what a page holds of what was asked for, with what is left to ask, in one transaction.

    Returns that, and how many records are stored again. ``lost`` itself: the page answers no open question.
    """
    ask = lost.ask
    if ask is None or (page.request, page.after) != (ask.request, ask.after):
        return lost, 0
    with store._mutex:
        store._check_usable()
        new: dict[Key, Sample] = {}
        again = ask.again
        arrival = store.arrivals.now()
        for told in page.samples:
            sample = _marked(told, *arrival)
            if sample is None or not within(told, ask.spans) or sample.key in new or store._has(sample):
                continue
            if not _is_passed(store, sample, now_us):
                again = again if again >= 0 else ask.after
            elif len(new) < ask.room and _still_counts(store, sample, new):
                new[sample.key] = sample
        gone_on = msgspec.structs.replace(
            ask,
            after=page.next,
            again=again,
            room=ask.room - len(new),
            came=ask.came + len(new),
            seen=ask.seen + max(len(page.samples), PAGE_LEAST),
        )
        rest = msgspec.structs.replace(lost, ask=_next(store, ask, gone_on, page), came=lost.came + len(new))
        write, remember = _written(store, rest, gone_on.came)
        if new:
            append_new(store, tuple(new.values()), store.fold_samples, write, remember)
        else:
            store._change(write, remember)
    return rest, len(new)


def give_up(store: Store, lost: Lost) -> Lost:
    """Nothing is asked for any more."""
    rest = msgspec.structs.replace(lost, ask=None)
    with store._mutex:
        store._change(*_written(store, rest, lost.ask.came if lost.ask else 0))
    return rest


def _next(store: Store, ask: Ask, gone_on: Ask, page: Returned) -> Ask | None:
    """What is left to ask after a page, if anything. A cloud that never ends does not keep us asking."""
    if not gone_on.room:
        return None
    if page.more and page.samples and ask.after < page.next < 1 << 63:
        return gone_on if gone_on.seen <= store.last_row + MOST_UNKNOWN else None
    return (
        msgspec.structs.replace(gone_on, after=gone_on.again, again=-1, seen=0)
        if gone_on.again >= 0
        else None
    )


def _written(store: Store, rest: Lost, came: int) -> tuple[Callable[[Head], None], Callable[[], None]]:
    """``rest`` as a blob, and at the end a line in the audit log, in whatever transaction this becomes part of."""
    write, remember = store._blob_write(BLOB, encode(rest))

    def also(head: Head) -> None:
        write(head)
        if rest.ask is None:
            store._note(head, "hub", "store.refilled", {"returned": came})

    return also, remember


def within(told: Sample, spans: Iterable[Span]) -> bool:
    """Whether it arrived, or happened, in one of the spans, and its time could be of such a one."""
    return any(
        max(0, start - LATE_US) <= told.time_us <= end + MARGIN_US
        and (start <= told.received_us <= end or start - MARGIN_US <= told.time_us)
        for start, end in spans
    )


def _marked(told: Sample, received_us: int, steady_us: int) -> Sample | None:
    """As it is stored; None when it is nothing that a device or a person of this house could have said."""
    try:
        [sample] = normal([told], received_us, steady_us)
        if not sample.deleted:
            sample.checked()
    except InputError:
        return None
    corrects = sample.amends is not None
    if sample.kind not in KINDS or not math.isfinite(sample.value) or sample.seq < 0:
        return None
    if sample.deleted > corrects or (corrects and sample.source not in PEOPLE):
        return None
    return msgspec.structs.replace(sample, quality=sample.quality | Quality.RETURNED)


def _is_passed(store: Store, sample: Sample, now_us: int) -> bool:
    """Whether its source has told, or given, greater numbers already, so that this one hides none that is to come."""
    if sample.source == HAND:
        return sample.seq < max(store._head.counters.get(HAND, 0) + 1, now_us // US_PER_MS)
    greatest = max(store._index.cursors(sample.source).values(), default=-1)
    return sample.source in PEOPLE or sample.seq <= greatest


def _still_counts(store: Store, sample: Sample, new: Mapping[Key, Sample]) -> bool:
    """Whether what it stands for is here, and nobody corrected that since the loss: the last word counts."""
    if sample.amends is None:
        return True
    source, seq = sample.amends
    target = (source, sample.kind, seq)
    if target in new:
        return True
    if not store._has(msgspec.structs.replace(sample, source=source, seq=seq, amends=None)):
        return False
    row = dict(store._index.amended_rows()).get(target)
    return row is None or bool(store.read(row - 1, 1)[0][1].quality & Quality.RETURNED)
