"""Stores for tests: fast folders, one key, samples that say where they come from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest

# Loading it here lets migrations run in this process; test_opening.py tests the hub's way, in processes that
# do not carry it.
import sqlite_utils  # noqa: F401

from core.messages import Sample
from edge.store.keys import Secret
from edge.store.store import FOLD_SAMPLES, Store

KEY = bytes(range(32))
HUB = "hub-1"
START_US = 1_767_225_600_000_000  # 2026-01-01


class FixedClock:
    """Stands still until a test moves it."""

    def __init__(self, now_us: int = START_US) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


def reading(number: int, kind: str = "cgm_mgdl", source: str = "cgm", **fields: object) -> Sample:
    """A reading whose every field follows from its number, so that an invented one shows."""
    values = {
        "time_us": START_US + number * 300_000_000,
        "value": float(80 + number * 37 % 200),
        "seq": number,
        **fields,
    }
    return Sample(kind=kind, source=source, **values)  # type: ignore[arg-type]


def open_store(path: Path, key: Secret = KEY, hub_id: str = HUB) -> Store:
    return Store.open(path, key, hub_id=hub_id, clock=FixedClock())


def append_in_folds(store: Store, samples: Iterable[Sample]) -> None:
    """As they come over the months: every segment holds a fold."""
    rest = iter(samples)
    while part := list(islice(rest, FOLD_SAMPLES)):
        store.append(part)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync costs nothing, when the machine has one: these tests do not cut the power."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="hometwin-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "replay.sqlite"


@pytest.fixture
def opened() -> Iterator[Callable[..., Store]]:
    """``opened(path)`` opens a store and closes it after the test."""
    stores: list[Store] = []

    def open_and_remember(path: Path, key: Secret = KEY, hub_id: str = HUB) -> Store:
        stores.append(open_store(path, key, hub_id))
        return stores[-1]

    yield open_and_remember
    for store in stores:
        store.close()
