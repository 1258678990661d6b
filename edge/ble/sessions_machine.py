"""The states of a device session as one table, and the part that every session shares.

A session moves only by ``TRANSITIONS``. Profiles differ in which input they choose, not in the table:

    new -> identifying -> subscribing -> [preparing] -> asking -> receiving -> live
                                             |             ^ \\________/ again   |
                                             |             |____________________| gap, poll, change
                                             +-> starting -> dating -> asking    (CGM session)
                                    receiving -> storing -> starting             (stopped CGM session)

The session holds at most one unanswered action, so an answer can never be taken for that of another.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

from core.errors import DecodeError, HometwinError, InputError, LinkTimeout, ProcedureError
from core.messages import Quality, Sample
from core.units import US_PER_MIN, US_PER_S
from edge.ble.profiles import uuids
from edge.ble.profiles.common import BatteryLevel, DeviceText
from edge.ble.profiles.ieee11073 import Special
from edge.ble.profiles.moments import DST_UNKNOWN, ZONE_UNKNOWN, CurrentTime, LocalTimeInformation, ZonedTime
from edge.ble.profiles.wire import reason_of
from edge.ble.sessions_types import Action, Close, Counted, Event, Facts, Read, Samples, Step, Subscribe


class State(StrEnum):
    NEW = "new"
    IDENTIFYING = "identifying"  # reading features, status, battery, device information
    SUBSCRIBING = "subscribing"
    PREPARING = "preparing"  # a control point procedure before history: pace (CGM), reset status (pump)
    ASKING = "asking"  # the history request is being written, or waits to be
    RECEIVING = "receiving"  # records arrive until the control point says that was all
    STORING = "storing"  # all history must be durable before the device may forget it
    STARTING = "starting"  # Start Session is under way
    DATING = "dating"  # the session start time is being written and read back
    LIVE = "live"
    CLOSED = "closed"


class Input(StrEnum):
    BEGIN = "begin"
    SUBSCRIBE = "subscribe"
    PREPARE = "prepare"
    ASK = "ask"
    SENT = "sent"
    AGAIN = "again"
    KEEP = "keep"
    START = "start"
    DATE = "date"
    LISTEN = "listen"
    FAIL = "fail"


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.NEW, Input.BEGIN): State.IDENTIFYING,
    (State.IDENTIFYING, Input.SUBSCRIBE): State.SUBSCRIBING,
    (State.SUBSCRIBING, Input.PREPARE): State.PREPARING,
    (State.SUBSCRIBING, Input.ASK): State.ASKING,
    (State.SUBSCRIBING, Input.START): State.STARTING,
    (State.SUBSCRIBING, Input.DATE): State.DATING,
    (State.SUBSCRIBING, Input.LISTEN): State.LIVE,
    (State.PREPARING, Input.ASK): State.ASKING,
    (State.PREPARING, Input.START): State.STARTING,
    (State.PREPARING, Input.DATE): State.DATING,
    (State.ASKING, Input.SENT): State.RECEIVING,
    (State.ASKING, Input.AGAIN): State.ASKING,  # the answer overtook the confirmation of the write
    (State.ASKING, Input.PREPARE): State.PREPARING,
    (State.ASKING, Input.KEEP): State.STORING,
    (State.ASKING, Input.LISTEN): State.LIVE,
    (State.RECEIVING, Input.AGAIN): State.ASKING,
    (State.RECEIVING, Input.PREPARE): State.PREPARING,
    (State.RECEIVING, Input.KEEP): State.STORING,
    (State.RECEIVING, Input.LISTEN): State.LIVE,
    (State.STORING, Input.START): State.STARTING,
    (State.STARTING, Input.DATE): State.DATING,
    (State.STARTING, Input.LISTEN): State.LIVE,
    (State.DATING, Input.ASK): State.ASKING,
    (State.LIVE, Input.PREPARE): State.PREPARING,
    (State.LIVE, Input.ASK): State.ASKING,
    **{(state, Input.FAIL): State.CLOSED for state in State if state is not State.CLOSED},
}

# The ATT transaction timeout (Core Vol 3 Part F 3.3.3), which CGMS 3.8.1 and IDS 3.11.3 also give a control
# point. Real time. Shorter would cut off a slow device; longer keeps a dead link open.
PROCEDURE_TIMEOUT_S: Final = 30.0
# A value that came damaged is read again; a device that sends it damaged three times is faulty.
READ_ATTEMPTS: Final = 3
# A device's clock may be this far off before its times are doubted. CGM clocks tell whole minutes (60 s),
# a quartz drifts about 1 min a month. Five minutes must be seen: that is one CGM interval.
CLOCK_TOLERANCE_US: Final = 150 * US_PER_S
# What is dated later than this beyond now is refused: nobody measures tomorrow. Cursors are numbers that only
# rise (a CGM's are its times), so one such record would hide every true one until its date. A quarter of an
# hour covers clocks set by hand; a device whose clock was measured to be fast gets that much more, up to one
# hour: a missed change of daylight saving time. After such a device is replaced, the next one's records are
# hidden for no longer than its warm-up lasts.
FUTURE_TOLERANCE_US: Final = 15 * US_PER_MIN
LEAD_MOST_US: Final = 60 * US_PER_MIN
# Older than this on arrival, a record came through the device's memory.
HISTORY_AGE_US: Final = 10 * US_PER_MIN
# No such device existed before: an earlier date is a clock that was never set.
OLDEST_BELIEVED_US: Final = 1_262_304_000 * US_PER_S  # 2010-01-01

_TEXTS: Final = {
    uuids.MANUFACTURER_NAME: "manufacturer",
    uuids.MODEL_NUMBER: "model",
    uuids.FIRMWARE_REVISION: "firmware",
}


class Machine:
    """State, the one unanswered action, facts, and samples with their quality. Profiles derive from it."""

    required: ClassVar[tuple[int, ...]] = ()  # without these the device is not what it claims
    reads: ClassVar[tuple[int, ...]] = ()  # in this order, where present
    subscriptions: ClassVar[tuple[int, ...]] = ()  # in this order, where present

    def __init__(self, source: str, cursors: dict[str, int], timezone: ZoneInfo) -> None:
        self.source = source
        self.cursors = dict(cursors)  # kind -> greatest seq that is durable
        self.timezone = timezone
        self._reset()

    def _reset(self) -> None:
        self._state = State.NEW
        self.idle = False
        self._present: frozenset[int] = frozenset()
        self._queue: deque[Action] = deque()
        self._unanswered: Action | None = None
        self._issued_us = 0  # when the unanswered action was handed to the driver
        self._actions: list[Action] = []
        self._events: list[Event] = []
        self._facts: dict[str, str | int | float] = {}
        self._tries: dict[int, int] = {}
        self._deadline_s: float | None = None
        self._now_us = 0
        self._mono_s = 0.0
        self._emitted = dict(self.cursors)  # kind -> greatest seq handed to the hub
        self._unstored = 0
        self._clock_doubt = False
        self._lead_us: int | None = (
            None  # how far the device's clock was ahead of ours (never < 0); None: unknown
        )
        self._local_time: LocalTimeInformation | None = None

    @property
    def state(self) -> str:
        return self._state.value

    # --- what the driver calls ---

    def start(self, present: frozenset[int], now_us: int, mono_s: float) -> Step:
        """The link is up and these characteristics are there."""
        self._reset()
        self._at(now_us, mono_s)
        self._present = present
        self._begun()
        self._move(Input.BEGIN)
        missing = [uuid for uuid in self.required if uuid not in present]
        if missing:
            self._fail(
                ProcedureError(
                    f"the device lacks characteristic 0x{missing[0]:04X}",
                    where=self.source,
                    mend="check that its profile in the configuration is right",
                )
            )
            return self._step()
        shared = (uuids.LOCAL_TIME_INFORMATION, uuids.CURRENT_TIME, uuids.BATTERY_LEVEL, *_TEXTS)
        self._queue.extend(Read(uuid) for uuid in (*self.reads, *shared) if uuid in present)
        return self._step()

    def on_read(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
        """A read succeeded."""
        self._at(now_us, mono_s)
        if self._state is State.CLOSED or not self._answered(uuid):
            return self._step()
        try:
            self._take_read(uuid, bytes(data))
        except DecodeError as err:
            self._count(f"decode_error.{reason_of(err)}")
            tries = self._tries[uuid] = self._tries.get(uuid, 0) + 1
            if tries < READ_ATTEMPTS:
                self._queue.appendleft(Read(uuid))
            elif uuid in self.required:
                self._fail(err)
        return self._step()

    def on_value(self, uuid: int, data: bytes, now_us: int, mono_s: float) -> Step:
        """A notification or indication came."""
        self._at(now_us, mono_s)
        if self._state in (State.NEW, State.CLOSED):
            return self._step()
        try:
            if uuid == uuids.BATTERY_LEVEL:
                self._tell(battery_pct=BatteryLevel.from_bytes(data).percent)
            else:
                self._value(uuid, bytes(data))
        except DecodeError as err:
            self._count(f"decode_error.{reason_of(err)}")
        return self._step()

    def on_done(self, uuid: int, now_us: int, mono_s: float) -> Step:
        """A write or subscription succeeded."""
        self._at(now_us, mono_s)
        action = self._unanswered
        if self._state is not State.CLOSED and self._answered(uuid) and action is not None:
            self._done(action)
        return self._step()

    def on_failed(self, uuid: int, error: HometwinError, now_us: int, mono_s: float) -> Step:
        """An action did not succeed."""
        self._at(now_us, mono_s)
        action = self._unanswered
        if self._state is State.CLOSED or not self._answered(uuid) or action is None:
            return self._step()
        if isinstance(action, Read | Subscribe) and uuid not in self.required:
            self._count(f"not_available.0x{uuid:04x}")
        elif not self._survives(action):
            self._fail(error)
        return self._step()

    def on_stored(self, samples: tuple[Sample, ...]) -> Step:
        """``samples`` are durable. Only now does the cursor move."""
        for sample in samples:
            self.cursors[sample.kind] = max(sample.seq, self.cursors.get(sample.kind, sample.seq))
        self._unstored = max(0, self._unstored - len(samples))
        if self._state is not State.CLOSED and not self._unstored:
            self._all_stored()
        return self._step()

    def on_tick(self, now_us: int, mono_s: float) -> Step:
        """Time passed; call at least twice a second."""
        self._at(now_us, mono_s)
        if self._state is State.CLOSED:
            return self._step()
        late = self._deadline_s is not None and mono_s > self._deadline_s
        if late and not self._lives_without_answer():
            self._fail(
                LinkTimeout(
                    f"no answer for {PROCEDURE_TIMEOUT_S:g} s while {self._state}",
                    where=self.source,
                    mend="the hub connects again",
                )
            )
        elif not late:
            self._tick()
        return self._step()

    # --- what profiles fill in ---

    def _begun(self) -> None:
        """A visit begins; the time is known."""

    def _is_ahead(self, seq: int) -> bool:
        """Whether a cursor can be no record's that was taken at a right time, by a right clock of ours.

        For devices whose numbers are times. The cursor is of an earlier fault (a clock far ahead, theirs or
        ours), or our own clock is behind now; either way it must not hide what comes.
        """
        return False

    def _read(self, uuid: int, data: bytes) -> None:
        """Take a value of ``reads``; DecodeError has it read again."""

    def _value(self, uuid: int, data: bytes) -> None:
        """Take a notification or indication."""

    def _done(self, action: Action) -> None:
        """A write or subscription was confirmed."""

    def _survives(self, action: Action) -> bool:
        """Whether the session goes on (and how) without the action that failed."""
        return False

    def _lives_without_answer(self) -> bool:
        """Whether the session goes on (and how) when the control point does not answer in time."""
        return False

    def _subscribed(self) -> None:
        """Everything is read and subscribed."""
        self.idle = True
        self._move(Input.LISTEN)

    def _all_stored(self) -> None:
        """Every sample handed out is durable."""

    def _tick(self) -> None:
        """Time passed and no deadline with it."""

    # --- tools ---

    def _at(self, now_us: int, mono_s: float) -> None:
        self._now_us, self._mono_s = now_us, mono_s

    def _move(self, step: Input) -> None:
        self._state = TRANSITIONS[self._state, step]
        waits = (State.PREPARING, State.RECEIVING, State.STARTING)
        self._deadline_s = self._mono_s + PROCEDURE_TIMEOUT_S if self._state in waits else None

    def _fail(self, error: HometwinError | None) -> None:
        if self._state is State.CLOSED:
            return
        self._move(Input.FAIL)
        self._queue.clear()
        self._actions.append(Close(error))

    def _answered(self, uuid: int) -> bool:
        """Whether ``uuid`` is that of the unanswered action, which then is answered."""
        action = self._unanswered
        if action is None or isinstance(action, Close) or action.uuid != uuid:
            self._count("unexpected.answer")
            return False
        self._unanswered = None
        return True

    def _count(self, name: str) -> None:
        self._events.append(Counted(name))

    def _tell(self, **fields: str | int | float) -> None:
        """Facts, each told when it is new or different."""
        fresh = {name: value for name, value in fields.items() if self._facts.get(name) != value}
        if fresh:
            self._facts.update(fresh)
            self._events.append(Facts(fresh))

    def _step(self) -> Step:
        """Hand out what has gathered, and the next action when none is unanswered."""
        while self._unanswered is None and not self._queue:
            if self._state is State.IDENTIFYING:
                self._move(Input.SUBSCRIBE)
                wanted = (*self.subscriptions, uuids.BATTERY_LEVEL)
                self._queue.extend(Subscribe(uuid) for uuid in wanted if uuid in self._present)
            elif self._state is State.SUBSCRIBING:
                self._subscribed()
            else:
                break
        if self._unanswered is None and self._queue and self._state is not State.CLOSED:
            self._unanswered = self._queue.popleft()
            self._issued_us = self._now_us
            self._actions.append(self._unanswered)
        step = Step(tuple(self._actions), tuple(self._events))
        self._actions, self._events = [], []
        return step

    def _take_read(self, uuid: int, data: bytes) -> None:
        if uuid == uuids.BATTERY_LEVEL:
            self._tell(battery_pct=BatteryLevel.from_bytes(data).percent)
        elif uuid in _TEXTS:
            self._tell(**{_TEXTS[uuid]: DeviceText.from_bytes(data).shown})
        elif uuid == uuids.LOCAL_TIME_INFORMATION:
            self._local_time = LocalTimeInformation.from_bytes(data)
        elif uuid == uuids.CURRENT_TIME:
            zone = self._local_time or LocalTimeInformation(ZONE_UNKNOWN, DST_UNKNOWN)
            at = CurrentTime.from_bytes(data).at
            moment = ZonedTime(at, zone.zone_quarters, zone.dst_quarters).utc_us(self.timezone)
            if moment is None:
                self._clock_doubt = True
            else:
                self._compare_clock(moment[0], US_PER_S, (self._issued_us, self._now_us))
        else:
            self._read(uuid, data)

    def _compare_clock(self, device_us: int, resolution_us: int, window: tuple[int, int]) -> None:
        """Doubt a clock that was not within tolerance at any moment between request and answer (``window``).

        ``device_us`` was rounded down to ``resolution_us``. The request's own duration is left out of the
        doubt because with a fast twin clock it may last minutes of twin time.
        """
        asked_us, answered_us = window
        self._lead_us = max(0, device_us - answered_us)
        early = device_us + resolution_us < asked_us - CLOCK_TOLERANCE_US
        late = device_us > answered_us + CLOCK_TOLERANCE_US
        self._clock_doubt = early or late
        middle_us = (asked_us + answered_us) // 2
        self._tell(clock_offset_s=round((device_us + resolution_us // 2 - middle_us) / US_PER_S))

    @property
    def _latest_us(self) -> int:
        """What is dated later than this is not believed."""
        return self._now_us + FUTURE_TOLERANCE_US + min(self._lead_us or 0, LEAD_MOST_US)

    @property
    def _far_ahead(self) -> bool:
        """One of the two clocks is wrong by more than a missed daylight saving time; nobody here knows which."""
        return self._lead_us is not None and self._lead_us > LEAD_MOST_US

    def _sample(
        self,
        kind: str,
        value: float | None,
        time_us: int,
        seq: int,
        quality: Quality = Quality.GOOD,
        special: Special | None = None,
        history_age_us: int = HISTORY_AGE_US,
    ) -> list[Sample]:
        """The sample, or nothing and a count: no number, not plausible, or already handed out."""
        last = self._emitted.get(kind)
        if value is None:
            self._count(f"no_value.{special.value if special else 'absent'}")
            return []
        if last is not None and self._is_ahead(last):
            quality |= Quality.CLOCK_DOUBT
        elif last is not None and seq <= last:
            self._count("duplicate")
            return []
        if time_us > self._latest_us:
            self._count("implausible.time")
            return []
        if time_us > self._now_us + CLOCK_TOLERANCE_US:
            quality |= Quality.CLOCK_DOUBT
        if self._clock_doubt or time_us < OLDEST_BELIEVED_US:
            quality |= Quality.CLOCK_DOUBT
        if self._now_us - time_us > history_age_us:
            quality |= Quality.BACKFILLED
        sample = Sample(time_us, kind, value, self.source, seq, int(quality))
        try:
            sample.checked(self.source)
        except InputError:
            self._count(f"implausible.{kind}")
            return []
        self._emitted[kind] = seq
        return [sample]

    def _emit(self, samples: list[Sample]) -> None:
        if samples:
            self._unstored += len(samples)
            self._events.append(Samples(tuple(samples)))
