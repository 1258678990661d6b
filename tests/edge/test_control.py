"""The control socket: one JSON line in, one out; only the owner may open it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import EnvironmentMissing, InputError
from edge.control import ask_hub, serve_control


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("do") == "fail":
        raise InputError("no such thing", mend="ask otherwise")
    return {"heard": request}


async def test_a_request_is_answered_and_the_socket_is_private(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    server = await serve_control(path, echo)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        answer = await asyncio.to_thread(ask_hub, path, {"do": "status"})
        assert answer == {"heard": {"do": "status"}}
        with pytest.raises(InputError, match="no such thing"):
            await asyncio.to_thread(ask_hub, path, {"do": "fail"})
    finally:
        server.close()


async def test_garbage_is_answered_with_an_error_and_the_next_request_still_works(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    server = await serve_control(path, echo)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
        long_number = b'{"do": ' + b"9" * 5000 + b"}\n"
        for garbage in (b"\xff\xfe\n", b"[1]\n", b"{\n", b"[" * 30000 + b"\n", long_number):
            writer.write(garbage)
            answer = json.loads(await asyncio.wait_for(reader.readline(), 5))
            assert answer["ok"] is False
            assert "one JSON object per line" in answer["error"]
            assert answer["exit_code"] == 2
        writer.write(b'{"do": "status"}\n')
        assert json.loads(await asyncio.wait_for(reader.readline(), 5))["ok"] is True
        writer.close()
    finally:
        server.close()


async def test_a_second_hub_is_told_that_the_socket_is_served(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    server = await serve_control(path, echo)
    try:
        with pytest.raises(EnvironmentMissing, match="another process"):
            await serve_control(path, echo)
    finally:
        server.close()


async def test_a_socket_left_by_a_killed_hub_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    server = await serve_control(path, echo)
    server.close()


def test_no_hub_gives_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match="start it: hometwin hub"):
        ask_hub(tmp_path / "absent.sock", {"do": "status"})
