"""Each segment holds short hashes of the two before it, so that damage can be told from an exchange, and located.

The head's sums (head.py) say that *something* of a table is not what it was; the chain says which segment: the one
that contradicts its successors. Two links, so that one lost segment leaves no other without a witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from core.errors import DecodeError

LINKS: Final = 2
# Nobody can choose what is hashed (segments are sealed with our key), so 64 bits are beyond any luck.
LINK_BYTES: Final = 8
CHAINED_FORMAT: Final = (
    2  # the first byte; 1 is a bare segment, as stores wrote them before there was a chain
)
NO_LINK: Final = bytes(LINK_BYTES)


def link_of(data: bytes) -> bytes:
    """What later segments remember of this one."""
    return hashlib.blake2b(data, digest_size=LINK_BYTES).digest()


def chained(segment: bytes, links: Sequence[bytes]) -> bytes:
    """The segment with the links of those before it, newest first."""
    padded = [*links, NO_LINK, NO_LINK][:LINKS]
    return bytes((CHAINED_FORMAT,)) + b"".join(padded) + segment


def unchained(data: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Links (newest first; none in an old store) and segment; DecodeError when it ends too early."""
    if not data or data[0] != CHAINED_FORMAT:
        return (), data
    start = 1 + LINKS * LINK_BYTES
    if len(data) <= start:
        raise DecodeError("segment ends too early")
    return tuple(data[at : at + LINK_BYTES] for at in range(1, start, LINK_BYTES)), data[start:]


def remembered(links: Sequence[bytes], data: bytes) -> tuple[bytes, ...]:
    """The links after ``data`` became the newest segment."""
    return (link_of(data), *links)[:LINKS]
