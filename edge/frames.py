"""Length-prefixed frames on a Unix socket: four bytes big-endian length, then that many bytes."""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from core.errors import DecodeError

# A snapshot of the twin with its checkpoints is a few hundred kB; more than this is not ours.
MAX_FRAME_BYTES: Final = 64 << 20


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame, or None at a clean end. A cut or oversized frame raises DecodeError."""
    try:
        head = await reader.readexactly(4)
    except asyncio.IncompleteReadError as err:
        if err.partial:
            raise DecodeError("frame header cut short") from None
        return None
    except ConnectionError:
        return None
    (length,) = struct.unpack(">I", head)
    if length > MAX_FRAME_BYTES:
        raise DecodeError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
    try:
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        raise DecodeError("frame cut short") from None


async def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send one frame and wait until the socket took it."""
    writer.write(struct.pack(">I", len(data)) + data)
    await writer.drain()
