"""Connections that ask nothing must not keep out those that do: a real server with small limits, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from cloud.portal.connections import BACKLOG, BoundedProtocol, Limits
from cloud.portal.guard import COOKIE, Guard, Sessions
from cloud.portal.server import _Server

HEADER_S, PER_CLIENT, IN_TOTAL = 0.5, 6, 10
HALF = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
HALF_BODY = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 400\r\n\r\nname="
REFUSED_EARLY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nx"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says ok, and repeats what it hears on a live socket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Portal:
    """A guarded server on a port of its own."""

    def __init__(self, limits: Limits) -> None:
        self.sessions = Sessions()
        self.crowd = ExitStack()
        self._listener = socket.create_server(("127.0.0.1", 0))  # the server closes it
        self.address = self._listener.getsockname()
        protocol = functools.partial(BoundedProtocol, limits=limits)
        self._server = _Server(
            uvicorn.Config(
                Guard(app, self.sessions),
                http=protocol,  # type: ignore[arg-type]
                backlog=BACKLOG,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    async def start(self) -> None:
        await self._server.serve([self._listener])

    def stop(self) -> None:
        self._server.should_exit = True
        self.crowd.close()

    async def dial(self, say: bytes, source: str = "127.0.0.1") -> socket.socket:
        one = self.crowd.enter_context(socket.socket())
        one.setblocking(False)
        one.bind((source, 0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, self.address)
        await loop.sock_sendall(one, say)
        return one

    async def is_healthy(self) -> bool:
        return (await read(await self.dial(HEALTH))).startswith(b"HTTP/1.1 200")


async def read(one: socket.socket) -> bytes:
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(one, 4096)


async def until_closed(one: socket.socket) -> None:
    """With or without a last word."""
    with contextlib.suppress(ConnectionError):
        while await read(one):
            pass


def is_open(one: socket.socket) -> bool:
    try:
        return one.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@contextlib.asynccontextmanager
async def running(limits: Limits) -> AsyncIterator[Portal]:
    portal = Portal(limits)
    task = asyncio.create_task(portal.start())
    try:
        yield portal
    finally:
        portal.stop()
        await asyncio.wait_for(task, 10)


SLOW = Limits(header_s=60.0, per_client=PER_CLIENT, in_total=IN_TOTAL)
QUICK = SLOW._replace(header_s=HEADER_S)


@pytest.mark.parametrize("say", [b"", HALF, HALF_BODY])
async def test_half_requests_of_one_client_make_room_for_whole_ones(say: bytes) -> None:
    async with running(SLOW) as portal:
        held = []
        for _ in range(5):
            held += [await portal.dial(say) for _ in range(PER_CLIENT)]
            assert await portal.is_healthy()
        assert sum(map(is_open, held)) < PER_CLIENT


async def test_half_requests_of_many_clients_make_room_too() -> None:
    async with running(SLOW) as portal:
        held = [await portal.dial(HALF, f"127.0.1.{n}") for n in range(1, 3 * IN_TOTAL)]
        assert await portal.is_healthy()
        assert sum(map(is_open, held)) < IN_TOTAL


@pytest.mark.parametrize("say", [b"", HALF, REFUSED_EARLY, HEALTH + b"\r\n", REFUSED_EARLY + b"xyz"])
async def test_a_request_that_does_not_come_to_its_end_is_closed(say: bytes) -> None:
    async with running(QUICK) as portal:
        await until_closed(await portal.dial(say))


async def test_a_live_socket_stays_and_makes_no_room() -> None:
    async with running(QUICK._replace(per_client=2)) as portal:
        cookie = f"{COOKIE}={portal.sessions.start('clinician')}"
        host, port = portal.address
        async with connect(f"ws://{host}:{port}/live", additional_headers={"Cookie": cookie}) as live:
            held = [await portal.dial(HALF) for _ in range(5)]
            await until_closed(held[-1])  # longer than any half request may last
            await live.send("still here?")
            async with asyncio.timeout(10):
                assert await live.recv() == "still here?"


async def test_who_is_there_with_whole_requests_is_not_thrown_out_and_others_are_told() -> None:
    async with running(SLOW._replace(in_total=2)) as portal:
        cookie = f"{COOKIE}={portal.sessions.start('clinician')}"
        host, port = portal.address
        lives = [
            await connect(f"ws://{host}:{port}/live", additional_headers={"Cookie": cookie}) for _ in range(2)
        ]
        assert (await read(await portal.dial(HEALTH))).startswith(b"HTTP/1.1 503")
        for live in lives:
            await live.send("a")
            async with asyncio.timeout(10):
                assert await live.recv() == "a"
            await live.close()
        assert await portal.is_healthy()


async def test_behind_a_trusted_proxy_only_the_total_counts() -> None:
    async with running(SLOW._replace(per_client=2, exempt="127.0.0.1")) as portal:
        held = [await portal.dial(HALF) for _ in range(IN_TOTAL - 1)]
        assert await portal.is_healthy()
        assert all(map(is_open, held))
