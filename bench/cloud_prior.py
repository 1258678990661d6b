"""The cloud prior: how fast it is fitted, whether it finds the truth, what it buys a new person, what privacy costs.

Drawn populations have a known mean and covariance. The virtual people are of another structure than the twin:
TRAIN of them send a contribution after DAYS days, the prior is fitted on these, and EVALUATE others live their
first DAYS days with it and without. What is believed of a contribution (cloud.population.MIN_SHARE) was decided on
contributors; ten of the newcomers (300–309) had been looked at once with an earlier fit that believed all, and was worse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.progress import track

from bench.report import Figure, Section, Table
from bench.truth import START_US, samples_of
from cloud.population import AGES, MODEL, NAMES, PUBLISHED_SD, prior_for, refit
from cloud.population_job import on_dask
from core import privacy
from core.messages import Contribution, Prior, Sample
from core.patient import Patient
from core.twin import Twin
from core.units import US_PER_DAY, US_PER_MIN
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

TRAIN: Final = tuple(range(200, 220))
EVALUATE: Final = tuple(range(300, 320))
DAYS: Final = 14
LONG_RUN_FROM_DAY: Final = 10  # days 11–14 are the long run
NEAR: Final = 1.05  # a day has reached the long run when it and all later ones lie within 5 %
EVERY_MIN: Final = 30
HORIZON_MIN: Final = 60
SIZES: Final = (10, 100, 1000)
PRIVACY_SIZES: Final = (100, 1000, 10_000)
ABSURD: Final = 0.05
EPSILONS: Final = (0.5, 1.0, 4.0)
DELTA: Final = 1e-6
SD: Final = np.asarray(PUBLISHED_SD)
N: Final = len(NAMES)


def drawn(count: int, seed: int, absurd: float = 0.0) -> tuple[list[Contribution], np.ndarray, np.ndarray]:
    """Contributions of people of a known population, its mean and its covariance."""
    rng = np.random.default_rng(seed)
    mean = 0.5 * SD * np.array([1.0, 0.6, -0.8, 0.5, -1.0])
    factor = np.diag(0.7 * SD) @ np.linalg.cholesky(0.3 * np.ones((N, N)) + 0.7 * np.eye(N))
    theta = mean + rng.standard_normal((count, N)) @ factor.T
    power = rng.uniform(1.0, 10.0, (count, N)) / SD**2
    seen = theta + rng.standard_normal((count, N)) / np.sqrt(power)
    wild = round(absurd * count)
    seen[:wild] = np.sign(rng.standard_normal((wild, 1)) + 0.5) * 2.5
    power[:wild] *= 10.0
    return [_contribution(p, p * y) for p, y in zip(power, seen, strict=True)], mean, factor @ factor.T


def _contribution(power: np.ndarray, vector: np.ndarray) -> Contribution:
    lower = tuple(np.diag(power)[np.tril_indices(N)].tolist())
    return Contribution(START_US, MODEL, 0, NAMES, lower, tuple(vector.tolist()))


def prior_of(contributions: Sequence[Contribution]) -> Prior:
    """The prior of a newcomer, as the cloud makes it."""
    given = {f"h{i}": c for i, c in enumerate(contributions)}
    corrections = {hub: c.correction for hub, c in given.items() if c.correction}
    return prior_for("new", AGES[0], refit(given, {}, START_US, corrections=corrections), START_US, 1)[0]


def moments(prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SDs of a prior."""
    variances = [prior.covariance[i * (i + 1) // 2 + i] for i in range(N)]
    return np.asarray(prior.mean), np.sqrt(variances)


def speed(count: int) -> tuple[tuple[str, ...], Figure, Figure]:
    """Seconds of a refit in memory and on Dask, and how far their results are apart."""
    contributions, _, _ = drawn(count, 1)
    given = {f"h{i}": c for i, c in enumerate(contributions)}
    seconds, fits = [], []
    for spread in (None, on_dask):
        began = time.perf_counter()
        fits.append(refit(given, {}, START_US, spread=spread, chunk=max(1, count // 4)))
        seconds.append(time.perf_counter() - began)
    whole = refit(given, {}, START_US, chunk=count)
    apart = 0.0
    for fitted in fits:
        for name in ("means", "covariance"):
            ours, wanted = (np.frombuffer(f.arrays[name], "<f8") for f in (fitted, whole))
            apart = max(apart, float(np.max(np.abs(ours - wanted))))
    row = (f"{count:,} people", f"{seconds[0]:.1f}", f"{seconds[1]:.1f}", str(fits[0].passes), f"{apart:.1e}")
    return (
        row,
        Figure(f"refit of {count:,} people, s", "≤ 10", f"{seconds[0]:.1f}", reached=seconds[0] <= 10),
        Figure("chunks on Dask = in memory", "≤ 1e-9", f"{apart:.1e}", reached=apart <= 1e-9),
    )


def recovery(sizes: Sequence[int]) -> tuple[list[tuple[str, ...]], list[Figure]]:
    """Error of mean and spread, coverage of newcomers, by the number of people; and with absurd ones."""
    rows, figures = [], []
    for absurd in (0.0, ABSURD):
        for size in sizes:
            repeats = 5 if size < 1000 else 2
            errors, ratios, inside = [], [], []
            for seed in range(repeats):
                contributions, mean, covariance = drawn(size, 10 + seed, absurd)
                found, sd = moments(prior_of(contributions))
                errors.append(np.sqrt(np.mean(((found - mean) / SD) ** 2)))
                ratios.append(np.mean(sd / np.sqrt(np.diag(covariance))))
                rng = np.random.default_rng(1000 + seed)
                new = mean + rng.standard_normal((2000, N)) @ np.linalg.cholesky(covariance).T
                inside.append(np.mean(np.abs(new - found) <= 1.6449 * sd))
            label = f"{size:,} people" + (f", {100 * absurd:.0f} % absurd" if absurd else "")
            cells = (np.mean(errors), np.mean(ratios), np.mean(inside))
            rows.append((label, *(f"{v:.3f}" for v in cells)))
            if size == 1000:
                name = "1,000 people" + (", 5 % of them absurd" if absurd else "")
                figures.append(
                    Figure(
                        f"{name}: error of the mean, published SDs",
                        "≤ 0.1",
                        f"{cells[0]:.3f}",
                        reached=cells[0] <= 0.1,
                    )
                )
                good = 0.87 <= cells[2] <= 0.93
                figures.append(
                    Figure(f"{name}: 90 % of newcomers covered", "0.87–0.93", f"{cells[2]:.3f}", reached=good)
                )
    return rows, figures


def life(seed: int, days: float) -> tuple[VirtualPerson, list[Sample]]:
    """One virtual person's record."""
    person = VirtualPerson(seed, sensor=AVERAGE_NOISE)
    return person, samples_of(person.events(START_US, days))


def given_by(seed: int, days: int) -> Contribution:
    """What a virtual person's hub sends after its first days."""
    person, samples = life(seed, days)
    twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg))
    twin.observe(samples)
    return twin.contribution(START_US + days * US_PER_DAY)


def first_days(samples: Sequence[Sample], weight_kg: float, prior: Prior | None, days: int) -> np.ndarray:
    """[time in days, error of the 60-min forecast, width of its 90 % band, inside, ln s, SD of ln s] by time."""
    twin = Twin(Patient(timezone="UTC", weight_kg=weight_kg), prior=prior)
    shown = {s.time_us: s.value for s in samples if s.kind == "cgm_mgdl"}
    rows, position = [], 0
    for t_us in range(START_US + 60 * US_PER_MIN, START_US + days * US_PER_DAY, EVERY_MIN * US_PER_MIN):
        upto = position
        while upto < len(samples) and samples[upto].time_us <= t_us:
            upto += 1
        twin.observe(samples[position:upto])
        position = upto
        came = shown.get(t_us + HORIZON_MIN * US_PER_MIN)
        if came is None:
            continue
        forecast = twin.forecast(t_us, (float(HORIZON_MIN),)).forecast
        low, high = forecast.p05[0], forecast.p95[0]
        estimate = twin.estimate(t_us)
        rows.append(
            (
                (t_us - START_US) / US_PER_DAY,
                forecast.mean[0] - came,
                high - low,
                float(low <= came <= high),
                estimate.mean[0],
                math.sqrt(estimate.covariance[0]),
            )
        )
    return np.array(rows)


def by_day(people: Sequence[np.ndarray], days: int) -> dict[str, np.ndarray]:
    """Per day: RMSE and mean width over people, coverage, and how far ln s still is from its long run."""
    out: dict[str, list[float]] = {"rmse": [], "width": [], "cover": [], "ln s off": []}
    ends = [
        p[p[:, 0] >= LONG_RUN_FROM_DAY, 4].mean() if days > LONG_RUN_FROM_DAY else p[-1, 4] for p in people
    ]
    for day in range(days):
        parts = [p[(p[:, 0] >= day) & (p[:, 0] < day + 1)] for p in people]
        out["rmse"].append(float(np.mean([np.sqrt(np.mean(p[:, 1] ** 2)) for p in parts])))
        out["width"].append(float(np.mean([p[:, 2].mean() for p in parts])))
        out["cover"].append(float(np.mean([p[:, 3].mean() for p in parts])))
        offs = [p[:, 4].mean() - end for p, end in zip(parts, ends, strict=True)]
        out["ln s off"].append(float(np.sqrt(np.mean(np.square(offs)))))
    return {name: np.array(values) for name, values in out.items()}


def days_until(values: np.ndarray, long_run: float) -> int:
    """Whole days before this day and the mean of all later ones up to the long run lie within NEAR of it."""
    for day in range(values.size):
        if values[day] <= NEAR * long_run and values[day:].mean() <= NEAR * long_run:
            return day
    return values.size


def newcomers(
    train: Sequence[int], evaluate: Sequence[int], days: int
) -> tuple[list[Table], list[Figure], list[Contribution]]:
    """What the prior buys the people it never saw."""
    contributions = [given_by(seed, days) for seed in track(train, description="people who contribute")]
    prior = prior_of(contributions)
    with_prior, without = [], []
    for seed in track(evaluate, description="newcomers"):
        person, samples = life(seed, days + 0.1)
        without.append(first_days(samples, person.weight_kg, None, days))
        with_prior.append(first_days(samples, person.weight_kg, prior, days))
    a, b = by_day(without, days), by_day(with_prior, days)
    tail = slice(min(LONG_RUN_FROM_DAY, days - 1), None)
    figures = []
    for name, what in (("rmse", "60-min RMSE"), ("width", "width of the 90 % band")):
        long_run = float(
            a[name][tail].mean()
        )  # one yardstick for both: what the twin reaches without a prior
        before, after = days_until(a[name], long_run), days_until(b[name], long_run)
        figures.append(
            Figure(
                f"newcomers: days until the {what} is at its long-run value",
                f"≤ {before / 2:g} (half of {before})",
                str(after),
                f"{before} (no cloud prior)",
                after <= before / 2,
            )
        )
    gain = 1 - b["rmse"][:3].mean() / a["rmse"][:3].mean()
    figures.append(
        Figure(
            "newcomers: 60-min RMSE of the first three days",
            "below without",
            f"{-100 * gain:+.1f} %",
            reached=gain > 0,
        )
    )
    closer = b["ln s off"][:3].mean() / a["ln s off"][:3].mean()
    figures.append(
        Figure(
            "newcomers: ln s of the first three days, distance to its long run",
            "–",
            f"× {closer:.2f}",
            "1 (no cloud prior)",
        )
    )
    rows = [
        (f"{label}, {name}", *(f"{v:.{digits}f}" for v in found[name]))
        for name, digits in (("rmse", 1), ("width", 0), ("cover", 2), ("ln s off", 2))
        for label, found in (("no cloud prior", a), ("cloud prior", b))
    ]
    mean, sd = moments(prior)
    told = tuple(
        (name, f"{m:+.2f} ± {s:.2f}", f"+0.00 ± {p:.2f}")
        for name, m, s, p in zip(NAMES, mean, sd, PUBLISHED_SD, strict=True)
    )
    tables = [
        Table(
            "A newcomer's days (mean over people): 60-min forecasts in mg/dL, and ln s",
            ("day", *(str(d + 1) for d in range(days))),
            tuple(rows),
        ),
        Table(f"The prior that {len(train)} people gave", ("log-parameter", "mean ± SD", "published"), told),
    ]
    return tables, figures, contributions


def privacy_loss(sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """Error of the population's mean when every hub adds noise, beside none."""
    rows = []
    for size in sizes:
        contributions, mean, _ = drawn(size, 77)
        cells = []
        for epsilon in (None, *EPSILONS):
            rng = np.random.default_rng(5)
            sent = contributions
            if epsilon is not None:
                sent = [privacy.blur(c, SD, epsilon, DELTA, rng) for c in contributions]
            found, sd = moments(prior_of(sent))
            cells.append(f"{np.sqrt(np.mean(((found - mean) / SD) ** 2)):.2f} · {np.mean(sd / SD):.2f}")
        rows.append((f"{size:,} people", *cells))
    return rows


def run(quick: bool = False) -> Section:
    """The section. ``quick``: few people, few days."""
    sizes = SIZES[:2] if quick else SIZES
    row, *fast = speed(200 if quick else 10_000)
    found, figures = recovery(sizes)
    train, evaluate, days = (TRAIN[:2], EVALUATE[:1], 4) if quick else (TRAIN, EVALUATE, DAYS)
    tables, bought, _ = newcomers(train, evaluate, days)
    tables = [
        Table("A refit, seconds", ("", "in memory", "Dask, 4 chunks", "passes", "apart"), (row,)),
        Table(
            "A known population found again (published SDs; spread and 90 % coverage of newcomers)",
            ("", "error of the mean", "SD found / true", "covered"),
            tuple(found),
        ),
        *tables,
        Table(
            f"Privacy: error of the mean · SD of the prior, in published SDs, one release, δ = {DELTA:g}",
            ("", "no noise", *(f"ε = {e:g}" for e in EPSILONS)),
            tuple(privacy_loss(sizes if quick else PRIVACY_SIZES)),
        ),
    ]
    notes = (
        f"seeds: contributors {train[0]}–{train[-1]}, newcomers {evaluate[0]}–{evaluate[-1]}, {days} days each; weight given and nothing else",
        f"reached: a day, and the mean of it and all later ones, within {100 * (NEAR - 1):.0f} % of days {LONG_RUN_FROM_DAY + 1}–{DAYS} without a prior",
        "the prior holds the five parameters and where the correction of the forecasts begins (core/correction_pool.py)",
        "simulation is not clinical evidence",
    )
    return Section(
        "cloud_prior", "the population prior from the cloud", tuple(tables), notes, (*fast, *figures, *bought)
    )
