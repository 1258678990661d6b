"""Folders for the fault tests: the store's own fixtures, and one for what a module prepares once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.store.conftest import folder, path  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """A folder for a whole module, in memory where there is one: no power is cut there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="hometwin-test-") as name:
        yield Path(name)
