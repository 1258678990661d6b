"""The control socket: faults on demand, and answers to nonsense."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.control import Control
from firmware_sim.errors import SimError
from tests.firmware_sim.conftest import House


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for line in lines:
        writer.write(line + b"\n")
        async with asyncio.timeout(5):
            answers.append(json.loads(await reader.readline()))
    writer.close()
    return answers


async def test_commands_act_and_nonsense_is_answered(house: House) -> None:
    cgm, strap = await house.device("cgm"), await house.device("strap")
    path = house.folder / "control.sock"
    async with Control(path, {"cgm": cgm, "strap": strap}):
        answers = await ask(
            path,
            b'{"device":"cgm","do":"battery","pct":42}',
            b'{"device":"cgm","do":"status"}',
            b'{"do":"status"}',
            b'{"device":"pump","do":"drop"}',
            b'{"device":"strap","do":"bad_crc_next"}',
            b'{"device":"cgm","do":"battery","pct":"full"}',
            b'{"device":"cgm","do":"bad_crc_next","n":0}',
            b'{"device":"cgm","do":7}',
            b"[]",
            b"drop everything",
            b"[" * 50_000,
        )
        assert path.stat().st_mode & 0o077 == 0
    assert [answer["ok"] for answer in answers] == [True] * 3 + [False] * 8
    assert answers[1]["battery_pct"] == 42
    assert set(answers[2]) == {"ok", "cgm", "strap"}
    assert "cgm strap" in answers[3]["error"]
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_a_served_one_refused(house: House) -> None:
    path = house.folder / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with Control(path, {}):
        with pytest.raises(SimError, match="another process"):
            await Control(path, {}).__aenter__()
        assert (await ask(path, b'{"do":"status"}')) == [{"ok": True}]


async def test_a_place_that_cannot_hold_a_socket_is_one_clear_error(house: House) -> None:
    with pytest.raises(SimError, match="--control"):
        await Control(house.folder / "no" / "where.sock", {}).__aenter__()
