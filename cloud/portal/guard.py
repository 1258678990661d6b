"""What stands before every page: sessions, the rate limit on logins, and headers.

An ASGI wrapper around the whole application, so that no route and no WebSocket can be forgotten: what is
not on the short list of open paths needs a session.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "hometwin_session"
SESSION_S: Final = 12 * 3600.0  # a working day
MAX_SESSIONS: Final = 1000
# Nothing of a person: the login page, its style, and the health check.
OPEN_PATHS: Final = frozenset({"/login", "/healthz", "/static/login.css"})
# Vue compiles templates in the browser (eval) and the page carries its own script; nothing may come from,
# or go to, another host.
CONTENT_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Sessions:
    """Who is logged in. Kept in memory: a restart asks for the password again."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._until: dict[str, tuple[float, str]] = {}

    def start(self, name: str) -> str:
        """A new token for ``name``."""
        self._sweep()
        token = secrets.token_urlsafe(32)
        self._until[token] = (self._now_s() + SESSION_S, name)
        return token

    def name(self, token: str | None) -> str | None:
        """Who holds this token; None when it is unknown or has ended."""
        if token is None:
            return None
        found = self._until.get(token)
        if found is None:
            return None
        if found[0] <= self._now_s():
            del self._until[token]
            return None
        return found[1]

    def end(self, token: str | None) -> None:
        """Log out."""
        if token is not None:
            self._until.pop(token, None)

    def _sweep(self) -> None:
        now_s = self._now_s()
        self._until = {t: v for t, v in self._until.items() if v[0] > now_s}
        while len(self._until) >= MAX_SESSIONS:
            self._until.pop(next(iter(self._until)))


class RateLimit:
    """At most ``attempts`` failures per ``window_s``, per address and, ten times as many, in total."""

    def __init__(
        self, attempts: int = 5, window_s: float = 60.0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._attempts, self._window_s, self._now_s = attempts, window_s, now_s
        self._failures: dict[str, list[float]] = {}

    def wait_s(self, address: str) -> float:
        """0 when an attempt is allowed, else the seconds until the next one is."""
        return max(self._wait(address, self._attempts), self._wait("", 10 * self._attempts))

    def begin(self, address: str) -> None:
        """Count an attempt before it is checked, so that many at once do not slip through together."""
        now_s = self._now_s()
        for key in (address, ""):
            recent = self._recent(key)
            recent.append(now_s)
            self._failures[key] = recent
        if len(self._failures) > 10_000:  # many addresses: forget those whose window is over
            self._failures = {k: v for k in self._failures if (v := self._recent(k))}

    def succeeded(self, address: str) -> None:
        """It was the right password: the attempt does not count."""
        for key in (address, ""):
            if recent := self._failures.get(key):
                recent.pop()

    def _wait(self, key: str, attempts: int) -> float:
        recent = self._recent(key)
        if len(recent) < attempts:
            return 0.0
        return max(0.0, recent[-attempts] + self._window_s - self._now_s())

    def _recent(self, key: str) -> list[float]:
        start_s = self._now_s() - self._window_s
        return [t for t in self._failures.get(key, []) if t > start_s]


class Guard:
    """Lets through who has a session; sends everybody else to the login."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        name = self._sessions.name(token_of(scope))
        scope["hometwin_user"] = name
        if not _same_origin(scope):
            await _refuse(scope, receive, send, 403, b"cross-origin request refused\n")
        elif name is None and path not in OPEN_PATHS:
            if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and _wants_page(scope):
                await _answer(send, 303, b"", ((b"location", b"/login"),))
            else:
                await _refuse(scope, receive, send, 401, b"log in first\n")
        else:
            await self._app(scope, receive, _with_headers(send, scope))


def token_of(scope: Scope) -> str | None:
    """The session token in the request's cookies."""
    for key, value in scope.get("headers", ()):
        if key == b"cookie":
            try:
                morsel = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if morsel is not None:
                return morsel.value
    return None


def _same_origin(scope: Scope) -> bool:
    """False for a request that another site's page makes: a POST or a WebSocket with a foreign Origin."""
    if scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return True
    headers = dict(scope.get("headers", ()))
    origin = headers.get(b"origin")
    if origin is None:  # not a browser, or one that saw no need to say
        return True
    return urlsplit(origin.decode("latin-1")).netloc == headers.get(b"host", b"").decode("latin-1")


def _wants_page(scope: Scope) -> bool:
    accept = dict(scope.get("headers", ())).get(b"accept", b"text/html")
    return b"text/html" in accept or b"*/*" in accept


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: bytes) -> None:
    if scope["type"] == "websocket":
        await receive()  # the connect message; closing before accepting answers HTTP 403
        await send({"type": "websocket.close", "code": 1008})
        return
    await _answer(send, status, text, ((b"content-type", b"text/plain; charset=utf-8"),))


async def _answer(send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    length = (b"content-length", str(len(body)).encode())
    no_store = (b"cache-control", b"no-store")
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, length, no_store, *HEADERS]}
    )
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, scope: Scope) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in HEADERS}
            headers = [(k, v) for k, v in message.get("headers", ()) if k.lower() not in own]
            if scope.get("scheme") == "https":
                headers.append((b"strict-transport-security", b"max-age=31536000"))
            if not _is_asset(scope["path"]):
                headers = [(k, v) for k, v in headers if k.lower() != b"cache-control"]
                headers.append((b"cache-control", b"no-store"))  # pages hold health data
            message = {**message, "headers": [*headers, *HEADERS]}
        await send(message)

    return wrapped


def _is_asset(path: str) -> bool:
    return path.startswith(("/_nicegui/", "/static/"))
