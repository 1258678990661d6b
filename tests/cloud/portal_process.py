"""The portal as a process of its own, and a browser's side of it: HTTP and NiceGUI's socket.

NiceGUI keeps its pages in globals of the process, so the tests leave it outside of theirs.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import socketio

from tests.cloud import filled

START_LIMIT_S = 60.0


class FixedClock:
    """The database is filled for this one moment."""

    def now_us(self) -> int:
        return filled.NOW_US

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


def main() -> None:
    """``python -m tests.cloud.portal_process FOLDER PORT [TRUSTED_PROXY]``."""
    from cloud.portal import run_portal

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    config = filled.config(folder, port=port, trusted_proxy=sys.argv[3] if sys.argv[3:] else "")
    asyncio.run(run_portal(filled.open_database(folder), config, FixedClock()))


@contextmanager
def portal(folder: Path, trusted_proxy: str = "") -> Iterator[str]:
    """A running portal over the database in ``folder``; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "portal.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cloud.portal_process", str(folder), str(port), trusted_proxy],
            stdout=out,
            stderr=out,
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(base, process, log)
            yield base
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise AssertionError(log.read_text())
        try:
            if httpx.get(f"{base}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("portal did not start: " + log.read_text())


class Tab:
    """A page opened in a browser: its elements, kept up to date through the socket."""

    def __init__(self, text: str) -> None:
        raw = re.search(r"parseElements\(String\.raw`(.*?)`\)", text, re.S)
        query = re.search(r"query: (\{.*?\})", text)
        assert raw, "not a NiceGUI page"
        assert query
        self.elements: dict[str, dict[str, Any]] = json.loads(html.unescape(raw[1].replace("&#36;", "$")))
        self.client_id: str = re.search(r"'client_id': '([^']+)'", query[1])[1]  # type: ignore[index]
        self.messages: list[tuple[str, Any]] = []
        self.changed = asyncio.Event()

    def text(self) -> str:
        """All text of the page, also inside HTML blocks."""
        return json.dumps(self.elements, ensure_ascii=False)

    def find(self, label: str) -> tuple[str, str]:
        """(element id, listener id of its click) of the newest element with this label."""
        for number in sorted(self.elements, key=int, reverse=True):
            element = self.elements[number]
            if element.get("props", {}).get("label") == label:
                clicks = [e for e in element.get("events", []) if e["type"] == "click"]
                if clicks:
                    return number, clicks[0]["listener_id"]
        raise LookupError(label)

    def _update(self, update: dict[str, Any]) -> None:
        for number, element in update.items():
            if not number.isdigit():
                continue  # the message's own number
            if element is None:
                self.elements.pop(number, None)
            else:
                self.elements[number] = element
        self.changed.set()


class Browser:
    """Logged in, with one open tab."""

    def __init__(self, tab: Tab, client: socketio.AsyncClient) -> None:
        self.tab, self._client = tab, client

    async def click(self, label: str) -> None:
        number, listener = self.tab.find(label)
        await self._event(number, listener)

    async def type(self, label: str, text: str) -> None:
        for number in sorted(self.tab.elements, key=int, reverse=True):
            element = self.tab.elements[number]
            if element.get("props", {}).get("label") == label:
                listener = next(e for e in element["events"] if e["type"].startswith("update:"))
                await self._event(number, listener["listener_id"], json.dumps(text))
                return
        raise LookupError(label)

    async def until(self, condition: Any, limit_s: float = 20.0) -> None:
        """Wait until ``condition(tab)`` holds."""
        async with asyncio.timeout(limit_s):
            while not condition(self.tab):
                self.tab.changed.clear()
                await self.tab.changed.wait()

    async def _event(self, number: str, listener: str, *args: str) -> None:
        await self._client.emit(
            "event",
            {"client_id": self.tab.client_id, "id": int(number), "listener_id": listener, "args": list(args)},
        )


@asynccontextmanager
async def browser(base: str, cookie: str, path: str) -> AsyncIterator[Browser]:
    """Open ``path`` as somebody who is logged in."""
    headers = {"Cookie": cookie}
    async with httpx.AsyncClient(base_url=base, headers=headers) as http:
        tab = Tab((await http.get(path)).text)
    client = socketio.AsyncClient()
    client.on("update", tab._update)

    def remember(name: str) -> Any:
        def handler(data: Any = None) -> None:
            tab.messages.append((name, data))
            tab.changed.set()

        return handler

    for name in ("notify", "run_javascript", "open", "run_method"):
        client.on(name, remember(name))
    query = f"client_id={tab.client_id}&next_message_id=0&implicit_handshake=true&tab_id=t1&document_id=d1"
    await client.connect(
        f"{base}?{query}", headers=headers, transports=["websocket"], socketio_path="/_nicegui_ws/socket.io"
    )
    try:
        yield Browser(tab, client)
    finally:
        await client.disconnect()


if __name__ == "__main__":
    main()
