"""Forecasts of real people's CGM, causally, beside persistence, ridge regression and gradient boosting.

The protocol is in bench/real.py. RMSE is averaged over people; the margin is against the peer that is best at
that horizon, with an interval over resampled people. Coverage is split by glucose at the time of the forecast,
which a calibrated band must satisfy, and by what came, which no forecast can promise (whoever looks only at
lows looks at the forecasts that were too high); both are shown and judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bench.real import BARE, BLIND, HORIZONS_MIN, SHIPPED, TWIN, Person, bootstrap, measured
from bench.recordings import DAY_MIN, US_PER_MIN
from bench.report import Figure, Section, Table

RANGES: Final = (("low <70", 0.0, 70.0), ("target 70–180", 70.0, 180.0), ("high >180", 180.0, 1e9))
MARGINS: Final = {30: 3.0, 60: 3.0, 120: 2.0}  # percent below the best peer
COVERAGE: Final = (0.87, 0.93)
PEERS: Final = ("ridge", "ridge, pooled", "boosting", "boosting, pooled")
MONTH_MIN: Final = 30 * DAY_MIN
MIN_MONTH: Final = 300  # forecasts of one person in one month for it to count
MIN_PEOPLE: Final = 2  # for a month to be judged
MIN_RANGE: Final = 30  # targets of one person in one range for it to count


def best_peer(each: dict[str, np.ndarray], k: int) -> str:
    """The peer with the least mean RMSE at horizon ``k``; each: float64[n_people, n_horizons] by method."""
    return min(PEERS, key=lambda name: float(each[name][:, k].mean()))


def coverage(person: Person, where: np.ndarray) -> np.ndarray:
    """Share of targets inside the 90 % band per horizon. ``where``: bool[n_times, n_horizons]."""
    f = person.methods[TWIN]
    inside = (person.target >= f.low) & (person.target <= f.high)
    counted = ~np.isnan(person.target) & where
    n = counted.sum(axis=0)
    return np.where(n >= MIN_RANGE, (inside & counted).sum(axis=0) / np.maximum(n, 1), np.nan)


def in_range(person: Person, low: float, high: float, by: str) -> np.ndarray:
    """Where glucose ``now`` or the ``target`` lies in [low, high)."""
    value = np.repeat(person.now[:, None], len(HORIZONS_MIN), axis=1) if by == "now" else person.target
    with np.errstate(invalid="ignore"):
        return np.asarray((value >= low) & (value < high))


def by_month(people: Sequence[Person]) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Rows per 30 days of the person's record (of which the first half is not scored), and the shares."""
    found: dict[int, list[np.ndarray]] = {}
    for p in people:
        age = ((p.times - p.who.cgm_min[0]) // MONTH_MIN).astype(int)
        for month in np.unique(age):
            where = age == month
            if where.sum() >= MIN_MONTH:
                mask = np.repeat(where[:, None], len(HORIZONS_MIN), axis=1)
                found.setdefault(int(month), []).append(coverage(p, mask))
    rows = []
    shares = []
    for month in sorted(found):
        mean = average(found[month])
        if len(found[month]) >= MIN_PEOPLE:
            shares.append(mean)
        rows.append((f"month {month + 1}", *cells(mean, 2), str(len(found[month]))))
    return tuple(rows), np.array(shares)


def cells(values: np.ndarray, digits: int = 1) -> tuple[str, ...]:
    """Numbers as text."""
    return tuple("–" if np.isnan(v) else f"{v:.{digits}f}" for v in values)


def span(values: np.ndarray) -> str:
    """Smallest to greatest, NaN left out."""
    known = values[~np.isnan(values)]
    return f"{known.min():.2f}–{known.max():.2f}" if known.size else "–"


def average(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over people, of those who have a figure; NaN when nobody has."""
    stacked = np.array(parts)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def within(values: np.ndarray) -> bool:
    """Whether all (NaN left out) lie in the wanted coverage, at two digits."""
    known = np.round(values[~np.isnan(values)], 2)
    return bool(np.all((known >= COVERAGE[0]) & (known <= COVERAGE[1])))


def run(quick: bool = False) -> Section:
    """The section. ``quick``: two people."""
    people = measured(quick)
    names = list(people[0].methods)
    each = {name: np.array([p.rmse(name) for p in people]) for name in names}
    means = {name: values.mean(axis=0) for name, values in each.items()}
    columns = tuple(f"{h} min" for h in HORIZONS_MIN)
    figures, margins = [], []
    for k, horizon in enumerate(HORIZONS_MIN):
        best = best_peer(each, k)
        ours, theirs = each[TWIN][:, k], each[best][:, k]
        gain, low, high = bootstrap(ours, theirs)
        won = int((ours < theirs).sum())
        margins.append(
            (columns[k], f"{gain:+.1f} %", f"{low:+.1f} to {high:+.1f} %", best, f"{won} of {len(people)}")
        )
        wanted = MARGINS.get(horizon)
        figures.append(
            Figure(
                f"real people, RMSE {horizon} min, mg/dL",
                "–" if wanted is None else f"≥ {wanted:g} % below",
                f"{ours.mean():.1f} ({gain:+.1f} %)",
                f"{theirs.mean():.1f} ({best})",
                None if wanted is None else gain >= wanted,
            )
        )
    everywhere = [coverage(p, np.ones_like(p.target, dtype=bool)) for p in people]
    covered = average(everywhere)
    aim = f"{COVERAGE[0]}–{COVERAGE[1]}"
    figures.append(Figure("90 % band covers, five horizons", aim, span(covered), reached=within(covered)))
    ranges = [("all", *cells(covered, 2), span(np.array(everywhere)))]
    for by in ("now", "target"):
        shares = []
        for label, low, high in RANGES:
            parts = np.array([coverage(p, in_range(p, low, high, by)) for p in people])
            shares.append(average(list(parts)))
            ranges.append((f"{label} ({by})", *cells(shares[-1], 2), span(parts)))
        what = "glucose at the time" if by == "now" else "what came"
        table = np.array(shares)
        figures.append(Figure(f"… in each range of {what}", aim, span(table), reached=within(table)))
    months, shares_by_month = by_month(people)
    figures.append(
        Figure(
            f"… in each month with ≥ {MIN_PEOPLE} people",
            aim,
            span(shares_by_month),
            reached=within(shares_by_month),
        )
    )
    tables = (
        Table(
            "RMSE mg/dL, mean over people",
            ("method", *columns),
            tuple((name, *cells(each[name].mean(axis=0))) for name in names),
        ),
        Table(
            "Gain of the twin over the best peer of each horizon (5–95 %: resampled people)",
            ("horizon", "gain", "5–95 %", "best peer", "people better"),
            tuple(margins),
        ),
        Table(
            "Gain of the twin over each peer, %",
            ("peer", *columns),
            tuple(
                (name, *(f"{100 * (1 - a / b):+.1f}" for a, b in zip(means[TWIN], means[name], strict=True)))
                for name in names
                if not name.startswith(TWIN) or name == BLIND
            ),
        ),
        Table(
            "Twin by person: RMSE (best of the four peers for this person) · 90 % coverage",
            ("person", *columns, "cover 30", "cover 120", "cover 360", "days replayed/s"),
            tuple(_person_row(p) for p in people),
        ),
        Table(
            "90 % band of the twin covers (mean over people; last column: least to greatest person)",
            ("glucose", *columns, "people"),
            tuple(ranges),
        ),
        Table("Coverage by 30-day month of the record", ("", *columns, "people"), months),
    )
    scored = sum(len(p.times) for p in people)
    notes = (
        f"{len(people)} people, {sum(len(p.who.score_days) for p in people)} scored days, {scored} forecasts; "
        "data: T1D-UOM (CC BY 4.0), read from HOMETWIN_DATA",
        f"out of sample: “{TWIN}” has its correction's prior from the first halves of the other people only; "
        f"“{SHIPPED}” saw this person's own first half too, as “ridge” and “boosting” did",
        "partly in sample: the filter's few global hyperparameters and the correction's features were found on "
        "first halves of these same people; no second half was used by this bench to choose anything but the "
        "best peer, which is the best in hindsight",
        f"“{BARE}”: no correction; “{BLIND}”: no bolus, basal, long-acting insulin or carbohydrate, own prior",
        "peers: penalty of ridge and settings of the trees by cross-validation over contiguous parts of the "
        "first half; features as in bench/peers.py",
    )
    return Section("forecast", "forecasts of real people", tables, notes, tuple(figures))


def _person_row(p: Person) -> tuple[str, ...]:
    ours = p.rmse(TWIN)
    best = np.min([p.rmse(name) for name in PEERS], axis=0)
    covered = coverage(p, np.ones_like(p.target, dtype=bool))
    span_days = (p.times[-1] * US_PER_MIN - p.who.samples[0].time_us) / (1440 * US_PER_MIN)
    return (
        p.who.name,
        *(f"{a:.1f} ({b:.1f})" for a, b in zip(ours, best, strict=True)),
        *cells(covered[[0, 2, 4]], 2),
        f"{span_days / max(p.methods[TWIN].seconds, 1e-9):.0f}",
    )
