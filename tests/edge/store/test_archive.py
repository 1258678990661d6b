"""What is kept with a budget: the newest, whole, across restarts and changes of keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from tests.edge.store.conftest import open_store


def test_the_oldest_goes_when_the_budget_is_full_and_areas_are_apart(path: Path) -> None:
    with open_store(path) as store:
        for n in range(10):
            store.archive.keep("replay", bytes([n]) * 100, 350)
        store.archive.keep("posterior", b"mine", 350)
        assert [item.data[0] for item in store.archive.read("replay", 0, 99)] == [7, 8, 9]
        assert store.archive.sizes() == {"replay": 300, "posterior": 4}
        with pytest.raises(InputError, match="budget"):
            store.archive.keep("replay", bytes(400), 350)
    with open_store(path) as store:
        assert [item.data[0] for item in store.archive.read("replay", 0, 99)] == [7, 8, 9]
        numbers = [item.number for item in store.archive.read("replay", 0, 99)]
        assert [i.number for i in store.archive.read("replay", numbers[0], 1)] == numbers[1:2]
        assert store.archive.keep("replay", bytes(350), 350) > numbers[-1]
        assert len(store.archive.read("replay", 0, 99)) == 1
        store.keys.rotate_data()
        while store.keys.reseal():
            pass
        assert store.archive.read("posterior", 0, 9)[0].data == b"mine"
        assert store.check().ok
        assert store.archive.read("nothing", 0, 9) == []
