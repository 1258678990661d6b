"""What if, computed: a person's recent record in, courses with and without a change out. No database, no network.

``python -m cloud.whatif_job`` is the worker process behind the portal's sliders. Learning a window takes some five
seconds and is kept; each question about it then takes a tenth of one. It also answers what records say of corrections (portal, causes).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec

from cloud.advice_job import serve_frames
from cloud.advice_worker import Worker
from core.errors import HometwinError, InputError
from core.messages import Sample

KEPT: Final = 6  # windows, of about 10 MB each
DRAWS: Final = 1000
REUSE_S: Final = 120.0
ACTS: Final = ("carbs_g", "bolus_u", "long_acting_u")


class Window(msgspec.Struct, frozen=True, tag=True):
    """Learn a window. ``key`` names it from now on."""

    key: str
    samples: tuple[Sample, ...]  # by time; those up to the window's end are used
    patient_toml: bytes
    start_us: int
    end_us: int
    draws: int = DRAWS


class Question(msgspec.Struct, frozen=True, tag=True):
    """Ask about a learned window."""

    key: str
    changes: tuple[str, ...]


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One person's record, by time."""

    samples: tuple[Sample, ...]
    patient_toml: bytes


class Effect(msgspec.Struct, frozen=True, tag=True):
    """Ask these records what a correction does. What they lack somebody may know: that nobody was ill, or exercised."""

    people: tuple[Record, ...]
    never_ill: bool
    never_active: bool


class Said(msgspec.Struct, frozen=True):
    """Of an effect: (who says, mean, low, high) in mg/dL with 95 % intervals, refusals by name, and what it rests on."""

    rows: tuple[tuple[str, float, float, float], ...]
    refused: tuple[tuple[str, str], ...]
    words: tuple[str, ...]


class Course(msgspec.Struct, frozen=True, array_like=True):
    """mg/dL at each time of the answer."""

    mean: tuple[float, ...]
    p05: tuple[float, ...]
    p95: tuple[float, ...]


class Answer(msgspec.Struct, frozen=True):
    """As core's Counterfactual, ready to be shown."""

    times_us: tuple[int, ...]
    factual: Course
    changed: Course
    effect: Course
    question: str
    split: dict[str, float]
    mean_effect: tuple[float, float, float]
    below_70: tuple[float, float]
    above_180: tuple[float, float]
    cautions: tuple[tuple[bool, str], ...]  # (loud, text)
    trustworthy: bool
    draws: int
    assumed: tuple[tuple[str, str], ...]
    elapsed_ms: float


class Reply(msgspec.Struct, frozen=True):
    """``answer``, or ``problem`` in words; ``is_known`` False: learn the window first."""

    answer: Answer | None = None
    problem: str | None = None
    is_known: bool = True
    said: Said | None = None


class Windows:
    """Learned windows, the last used kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def reply(self, message: Window | Question | Effect) -> Reply:
        """Do what is asked; a typed error becomes ``problem``."""
        try:
            if isinstance(message, Effect):
                return Reply(said=effect(message))
            if isinstance(message, Window):
                self._learn(message)
                return self._answer(Question(message.key, ()))
            return self._answer(message)
        except InputError as err:
            return Reply(problem=str(err))
        except HometwinError as err:
            return Reply(problem=err.what)

    def _learn(self, window: Window) -> None:
        from core.causal.counterfactual import abduct  # loads numba: only the worker pays for it
        from core.twin import Patient, Twin

        if window.key in self._kept:
            return
        twin = Twin(Patient.from_toml(window.patient_toml))
        twin.observe(s for s in window.samples if s.time_us < window.end_us)
        self._kept[window.key] = abduct(twin, window.start_us, window.end_us, window.draws)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _answer(self, question: Question) -> Reply:
        from core.causal.counterfactual import answer

        known = self._kept.get(question.key)
        if known is None:
            return Reply(is_known=False)
        self._kept.move_to_end(question.key)
        began = time.perf_counter()
        found = answer(known, question.changes)
        elapsed_ms = 1000.0 * (time.perf_counter() - began)

        def course(c: Any) -> Course:
            return Course(*(tuple(v.round(1).tolist()) for v in (c.mean, c.p05, c.p95)))

        return Reply(
            Answer(
                tuple(found.times_us.tolist()),
                course(found.factual),
                course(found.counterfactual),
                course(found.effect),
                found.question,
                found.split,
                found.mean_effect,
                found.below_70,
                found.above_180,
                tuple((c.loud, c.text) for c in found.cautions),
                found.trustworthy,
                found.draws,
                found.assumed,
                elapsed_ms,
            )
        )


def effect(question: Effect) -> Said:
    """What the records say, and the twin beside them."""
    from core.causal.asked import Person, ask_people, by_words, doubts, e_value_words, rows  # loads numba
    from core.patient import Patient

    people = [
        Person(Patient.from_toml(r.patient_toml), r.samples, () if question.never_ill else None)
        for r in question.people
    ]
    asked = ask_people(people, never_active=question.never_active)
    records = asked.records
    found = rows(asked)
    words = [
        f"{records.main.identification.words()}",
        f"{records.words()}, above {asked.above_mgdl:g} mg/dL; glucose {asked.after_min:g} min later",
        *doubts(asked),
        e_value_words(asked),
        by_words(asked),
    ]
    if asked.twin is not None:
        words.append(f"the model's equations beside the records: {asked.twin.comparison.words()}")
    if records.always_the_same:
        words.append(f"{', '.join(records.always_the_same)} never varied: the answer is about such moments")
    return Said(
        tuple((who, mean, low, high) for who, mean, low, high, why in found if not why),
        tuple((who, why) for who, *_, why in found if why),
        tuple(words),
    )


class WhatifWorker(Worker):
    """The worker, asked from the portal."""

    def __init__(self) -> None:
        super().__init__("cloud.whatif_job")
        self._recent: OrderedDict[tuple[str, str], tuple[Window, float]] = OrderedDict()

    def recent(self, name: tuple[str, str], fresh: Window) -> Window:
        """The window to learn under this name: one asked for a moment ago (learned, or soon so), else ``fresh``.

        A moment of real time: on a fast clock ``fresh`` is another one at each visit. Not when doses, meals or the
        person's file have changed since.
        """
        known = self._recent.get(name)
        if known is not None:
            window, asked_s = known
            is_new = time.monotonic() - asked_s < REUSE_S
            if (
                is_new
                and window.patient_toml == fresh.patient_toml
                and _acts(window, fresh) == _acts(fresh, window)
            ):
                return window
        self._recent[name] = (fresh, time.monotonic())
        self._recent.move_to_end(name)
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)
        return fresh

    async def reply(
        self, message: Window | Question | Effect, is_wanted: Callable[[], bool] = lambda: True
    ) -> Reply:
        """What the worker says; a worker that dies or hangs is a ``problem``."""
        body = await self.ask(msgspec.msgpack.encode(message), is_wanted)
        if isinstance(body, str):
            return Reply(problem=body)
        return msgspec.msgpack.decode(body, type=Reply)


def _acts(window: Window, other: Window) -> list[Sample]:
    """Doses and meals in the part of the record that both windows hold."""
    if not (window.samples and other.samples):
        return []
    first_us = max(w.samples[0].time_us for w in (window, other))
    last_us = min(w.samples[-1].time_us for w in (window, other))
    return [s for s in window.samples if s.kind in ACTS and first_us <= s.time_us <= last_us]


def main() -> None:
    """Reply until standard input ends."""
    windows = Windows()
    decoder = msgspec.msgpack.Decoder(Window | Question | Effect)
    # Somebody waits with a slider in hand: after ingest and pages, before advice.
    serve_frames(
        lambda frame: msgspec.msgpack.encode(windows.reply(decoder.decode(frame))),
        nice=0 if os.environ.get("HOMETWIN_CLOCK") else 5,
    )


if __name__ == "__main__":
    main()
