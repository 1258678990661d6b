"""Runs a plan: people in chunks, chunks on Dask, each finished chunk on disk before the next is counted.

A run that was killed goes on where it stood. A chunk is taken up again only if it was made by the same plan,
code and versions (its key), so the result is the same to the bit as without the interruption.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from scipy.stats import norm

from cloud.trials.plan import OUTCOME_NAMES, Plan
from cloud.trials.provenance import Provenance
from cloud.trials.simulate import Job, Row, run_job
from core.errors import EnvironmentMissing, InputError
from core.messages import Prior

CHUNK: Final = 20  # people: about half a second's work, so that little is lost and the bar moves
AHEAD: Final = 3  # chunks per worker that wait: enough to keep it busy, few enough to stop quickly
PART: Final = ".part-"  # begins the name of a file that is not whole; eight characters follow
SCHEDULER_TIMEOUT: Final = "10s"
Z95: Final = 1.959963984540054

OnProgress = Callable[[int, int], None]  # people done, people wanted


class Chunk(msgspec.Struct, frozen=True):
    """A finished piece as it lies on disk."""

    key: str
    first: int
    count: int
    rows: list[Row]


class Outcome(msgspec.Struct, frozen=True):
    """All rows, by person and arm, and how the number of people came about."""

    rows: list[Row]
    people: int
    sizing: str
    resumed: int  # chunks that were there already


class Store:
    """The folder of finished chunks of one key."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder / "chunks", key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise unwritable(self.folder, err) from None
        self.taken_up = 0

    def load(self, first: int, count: int) -> list[Row] | None:
        """The chunk's rows; None when it is not there, half-written, or of another key."""
        try:
            chunk = msgspec.json.decode(self._path(first, count).read_bytes(), type=Chunk)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        if (chunk.key, chunk.first, chunk.count) != (self.key, first, count):
            return None
        self.taken_up += 1
        return chunk.rows

    def keep(self, first: int, count: int, rows: list[Row]) -> None:
        """Write whole or not at all."""
        write_atomically(self._path(first, count), msgspec.json.encode(Chunk(self.key, first, count, rows)))

    def _path(self, first: int, count: int) -> Path:
        return self.folder / f"{first:07d}-{count:03d}.json"


def write_atomically(path: Path, data: bytes) -> None:
    """The file is the old one or the new one at any moment, also after a power cut. InputError when the disk refuses."""
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=PART)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as err:
        _drop(part)
        raise unwritable(path, err) from None
    except BaseException:
        _drop(part)
        raise


def unwritable(path: Path, err: OSError) -> InputError:
    """What a person can mend: a full disk, a folder that is not theirs."""
    return InputError(
        f"cannot be written: {err.strerror or type(err).__name__}",
        where=str(path),
        mend="see to room and rights; the same command then goes on from here",
    )


def is_part(path: Path) -> bool:
    """A file that a killed run did not finish."""
    return path.name.startswith(PART) and len(path.name) == len(PART) + 8 and path.is_file()


def _drop(part: str | None) -> None:
    if part is not None:
        with suppress(OSError):
            os.unlink(part)


def run_trial(
    plan: Plan,
    prior: Prior | None,
    provenance: Provenance,
    folder: Path,
    workers: int = 1,
    scheduler: str = "",
    on_progress: OnProgress = lambda done, wanted: None,
) -> Outcome:
    """Simulate everybody. ``workers``: processes of a local Dask cluster, 1 without a cluster; ``scheduler``: the
    address of a running one. Results do not depend on either."""
    store = Store(folder, provenance.key)
    with _mapper(workers, scheduler) as compute:
        if plan.size.people is not None:
            people, words = plan.size.people, f"{plan.size.people} people, as the plan says"
            rows = _people(plan, prior, store, compute, 0, people, people, on_progress)
        else:
            pilot = plan.size.pilot
            rows = _people(plan, prior, store, compute, 0, pilot, pilot, on_progress)
            people, words = sample_size(plan, rows)
            people = max(people, pilot)
            rows += _people(plan, prior, store, compute, pilot, people, people, on_progress)
    rows.sort(key=lambda r: (r.person, r.arm))
    return Outcome(rows, people, words, store.taken_up)


def sample_size(plan: Plan, rows: list[Row]) -> tuple[int, str]:
    """People needed by the plan's precision or power, from the spread among the pilot's: (number, in words).

    The largest need over the arms that are compared. Normal approximation; a pilot of 100 knows the spread to
    about 7 %, so the reached width is reported beside the wanted one.
    """
    at = OUTCOME_NAMES.index(plan.primary)
    values = {(r.person, r.arm): r.values[at] for r in rows}
    size, k = plan.size, len(plan.arms)
    variance = 0.0
    for arm in range(1, k):
        if plan.design == "crossover":
            people = sorted({p for p, _ in values})
            variance = max(variance, float(np.var([values[p, arm] - values[p, 0] for p in people], ddof=1)))
        else:
            both = [np.var([v for (_, a), v in values.items() if a == which], ddof=1) for which in (0, arm)]
            variance = max(variance, k * float(both[0] + both[1]))  # an arm holds a k-th of the people
    if size.half_width is not None:
        wanted = Z95**2 * variance / size.half_width**2
        words = f"so that the 95 % interval of {plan.primary} is ± {size.half_width:g}"
    else:
        assert size.detect is not None
        wanted = (Z95 + float(norm.ppf(size.power))) ** 2 * variance / size.detect**2
        words = (
            f"so that a difference of {size.detect:g} in {plan.primary} is found with power {size.power:g}"
        )
    number = max(2 * k, math.ceil(wanted))
    if number > size.most:
        return size.most, f"{size.most} people, the most the plan allows; {number} would be needed {words}"
    return number, f"{number} people needed {words}, by the spread among the first {size.pilot}"


def chunk_size(plan: Plan) -> int:
    """People of a chunk: one where an adviser is asked, since that is some seconds' work for each."""
    return 1 if any(arm.is_advised for arm in plan.arms) else CHUNK


Compute = Callable[[Iterable[Job]], Iterator[tuple[Job, list[Row]]]]


def _people(
    plan: Plan,
    prior: Prior | None,
    store: Store,
    compute: Compute,
    start: int,
    end: int,
    wanted: int,
    on_progress: OnProgress,
) -> list[Row]:
    rows: list[Row] = []
    missing: list[Job] = []
    done = start
    size = chunk_size(plan)
    for first in range(start, end, size):
        count = min(size, end - first)
        found = store.load(first, count)
        if found is None:
            missing.append(Job(plan, prior, first, count))
        else:
            rows += found
            done += count
    on_progress(done, wanted)
    for job, made in compute(missing):
        store.keep(job.first, job.count, made)
        rows += made
        done += job.count
        on_progress(done, wanted)
    return rows


@contextmanager
def _mapper(workers: int, scheduler: str) -> Iterator[Compute]:
    """Something that runs jobs and gives their rows as they finish."""
    if workers < 1:
        raise InputError("must be at least 1", where="workers")
    if workers == 1 and not scheduler:
        yield lambda jobs: ((job, run_job(job)) for job in jobs)
        return
    with _client(workers, scheduler) as client:
        yield lambda jobs: _on_dask(client, jobs)


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    # Its notes would run into the progress bar: the command's own handler is on the root logger.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    # Workers sample their own stacks every 10 ms unless told not to: a tenth of a small machine.
    quiet = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.limit": "1h"}
    with dask.config.set(quiet):
        if scheduler:
            # Of a bare name Dask tries for a while, and then writes a traceback of its own.
            if not re.search(r"://|:\d{1,5}$", scheduler):
                raise InputError("must name host and port", where="--scheduler", mend="e.g. tcp://host:8786")
            try:
                with Client(scheduler, timeout=SCHEDULER_TIMEOUT, set_as_default=False) as client:
                    yield client
            except (OSError, ValueError):  # ValueError: no protocol of Dask's
                raise EnvironmentMissing(
                    "no Dask scheduler answers", where="--scheduler", mend="check its address"
                ) from None
            return
        with tempfile.TemporaryDirectory(prefix="hometwin-trial-") as scratch:
            with _children_ignore_interrupts():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    local_directory=scratch,
                    silence_logs=logging.ERROR,
                )
            with cluster, Client(cluster, set_as_default=False) as client:
                yield client


@contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole group; the workers end when this process closes them, without a word of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _on_dask(client: Any, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[Row]]]:
    """Rows of jobs in the order in which they finish; only a few jobs wait at a time."""
    from distributed import as_completed

    waiting = iter(jobs)
    running = as_completed(loop=client.loop)
    known: dict[str, Job] = {}

    def submit() -> bool:
        job = next(waiting, None)
        if job is None:
            return False
        future = client.submit(run_job, job, pure=False)
        known[future.key] = job
        running.add(future)
        return True

    slots = AHEAD * max(1, len(client.scheduler_info()["workers"]))
    for _ in range(slots):
        if not submit():
            break
    for future in running:
        job = known.pop(future.key)
        rows = future.result()
        future.release()
        submit()
        yield job, rows
