"""The hub's link and its outbox: calls that the end of a connection cuts in two."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.sync.support import House, batch, running, wait_until
from tests.sync.test_links import Ends


@pytest.mark.parametrize("held_call", ["pending", "done"])
async def test_a_connection_that_ends_in_the_middle_of_an_outbox_call_strands_no_message(
    house: House, held_call: str
) -> None:
    ends = Ends(house)
    holding, let_go = asyncio.Event(), asyncio.Event()
    calls: Counter[str] = Counter()

    async def in_thread(call, *args):
        calls[call.__name__] += 1
        if call.__name__ == held_call and calls[held_call] == 2:
            holding.set()
            await let_go.wait()
        return await asyncio.to_thread(call, *args)

    ends.hub_link.bind(outbox=ends.outbox, on_down=ends._on_down, in_thread=in_thread)
    for seq in range(100):
        ends.outbox.enqueue(batch(seq))
    async with running(ends.cloud_link):
        async with running(ends.hub_link):
            await wait_until(holding.is_set, "in the middle")
        async with running(ends.hub_link):
            await wait_until(lambda: ends.hub_link.connected, "connected again")
            let_go.set()
            await wait_until(lambda: not ends.outbox.waiting, "drained")
    assert ends.cloud.order == [("hub-1", number) for number in range(1, 101)]
