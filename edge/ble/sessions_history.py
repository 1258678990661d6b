"""Sessions of devices that keep numbered records: fetch what is missing, then listen, and never skip.

Records carry a number (``key``) that only rises. ``_floor`` is the greatest one dealt with. Records are
held back until everything before them is known to be here, so samples of one source always leave in rising
order: a run of neighbours above the floor leaves at once; across a gap only the end of a complete transfer
lets the rest go. A damaged record is never guessed: the transfer is asked for again from the floor on, at
most ``MAX_ATTEMPTS`` times, and then that record is given up and counted, because one bad cell in a
device's memory must not keep back every later reading.

A record dated in the future is not believed (``FUTURE_TOLERANCE_US``), and it may not move the floor. When a
later record of the same transfer has a credible date, the device's clock was wrong then and the record is
passed over. Otherwise the device's clock is ahead, or ours is behind (a hub without a clock of its own boots in
the past): it and all after it wait in the device, and are asked for again when their time has come, or when
the clocks agree. Nothing is lost by waiting; a person is told.

Numbers may also begin anew: a device that was replaced or reset. Then its newest record is numbered below the
floor. Both ways of dealing with it alone would do harm (leave its records out for ever, or take a dose twice),
so a person is told.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, Generic, TypeVar

from core.errors import DecodeError, ProcedureError
from core.messages import Sample
from core.units import US_PER_MIN
from edge.ble.profiles import racp, uuids
from edge.ble.profiles.wire import reason_of
from edge.ble.sessions_machine import PROCEDURE_TIMEOUT_S, Input, Machine, State
from edge.ble.sessions_types import Action, Read, Write

T = TypeVar("T")

# A transfer is asked for again this often before the damaged record is given up. Radio damage is rare and
# independent; three repeats all damaged means the device's memory is.
MAX_ATTEMPTS: Final = 3
# A busy device gets a moment before the next request (real time).
RETRY_PAUSE_S: Final = 1.0
# Runs leave in parts of this many records, so that a link lost in mid-transfer does not start from nothing.
BATCH: Final = 64
# So many refusals without one good record in between: this is no damage, it is another protocol.
MAX_REFUSALS_IN_A_ROW: Final = 50
# Devices that do not announce new records are asked this often: twin time, but never faster than real time
# allows a transfer to end. Five minutes is the rhythm of everything downstream (one CGM interval).
POLL_US: Final = 5 * US_PER_MIN
POLL_S: Final = 5.0
# While records wait for a clock, polls become rarer, up to 2**this times: each may bring all of them again.
POLL_DOUBLINGS: Final = 4
# Told to a person as facts; empty when all is well.
CLOCK_WARNING: Final = (
    "its records are dated in the future and wait: set the clock of the device or of the hub, or replace it"
)
NUMBERS_WARNING: Final = (
    "its newest record is numbered below one already stored: if the device was replaced or reset, "
    "give it a new source name in the configuration; if its memory was cleared, its next records tell"
)
# More records than this at once no device of this kind holds (a pump's five years: 90,000, IDS 3.10.4.2).
MAX_HELD: Final = 100_000


class Outcome(Enum):
    """How a history request ended, in words common to both kinds of RACP."""

    ALL_SENT = "all_sent"
    NOT_SUPPORTED = "not_supported"
    TRY_LATER = "try_later"
    REFUSED = "refused"


class HistorySession(Machine, Generic[T]):
    """The states ``asking`` and ``receiving``, and what keeps records in order."""

    control_point: ClassVar[int]
    record_uuids: ClassVar[tuple[int, ...]]
    numbers_are_counted: ClassVar[bool] = True  # False: they are times
    clocks: ClassVar[tuple[int, ...]] = (uuids.CURRENT_TIME,)  # what tells the device's time

    def _reset(self) -> None:
        super()._reset()
        self._floor: int | None = max(self.cursors.values(), default=None)
        self._held: dict[int, T] = {}
        self._damaged = False  # a record of this transfer was refused
        self._attempts = 0
        self._refusals = 0
        self._ask_for_all = False
        self._request: Write | None = None
        self._ask_at_s: float | None = None
        self._asked_us = 0
        self._asked_s = 0.0
        self._more_wanted = False  # something new was announced during a transfer
        self._ahead_us: int | None = None  # the earliest date of a record that waits for its time
        self._refused_times = 0  # records of this transfer that wait
        self._waits = 0  # transfers in a row after which records waited
        self._checking = False  # the newest record is asked for, to compare its number
        self._checked_floor: int | None = None  # the floor of the last comparison
        self._newest: int | None = None  # number of the newest record, while checking

    # --- what profiles fill in ---

    def _ask_message(self, everything: bool) -> bytes:
        """The request for all records, or those from ``_first_wanted`` on."""
        raise NotImplementedError

    def _outcome(self, data: bytes) -> Outcome | None:
        """What an indication of the control point says; None when it is no answer to a history request."""
        raise NotImplementedError

    def _newest_message(self) -> bytes:
        """The request for the newest record. Not asked where numbers are times."""
        raise NotImplementedError

    def _dates(self, run: list[T]) -> list[int | None]:
        """When each record of ``run`` says it was made (us UTC); None when it does not. Changes nothing."""
        return [None] * len(run)

    def _dated_by_key(self, key: int) -> int | None:
        """The time that a key is (us UTC), where numbers are times."""
        return None

    def _decode(self, uuid: int, data: bytes) -> tuple[list[tuple[int, T]], list[DecodeError]]:
        """The records in a notification with their keys, and what was refused."""
        raise NotImplementedError

    def _neighbours(self, key: int, later: int) -> bool:
        """Whether no record can be missing between the two."""
        return later == key + 1

    def _convert(self, run: list[T], final: bool) -> tuple[list[Sample], int]:
        """Samples of the records in ``run``, and how many of them are dealt with.

        Fewer than all when the last ones wait for a part that is to follow; never when ``final``.
        """
        raise NotImplementedError

    def _old_record(self, key: int, record: T) -> None:
        """A record at or below the floor came along."""

    def _incomplete(self) -> bool:
        """Whether a part that a held record promises has not come."""
        return False

    def _reach_back(self) -> bool:
        """Whether older records are needed to understand the held ones; if so the next request has them."""
        return False

    def _history_done(self) -> None:
        """All records are here and handed out."""
        self._move(Input.LISTEN)

    def _refresh(self) -> None:
        """Look for new records, from live (or from the end of a transfer when more was announced)."""
        self._ask(Input.ASK if self._state is State.LIVE else Input.AGAIN)

    # --- asking and receiving ---

    def _first_wanted(self) -> int | None:
        return None if self._floor is None else self._floor + 1

    def _ask(self, step: Input, pause_s: float = 0.0) -> None:
        self._move(step)
        self._damaged = False
        self._more_wanted = False
        self._refused_times = 0
        self._request = None
        if pause_s:
            self._ask_at_s = self._mono_s + pause_s
        else:
            self._send_request()

    def _send_request(self) -> None:
        self._ask_at_s = None
        self._asked_us, self._asked_s = self._now_us, self._mono_s
        message = self._newest_message() if self._checking else self._ask_message(self._ask_for_all)
        self._request = Write(self.control_point, message)
        self._queue.append(self._request)

    def _done(self, action: Action) -> None:
        if action is self._request and self._state is State.ASKING:
            self._move(Input.SENT)

    @property
    def _request_is_out(self) -> bool:
        return self._state is State.RECEIVING or (
            self._state is State.ASKING and self._request is not None and self._unanswered is self._request
        )

    def _value(self, uuid: int, data: bytes) -> None:
        if uuid == self.control_point:
            self._control_point_value(data)
        elif uuid in self.record_uuids:
            self._records(uuid, data)

    def _control_point_value(self, data: bytes) -> None:
        if not self._request_is_out:
            self._count("unexpected.racp")
            return
        try:
            outcome = self._outcome(data)
        except DecodeError as err:
            # The device has finished, only its word for it is damaged: as good as "try later".
            self._count(f"decode_error.{reason_of(err)}")
            outcome = Outcome.TRY_LATER
        if outcome is None:
            self._count("unexpected.racp")
        else:
            self._ended(outcome)

    def _records(self, uuid: int, data: bytes) -> None:
        if self._state not in (State.ASKING, State.RECEIVING, State.LIVE):
            return  # not dated yet; the request that follows brings it again
        good, bad = self._decode(uuid, data)
        for err in bad:
            self._damaged = True
            self._refusals += 1
            self._count(f"decode_error.{reason_of(err)}")
            if self._refusals > MAX_REFUSALS_IN_A_ROW:
                self._fail(err)
                return
        for key, record in good:
            self._refusals = 0
            if self._checking:
                self._newest = key if self._newest is None else max(key, self._newest)
            date_us = self._dated_by_key(key)
            if self._floor is not None and key <= self._floor:
                self._old_record(key, record)
            elif date_us is not None and not self._believed(date_us):
                self._wait(date_us)
            else:
                self._held[key] = record
        if len(self._held) > MAX_HELD:
            self._fail(self._no_history("the device reports more records than it can have"))
            return
        if self._state is State.RECEIVING:
            self._deadline_s = self._mono_s + PROCEDURE_TIMEOUT_S
        # Neighbours only prove that nothing is missing while nothing was refused: a device may record more
        # often than it says. So nothing leaves early from a transfer with damage, nor from its repeats.
        whole = not self._damaged and not self._attempts
        if self._state is State.LIVE:
            if whole:
                self._release(final=False)
            if self._damaged or self._gap():
                self._refresh()
        elif whole and self._held and len(self._held) % BATCH == 0:
            self._release(final=False)

    def _gap(self) -> bool:
        """Whether held records do not follow on the floor."""
        if not self._held:
            return False
        return self._floor is None or not self._neighbours(self._floor, min(self._held))

    def _release(self, final: bool) -> None:
        """Hand out the samples of all held records, or of the run of neighbours above the floor."""
        keys = sorted(self._held)
        if not final:
            last = self._floor
            run: list[int] = []
            for key in keys:
                # Without a floor a transfer starts with its oldest record; a live value has no such right.
                first = last is None and self._state is not State.LIVE
                if not first and (last is None or not self._neighbours(last, key)):
                    break
                run.append(key)
                last = key
            keys = run
        keys = self._credible(keys, final or self._state is State.LIVE)
        if not keys:
            return
        samples, count = self._convert([self._held[key] for key in keys], final)
        for key in keys[:count]:
            del self._held[key]
            self._floor = key
        if count and self._state is not State.LIVE:
            self._checked_floor = self._floor  # the device numbers as high as that
        for at in range(0, len(samples), BATCH):
            self._emit(samples[at : at + BATCH])

    # --- time and numbers ---

    def _believed(self, date_us: int) -> bool:
        return not self._far_ahead and date_us <= self._latest_us

    def _wait(self, date_us: int) -> None:
        """A record stays where it is until its date can be believed."""
        self._count("implausible.time")
        self._refused_times += 1
        self._ahead_us = date_us if self._ahead_us is None else min(date_us, self._ahead_us)

    def _credible(self, keys: list[int], decide: bool) -> list[int]:
        """The keys whose records may be handed out now. Without ``decide`` the others are looked at later."""
        dates = self._dates([self._held[key] for key in keys])
        late = [date_us is not None and not self._believed(date_us) for date_us in dates]
        if not any(late):
            return keys
        if not decide:
            return keys[: late.index(True)]
        dated = [at for at, date_us in enumerate(dates) if date_us is not None]
        # Numbers rise with time: what comes before a credible date is older than that.
        passed = max((at for at in dated if not late[at]), default=-1)
        credible: list[int] = []
        waiting = False
        for at, key in enumerate(keys):
            waiting = waiting or (at > passed and late[at])
            if not late[at] and not waiting:
                credible.append(key)
                continue
            del self._held[key]
            if not waiting:
                self._count("implausible.time")
                self._count("given_up.record")
            elif late[at]:
                self._wait(dates[at] or 0)
        return credible

    def _tell_clock(self) -> None:
        """After a complete transfer: whether records wait for a clock."""
        waits = bool(self._refused_times)
        self._waits = min(self._waits + 1, POLL_DOUBLINGS) if waits else 0
        # One impossible date from a device whose clock is right is a bad record, nothing to set.
        warned = self._far_ahead or (waits and self._lead_us is None)
        if warned or self._facts.get("clock_warning"):
            self._tell(clock_warning=CLOCK_WARNING if warned else "")

    def _check_wanted(self) -> bool:
        """Nothing new came: whether to ask if the device still numbers above the floor."""
        return (
            self._floor is not None
            and self._checked_floor != self._floor
            and not self._refused_times
            and self.numbers_are_counted
        )

    def _checked(self, outcome: Outcome) -> None:
        """The newest record came, or not."""
        newest, self._newest, self._checking = self._newest, None, False
        floor = self._checked_floor = self._floor
        if outcome is Outcome.TRY_LATER:
            self._checked_floor = None  # at the next poll
        elif outcome is not Outcome.ALL_SENT:
            self._count("not_available.newest_record")
        elif newest is not None and floor is not None:
            anew = newest < floor
            if anew:
                self._count("sequence.restarted")
            if anew or self._facts.get("numbers_warning"):
                self._tell(numbers_warning=NUMBERS_WARNING if anew else "")
        if self._held or self._more_wanted:
            self._refresh()  # it made one in the meantime
        else:
            self._history_done()

    def _lives_without_answer(self) -> bool:
        if not self._checking or self._state is not State.RECEIVING:
            return False
        self._checked(Outcome.REFUSED)  # a device that does not know the question, and does not say so
        return True

    def _ended(self, outcome: Outcome) -> None:
        """The control point answered the request."""
        if self._checking:
            self._checked(outcome)
        elif outcome is Outcome.NOT_SUPPORTED and not self._ask_for_all:
            self._ask_for_all = True
            self._ask(Input.AGAIN)
        elif outcome in (Outcome.NOT_SUPPORTED, Outcome.REFUSED):
            self._fail(self._no_history("the device refuses to report its records"))
        elif outcome is Outcome.TRY_LATER:
            self._attempts += 1
            if self._attempts > MAX_ATTEMPTS:
                self._fail(self._no_history("the device does not complete the report of its records"))
            else:
                self._ask(Input.AGAIN, RETRY_PAUSE_S)
        elif self._reach_back():
            self._ask(Input.AGAIN)
        elif (self._damaged or self._incomplete()) and self._attempts < MAX_ATTEMPTS:
            self._attempts += 1
            self._ask(Input.AGAIN)
        else:
            if self._damaged or self._incomplete():
                self._count("given_up.record")
            self._attempts = 0
            self._damaged = False
            empty = not self._held
            self._release(final=True)
            self._tell_clock()
            self.idle = True
            if self._more_wanted:
                self._refresh()
            elif empty and self._check_wanted():
                self._checking = True
                self._ask(Input.AGAIN)
            else:
                self._history_done()

    def _no_history(self, what: str) -> ProcedureError:
        return ProcedureError(what, where=self.source, mend="the hub connects again later")

    def _tick(self) -> None:
        if self._state is State.ASKING and self._ask_at_s is not None and self._mono_s >= self._ask_at_s:
            self._send_request()
        elif self._state is State.LIVE and (self._poll_due(POLL_US) or self._its_time_has_come()):
            self._look_again()

    def _its_time_has_come(self) -> bool:
        """Whether a record that waits may be believed now."""
        if self._ahead_us is None or self._mono_s - self._asked_s < POLL_S:
            return False
        return self._believed(self._ahead_us)

    def _look_again(self) -> None:
        """Ask for what is new and for what waits; measure the device's clock again when that was wrong."""
        self._ahead_us = None
        if self._lead_us:
            self._queue.extend(Read(uuid) for uuid in self.clocks if uuid in self._present)
        self._refresh()

    def _poll_due(self, span_us: int, since_us: int | None = None) -> bool:
        """``span_us`` passed since the last request, and since ``since_us``. A clock set back starts anew."""
        asked_us = self._asked_us if since_us is None else max(since_us, self._asked_us)
        rarer = 2**self._waits
        waited_us = self._now_us - asked_us
        in_turn = waited_us >= span_us * rarer or self._asked_us > self._now_us
        return in_turn and self._mono_s - self._asked_s >= POLL_S * rarer


_RACP_OUTCOMES: Final[dict[int, Outcome]] = {
    racp.ResponseCode.SUCCESS: Outcome.ALL_SENT,
    racp.ResponseCode.NO_RECORDS: Outcome.ALL_SENT,
    racp.ResponseCode.OPERATOR_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    racp.ResponseCode.OPERAND_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    racp.ResponseCode.NOT_COMPLETED: Outcome.TRY_LATER,
    racp.ResponseCode.BUSY: Outcome.TRY_LATER,
}


def racp_outcome(data: bytes) -> Outcome | None:
    """What the common RACP (meter, CGM) says about a report request."""
    response = racp.Racp.from_bytes(data).response
    if response is None or response[0] != racp.Op.REPORT:
        return None
    return _RACP_OUTCOMES.get(response[1], Outcome.REFUSED)
