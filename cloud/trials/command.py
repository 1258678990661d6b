"""``hometwin trial``: read the plan, run it with a bar, write table, figures and report."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloud.trials.analyse import analyse
from cloud.trials.plan import (
    OUTCOME_NAMES,
    OUTCOMES,
    Plan,
    PopulationPlan,
    read_plan,
    read_small,
    reference_words,
)
from cloud.trials.provenance import gather, result_digest
from cloud.trials.report import advised_words, domain_words, nobody_words, report_html
from cloud.trials.run import PART, OnProgress, Outcome, is_part, run_trial, unwritable, write_atomically
from cloud.trials.simulate import BASELINE_NAMES
from core.errors import ConfigError, InputError
from core.messages import Prior


def trial(plan_file: Path, out: Path, workers: int = 0, scheduler: str = "") -> list[str]:
    """Run a trial into a folder; returns lines for the terminal. ``workers`` 0: one per core.

    A stopped or killed run goes on when the same command is given again. ConfigError or InputError for what
    cannot be used, before anything is simulated.
    """
    started = time.monotonic()
    plan, plan_bytes = read_plan(plan_file)
    prior = read_prior(plan.population, plan_file.parent)
    origin = gather(plan, plan_bytes, prior)
    with _locked(out):
        _claim(out, origin.key)
        try:
            with _bar(plan.name) as on_progress:
                outcome = run_trial(
                    plan, prior, origin, out, workers or len(os.sched_getaffinity(0)), scheduler, on_progress
                )
        except KeyboardInterrupt:
            sys.stderr.write("hometwin: stopped; the same command goes on from here\n")
            raise
        analysis = analyse(plan, outcome.rows)
        digest = result_digest(outcome.rows)
        summary = {
            "plan": plan,
            "sizing": outcome.sizing,
            "people": outcome.people,
            "analysis": analysis,
            "provenance": origin,
            "result_sha256": digest,
        }
        write_atomically(out / "results.csv", table_csv(plan, outcome).encode())
        write_atomically(out / "trial.toml", plan_bytes)
        if prior is not None:  # the cloud's moves on; this is the one these people were drawn from
            write_atomically(out / "prior.json", msgspec.json.encode(prior))
        write_atomically(out / "summary.json", msgspec.json.format(msgspec.json.encode(summary), indent=1))
        write_atomically(out / "report.html", report_html(plan, outcome, analysis, origin, digest).encode())
    took_s = time.monotonic() - started
    lines = [f"{outcome.sizing}; {len(plan.arms)} arms × {plan.days} days in {took_s:.1f} s"]
    if outcome.resumed:
        lines.append(f"{outcome.resumed} chunks were there already and were taken up")
    lines.append(reference_words(plan))
    lines += domain_words(plan, analysis)  # before the figures: they are not to be relied on
    words = next(words for name, _, words, _ in OUTCOMES if name == plan.primary)
    lines += [
        f"{plan.arms[d.arm].name} against {plan.arms[0].name}: {words} "
        f"{nobody_words(plan, analysis, plan.primary, d) or f'{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})'}"
        for d in analysis.differences[plan.primary]
    ]
    lines += advised_words(plan, outcome.rows)
    return [*lines, f"result {digest[:16]}", f"see {out / 'report.html'}"]


def read_prior(population: PopulationPlan, folder: Path) -> Prior | None:
    """The prior that the plan names; None for the published table. Paths are taken from the plan's folder."""
    if population.kind == "virtual":
        return None
    path = folder / population.file
    if population.kind == "cloud":
        return _cloud_prior(path, population.stratum)
    text = read_small(path, "population.file")
    try:
        prior = msgspec.json.decode(text, type=Prior)
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:
        raise ConfigError(f"is not a population prior: {err}", where="population.file") from None
    return checked_prior(prior)


def checked_prior(prior: Prior) -> Prior:
    """Self when people can be drawn from it."""
    k = len(prior.names)
    if k == 0 or len(prior.mean) != k or len(prior.covariance) != k * (k + 1) // 2:
        raise ConfigError("has the wrong size", where="population.file")
    cov = np.zeros((k, k))
    cov[np.tril_indices(k)] = prior.covariance
    cov = cov + np.tril(cov, -1).T
    if not np.all(np.isfinite([*prior.mean, *prior.covariance])) or np.linalg.eigvalsh(cov)[0] <= 0:
        raise ConfigError("is not a distribution", where="population.file")
    return prior


def _cloud_prior(path: Path, stratum: str) -> Prior:
    """What the cloud twin's hubs make of the prior of a stratum, all of them together."""
    from cloud import queries
    from cloud.config import load_config
    from cloud.db import Database
    from cloud.population import prior_for
    from cloud.sealing import read_database_key

    config = load_config(path)
    db = Database.open(config.database_url, read_database_key(config.path(config.database.key_file)))
    try:
        with db.read() as session:
            contributions = queries.contributions(session)
    finally:
        db.close()
    # Not for sending: it has no version and never expires, so that a rerun sees the same bytes.
    prior, _ = prior_for("", stratum, contributions, 0, 1)
    return prior


def table_csv(plan: Plan, outcome: Outcome) -> str:
    """One line per person and arm, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    advised = any(arm.is_advised for arm in plan.arms)
    asked = ("asked", "refused") if advised else ()
    writer.writerow(("person", "arm", *OUTCOME_NAMES, *BASELINE_NAMES, *asked))
    for row in outcome.rows:
        counts = (row.asked, row.refused) if advised else ()
        writer.writerow((row.person, plan.arms[row.arm].name, *row.values, *row.baseline, *counts))
    return text.getvalue()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder, made when it is missing, for one run at a time. A file system that knows no locks is trusted."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out, os.O_RDONLY)
    except OSError as err:
        raise unwritable(out, err) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another run is at work there", where=str(out), mend="wait for it, or stop it"
            ) from None
        except OSError:  # no locks here
            pass
        yield
    finally:
        os.close(lock)


def _claim(out: Path, key: str) -> None:
    """The folder belongs to one trial: another plan, code or version must not be mixed in, nor overwrite it.

    What a killed run left half-written is removed.
    """
    marker = out / "key"
    try:
        ours = marker.is_file()
        if ours and marker.read_bytes().strip() != key.encode():
            raise InputError(
                "holds a trial of another plan, code or version",
                where=str(out),
                mend="give another --out folder, or remove it",
            )
        if not ours and not all(is_part(path) for path in out.iterdir()):
            raise InputError(
                "is not empty and holds no trial", where=str(out), mend="give another --out folder"
            )
        for part in filter(is_part, [*out.glob(f"{PART}*"), *out.glob(f"chunks/{PART}*")]):
            part.unlink()
    except OSError as err:
        raise unwritable(out, err) from None
    if not ours:
        write_atomically(marker, key.encode() + b"\n")


@contextmanager
def _bar(name: str) -> Iterator[OnProgress]:
    """A bar on a terminal; silence where nobody looks."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda done, wanted: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("people"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name[:40], total=None)
        yield lambda done, wanted: progress.update(task, completed=done, total=wanted)
