"""The hub: radio, store, threshold alarms, sync. It parses hostile bytes and imports no numerics.

This file only connects parts: samples go to the store first and everything else learns of them after they
are durable. Each part runs as its own task; a part that fails is logged, counted and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from core.clock import Clock
from core.errors import HometwinError, InputError, StoreError, TamperedError
from core.evidence import INSULIN, person_mark
from core.messages import (
    Alarm,
    Contribution,
    DoseAdvice,
    Downlink,
    HubStatus,
    Prior,
    Returned,
    Sample,
    SampleBatch,
    StandingPolicy,
    Up,
    encode,
)
from core.units import US_PER_DAY, US_PER_H, US_PER_MIN
from core.version import VERSION
from edge.alarm_record import AlarmRecord
from edge.alarms.threshold import ThresholdAlarms
from edge.ble.radio import make_radio
from edge.ble.supervisor import Supervisor
from edge.cloud_refill import CloudRefill
from edge.config import HubConfig
from edge.control import serve_control
from edge.damage import StoreDamage
from edge.desk import StoreDesk
from edge.engine_link import EngineLink
from edge.engine_messages import Answer, Blur
from edge.hand import COMMAND, MAX_BACK_US, RECENT_US, dose_doubt, hand_sample
from edge.hand_words import entry_words
from edge.hub_advice import AdviceDesk
from edge.hub_state import CommandState, DownState, load_state, save_state
from edge.hub_view import HubView
from edge.notify import notify_systemd
from edge.privacy_gate import PrivacyGate
from edge.ringing import Ringing
from edge.steady import steady_us, stretch_us
from edge.store.journal import Detail
from edge.store.repair import RepairReport
from edge.store.store import BATCH_SAMPLES, Store
from edge.store_care import StoreCare
from edge.store_thread import StoreThread
from sync.hub_link import HubLink
from sync.session import GENERATION

log = structlog.get_logger()

# Beyond this many unsent messages only samples and alarms queue up: estimates can be made again, readings not.
OUTBOX_SOFT_LIMIT: Final = 2000
STATUS_EVERY_US: Final = 15 * US_PER_MIN
STATUS_FLOOR_S: Final = 2.0
ALARM_TICK_US: Final = US_PER_MIN
ALARM_TICK_FLOOR_S: Final = 0.1
# Real seconds that a reading may be on its way, and that processes and pairing take at the start.
TRANSPORT_S: Final = 5.0
START_UP_S: Final = 20.0
RESTART_PAUSE_S: Final = 1.0
POSTERIOR_HISTORY_BYTES: Final = 1 << 20  # an estimate is 1-2 kB and one is kept each day: about two years
ANSWER_FIRST_S: Final = 0.5  # an erased hub ends, but not before the one who asked knows
ENTRY_KINDS: Final = ("carbs_g", "bolus_u", "long_acting_u", "smbg_mgdl", "drug_mg", "weight_kg")


class Hub:
    """All parts of one running hub. ``run`` returns when cancelled, with links closed and the store shut."""

    def __init__(
        self,
        config: HubConfig,
        store: Store,
        clock: Clock,
        link: HubLink | None,
        patient: str,
        repair: RepairReport | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        self.store = store
        store.arrivals.steady = self._steady_us
        self.thread = StoreThread()
        self.damage = StoreDamage(self.thread.damaged, config.store_path)
        self.care = StoreCare(config.store, store, self.thread, clock, cloud=link is not None, repair=repair)
        self.store_desk = StoreDesk(store, config.hub_id)
        self.counters: Counter[str] = Counter()
        self.counters["store.repaired"] += repair is not None
        self.view = HubView(config, clock)
        self.down = load_state(store, "down", DownState)
        self._down_lock = asyncio.Lock()
        self.link = link
        self._rows_news = asyncio.Event()
        self._status_due = asyncio.Event()
        self._store_ok = True
        self._running: asyncio.Task[Any] | None = None
        self._erased = False
        self._posterior_day = -1
        self.engine = EngineLink(
            config.engine_socket,
            store,
            self.thread,
            clock,
            patient,
            self.counters,
            self._on_answer,
            self._on_contribution,
            self._on_engine,
        )
        self.desk = AdviceDesk(
            config.hub_id,
            person_mark(config.hub_id, patient),
            store,
            self.thread,
            clock,
            self.counters,
            self.engine,
            lambda: self.down,
            self._keep_down,
            self._send_up,
            self._note,
            self._status_due.set,
        )
        self.privacy = PrivacyGate(config.privacy, store)
        if self.privacy.is_on:
            budget = config.privacy
            self.engine.blur = Blur(budget.epsilon, budget.delta, budget.releases)
        if self.down.prior is not None:
            self.engine.set_prior(self.down.prior, is_new=False)
        self._alarm_number = 0
        self.alarms = ThresholdAlarms(
            config.alarms,
            self._next_alarm,
            transport_us=stretch_us(clock, TRANSPORT_S),
            start_up_us=stretch_us(clock, START_UP_S),
        )
        self.record = AlarmRecord(store, self.thread, self._tell, self.counters)
        self._load_alarms()
        self.radio = make_radio(
            config.radio.adapter,
            load=lambda: store.get_blob("bonds"),
            save=lambda data: store.put_blob("bonds", data),
        )
        self.supervisor = Supervisor(
            self.radio,
            config.device,
            self.take,
            store.cursors,
            clock,
            config.zone,
            self.counters,
            self._on_facts,
        )
        self.ringing = Ringing(self.supervisor, self.alarms, self.view, self.counters, self._tell)
        self.refill: CloudRefill | None = None
        if link is not None:
            self.refill = CloudRefill(
                store, self.thread, clock, self.care, self.counters, link.wake, self._on_rows
            )
            link.bind(
                outbox=store,
                in_thread=self.thread,
                on_down=self.on_down,
                on_command=self.on_command,
                last_number=self.down.last_number,
                seen_commands=load_state(store, "commands", CommandState).seen,
                counters=self.counters,
            )

    async def run(self) -> None:
        """Until cancelled, or until the store has to be opened anew: TamperedError (in a group)."""
        self._running = asyncio.current_task()
        server = await serve_control(self.config.control_socket, self.on_request)
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "radio": self.supervisor.run,
            "engine": self.engine.run,
            "alarms": self._run_alarms,
            "ring": self.ringing.run,
            "status": self._run_status,
            "care": self.care.run,
        }
        if self.link is not None and self.refill is not None:
            parts["outbox"] = self._run_outbox
            parts["sync"] = self.link.run
            parts["refill"] = self.refill.run
        log.info("hub.started", devices=len(self.config.device), sync=self.link is not None)
        notify_systemd("READY=1")
        await self._act_on(self._first_changes)
        try:
            async with asyncio.TaskGroup() as group:
                for name, part in parts.items():
                    group.create_task(self._keep(name, part), name=name)
                group.create_task(self.damage.run(), name="damage")
        finally:
            server.close()
            self.config.control_socket.unlink(missing_ok=True)
            self.thread.close()
            self.store.close()
            log.info("hub.stopped")

    async def take(self, samples: tuple[Sample, ...]) -> None:
        """Store samples durably; returning is the acknowledgement. Then tell the other parts.

        A store that takes nothing (a full card) must not silence a low: alarms are judged all the same, and the
        error tells the sensor's session that the samples are not ours yet.
        """
        try:
            new = await self.thread(self.store.append, samples)
        except StoreError:
            self._store_ok = False
            await self._judge(samples)
            raise
        self._store_ok = True
        self.counters["samples.duplicate"] += len(samples) - len(new)
        if not new:
            return
        self.counters["samples.stored"] += len(new)
        self.view.on_samples(new)
        await self._judge(new)
        self._on_rows()
        if any(s.kind in INSULIN for s in new):
            await self.desk.review()

    def _on_rows(self) -> None:
        self._rows_news.set()
        self.engine.wake()

    @property
    def store_ok(self) -> bool:
        """Whether the store took what it was given last."""
        return self._store_ok

    async def _judge(self, samples: tuple[Sample, ...]) -> None:
        await self._act_on(self.alarms.on_samples(samples, self.clock.now_us(), self._steady_us()))

    def _steady_us(self) -> int:
        """A clock of the same pace as ours that never jumps."""
        return steady_us(self.clock)

    def _next_alarm(self) -> int:
        """A durable number, or the next in memory while the store takes nothing."""
        try:
            self._alarm_number = max(self._alarm_number + 1, self.store.next_number("alarm"))
        except StoreError:
            self._alarm_number += 1
        return self._alarm_number

    async def on_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request on the control socket."""
        try:
            return await self._answered(request)
        except TamperedError as err:
            raise self.damage.told(err) from None

    async def _readings_h(self) -> float:
        """Hours from the first to the last glucose reading of two weeks: the adviser begins at a day of them."""
        now_us = self.clock.now_us()
        readings = await self.thread(self.store.between, now_us - 14 * US_PER_DAY, now_us + 1, ("cgm_mgdl",))
        times_us = [s.time_us for s in readings]
        return (max(times_us) - min(times_us)) / US_PER_H if times_us else 0.0

    async def _answered(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "status":
                self.view.active_alarms = tuple(self.alarms.active.values())
                await self.desk.review()
                return self.view.status(self)
            case "log":
                return await self.log_by_hand(request)
            case "advice":
                await self.desk.review()
                rows = self.desk.rows()
                return {
                    "advice": rows,
                    "readings_h": None if rows else await self._readings_h(),
                    "policy": self.desk.policy_row(),
                    "cloud": None if self.link is None else self.link.connected,
                }
            case "confirm":
                return await self.desk.confirm(request)
            case "ask":
                return await self.desk.ask(request)
            case "entries":
                now_us = self.clock.now_us()
                recent = await self.thread(
                    self.store.between, now_us - US_PER_DAY, now_us + US_PER_H, ENTRY_KINDS
                )
                return {"entries": [entry_words(s, self.config.zone) for s in recent]}
            case str(word) if word in self.store_desk.words:
                return await self._on_store_desk(request)
            case other:
                words = ", ".join(
                    ("status", "log", "advice", "confirm", "ask", "entries", *self.store_desk.words)
                )
                raise InputError(f"unknown request {str(other)[:40]!r}", mend=f"use one of: {words}")

    async def _on_store_desk(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self.thread(self.store_desk.answer, request)
        finally:
            self.care.wake()
            # Also when some file beside it could not be destroyed.
            if request["do"] == "erase" and self.store.closed and self._running is not None:
                self._erased = True
                log.warning("store.erased")
                asyncio.get_running_loop().call_later(ANSWER_FIRST_S, self._running.cancel)

    async def log_by_hand(self, request: dict[str, Any], command_id: int | None = None) -> dict[str, Any]:
        """A meal, dose or reading that a person typed; amendments are new records.

        A dose that looks like a slip is asked about instead (``unsure``), unless the request is ``sure``.
        """

        def make() -> Sample | str:
            now_us, zone = self.clock.now_us(), self.config.zone
            if command_id is not None:
                return hand_sample(request, command_id, now_us, zone, self._standing, COMMAND)
            entry = hand_sample(request, 0, now_us, zone, self._standing)  # a refused entry takes no number
            recent = self.store.between(now_us - RECENT_US, now_us + US_PER_MIN, ("bolus_u",))
            if request.get("sure") is not True and (doubt := dose_doubt(entry, recent)):
                return doubt
            return hand_sample(request, self.store.next_number("hand"), now_us, zone, self._standing)

        sample = await self.thread(make)
        if isinstance(sample, str):
            return {"unsure": True, "said": sample}
        await self.take((sample,))
        self.counters["hand.entries"] += 1
        what = "hand.deleted" if sample.deleted else "hand.corrected" if sample.amends else "hand.entered"
        via = "terminal" if command_id is None else "mqtt"
        await self._note("person", what, source=sample.source, seq=sample.seq, kind=sample.kind, via=via)
        if sample.amends is not None:
            now_us = self.clock.now_us()
            recent = await self.thread(self.store.between, now_us - US_PER_DAY, now_us + US_PER_H)
            self.view.reload(sample.kind, tuple(recent))
        said = entry_words(sample, self.config.zone)
        return {"source": sample.source, "seq": sample.seq, "kind": sample.kind, "said": said}

    async def _note(self, who: str, what: str, **detail: Detail) -> None:
        """An entry of the audit log; what it tells of is done already, so a full disk only costs the entry."""
        try:
            await self.thread(self.store.note, who, what, **detail)
        except (StoreError, InputError) as err:
            self.counters["audit.not_stored"] += 1
            log.error("audit.not_stored", what=what, error=type(err).__name__)

    def _standing(self, source: str, kind: str, seq: int) -> Sample | None:
        """The record of that key, when it still stands."""
        now_us = self.clock.now_us()
        samples = self.store.between(now_us - MAX_BACK_US, now_us + US_PER_DAY, (kind,))
        return next((s for s in samples if (s.source, s.seq) == (source, seq)), None)

    async def on_command(self, request: dict[str, Any], command_id: int | None) -> None:
        """A hand entry that came over MQTT. A bad one is counted and named, never fatal.

        The command's own number is the record's key, so a repetition after a crash changes nothing. A clear
        command has none and gets the next number of this hub. Nobody can be asked here, and a large dose that
        is missing would be worse than a wrong one: what comes is stored.
        """
        assert self.link is not None
        try:
            await self.log_by_hand({**request, "sure": True}, command_id)
        except InputError as err:
            self.counters["command.refused"] += 1
            log.warning("command.refused", field=err.where)
        seen = CommandState(self.link.commands.seen)
        await self.thread(save_state, self.store, "commands", seen)

    async def on_down(self, message: Downlink) -> None:
        """A verified message of the cloud. Its number and its effect become durable together."""
        body = message.body
        if isinstance(body, Prior):
            await self._keep_down(lambda down: down.with_prior(message.number, body))
        elif isinstance(body, DoseAdvice):
            await self.desk.take_advice(message, body)
        elif isinstance(body, StandingPolicy):
            await self.desk.take_policy(message, body)
        else:
            if isinstance(body, Returned) and self.refill is not None:
                await self.refill.take(body)
            return
        if isinstance(body, Prior):
            await self._note("cloud", "prior.received", number=message.number, version=body.version)
        elif isinstance(body, DoseAdvice):
            await self._note(
                "cloud",
                "advice.received",
                number=message.number,
                advice_id=body.advice_id,
                approved_by=body.approved_by,
            )
        else:
            await self._note("cloud", "policy.received", number=message.number)
        self.counters[f"down.{type(body).__name__.lower()}"] += 1
        log.info("down.accepted", kind=type(body).__name__, number=message.number)
        if isinstance(body, Prior):
            self.engine.set_prior(body, is_new=True)

    async def _keep_down(self, change: Callable[[DownState], DownState]) -> None:
        """Durable first, then ours: after a full disk the message comes again. One change at a time."""
        async with self._down_lock:
            state = change(self.down)
            await self.thread(save_state, self.store, "down", state)
            self.down = state

    async def _send_up(self, body: Up) -> None:
        if self.link is not None:
            await self._send(body)

    async def _on_answer(self, answer: Answer) -> None:
        self.view.on_answer(answer)
        await self._keep_posterior(answer)
        if answer.forecast is not None:
            await self._act_on(self.alarms.on_forecast(answer.forecast, self.clock.now_us()))
        if not self._may_send_more():
            return
        for body in (answer.estimate, answer.forecast):
            if body is not None:
                await self._send(body)

    async def _keep_posterior(self, answer: Answer) -> None:
        """One estimate a day, so that how the person changes can be seen later."""
        day = self.clock.now_us() // US_PER_DAY
        if answer.estimate is None or answer.estimate.status != "ok" or day == self._posterior_day:
            return
        self._posterior_day = day
        with contextlib.suppress(StoreError):
            await self.thread(
                self.store.archive.keep, "posterior", encode(answer.estimate), POSTERIOR_HISTORY_BYTES
            )

    async def _on_contribution(self, contribution: Contribution) -> None:
        if self._may_send_more() and await self.thread(self.privacy.take, contribution, self.clock.now_us()):
            await self._send(contribution)

    def _may_send_more(self) -> bool:
        """Whether the outbox has room for what can be made again."""
        return self.link is not None and self.view.outbox_pending <= OUTBOX_SOFT_LIMIT

    def _on_engine(self, up: bool) -> None:
        log.info("engine.up" if up else "engine.down")
        self._status_due.set()

    def _on_facts(self, source: str, facts: dict[str, Any]) -> None:
        self.view.on_facts(source, facts)

    async def _act_on(self, changes: list[Alarm]) -> None:
        for alarm in changes:
            # The name of an alarm is a reading in words, so only its number is told.
            log.info("alarm.raised" if alarm.raised else "alarm.cleared", number=alarm.number)
            self.view.on_alarm(alarm)
        if changes:
            self.ringing.wake()
        elif not self.record.is_behind:
            return
        try:
            await self.record.keep(changes, lambda: tuple(self.alarms.active.values()))
        except StoreError as err:
            self._store_ok = False
            if changes:
                self.counters["alarm.not_stored"] += 1
                log.error("alarm.not_stored", reason=str(err))

    async def _tell(self, alarm: Alarm) -> None:
        if self.link is not None:
            await self._send(alarm)

    async def _send(self, body: Up) -> None:
        await self.thread(self.store.enqueue, encode(body))
        if self.link is not None:
            self.link.wake()

    async def _run_alarms(self) -> None:
        while True:
            now_us, steady_us = self.clock.now_us(), self._steady_us()
            space_low = self.care.space_low
            changes = self.alarms.on_time(now_us, steady_us)
            changes += self.alarms.on_health(
                self.engine.up,
                self._store_ok,
                now_us,
                steady_us,
                repaired=self.care.repaired,
                space_low=space_low,
            )
            await self._act_on(changes)
            if space_low:
                self.care.told_of_space()
            notify_systemd("WATCHDOG=1")
            await asyncio.sleep(max(ALARM_TICK_FLOOR_S, min(5.0, self.clock.wait_s(ALARM_TICK_US))))

    async def _run_outbox(self) -> None:
        """Turn stored rows into outbox messages; the pointer moves in the same transaction."""
        while True:
            self._rows_news.clear()
            pointer = self.store.sample_pointer
            rows = await self.thread(self.store.read, pointer, BATCH_SAMPLES)
            if rows:
                batch = SampleBatch(tuple(sample for _, sample in rows))
                await self.thread(self.store.enqueue, encode(batch), sample_row=rows[-1][0])
                assert self.link is not None
                self.link.wake()
            else:
                await self._rows_news.wait()

    async def _run_status(self) -> None:
        sent_us = 0
        while True:
            due = self._status_due.is_set()
            self._status_due.clear()
            # Looked at every 15 s of real time at least, so that the soft limit sees the outbox grow.
            self.view.outbox_pending = await self.thread(self.store.pending_count)
            now_us = self.clock.now_us()
            is_time = not 0 <= now_us - sent_us < STATUS_EVERY_US  # also when the clock was set back
            if (due or is_time) and self._may_send_more():
                sent_us = now_us
                await self._send(self._status())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    max(STATUS_FLOOR_S, min(15.0, self.clock.wait_s(STATUS_EVERY_US)))
                ):
                    await self._status_due.wait()

    def _status(self) -> HubStatus:
        return HubStatus(
            time_us=self.clock.now_us(),
            version=VERSION,
            engine_up=self.engine.up,
            devices=dict(self.supervisor.states),
            counters={**self.counters, GENERATION: self.store.generation},
            outbox_pending=self.view.outbox_pending,
            person=self.desk.person,
            set_aside=self.desk.set_aside(),
        )

    def _load_alarms(self) -> None:
        """After a restart: alarms that stood still stand, and the newest reading is known and judged again."""
        for alarm in self.record.load():
            self.alarms.active[alarm.name] = alarm
            self.view.on_alarm(alarm)
        now_us = self.clock.now_us()
        recent = self.store.between(now_us - US_PER_DAY, now_us + US_PER_MIN)
        self.view.on_samples(tuple(recent))
        readings = tuple(s for s in recent if s.kind == "cgm_mgdl")
        self._first_changes = self.alarms.on_samples(readings, now_us, self._steady_us())

    async def _keep(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Run one part for ever. Only a missing radio at start ends the hub: alarms outlive even the store."""
        while True:
            started_s = time.monotonic()
            try:
                await part()
            except HometwinError as err:
                if self._erased and isinstance(err, StoreError):
                    return  # the hub ends in a moment
                self._store_ok = self._store_ok and not isinstance(err, StoreError)
                if err.exit_code == 2 and name == "radio" and self.counters["part.radio"] == 0:
                    raise  # no Bluetooth at start: the person must mend it
                self.counters[f"part.{name}"] += 1
                log.error("part.failed", part=name, error=type(err).__name__, reason=str(err))
            except Exception as err:
                self.counters[f"part.{name}"] += 1
                log.error("part.failed", part=name, error=type(err).__name__)
                log.debug("part.failed", part=name, exc_info=True)
            if time.monotonic() - started_s < RESTART_PAUSE_S:
                await asyncio.sleep(RESTART_PAUSE_S)
