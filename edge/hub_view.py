"""What the hub can tell about itself: the status that the terminal view and ``hometwin status`` show.

Readings and estimates leave the hub this way only to the owner of the control socket.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from core.clock import Clock
from core.messages import Alarm, Quality, Sample
from core.units import US_PER_S
from edge.alarms.threshold import MAX_AHEAD_US
from edge.config import HubConfig
from edge.engine_messages import Answer

if TYPE_CHECKING:
    from edge.hub import Hub

TRACE_POINTS = 288  # a day of 5-min readings, for the sparkline
RECENT_ALARMS = 20


@dataclass
class HubView:
    """Newest of everything, kept by the hub's parts as they learn of it."""

    config: HubConfig
    clock: Clock
    newest: dict[str, Sample] = field(default_factory=dict)
    trace: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=TRACE_POINTS))
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    answer: Answer | None = None
    recent_alarms: deque[Alarm] = field(default_factory=lambda: deque(maxlen=RECENT_ALARMS))
    active_alarms: tuple[Alarm, ...] = ()
    outbox_pending: int = 0

    def on_samples(self, samples: tuple[Sample, ...]) -> None:
        """Remember the newest of each kind. One from the future (the clock was set back) yields to any other."""
        ahead_us = self.clock.now_us() + MAX_AHEAD_US
        for sample in samples:
            if sample.deleted or sample.quality & Quality.RETURNED:
                continue  # what the cloud gave back is of the past, whatever it says
            known = self.newest.get(sample.kind)
            if known is None or sample.time_us >= known.time_us or known.time_us > ahead_us:
                self.newest[sample.kind] = sample
            if sample.kind == "cgm_mgdl":
                self.trace.append((sample.time_us, sample.value))

    def reload(self, kind: str, recent: tuple[Sample, ...]) -> None:
        """After an amendment: the newest of this kind is what still stands of the last day."""
        self.newest.pop(kind, None)
        self.on_samples(tuple(s for s in recent if s.kind == kind and kind != "cgm_mgdl"))

    def on_facts(self, source: str, facts: dict[str, Any]) -> None:
        """What a device said of itself: battery, firmware, clock offset."""
        self.facts.setdefault(source, {}).update(facts)

    def on_answer(self, answer: Answer) -> None:
        """The engine's newest word."""
        self.answer = answer

    def on_alarm(self, alarm: Alarm) -> None:
        """Raised or cleared."""
        self.recent_alarms.append(alarm)

    def mark_delivered(self, alarm: Alarm) -> Alarm | None:
        """A wearable took it: the same alarm, saying so. None when that was known already."""
        for index, known in enumerate(self.recent_alarms):
            if known.number == alarm.number and known.raised:
                if known.delivered:
                    return None
                delivered = msgspec.structs.replace(known, delivered=True)
                self.recent_alarms[index] = delivered
                return delivered
        return None

    def status(self, hub: Hub) -> dict[str, Any]:
        """Everything, as JSON-able values; numbers that are not finite become null."""
        now_us = self.clock.now_us()
        link = hub.link
        status: dict[str, Any] = {
            "hub_id": self.config.hub_id,
            "now_us": now_us,
            "timezone": self.config.timezone,
            "readings": {
                kind: {
                    "value": s.value,
                    "time_us": s.time_us,
                    "age_s": (now_us - s.time_us) / US_PER_S,
                    "source": s.source,
                    "quality": s.quality,
                }
                for kind, s in self.newest.items()
            },
            "trace": list(self.trace),
            "estimate": _builtins(self.answer.estimate) if self.answer else None,
            "forecast": _builtins(self.answer.forecast) if self.answer else None,
            "context": self.answer.context if self.answer else "",
            "changing": self.answer.changing if self.answer else "",
            "engine": {
                "up": hub.engine.up,
                "row": hub.engine.row,
                "rows": hub.store.last_row,
                "problem": hub.engine.problem or (self.answer.note if self.answer else ""),
            },
            "alarms": {
                "active": [_builtins(a) for a in self.active_alarms],
                "recent": [_builtins(a) for a in self.recent_alarms],
            },
            "devices": {
                d.source: {
                    "profile": d.profile,
                    "state": hub.supervisor.states.get(d.source, "absent"),
                    "reason": hub.supervisor.reasons.get(d.source, ""),
                    "facts": self.facts.get(d.source, {}),
                }
                for d in self.config.device
            },
            "sync": {
                "configured": link is not None,
                "connected": bool(link and link.connected),
                "pending": self.outbox_pending,
                "sent_through_row": hub.store.sample_pointer,
                "problem": link.problem if link else "",
            },
            "store": {
                **hub.care.facts(),
                "ok": hub.store_ok,
                "damaged_min": hub.damage.repair_in_min,
                "cloud": hub.refill.facts() if hub.refill is not None else None,
            },
            "prior": _builtins(hub.down.prior),
            "advice": hub.desk.rows()[-3:],
            "policy": hub.desk.policy_row(),
            "counters": dict(hub.counters),
        }
        finite: dict[str, Any] = _finite(status)
        return finite


def _builtins(message: msgspec.Struct | None) -> Any:
    return None if message is None else msgspec.to_builtins(message)


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity; null says 'none' plainly."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
