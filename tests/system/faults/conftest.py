"""Folders for the fault tests: the store's own fixtures, one for what a module prepares once, and their figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.store.conftest import folder, path  # noqa: F401 - fixtures
from tests.system.faults.ledger import Figures


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """A folder for a whole module, in memory where there is one: no power is cut there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="hometwin-test-") as name:
        yield Path(name)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """``figures("what was seen", cuts=3)`` prints it and hands it to ``python -m bench faults``."""

    def say(text: str, **counts: int) -> None:
        print(text)
        record_property("figures", text)
        for name, count in counts.items():
            record_property(name, count)

    return say
