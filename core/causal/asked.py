"""A question to records in full: every estimator, the twin beside them, and the words in which it is said.

The door of ``hometwin effect`` and of the portal's page of causes. Pure: records in, figures and words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from core.causal.effect import Comparison, compare_with_twin
from core.causal.estimate import Estimate
from core.causal.from_records import FromRecords, ask
from core.causal.moments import Moments, Spans, moments
from core.causal.on_twin import DRAWS, OnTwin, average, interval
from core.causal.twin_graph import ACTIVITY, GLUCOSE_NOW, INSULIN
from core.messages import Sample
from core.patient import Patient
from core.twin import Twin

AFTER_MIN: Final = 120.0
LEAST_MGDL: Final = 100.0  # below, nobody corrects a high
DEFAULT_MGDL: Final = 180.0  # the consensus range ends here
BEGIN_PERCENTILE: Final = (
    5.0  # of glucose at corrections: below, corrections are exceptions and find no comparison
)
FEW: Final = 20


METHOD_WORDS: Final = {
    "g-computation": "standardisation (outcome model)",
    "ipw": "inverse probability weights",
    "doubly robust": "doubly robust",
}


class Person(NamedTuple):
    """One person's record: samples by time."""

    patient: Patient
    samples: Sequence[Sample]
    ill: Spans | None  # when they were ill: () never, None unknown


class TwinSays(NamedTuple):
    """The twin's answer at the same corrections, mg/dL; intervals 95 %, of the posterior and with the structure's error."""

    comparison: Comparison  # of the decision, with the records
    decision: tuple[float, float]  # interval with the structure's error
    alone: tuple[float, float, float]  # mean and such an interval of the dose alone
    moments: int


class Asked(NamedTuple):
    """Everything there is to say."""

    records: FromRecords
    twin: TwinSays | None
    above_mgdl: float
    after_min: float


def ask_people(
    people: Sequence[Person],
    above_mgdl: float | None = None,
    after_min: float = AFTER_MIN,
    *,
    never_active: bool = False,
    with_twin: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> Asked:
    """The whole answer. above_mgdl None: where corrections begin in these records. never_active: nobody exercised, when no
    heart rate says so. RefusedError as ``from_records.ask``."""
    if above_mgdl is None:
        above_mgdl = begins([p.samples for p in people])
    theirs = []
    for person in people:
        found = moments(
            person.samples,
            ZoneInfo(person.patient.timezone),
            above_mgdl=above_mgdl,
            after_min=after_min,
            ill=person.ill,
        )
        if never_active and ACTIVITY not in found.columns:  # a heart rate on record says more
            found.columns[ACTIVITY] = 0.0 * found.dose_u
        theirs.append(found)
    records = ask(theirs)
    twin = _twin(people, theirs, records, above_mgdl, after_min, draws, seed) if with_twin else None
    return Asked(records, twin, above_mgdl, after_min)


def begins(recordings: Sequence[Sequence[Sample]]) -> float:
    """Glucose at which corrections begin in these records, mg/dL; DEFAULT_MGDL where there are hardly any."""
    zone = ZoneInfo("UTC")
    glucose = np.concatenate(
        [
            m.columns[GLUCOSE_NOW][m.eligible & (m.columns[INSULIN] > 0), 0]
            for m in (
                moments(r, zone, above_mgdl=LEAST_MGDL, after_min=0.0, waking_h=(0, 24)) for r in recordings
            )
        ]
    )
    if glucose.size < FEW:
        return DEFAULT_MGDL
    return float(np.floor(np.percentile(glucose, BEGIN_PERCENTILE)))


def _twin(
    people: Sequence[Person],
    theirs: Sequence[Moments],
    records: FromRecords,
    above_mgdl: float,
    after_min: float,
    draws: int,
    seed: int,
) -> TwinSays:
    asked = OnTwin(after_min, draws)
    for number, (person, m) in enumerate(zip(people, theirs, strict=True)):
        kept = m.eligible & (m.columns[INSULIN] > 0)
        decided = list(zip(m.time_us[kept].tolist(), m.dose_u[kept].tolist(), strict=True))
        if decided:
            twin = Twin(person.patient, model=person.patient.model.name, seed=seed + number)
            asked.follow(twin, person.samples, decided, above_mgdl)
    decision, alone = asked.against_waiting(records.chance, seed=seed), asked.effects()
    compared = compare_with_twin(records.main.estimate, lambda *_: average(decision), (0.0, 1.0))
    return TwinSays(compared, interval(decision), (average(alone)[0], *interval(alone)), len(asked))


def rows(asked: Asked) -> list[tuple[str, float, float, float, str]]:
    """(who says, effect, low, high, why not) with 95 % intervals; nan where there is none."""
    nan = float("nan")
    found = [_row("adjusted for nothing, all moments", asked.records.everywhere)]
    found.append(_row("adjusted for nothing, where both could happen", asked.records.naive))
    for tried in asked.records.tried:
        whom = "those who corrected" if tried.target == "treated" else "all"
        words = f"{METHOD_WORDS[tried.method]}, {whom}"
        if tried.answer is None:
            found.append((words, nan, nan, nan, tried.refused))
        else:
            found.append(_row(words, tried.answer.estimate))
    if asked.twin is not None:
        twin = asked.twin
        found.append(
            ("the twin, g-computation: the decision", twin.comparison.twin_effect, *twin.decision, "")
        )
        found.append(("the twin, g-computation: the dose alone", *twin.alone, ""))
    return found


def doubts(asked: Asked) -> tuple[str, ...]:
    """Where another way of adjusting says otherwise than the main answer: it holds no effect, or both deny each other.

    Those who corrected and all moments are different questions, so an honest pair may differ; a reader must know.
    """
    main = asked.records.main.estimate
    found = []
    for tried in asked.records.tried:
        if tried.answer is None or tried.target == "treated":
            continue
        other = tried.answer.estimate
        effect, low, high = other.effect, other.low, other.high
        apart = not low <= main.effect <= high and not main.low <= effect <= main.high
        if apart or (low <= 0.0 <= high) != (main.low <= 0.0 <= main.high):
            found.append(
                f"{METHOD_WORDS[tried.method]}, all: {effect:+.0f} ({low:+.0f} to {high:+.0f}), where those who corrected show {main.effect:+.0f} "
                f"({main.low:+.0f} to {main.high:+.0f}): another effect at other moments, or a cause that is not on "
                "record; rest on neither alone"
            )
    return tuple(found)


def e_value_words(asked: Asked) -> str:
    """How fragile the answer is."""
    e = asked.records.main.e_value
    return (
        f"E-value {e.point:.1f}, of the interval's near end {e.interval:.1f}: so many times likelier would an unmeasured "
        "cause have to make both the correction and a high outcome to explain the effect away"
    )


def by_words(asked: Asked) -> str:
    """What the intervals rest on."""
    r = asked.records
    if r.by == "person":
        return f"intervals are over {r.main.estimate.groups} people"
    return (
        f"intervals are over {r.main.estimate.groups} days of {'one person' if r.people == 1 else f'{r.people} people'}: "
        "about them, nobody else"
    )


def _row(words: str, found: Estimate) -> tuple[str, float, float, float, str]:
    return words, found.effect, found.low, found.high, ""
