"""One task per configured device: wait for it, connect, run its session, back off, begin again.

Whatever a device sends or does not send, it can stop only its own task's current visit. An exception
nobody foresaw is logged by its type, counted, and the device waits like after any other failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import structlog

from core.clock import Clock
from core.errors import HometwinError, LinkError, PairingError, StoreError
from edge.ble.backoff import DEFAULT_PACE, Pace, is_quarantined, retry_after_s
from edge.ble.driver import Sink, Visit
from edge.ble.radio import Advertisement, Link, Radio
from edge.ble.session import Session, make_session

log = structlog.get_logger()

ALERT_LEVEL: Final = 0x2A06
ALERT_S: Final = 5.0  # the person is waiting; the hub asks again


class DeviceConfig(Protocol):
    """What the supervisor needs of edge.config.DeviceConfig."""

    @property
    def source(self) -> str: ...
    @property
    def profile(self) -> Any: ...
    @property
    def address(self) -> str: ...
    @property
    def passkey(self) -> int | None: ...


MakeSession = Callable[[str, str, dict[str, int], ZoneInfo], Session]


class Supervisor:
    """All devices of one hub on one radio.

    ``sink`` returns when samples are durable; ``cursors`` gives the greatest durable seq by kind for a
    source (or an awaitable of it); ``may_repair`` names sources without passkey that may make a new
    bond when they have lost theirs.
    """

    def __init__(
        self,
        radio: Radio,
        devices: Sequence[DeviceConfig],
        sink: Sink,
        cursors: Callable[[str], Mapping[str, int] | Awaitable[Mapping[str, int]]],
        clock: Clock,
        timezone: ZoneInfo,
        counters: Counter[str],
        on_facts: Callable[[str, dict[str, Any]], None],
        *,
        pace: Pace = DEFAULT_PACE,
        may_repair: Collection[str] = (),
        rng: random.Random | None = None,
        session: MakeSession = make_session,
    ) -> None:
        self._radio, self._devices, self._sink, self._cursors = radio, tuple(devices), sink, cursors
        self._clock, self._timezone, self._counters, self._on_facts = clock, timezone, counters, on_facts
        self._pace, self._may_repair, self._make_session = pace, frozenset(may_repair), session
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._seen: dict[str, Advertisement] = {}
        self._arrivals = {device.address.upper(): asyncio.Event() for device in self._devices}
        self._links: dict[str, Link] = {}
        self._radio_up = asyncio.Event()
        self._scan_news = asyncio.Event()
        # source -> absent|connecting|pairing|syncing|live|backing_off|quarantined
        self.states = {device.source: "absent" for device in self._devices}
        self.reasons: dict[str, str] = {}  # source -> why it backs off or is quarantined

    async def run(self) -> None:
        """Until cancelled; then every link is closed. EnvironmentMissing when there is no radio at the start."""
        self._radio.on_advertisement = self._heard
        await self._radio.start()
        tasks = [asyncio.create_task(self._keep_radio(), name="radio")]
        tasks += [asyncio.create_task(self._keep(d), name=f"device-{d.source}") for d in self._devices]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._radio.on_advertisement = None
            await self._radio.stop()
            for device in self._devices:
                self._set(device, "absent")

    @property
    def wearables(self) -> dict[str, Link]:
        """Connected wearables by source. Another Link object means another connection."""
        alerting = [d.source for d in self._devices if d.profile == "alert"]
        return {source: self._links[source] for source in alerting if source in self._links}

    async def alert(self, level: int, source: str | None = None) -> bool:
        """Write Alert Level (0 none, 1 mild, 2 high) to the connected wearables, or to the one named.

        True when one took it.
        """
        links = [link for name, link in self.wearables.items() if source in (None, name)]

        async def ring(link: Link) -> bool:
            try:
                async with asyncio.timeout(ALERT_S):
                    await link.write(ALERT_LEVEL, bytes((level,)), False)
            except (HometwinError, TimeoutError) as error:
                self._counters["alert.failed"] += 1
                log.warning("alert.failed", error=type(error).__name__)
                return False
            return not link.closed.is_set()

        return any(await asyncio.gather(*(ring(link) for link in links)))

    # The radio

    def _heard(self, advertisement: Advertisement) -> None:
        if (arrival := self._arrivals.get(advertisement.address)) is not None:
            self._seen[advertisement.address] = advertisement
            arrival.set()

    async def _keep_radio(self) -> None:
        """Scan while somebody is missing; bring the adapter back when it has gone."""
        while True:
            self._radio_up.set()
            try:
                await self._scan_until_lost()
            except Exception as error:
                log.warning("radio.scan_failed", error=type(error).__name__)
            self._radio_up.clear()
            self._counters["radio.lost"] += 1
            log.warning("radio.lost")
            await self._radio.stop()
            attempts = 0
            while True:
                attempts += 1
                try:
                    await self._radio.start()
                    break
                except Exception as error:
                    if attempts == 1:
                        reason = str(error) if isinstance(error, HometwinError) else type(error).__name__
                        log.error("radio.missing", reason=reason)
                    await asyncio.sleep(retry_after_s(error, attempts, self._rng, self._pace))
            log.info("radio.back", attempts=attempts)

    async def _scan_until_lost(self) -> None:
        lost = asyncio.ensure_future(self._radio.lost.wait())
        try:
            while True:
                wanted = any(state in _MISSING for state in self.states.values())
                self._scan_news.clear()
                await self._radio.scan(wanted)
                news = asyncio.ensure_future(self._scan_news.wait())
                await asyncio.wait(
                    {lost, news}, timeout=self._pace.rescan_s, return_when=asyncio.FIRST_COMPLETED
                )
                changed = news.done()
                news.cancel()
                if lost.done():
                    return
                if wanted and not changed:
                    await self._radio.scan(False)
        finally:
            lost.cancel()

    # One device

    async def _keep(self, device: DeviceConfig) -> None:
        failures: Counter[str] = Counter()
        fruitless = 0
        while True:
            await self._arrival(device)
            linked_s = time.monotonic()
            visit: Visit | None = None
            error: Exception | None = None
            try:
                link = await self._connect(device)
                linked_s = time.monotonic()
                try:
                    visit = await self._prepare(device, link, fruitless)
                    await visit.run()
                finally:
                    await self._hang_up(device, link)
            except Exception as caught:
                error = caught
            settled = visit is not None and time.monotonic() - linked_s > self._pace.settled_s
            stored = visit.stored if visit is not None else 0
            flooded = visit is not None and visit.was_flooded  # a value or two of a flood are no merit
            settled = settled and isinstance(error, LinkError) and not isinstance(error, PairingError)
            if (stored or settled) and not flooded:
                failures.clear()
            fruitless = fruitless + 1 if visit is not None and visit.was_silent and not stored else 0
            await self._pause(device, error, failures, was_linked=visit is not None)

    async def _arrival(self, device: DeviceConfig) -> None:
        """Wait until the device has just been heard and there is a radio to answer with."""
        self._set(device, "absent")
        address = device.address.upper()
        while True:
            await self._radio_up.wait()
            seen = self._seen.get(address)
            if seen is not None and time.monotonic() - seen.seen_mono_s < self._pace.fresh_s:
                return
            self._arrivals[address].clear()
            await self._arrivals[address].wait()

    async def _connect(self, device: DeviceConfig) -> Link:
        self._set(device, "connecting")
        self._seen.pop(device.address.upper(), None)  # the next attempt wants a new sign of life
        link = await self._radio.connect(
            device.address,
            self._pace.connect_s,
            device.passkey,
            may_repair=self._allows_repair(device),
        )
        self._counters["link.connect"] += 1
        return link

    def _allows_repair(self, device: DeviceConfig) -> bool:
        """May this device make a new bond without passkey after it lost the old one?

        A wearable always may: an alarm that rings nowhere is the greater harm, and nothing but the level
        goes out to it. Others when the configuration says ``repair``.
        """
        allowed = device.source in self._may_repair or bool(getattr(device, "repair", False))
        return allowed or device.profile == "alert"

    async def _prepare(self, device: DeviceConfig, link: Link, fruitless: int) -> Visit:
        if device.passkey is not None or device.profile == "alert":
            self._set(device, "pairing")
            await link.pair(device.passkey)
        if link.repaired:
            self._counters["pairing.repaired"] += 1
            log.warning("device.bond_renewed", source=device.source)
        self._set(device, "syncing")
        found = self._cursors(device.source)
        cursors = dict(await found if inspect.isawaitable(found) else found)
        self._links[device.source] = link
        return Visit(
            link,
            self._make_session(device.profile, device.source, cursors, self._timezone),
            device.profile,
            sink=self._sink,
            clock=self._clock,
            pace=self._pace,
            count=self._count,
            on_facts=lambda fields: self._facts(device, fields),
            on_idle=lambda idle: self._set(device, "live" if idle else "syncing"),
            patience=fruitless,
        )

    async def _hang_up(self, device: DeviceConfig, link: Link) -> None:
        self._links.pop(device.source, None)
        closing = asyncio.ensure_future(link.close())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.close_s):
                await asyncio.shield(closing)

    async def _pause(
        self, device: DeviceConfig, error: Exception | None, failures: Counter[str], *, was_linked: bool
    ) -> None:
        if error is None:  # it said all it had; ask again when it advertises again, but not in a tight loop
            self.reasons.pop(device.source, None)
            self._set(device, "absent")
            await asyncio.sleep(self._pace.stubborn_first_s)
            return
        kind = type(error).__name__
        failures[kind] += 1
        self._judge(device, error, was_linked)
        quarantined = is_quarantined(error, failures[kind])
        if quarantined:
            self._counters["device.quarantined"] += 1
        wait_s = retry_after_s(error, failures[kind], self._rng, self._pace)
        state = "quarantined" if quarantined else "backing_off"
        self._set(device, state)
        say = log.error if quarantined else log.info
        say(
            "device.quarantined" if quarantined else "device.backing_off",
            source=device.source,
            reason=self.reasons[device.source],
            attempts=failures[kind],
            wait_s=round(wait_s, 1),
        )
        await asyncio.sleep(wait_s)

    def _judge(self, device: DeviceConfig, error: Exception, was_linked: bool) -> None:
        """Count the failure by what it means, and keep its reason for the person."""
        if not isinstance(error, HometwinError):
            self._counters["device.surprise"] += 1
            self.reasons[device.source] = type(error).__name__
            log.error("device.surprise", source=device.source, error=type(error).__name__)
            log.debug("device.surprise", source=device.source, exc_info=error)
            return
        self.reasons[device.source] = error.what + (f" ({error.mend})" if error.mend else "")
        if isinstance(error, PairingError):
            self._counters["pairing.refused"] += 1
        elif isinstance(error, StoreError):
            self._counters["store.failed"] += 1
        elif was_linked:
            self._counters["link.drop"] += 1
        else:
            self._counters["link.failed"] += 1

    def _set(self, device: DeviceConfig, state: str) -> None:
        if self.states[device.source] == state:
            return
        self.states[device.source] = state
        if state == "live":
            self.reasons.pop(device.source, None)
        self._scan_news.set()
        log.debug("device.state", source=device.source, state=state)

    def _count(self, name: str) -> None:
        self._counters[name] += 1

    def _facts(self, device: DeviceConfig, fields: dict[str, Any]) -> None:
        try:
            self._on_facts(device.source, fields)
        except Exception as error:
            self._counters["facts.failed"] += 1
            log.error("facts.failed", source=device.source, error=type(error).__name__)


# While one of these holds, the device may advertise and somebody wants to know.
_MISSING: Final = frozenset({"absent", "connecting", "backing_off"})
