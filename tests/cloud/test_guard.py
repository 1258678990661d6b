"""The guard and the login limit by themselves, with clocks that the test turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloud.portal import guard
from cloud.portal.guard import COOKIE, SESSION_S, Guard, Sessions
from cloud.portal.limits import CROWD_DELAY_S, MAX_CLIENTS, RateLimit, client_of


class Turned:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class Browser:
    """One socket through a guard to an application that says what it is told to."""

    def __init__(self, sessions: Sessions, token: str) -> None:
        self.to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.heard: list[dict[str, Any]] = []  # by the application
        self.seen: list[dict[str, Any]] = []  # by the browser
        self.say: Any = None
        self.until_open, self.until_heard = asyncio.Event(), asyncio.Event()
        self._guard = Guard(self._app, sessions)
        cookie = f"{COOKIE}={token}".encode()
        self._scope = {
            "type": "websocket", "path": "/_nicegui_ws/socket.io/", "headers": [(b"cookie", cookie)],
        }  # fmt: skip

    async def run(self) -> None:
        await self._guard(self._scope, self.to_app.get, self._send)

    async def _send(self, message: Any) -> None:
        self.seen.append(message)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.say = send
        await send({"type": "websocket.accept"})
        self.until_open.set()
        while True:
            message = await receive()
            self.heard.append(message)
            self.until_heard.set()
            if message["type"] == "websocket.disconnect":
                return


FAREWELL = [{"type": "websocket.send", "text": guard.FAREWELL}, {"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("ended_by", ["logout", "time"])
async def test_an_event_after_the_sessions_end_does_not_reach_the_application(ended_by: str) -> None:
    clock = Turned()
    sessions = Sessions(clock)
    token = sessions.start("clinician")
    browser = Browser(sessions, token)
    browser.to_app.put_nowait({"type": "websocket.receive", "text": "click"})
    task = asyncio.create_task(browser.run())
    await browser.until_heard.wait()
    if ended_by == "logout":
        sessions.end(token)
    else:
        clock.s = SESSION_S + 1
    browser.to_app.put_nowait({"type": "websocket.receive", "text": "show me 14 days"})
    await asyncio.wait_for(task, 5)
    assert [m["type"] for m in browser.heard] == ["websocket.receive", "websocket.disconnect"]
    assert browser.seen[1:] == FAREWELL
    await browser.say({"type": "websocket.send", "text": "health data"})
    assert browser.seen[1:] == FAREWELL


async def test_data_of_the_application_does_not_leave_after_the_sessions_end() -> None:
    sessions = Sessions(Turned())
    token = sessions.start("clinician")
    browser = Browser(sessions, token)
    task = asyncio.create_task(browser.run())
    await browser.until_open.wait()
    await browser.say({"type": "websocket.send", "text": "before"})
    sessions.end(token)
    for _ in range(3):
        await browser.say({"type": "websocket.send", "text": "health data"})
    assert browser.seen[1:] == [{"type": "websocket.send", "text": "before"}, *FAREWELL]
    browser.to_app.put_nowait({"type": "websocket.disconnect", "code": 1005})
    await asyncio.wait_for(task, 5)


async def test_a_poll_that_outlives_its_session_is_answered_without_data() -> None:
    sessions = Sessions(Turned())
    token = sessions.start("clinician")
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sessions.end(token)  # while the poll waits for news
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"health data"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/_nicegui_ws/socket.io/",
        "headers": [(b"cookie", f"{COOKIE}={token}".encode())],
    }  # fmt: skip
    await Guard(app, sessions)(scope, receive, send)
    assert seen[0]["status"] == 401
    assert b"health data" not in b"".join(m.get("body", b"") for m in seen)


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the application must not hear of it")

    async def receive() -> dict[str, Any]:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: Any) -> None:
        seen.append(message)

    scope = {"type": "http", "method": "POST", "path": "/login", "headers": []}
    await asyncio.wait_for(Guard(app, Sessions())(scope, receive, send), 5)
    assert seen[0]["status"] == 408


def test_a_client_has_five_tries_a_minute() -> None:
    clock = Turned()
    limit = RateLimit(now_s=clock)
    for _ in range(5):
        assert limit.wait_s("10.0.0.1") == 0
        limit.begin("10.0.0.1")
    assert limit.wait_s("10.0.0.1") == 60
    assert limit.wait_s("10.0.0.2") == 0
    clock.s = 61.0
    assert limit.wait_s("10.0.0.1") == 0


def test_many_failing_clients_slow_the_rest_by_a_second_and_lock_out_nobody() -> None:
    clock = Turned()
    limit = RateLimit(now_s=clock)
    for i in range(1000):
        limit.begin(f"10.0.{i // 250}.{i % 250}")
    assert limit.wait_s("192.168.0.1") == 0
    assert limit.delay_s == CROWD_DELAY_S
    clock.s = 61.0
    assert limit.delay_s == 0


def test_the_right_password_does_not_count() -> None:
    limit = RateLimit(now_s=Turned())
    for _ in range(100):
        limit.begin("10.0.0.1")
        limit.succeeded("10.0.0.1")
    assert (limit.wait_s("10.0.0.1"), limit.delay_s) == (0, 0)


def test_memory_of_clients_is_bounded() -> None:
    limit = RateLimit(now_s=Turned())
    for i in range(MAX_CLIENTS + 500):
        limit.begin(f"client {i}")
    assert len(limit._failures) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_a_network_of_one_household_is_one_client(one: str, other: str, same: bool) -> None:
    assert (client_of(one) == client_of(other)) is same


async def test_few_passwords_are_hashed_at_once() -> None:
    limit = RateLimit(now_s=Turned())
    inside, most = 0, 0

    async def check() -> None:
        nonlocal inside, most
        async with limit.checking():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(check() for _ in range(20)))
    assert most == 2
