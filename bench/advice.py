"""Advice in closed loop: simglucose's people, an independent ground truth, and the virtual people of firmware_sim.

How much is run is said in the section; HOMETWIN_ADVICE="PEOPLE,DAYS,SEEDS,DAYS" sets it (people of each group of
simglucose and their days; virtual people of each scenario and theirs; a fifth number: of each group how many live
under the slow closed loops too, our basal modulation and oref0's micro boluses). The issue asks for 10,7 of simglucose.
HOMETWIN_ADVICE_STATES: how many random states (0: none). HOMETWIN_ADVICE_JOBS: in how many processes; the same seeds
give the same answers in any number of them.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Final, TypeVar

import msgspec
import numpy as np

from bench.advice_states import Seen, search
from bench.advised_life import SCENARIOS, life
from bench.bodies import Body
from bench.closed_loop import (
    DRAWS,
    RUN_IN_DAYS,
    TARGET_MGDL,
    Adviser,
    BasalBolus,
    Calculator,
    Decider,
    Modulating,
    Outcome,
    live,
    padova_patient,
)
from bench.knowing import Knowing
from bench.oref0 import VERSION, Oref0, lacking
from bench.padova import simulator
from bench.report import Figure, Section, Table
from core.advice_types import MIN_DRAWS, Policy
from core.chance import binomial_cdf

T = TypeVar("T")

SEED: Final = 1
GROUPS: Final = ("adult", "adolescent")
FIRST_VIRTUAL: Final = 301  # not used for any choice in the twin or the adviser
WANTED: Final = {"adult": (92.0, 1.7), "adolescent": (82.3, 1.2)}  # TIR above, below 70 at most
ADVICE: Final = "twin, advice"
CLOSED: Final = "closed loop"
LOOP_WANTED: Final = 94.7  # adults under a closed loop: oref0's micro boluses (PEERS)
LEVEL: Final = 0.05
JUDGED_FROM: Final = 20  # doses; that fewer pass proves nothing, so they only count when they fail


def run(quick: bool) -> Section:
    """Everything, or with ``quick`` one person of each kind for a day."""
    text = "1,1,1,1" if quick else os.environ.get("HOMETWIN_ADVICE", "10,7,4,7")
    people, days, virtual, virtual_days, loops = (int(part) for part in f"{text},0".split(",")[:5])
    states = 300 if quick else int(os.environ.get("HOMETWIN_ADVICE_STATES", "100000"))
    people_jobs = [
        partial(_padova, group, number, days, number <= loops)
        for group in GROUPS
        for number in range(1, people + 1)
    ]
    padova = [outcome for outcomes in _each(people_jobs) for outcome in outcomes]
    lives = _each(
        [
            partial(life, FIRST_VIRTUAL + k, scenario, virtual_days, advised=advised)
            for scenario in SCENARIOS
            for k in range(virtual)
            for advised in (False, True)
        ]
    )
    figures = [
        *_targets(padova),
        *_safety(padova, "simglucose "),
        *_safety(lives, ""),
        *_states(states),
    ]
    tables = (
        _table("simglucose, plasma glucose", padova),
        _table("Virtual people (ground truth C)", lives),
        _lows_table([*padova, *lives]),
    )
    asked = [o for o in (*padova, *lives) if o.asked]
    why: dict[str, int] = {}
    for o in asked:
        for text_, n in o.why:
            why[text_] = why.get(text_, 0) + n
    notes = (
        f"run: {people} people of each group of simglucose for {days} days after {RUN_IN_DAYS} days of run-in by the"
        f" calculator, seed {SEED}; {virtual} virtual people from seed {FIRST_VIRTUAL} for {virtual_days} days in each of"
        f" {len(SCENARIOS)} scenarios; nothing is extrapolated",
        "scenario: three meals (size CV 15 %, counted with CV 25 %, 10 % unannounced), sensitivity ±30 % a day,"
        " simglucose's sensor noise, 15 g when the sensor shows less than 60; the adviser is asked at meals, hourly"
        " above 150, each quarter of an hour after a refused meal, and whether a low is coming below 110",
        f"{Knowing.name}: no peer, but the room that the bounds leave (bench/knowing.py)",
        "PEERS' own figures for all ten: calculator with corrections 92.0 / 2.8 (adults), 82.3 / 2.4 (adolescents)",
        f"the adviser was asked {sum(o.asked for o in asked)} times and refused {sum(o.refused for o in asked)}: "
        + "; ".join(f"{n} × {text_}…" for text_, n in sorted(why.items(), key=lambda item: -item[1])[:4]),
        (
            f"OpenAPS oref0 not run: {lacking()}"
            if lacking()
            else f"OpenAPS oref0 {VERSION} decides with every reading, by its own code and defaults: meals by the calculator, no other boluses by hand"
        ),
        f"closed loops beside advice: {loops} people of each group under our basal modulation (research mode, off by"
        f" default; {MIN_DRAWS} courses) and oref0's micro boluses; a fifth number of HOMETWIN_ADVICE sets it",
        "simulation is not clinical evidence",
    )
    return Section("advice", "dosing by the twin's advice in closed loop", tables, notes, tuple(figures))


def _each(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Every job's answer, in order; in HOMETWIN_ADVICE_JOBS processes (1: in this one)."""
    workers = int(os.environ.get("HOMETWIN_ADVICE_JOBS", "1"))
    if workers <= 1 or len(jobs) <= 1:
        return [job() for job in jobs]
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(operator.call, jobs))


def _states(n: int) -> list[Figure]:
    """Rules that must hold in random states; each state has its own seed, so parts may be searched apart."""
    if not n:
        return []
    edges = np.linspace(0, n, 9).astype(int).tolist()
    parts: list[Seen] = _each([partial(search, b - a, a) for a, b in pairwise(edges)])
    broken = [each for part in parts for each in part.broken]
    return [
        Figure(
            f"{n} random states, absurd ones among them: limits exceeded, or dose on the wrong side of a like state's",
            "0",
            f"{len(broken)} ({sum(p.given for p in parts)} doses, {sum(p.refused for p in parts)} refusals,"
            f" {sum(p.compared for p in parts)} pairs compared)",
            "–",
            not broken,
        )
    ]


def _padova(group: str, number: int, days: int, loops: bool) -> list[Outcome]:
    """One person of simglucose under every decider. ``loops``: the slow closed loops too."""
    world = simulator()
    makes: list[Callable[[Body], Decider]] = [_basal_bolus, _calculator, Knowing, _adviser]
    if not lacking():
        makes += [Oref0, partial(Oref0, microbolus=True)] if loops else [Oref0]
    if loops:
        makes.append(_modulating)
    outcomes = []
    for make in makes:
        body = Body(world, f"{group}#{number:03d}")
        decider = make(body)
        outcomes.append(live(world, body, decider, days, SEED))
        if isinstance(decider, Oref0):
            decider.close()
    return outcomes


def _basal_bolus(body: Body) -> Decider:
    return BasalBolus(body.carb_ratio, body.correction)


def _calculator(body: Body) -> Decider:
    return Calculator(body.carb_ratio, body.correction)


def _policy(body: Body) -> Policy:
    return Policy(
        target_mgdl=TARGET_MGDL,
        carb_ratio_g_per_u=body.carb_ratio,
        correction_mgdl_per_u=body.correction,
        max_dose_u=20.0,
        max_iob_u=25.0,
        draws=DRAWS,
    )


def _adviser(body: Body) -> Decider:
    return Adviser(padova_patient(body), _policy(body))


def _modulating(body: Body) -> Decider:
    policy = msgspec.structs.replace(_policy(body), basal_modulation=True, draws=MIN_DRAWS)
    return Modulating(padova_patient(body), policy)


def _groups(outcomes: Sequence[Outcome]) -> list[tuple[str, str, list[Outcome]]]:
    found: dict[tuple[str, str], list[Outcome]] = {}
    for o in outcomes:
        found.setdefault((o.group, o.decider), []).append(o)
    return [(group, decider, rows) for (group, decider), rows in found.items()]


def _table(title: str, outcomes: Sequence[Outcome]) -> Table:
    def mean(rows: list[Outcome], of: Callable[[Outcome], float]) -> float:
        return float(np.mean([of(o) for o in rows]))

    rows = []
    for group, decider, some in _groups(outcomes):
        name = f"{decider}: {group}"
        rows.append(
            (
                name,
                str(len(some)),
                f"{mean(some, lambda o: o.tir):.1f}",
                f"{mean(some, lambda o: o.below_70):.1f}",
                f"{mean(some, lambda o: o.below_54):.2f}",
                f"{mean(some, lambda o: o.above_180):.1f}",
                f"{mean(some, lambda o: 7 * o.episodes_54 / o.days):.1f}",
                f"{mean(some, lambda o: 7 * o.rescues / o.days):.1f}",
                f"{mean(some, lambda o: 7 * o.sugars / o.days):.1f}",
                f"{min(o.tir for o in some):.1f}",
            )
        )
    columns = (
        "",
        "people",
        "TIR",
        "<70",
        "<54",
        ">180",
        "hypo54/wk",
        "rescues/wk",
        "sugar advised/wk",
        "worst TIR",
    )
    return Table(title, columns, tuple(rows))


def _targets(outcomes: Sequence[Outcome]) -> list[Figure]:
    figures = []
    for group, decider, rows in _groups(outcomes):
        if decider != ADVICE:
            continue
        tir_wanted, low_wanted = WANTED[group]
        peers = {
            d: r
            for g, d, r in _groups(outcomes)
            if g == group and d not in (ADVICE, Knowing.name) and CLOSED not in d
        }
        best = max(peers, key=lambda d: float(np.mean([o.tir for o in peers[d]])))
        tir, low = (float(np.mean([getattr(o, name) for o in rows])) for name in ("tir", "below_70"))
        peer_tir, peer_low = (
            float(np.mean([getattr(o, n) for o in peers[best]])) for n in ("tir", "below_70")
        )
        figures.append(
            Figure(
                f"simglucose {group}, advice at meals and corrections: time in range, %",
                f"> {tir_wanted}",
                f"{tir:.1f}",
                f"{peer_tir:.1f} ({best})",
                tir > tir_wanted,
            )
        )
        figures.append(
            Figure(
                "… time below 70, %",
                f"≤ {low_wanted}",
                f"{low:.1f}",
                f"{peer_low:.1f} ({best})",
                low <= low_wanted,
            )
        )
    return figures + _loops(outcomes)


def _loops(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Basal modulation beside oref0, on the people who lived under all of them."""
    figures = []
    for group, decider, rows in _groups(outcomes):
        if decider != Modulating.name:
            continue
        people = {o.person for o in rows}
        beside = [
            f"{np.mean([o.tir for o in same]):.1f}, <70 {np.mean([o.below_70 for o in same]):.1f} ({d})"
            for g, d, some in _groups(outcomes)
            if g == group
            and CLOSED in d
            and d != decider
            and (same := [o for o in some if o.person in people])
        ]
        tir, low = float(np.mean([o.tir for o in rows])), float(np.mean([o.below_70 for o in rows]))
        adult = group == "adult"
        figures.append(
            Figure(
                f"simglucose {group}, basal modulation (closed loop, research, off by default), {len(rows)} people:"
                " time in range, %",
                f"≥ {LOOP_WANTED}" if adult else "–",
                f"{tir:.1f}, <70 {low:.1f}",
                "; ".join(beside) or "–",
                tir >= LOOP_WANTED if adult else None,
            )
        )
    return figures


def _lows(rows: Sequence[Outcome]) -> tuple[int, int, int, float, float]:
    """(advice given, below 70, below 54, mean stated bounds) of the five hours after each accepted dose."""
    given = [g for o in rows for g in o.given]
    n = max(1, len(given))
    return (
        len(given),
        sum(g.lowest < 70 for g in given),
        sum(g.lowest < 54 for g in given),
        sum(g.bound_70 for g in given) / n,
        sum(g.bound_54 for g in given) / n,
    )


def _p(events: int, n: int, p: float) -> float:
    """P(Binomial(n, p) >= events)."""
    return 1.0 if events == 0 or n == 0 else 1.0 - binomial_cdf(events - 1, n, p)


def _safety(outcomes: Sequence[Outcome], prefix: str) -> list[Figure]:
    figures = []
    for group, decider, rows in _groups(outcomes):
        if decider != ADVICE:
            continue
        n, lows_70, lows_54, stated_70, stated_54 = _lows(rows)
        p70, p54 = _p(lows_70, n, stated_70), _p(lows_54, n, stated_54)
        figures.append(
            Figure(
                f"{prefix}{group}: lows within 5 h of an accepted dose not above the stated bound",
                f"p ≥ {LEVEL}",
                f"<70 {lows_70}/{n} (p {p70:.2f}), <54 {lows_54}/{n} (p {p54:.2f})",
                f"stated ≤ {100 * stated_70:.1f} %, ≤ {100 * stated_54:.1f} %",
                None if n < JUDGED_FROM and min(p70, p54) >= LEVEL else min(p70, p54) >= LEVEL,
            )
        )
    return figures


def _lows_table(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for group, decider, some in _groups(outcomes):
        if decider != ADVICE:
            continue
        n, lows_70, lows_54, stated_70, stated_54 = _lows(some)
        rows.append(
            (
                f"twin: {group}",
                str(sum(o.asked for o in some)),
                str(sum(o.refused for o in some)),
                str(n),
                f"{lows_70} ({100 * stated_70:.1f} %)",
                f"{lows_54} ({100 * stated_54:.1f} %)",
            )
        )
    columns = (
        "",
        "asked",
        "refused",
        "doses given",
        "low <70 within 5 h (stated at most)",
        "<54 (stated at most)",
    )
    return Table("What became of accepted doses", columns, tuple(rows))
