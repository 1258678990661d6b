"""How long a trial takes, and whether it can be run again: 1,000 people × 14 days × 2 arms, through the command's own path.

The clock starts before Dask does and stops when the report is written; kernels are compiled beforehand, as they
are on any second run. Then: again with one process and other chunks taken up from the first, the same bytes; and a
trial of nothing (two equal arms) must find nothing, one of a known change its change.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.report import Figure, Section, Table, machine
from cloud.trials.analyse import Analysis, analyse
from cloud.trials.command import trial
from cloud.trials.plan import OUTCOMES, Arm, Plan, Size
from cloud.trials.provenance import gather, result_digest
from cloud.trials.run import run_trial
from cloud.trials.simulate import Job, run_job

LIMIT_S: Final = 60.0
CORES: Final = 2
PEOPLE: Final = 1000
DAYS: Final = 14
SEED: Final = 7
CALIBRATION_SEEDS: Final = range(2000, 2100)
CALIBRATION_PEOPLE: Final = 24
PLAN: Final = """
name = "Less basal at the same calculator"
question = "Does ten per cent less basal avoid lows at an acceptable price in range?"
days = {days}
seed = {seed}
[size]
people = {people}
[[arms]]
name = "usual care"
[[arms]]
name = "basal × 0.9"
basal_factor = 0.9
"""


def timed(people: int, folder: Path) -> tuple[float, float, bytes]:
    """(wall seconds, CPU seconds of this process and its children, bytes of the summary)."""
    source = folder / "trial.toml"
    source.write_text(PLAN.format(days=DAYS, seed=SEED, people=people), encoding="utf-8")
    before, start = os.times(), time.perf_counter()
    trial(source, folder / "out", workers=CORES)
    wall = time.perf_counter() - start
    after = os.times()
    cpu = sum(
        getattr(after, n) - getattr(before, n) for n in ("user", "system", "children_user", "children_system")
    )
    return wall, cpu, (folder / "out" / "summary.json").read_bytes()


def false_alarms(seeds: range, people: int) -> tuple[int, int]:
    """Of parallel trials whose two arms are the same, how many find a difference in time in range (nominal 5 %)."""
    found = 0
    for seed in seeds:
        plan = Plan(
            "nothing",
            (Arm("a"), Arm("b")),
            Size(people=people),
            design="parallel",
            days=1,
            warmup_days=0,
            seed=seed,
        )
        gap = analyse(plan, run_job(Job(plan, None, 0, people))).differences["in_range_pct"][0]
        found += not gap.low <= 0.0 <= gap.high
    return found, len(seeds)


def _rows(analysis: Analysis) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name, unit, words, _ in OUTCOMES:
        a, b = analysis.figures[name]
        d = analysis.differences[name][0]
        rows.append(
            (
                f"{words}{f', {unit}' if unit else ''}",
                f"{a.mean:.2f} ± {a.sd:.2f}",
                f"{b.mean:.2f} ± {b.sd:.2f}",
                f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})",
            )
        )
    return tuple(rows)


def _in_time(wall: float, cpu: float, busy: float) -> bool | None:
    """None when it took longer only because others held the cores: then the wall clock cannot judge it."""
    if wall < LIMIT_S:
        return True
    return None if busy > CORES and cpu < CORES * LIMIT_S else False


def run(quick: bool = False) -> Section:
    """The section. ``quick``: forty people."""
    people = 40 if quick else PEOPLE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial_plan = PLAN.format(days=1, seed=1, people=2)
        (folder / "warm.toml").write_text(trial_plan, encoding="utf-8")
        trial(folder / "warm.toml", folder / "warm", workers=1)  # kernels into the cache
        busy = os.getloadavg()[0]
        wall, cpu, first = timed(people, folder)
        again = folder / "again"
        again.mkdir()
        chunks = sorted((folder / "out" / "chunks").iterdir())
        plan = Plan(
            "Less basal at the same calculator",
            (Arm("usual care"), Arm("basal × 0.9", basal_factor=0.9)),
            Size(people=people),
            question="Does ten per cent less basal avoid lows at an acceptable price in range?",
            days=DAYS,
            seed=SEED,
        )
        origin = gather(plan, b"", None)
        (again / "chunks").mkdir()
        for path in chunks[::2]:  # half of them lost
            (again / "chunks" / path.name).write_bytes(path.read_bytes())
        outcome = run_trial(plan, None, origin, again, workers=1)
    same = result_digest(outcome.rows).encode() in first
    wrong, of = false_alarms(CALIBRATION_SEEDS[: 10 if quick else 100], CALIBRATION_PEOPLE)
    person_days = people * DAYS * 2
    figures = (
        Figure(
            f"trial of {people} people × {DAYS} days × 2 arms, two processes",
            f"< {LIMIT_S:g} s",
            f"{wall:.1f} s, {cpu:.0f} s of CPU; others' load before {busy:.1f}",
            reached=None if quick else _in_time(wall, cpu, busy),
        ),
        Figure(
            "run again after losing half of the chunks",
            "same bits",
            "same" if same else "differs",
            reached=same,
        ),
        Figure(
            "a trial of two equal arms finds a difference",
            "about 5 %",
            f"{wrong} of {of}",
            reached=None if quick else wrong <= 11,  # P(more than 11 of 100 at 5 %) is under 1 %
        ),
    )
    table = Table(
        f"{plan.arms[1].name} against {plan.arms[0].name}, {people} people",
        ("outcome", plan.arms[0].name, plan.arms[1].name, "difference (95 %)"),
        _rows(analyse(plan, outcome.rows)),
    )
    return Section(
        "trial",
        "in-silico trials: speed and repeatability",
        (table,),
        (
            f"{person_days / wall:,.0f} person-days a second on the wall clock, {person_days / cpu:,.0f} per CPU second, "
            f"one day of warm-up per person and arm not counted; {machine()}",
            "virtual people of the twin's own model; simulation is not clinical evidence",
        ),
        figures,
    )
