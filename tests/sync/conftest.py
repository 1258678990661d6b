"""One provisioned house per test, with a broker that ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sync.support import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house whose Mosquitto runs. Without Mosquitto this fails: it is never skipped."""
    made = House(tmp_path / "house")
    made.start()
    yield made
    made.stop()
