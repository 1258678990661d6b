"""The trial's report: one HTML file, nothing loaded from elsewhere, and no clock in it: a rerun gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Final

import numpy as np

from cloud.trials.analyse import SAFETY, Analysis, ArmFigures, Difference, none_above
from cloud.trials.charts import violins
from cloud.trials.plan import OUTCOMES, Plan, reference_words
from cloud.trials.provenance import Provenance
from cloud.trials.run import Outcome
from cloud.trials.simulate import Row
from core.causal.domain import BASAL_RANGE, TOTAL_RANGE
from core.drawing.forest import FOREST_CSS, Line, forest
from core.drawing.style import page
from core.drawing.svg import both_widths

WIDE: Final = 1060
NARROW: Final = 420
HALF: Final = 500
POINTS: Final = ("in_range_pct", "below_70_pct", "below_54_pct", "above_180_pct", "above_250_pct", "cv_pct")
VIOLINS: Final = (
    ("in_range_pct", (70.0,)),
    ("below_70_pct", (4.0,)),
    ("above_180_pct", (25.0,)),
    ("mean_mgdl", ()),
)
OWN_CSS: Final = f"""{FOREST_CSS}.aim {{ stroke: var(--high); stroke-dasharray: 5 4; }}
.violin {{ stroke: none; }} .violin.v0 {{ fill: var(--other); }} .violin.v1 {{ fill: var(--twin); opacity: .45; }}
code {{ font-size: .82rem; overflow-wrap: anywhere; }} table.left td, table.left th {{ text-align: left; white-space: normal; }}
th, td:first-child {{ white-space: normal; min-width: 6rem; }}
"""


def report_html(plan: Plan, outcome: Outcome, analysis: Analysis, origin: Provenance, digest: str) -> str:
    """The whole page."""
    parts = (
        _head(plan, outcome),
        _verdict(plan, analysis),
        _tiles(plan, analysis),
        _forests(plan, analysis),
        _violins(plan, outcome),
        _safety(plan, analysis),
        _all_outcomes(plan, analysis),
        _design(plan, outcome),
        _provenance(plan, origin, digest),
    )
    return page("trial", escape(plan.name), OWN_CSS, "".join(parts))


def _head(plan: Plan, outcome: Outcome) -> str:
    question = f"<p>{escape(plan.question)}</p>" if plan.question else ""
    return (
        f"<h1>{escape(plan.name)}</h1>{question}"
        '<p class="caution">An in-silico trial: nobody took part. It says what follows if bodies are as the twin\'s '
        "model has them. Simulation is not clinical evidence, and no figure here is a therapy recommendation.</p>"
        f'<p class="quiet">{outcome.people} virtual people, {plan.days} days, {len(plan.arms)} arms, {plan.design}; {escape(reference_words(plan))}.</p>'
    )


def _verdict(plan: Plan, analysis: Analysis) -> str:
    words = _words(plan.primary)
    lines = []
    for d in analysis.differences[plan.primary]:
        told = nobody_words(plan, analysis, plan.primary, d)
        if told:
            lines.append(
                f"<li><b>{escape(plan.arms[d.arm].name)}</b> against {escape(plan.arms[0].name)}: {words}: {told}.</li>"
            )
            continue
        sure = d.low > 0 or d.high < 0
        lines.append(
            f"<li><b>{escape(plan.arms[d.arm].name)}</b> against {escape(plan.arms[0].name)}: {words} "
            f"{_interval(plan.primary, d)}. "
            + (
                "Zero lies outside the interval: in this model the arms differ."
                if sure
                else "Zero lies inside the interval: this trial does not tell them apart."
            )
            + "</li>"
        )
    beyond = "".join(f'<p class="caution">{escape(words)}</p>' for words in domain_words(plan, analysis))
    return f"<section><h2>Answer</h2>{beyond}<ul>{''.join(lines)}</ul></section>"


def _tiles(plan: Plan, analysis: Analysis) -> str:
    tiles = []
    for arm, each in enumerate(plan.arms):
        main = analysis.figures["in_range_pct"][arm]
        lows = "".join(
            f'<div class="beside">{words}: {_mean_words(analysis.figures[name][arm], form)}</div>'
            for words, name, form in (
                ("below 70", "below_70_pct", ".1f"),
                ("below 54", "below_54_pct", ".2f"),
            )
        )
        tiles.append(
            f'<div class="tile"><div class="name">{escape(each.name)}{" (reference)" if arm == 0 else ""}</div>'
            f'<div class="figure">{main.mean:.1f} <small>% in range</small></div>'
            f'<div class="beside">95 %: {main.low:.1f} to {main.high:.1f}</div>{lows}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div><p class="quiet">Means over people with their 95 % intervals.</p>'


def _mean_words(f: ArmFigures, form: str) -> str:
    """A mean share of time with its interval; where nobody had any, how many might."""
    if _had_none(f):
        return f"nobody (95 %: under {100 * none_above(f.people):.2g} % of people)"
    return f"{f.mean:{form}} % ({f.low:{form}} to {f.high:{form}})"


def _had_none(f: ArmFigures) -> bool:
    return f.mean == 0.0 and f.sd == 0.0


def nobody_words(plan: Plan, analysis: Analysis, name: str, d: Difference) -> str:
    """What to say where "0 (0 to 0)" would claim too much: nobody had any, or everybody's is the same; else nothing."""
    both = analysis.figures[name][0], analysis.figures[name][d.arm]
    if all(_had_none(f) for f in both):
        people = min(f.people for f in both)
        bound = 100 * none_above(people)
        return f"nobody had any in either arm (of {people}; 95 %: under {bound:.2g} % of people have any)"
    if d.low == d.high == 0.0:
        return "the same in both arms" + (" in each person" if plan.design == "crossover" else "")
    return ""


def _forests(plan: Plan, analysis: Analysis) -> str:
    lines: list[Line] = []
    for name in POINTS:
        found = [(d, nobody_words(plan, analysis, name, d)) for d in analysis.differences[name]]
        lines += _by_arm(plan, name, _words(name), found)
    first = _both(lines, "percentage points", "Differences of the consensus measures")
    groups: list[Line] = []
    for label, members in groupby(analysis.subgroups, key=lambda g: g.name):
        groups += _by_arm(plan, plan.primary, label, [(g.difference, "") for g in members])
    everybody = [
        (d, nobody_words(plan, analysis, plan.primary, d)) for d in analysis.differences[plan.primary]
    ]
    groups += _by_arm(plan, plan.primary, "everybody", everybody)
    second = _both(groups, _unit(plan.primary), f"{_words(plan.primary)} in subgroups")
    return (
        '<section><h2>Differences from the reference arm</h2><p class="quiet">Squares are mean differences over people, '
        f"lines their 95 % intervals; {escape(reference_words(plan))}. Green: better, red: worse, by the "
        f"consensus of 2019; purple: the interval holds zero.</p>{first}</section>"
        f'<section><h2>{escape(_words(plan.primary).capitalize())}: who gains?</h2><p class="quiet">Thirds of the people '
        "by what they were before the trial. Many looks find something by chance: read this as a question, not an answer."
        f"</p>{second}</section>"
    )


def _violins(plan: Plan, outcome: Outcome) -> str:
    names = [name for name, *_ in OUTCOMES]
    cells = []
    for name, targets in VIOLINS:
        at = names.index(name)
        groups = [
            (arm.name, np.array([r.values[at] for r in outcome.rows if r.arm == k]))
            for k, arm in enumerate(plan.arms)
        ]
        cells.append(
            f"<div><h3>{escape(_words(name))}</h3>{violins(groups, _scale(name), HALF, _words(name), targets)}</div>"
        )
    return (
        '<section><h2>How people differ</h2><p class="quiet">Width: how many people. Box: middle half, with the median. '
        f'Dashed: consensus target.</p><div class="two">{"".join(cells)}</div></section>'
    )


def _safety(plan: Plan, analysis: Analysis) -> str:
    head = "".join(f"<th>{escape(arm.name)}</th>" for arm in plan.arms)
    rows = "".join(
        f"<tr><td>{escape(words)}</td>"
        + "".join(
            f"<td>{s.count} ({100 * s.count / s.people:.1f} %; {100 * s.low:.1f}–{100 * s.high:.1f})</td>"
            for s in analysis.safety[words]
        )
        + "</tr>"
        for words, *_ in SAFETY
    )
    rows += "".join(
        f"<tr><td>{escape(_words(name))}, per person</td>"
        + "".join(f"<td>{f.mean:.2f} (5–95 %: {f.p05:.1f}–{f.p95:.1f})</td>" for f in analysis.figures[name])
        + "</tr>"
        for name in ("lows_per_week", "rescues_per_week", "lbgi")
    )
    return (
        '<section><h2>Safety</h2><p class="quiet">People with each, share and its exact 95 % interval. Everybody who was '
        f'drawn is counted.</p><div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div></section>'
    )


def _all_outcomes(plan: Plan, analysis: Analysis) -> str:
    head = "".join(f"<th>{escape(arm.name)}</th>" for arm in plan.arms)
    head += "".join(f"<th>difference, {escape(arm.name)}</th>" for arm in plan.arms[1:])
    rows = []
    for name, unit, words, _ in OUTCOMES:
        arms = "".join(f"<td>{f.mean:.2f} ± {f.sd:.2f}</td>" for f in analysis.figures[name])
        gaps = "".join(
            f"<td>{nobody_words(plan, analysis, name, d) or _interval(name, d)}</td>"
            for d in analysis.differences[name]
        )
        rows.append(f"<tr><td>{escape(words)}{f', {escape(unit)}' if unit else ''}</td>{arms}{gaps}</tr>")
    return (
        '<section><h2>Every outcome</h2><p class="quiet">Mean ± SD over people; mean difference with 95 % interval. '
        f"Only {escape(_words(plan.primary))} was named beforehand: the others are many looks.</p>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div></section>'
    )


def _design(plan: Plan, outcome: Outcome) -> str:
    arms = "".join(
        f"<tr><td>{escape(arm.name)}{' (reference)' if k == 0 else ''}</td><td>{escape(arm.changes())}</td></tr>"
        for k, arm in enumerate(plan.arms)
    )
    design = (
        "Cross-over: each person lives the very same days (meals, moods of the body, sensor errors) under every arm. "
        "There is no carry-over and no period effect; only simulation can do that."
        if plan.design == "crossover"
        else "Parallel: each person has one arm, drawn in blocks of as many people as arms."
    )
    source = {
        "virtual": "the published table of the model (W10), as in core/virtual.py",
        "prior": "a population prior from a file, on the published constants",
        "cloud": f"the cloud twin's prior of the stratum {plan.population.stratum}, on the published constants",
    }[plan.population.kind]
    advised = "".join(
        f'<p class="caution">{escape(words)}.</p>' for words in advised_words(plan, outcome.rows)
    )
    habits = ", ".join(
        f"{name} {getattr(plan.population.habits, name):g}"
        for name in plan.population.habits.__struct_fields__
    )
    return (
        f"<section><h2>Design</h2><p>{design} {plan.warmup_days} day(s) were lived before measuring began.</p>"
        f"<p>Size: {escape(outcome.sizing)}.</p><p>People: {escape(source)}. Settings are found from each body, then "
        f"given errors. Primary outcome: {escape(_words(plan.primary))}.</p>"
        '<div class="scroll"><table class="left"><tr><th>arm</th><th>what differs from each person\'s own settings</th>'
        f"</tr>{arms}</table></div>"
        f"{advised}"
        f'<details><summary>Habits and unsteadiness</summary><p class="quiet">{escape(habits)}</p></details></section>'
    )


def domain_words(plan: Plan, analysis: Analysis) -> list[str]:
    """For each arm that lives where the model is not to be trusted: as what-if says it of one person."""
    given = [f.mean for f in analysis.figures["basal_u_per_day"]]
    found = []
    for k, arm in enumerate(plan.arms):
        ratio = given[k] / given[0] if given[0] > 0 else 1.0
        low, high = BASAL_RANGE
        if not (low <= arm.basal_factor <= high and low <= ratio <= high):
            found.append(
                f"NOT TRUSTWORTHY: {arm.name}: basal insulin leaves {low:g} to {high:g} times the usual. Without insulin "
                "glucose rises faster in people, and ketosis is not in the model."
            )
        low, high = TOTAL_RANGE
        for what, factor in (
            ("food", arm.meal_size_factor),
            ("insulin for the same meal", 1.0 / arm.carb_ratio_factor),
            ("insulin for the same correction", 1.0 / arm.correction_factor),
        ):
            if not low - 1e-9 <= factor <= high + 1e-9:
                found.append(
                    f"NOT TRUSTWORTHY: {arm.name}: {what} leaves {low:g} to {high:g} times the usual: a change this large was "
                    "not tested."
                )
    return found


def advised_words(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """For each arm that follows the adviser, how much of it that was."""
    found = []
    for k, arm in enumerate(plan.arms):
        if arm.is_advised:
            asked, refused = (
                sum(getattr(r, name) for r in rows if r.arm == k) for name in ("asked", "refused")
            )
            then = "the person's own calculator" if arm.when_refused == "calculator" else "no dose"
            found.append(
                f"{arm.name}: the adviser was asked {asked} times and refused {refused} "
                f"({100 * refused / max(asked, 1):.0f} %), where {then} stood in; it knows the very model these bodies live by, "
                "which flatters it"
            )
    return found


def _provenance(plan: Plan, origin: Provenance, digest: str) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in sorted(origin.versions.items()))
    rows = (
        ("seed", str(plan.seed)),
        ("plan, SHA-256", origin.plan_sha256),
        ("prior, SHA-256", origin.prior_sha256 or "none: published table"),
        ("sources of core and cloud/trials, SHA-256", origin.code_sha256),
        ("versions", versions),
        ("machine", origin.machine),
        ("key of all these", origin.key),
        ("every number of the result, SHA-256", digest),
    )
    cells = "".join(f"<tr><td>{escape(a)}</td><td><code>{escape(b)}</code></td></tr>" for a, b in rows)
    return (
        '<section><h2>Provenance</h2><p class="quiet">The same key gives the same last line: run it again to see.</p>'
        f'<div class="scroll"><table class="left">{cells}</table></div></section>'
    )


def _by_arm(plan: Plan, name: str, words: str, found: Sequence[tuple[Difference, str]]) -> list[Line]:
    """One line; with several arms beside the reference a heading and a line for each."""
    if len(plan.arms) == 2:
        return [_line(name, d, words, told) for d, told in found]
    return [Line(words), *(_line(name, d, plan.arms[d.arm].name, told) for d, told in found)]


def _line(name: str, d: Difference, words: str, told: str = "") -> Line:
    if told or d.low == d.high == 0.0:  # an interval of no width would claim to know
        return Line(words, note=told.partition(" (")[0] or "the same in both arms")
    better = _more_is_better(name)
    good = None if d.low <= 0 <= d.high else (d.mean > 0) == better
    return Line(words, d.mean, d.low, d.high, _form(name), good)


def _both(lines: list[Line], unit: str, label: str) -> str:
    return both_widths(forest(lines, unit, WIDE, label), forest(lines, unit, NARROW, label))


def _interval(name: str, d: Difference) -> str:
    form = _form(name)
    text = f"{form.format(d.mean)} ({form.format(d.low)} to {form.format(d.high)})"
    unit = _unit(name)
    return f"{text} {unit}".strip() if math.isfinite(d.mean) else "–"


def _form(name: str) -> str:
    return "{:+.2f}" if name in ("below_54_pct", "lbgi", "hbgi", "gmi_pct") else "{:+.1f}"


def _words(name: str) -> str:
    return next(words for n, _, words, _ in OUTCOMES if n == name)


def _unit(name: str) -> str:
    unit = _scale(name)
    return "percentage points" if unit == "%" and name != "gmi_pct" else unit


def _scale(name: str) -> str:
    """The unit of the value itself, not of a difference."""
    return next(unit for n, unit, _, _ in OUTCOMES if n == name)


def _more_is_better(name: str) -> bool:
    return next(better for n, _, _, better in OUTCOMES if n == name)
