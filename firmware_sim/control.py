"""The control socket: one JSON object per line in, one out. Tests and the demo make faults through it.

``{"device":"cgm","do":"drop"}`` answers ``{"ok":true,...}`` or ``{"ok":false,"error":"..."}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from firmware_sim.errors import SimError
from firmware_sim.peripheral import Peripheral

log = structlog.get_logger()

LINE_LIMIT: Final = 64 * 1024  # a command is 100 bytes
REPLY_TIMEOUT_S: Final = 10.0  # the air answers within milliseconds, or is gone


class Control:
    """Serves ``path`` for the given devices."""

    def __init__(self, path: Path, devices: Mapping[str, Peripheral]) -> None:
        self._path = path
        self._devices = devices
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Control:
        self._clear_stale()
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_LIMIT)
            self._path.chmod(0o600)
        except OSError as err:
            raise SimError(
                f"cannot listen: {err.strerror or err}", where=str(self._path), mend="see --control"
            ) from None
        return self

    def _clear_stale(self) -> None:
        """Remove the socket that a killed process left; refuse one that somebody still answers."""
        if not self._path.is_socket():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except OSError:
                self._path.unlink(missing_ok=True)
                return
        raise SimError("another process serves this socket", where=str(self._path), mend="see --control")

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, asyncio.CancelledError):
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The reply to one line; nothing in it can make this raise."""
        try:
            request = _parse(line)
            if not isinstance(request, dict) or not isinstance(request.get("do"), str):
                raise SimError('say what to do: {"device":"cgm","do":"drop"}', where="control")
            if "device" not in request and request["do"] == "status":
                return {"ok": True} | {name: device.status() for name, device in self._devices.items()}
            device = self._devices.get(str(request.get("device")))
            if device is None:
                raise SimError(
                    "no such device here", where="control", mend="one of " + " ".join(self._devices)
                )
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                reply = await device.control(request["do"], request)
            log.info("sensor.controlled", device=device.name, do=request["do"][:40])
            return {"ok": True} | reply
        except SimError as err:
            return {"ok": False, "error": str(err)}
        except Exception as err:  # the air may vanish in mid-command
            return {"ok": False, "error": f"control: {type(err).__name__}"}


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise SimError("not a JSON object", where="control") from None
