"""What stands before every page: methods, sizes, sessions, and headers.

An ASGI wrapper around the whole application, so that no route and no WebSocket can be forgotten: what is
not on the short list of open paths needs a session, and a socket needs it with every message. Whatever is
refused costs no more than its answer: the application (which builds a page even to say 404) never hears of it.
"""

from __future__ import annotations

import asyncio
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
# Whatever is not named here answers GET and HEAD.
METHODS: Final = {"/login": ("GET", "HEAD", "POST"), "/logout": ("POST",)}
SOCKET_PATH: Final = "/_nicegui_ws/"
# Bytes of a request body. A name and a password fit into a few hundred; the live socket's fallback for browsers
# that may not open a WebSocket posts a click or a note of 2,000 characters.
MAX_BODY: Final = {"/login": 16_384}
MAX_SOCKET_BODY: Final = 65_536
MAX_OTHER_BODY: Final = 1024
BODY_S: Final = 10.0  # real seconds in which a body must be here
PLAIN: Final = (b"content-type", b"text/plain; charset=utf-8")
CLOSE: Final = (b"connection", b"close")
# NiceGUI's message "open this address here" as Socket.IO (4: message, 2: event) puts it on the wire.
FAREWELL: Final = '42["open",{"path":"/login","new_tab":false}]'
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
    (b"referrer-policy", b"same-origin"),
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


class Guard:
    """Lets through who has a session; sends everybody else to the login."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path, is_http = scope["path"], scope["type"] == "http"
        token = token_of(scope)
        name = self._sessions.name(token)
        scope["hometwin_user"] = name
        if not _same_origin(scope):
            await _refuse(scope, receive, send, 403, b"cross-origin request refused\n")
        elif name is None and not (is_http and path in OPEN_PATHS):
            if is_http and scope["method"] in ("GET", "HEAD") and _wants_page(scope):
                await _answer(send, 303, b"", ((b"location", b"/login"),))
            else:
                await _refuse(scope, receive, send, 401, b"log in first\n")
        elif is_http:
            await self._serve(scope, receive, _with_headers(send, scope), token)
        else:
            socket = _LiveSocket(receive, send, lambda: self._sessions.name(token) is not None)
            await self._app(scope, socket.receive, socket.send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, token: str | None) -> None:
        path, method = scope["path"], scope["method"]
        is_socket = path.startswith(SOCKET_PATH)
        allowed = ("GET", "POST") if is_socket else METHODS.get(path, ("GET", "HEAD"))
        if method not in allowed:
            await _answer(
                send, 405, b"no such method here\n", ((b"allow", ", ".join(allowed).encode()), PLAIN)
            )
            return
        limit = MAX_SOCKET_BODY if is_socket else MAX_BODY.get(path, MAX_OTHER_BODY)
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read_body(scope, receive, limit)
        except TimeoutError:
            await _answer(send, 408, b"too slow\n", (PLAIN, CLOSE))
            return
        if body is None:
            await _answer(send, 413, b"too large\n", (PLAIN, CLOSE))
            return
        if is_socket:
            send = _while_valid(send, lambda: self._sessions.name(token) is not None)
        await self._app(scope, _replay(body, receive), send)


class _LiveSocket:
    """A WebSocket that ends with its session: no event goes in after that, and no data comes out."""

    def __init__(self, receive: Receive, send: Send, is_valid: Callable[[], bool]) -> None:
        self._receive, self._send, self._is_valid = receive, send, is_valid
        self._open = False
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive" and not self._is_valid():
            await self._end()
        if self._ended:
            return {"type": "websocket.disconnect", "code": 1008}
        return message

    async def send(self, message: Message) -> None:
        if self._ended:
            return
        if not self._is_valid():
            await self._end()
            return
        self._open = self._open or message["type"] == "websocket.accept"
        await self._send(message)

    async def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._open:  # the last word: show the login instead of what is still on the screen
            await self._send({"type": "websocket.send", "text": FAREWELL})
        await self._send({"type": "websocket.close", "code": 1008})


def _while_valid(send: Send, is_valid: Callable[[], bool]) -> Send:
    """An answer that was long in coming must not reach whoever has logged out meanwhile."""
    dropped = False

    async def wrapped(message: Message) -> None:
        nonlocal dropped
        if dropped:
            return
        if message["type"] == "http.response.start" and not is_valid():
            dropped = True
            await _answer(send, 401, b"log in first\n", (PLAIN,))
            return
        await send(message)

    return wrapped


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when it is larger than ``limit``, as soon as that is known."""
    announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
    if not announced.isdigit() or len(announced) > 18 or int(announced) > limit:
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body  # gone; the application will notice
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives ``body`` first, then whatever comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


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
    try:
        netloc = urlsplit(origin.decode("latin-1")).netloc
    except ValueError:  # no address at all, like "http://["
        return False
    return netloc == headers.get(b"host", b"").decode("latin-1")


def _wants_page(scope: Scope) -> bool:
    accept = dict(scope.get("headers", ())).get(b"accept", b"text/html")
    return b"text/html" in accept or b"*/*" in accept


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: bytes) -> None:
    if scope["type"] == "websocket":
        await receive()  # the connect message; closing before accepting answers HTTP 403
        await send({"type": "websocket.close", "code": 1008})
        return
    await _answer(send, status, text, (PLAIN,))


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
