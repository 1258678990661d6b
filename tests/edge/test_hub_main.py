"""The hub's process as a whole, without a radio: a store that is damaged while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import HometwinError
from edge import hub_main
from edge.ble.supervisor import Supervisor
from edge.config import HubConfig, RadioConfig
from edge.control import ask_hub
from edge.keys_command import rotate
from edge.store.keys import create_key
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock, reading
from tests.sync.support import House


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    config = HubConfig(
        hub_id="home", radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"), base=str(tmp_path)
    )
    config.state.mkdir()
    key = create_key(tmp_path / "store.key")
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        store.append(reading(n) for n in range(600))
    return config


async def answer_when(
    config: HubConfig, request: dict[str, Any], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        with contextlib.suppress(HometwinError):
            answer = await asyncio.to_thread(ask_hub, config.control_socket, request)
            if holds(answer):
                return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain for {request}")


@pytest.mark.parametrize("key", ["as it was", "changed", "pulled out"])
async def test_a_segment_that_rots_while_the_hub_runs_is_repaired_without_a_hand(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch, key: str, tmp_path: Path
) -> None:
    stores: list[Store] = []
    house = House(tmp_path / "house", ["home"])  # its broker is away

    async def no_radio(_supervisor: Supervisor) -> None:
        await asyncio.Event().wait()

    def opened(*arguments: Any, **more: Any) -> Any:
        store, repair = open_or_repair(*arguments, **more)
        stores.append(store)
        return store, repair

    open_or_repair = hub_main.open_or_repair
    monkeypatch.setattr(hub_main, "open_or_repair", opened)
    monkeypatch.setattr(hub_main, "make_link", lambda config, clock: house.hub_link("home"))
    monkeypatch.setattr(Supervisor, "run", no_radio)
    monkeypatch.setattr("edge.damage.LEAST_LIFE_S", 0.2)
    status = {"do": "status"}
    hub = asyncio.create_task(hub_main.run_hub(config, FixedClock()))
    try:
        first = await answer_when(config, status, lambda s: True)
        assert (first["store"]["rows"], first["store"]["repair"]) == (600, None)
        assert first["store"]["cloud"] == {"asks": False, "came": 0}
        if key == "changed":
            await asyncio.to_thread(rotate, config, None)
        elif key == "pulled out":
            config.path(config.store.key_file).unlink()
        # As a card does it: behind the store's back.
        stores[0]._db.execute("UPDATE segments SET sealed = zeroblob(length(sealed)) WHERE number = 1")
        stores[0]._unpacked.clear()  # what was read before lies in memory for a while
        with pytest.raises(
            HometwinError, match=r"replay\.sqlite: .*record.* repairs it by itself within 1 min"
        ):
            await asyncio.to_thread(ask_hub, config.control_socket, {"do": "export.samples", "after": 300})
        # It still takes what comes, in the life that knows of the damage or in the next.
        meal = {"do": "log", "kind": "carbs_g", "value": 40.0}
        await answer_when(config, meal, lambda a: a["kind"] == "carbs_g")
        after = await answer_when(config, status, lambda s: s["store"]["repair"] is not None)
        assert after["store"]["rows"] == 601
        assert after["store"]["repair"]["damaged"] == {"segments": 1}
        assert after["store"]["repair"]["rows_lost"] == 512  # one fold of a batch
        assert "cgm" in after["store"]["refilling"]
        await answer_when(config, status, lambda s: s["store"]["cloud"]["asks"])
        page = await answer_when(config, {"do": "export.samples", "after": 300}, lambda a: True)
        assert page
        assert len(stores) == 2
    finally:
        hub.cancel()
        await asyncio.gather(hub, return_exceptions=True)
    with pytest.raises(HometwinError, match="closed"):
        stores[-1].read(0, 1)
