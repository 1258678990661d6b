"""The hub's control socket: one JSON object per line asks, one per line answers. For the local owner only.

The socket lies in the runtime folder with mode 0600: who may open it may read the twin.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog

from core.errors import EnvironmentMissing, HometwinError, InputError
from edge.store.files import is_there

log = structlog.get_logger()

MAX_LINE_BYTES: Final = 1 << 16
CLIENT_TIMEOUT_S: Final = 10.0
MAX_SOCKET_PATH: Final = 107  # the kernel's limit

OTHER_FOLDER: Final = "set another runtime_dir"

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
ServeOne = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve_control(path: Path, handler: Handler) -> asyncio.Server:
    """Answer requests on ``path``."""
    return await serve_private(path, lambda r, w: _serve_one(r, w, handler), MAX_LINE_BYTES)


async def serve_private(path: Path, serve_one: ServeOne, limit: int) -> asyncio.Server:
    """A server on a socket at ``path`` that only its owner may open. An old one that nobody serves is replaced."""
    _remove_stale_socket(path)
    old_umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(serve_one, str(path), limit=limit)
    except OSError as err:
        raise EnvironmentMissing(
            f"no socket can be made here: {err.strerror}", where=str(path), mend=OTHER_FOLDER
        ) from None
    finally:
        os.umask(old_umask)


def _remove_stale_socket(path: Path) -> None:
    """Make room for a new socket; EnvironmentMissing when another process serves this one."""
    mend = OTHER_FOLDER
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise EnvironmentMissing(
            f"cannot make this folder: {err.strerror}", where=str(path.parent), mend=mend
        ) from None
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise EnvironmentMissing(f"longer than {MAX_SOCKET_PATH} bytes", where=str(path), mend=mend)
    if not is_there(path):
        return
    if not path.is_socket():
        raise EnvironmentMissing(
            "something else than a socket is here", where=str(path), mend=f"remove it, or {mend}"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except PermissionError:
            pass  # of another user, who may well serve it
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise EnvironmentMissing(
        "another process serves this socket", where=str(path), mend=f"stop it, or {mend}"
    )


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    try:
        while line := await reader.readline():
            writer.write(json.dumps(await _answer(line, handler)).encode() + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):
        pass  # the client left, or sent a line without end
    finally:
        writer.close()


async def _answer(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        request = _read_request(line)
        return {"ok": True, **await handler(request)}
    except HometwinError as err:
        return {"ok": False, "error": str(err), "exit_code": err.exit_code}
    except Exception as err:
        # Whatever a request can provoke, the one who asked gets an answer and the hub goes on.
        log.error("control.failed", error=type(err).__name__)
        log.debug("control.failed", exc_info=True)
        return {"ok": False, "error": f"the hub failed on this request: {type(err).__name__}", "exit_code": 1}


def _read_request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        request = None
    if not isinstance(request, dict):
        raise InputError("a request is one JSON object per line")
    return request


def ask_hub(path: Path, request: dict[str, Any], timeout_s: float = CLIENT_TIMEOUT_S) -> dict[str, Any]:
    """Ask the running hub; EnvironmentMissing when there is none, InputError when it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as stream:
                line = stream.readline()
        except PermissionError:
            raise InputError(
                "this hub answers its owner only", where=str(path), mend="become its user, or use sudo"
            ) from None
        except (OSError, TimeoutError) as err:
            raise EnvironmentMissing(
                f"no hub answers ({err.strerror or 'not in time'})",
                where=str(path),
                mend="start it: hometwin hub --config hub.toml; as a service, systemctl status hometwin-hub says what keeps it",
            ) from err
    if not line:
        raise EnvironmentMissing("the hub closed without an answer", where=str(path), mend="try again")
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise EnvironmentMissing(
            "this is not a hub's socket", where=str(path), mend="check runtime_dir"
        ) from None
    if not answer.pop("ok"):
        raise InputError(answer["error"])
    return answer
