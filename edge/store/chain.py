"""Each segment holds short hashes of two before it, so that damage can be told from an exchange, and located.

The head's sums (head.py) say that *something* of a table is not what it was; the chain says which segment: the one
that no later one vouches for. A segment names the one before it and the one sixteen before it; the head names the
newest sixteen. So a run of fifteen lost segments (a bad page holds about five) leaves no other without a witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from core.errors import DecodeError
from core.messages import Sample
from edge.store.columns import Habits
from edge.store.segment import PLAIN_FORMAT, STEADY_FORMAT, Summary, pack_segment

REACH: Final = 16
# Nobody can choose what is hashed (segments are sealed with our key) nor try (opening tells it), so an exchanged segment
# passes once in four thousand million times. Twice as long, a link costs a fifth of the room of some stores: four
# segments a page instead of five.
LINK_BYTES: Final = 4
# The first byte, for a segment of each format; 1 is a bare segment, as stores wrote them before there was a chain.
_CHAINED: Final = {PLAIN_FORMAT: 2, STEADY_FORMAT: 3}
_FORMATS: Final = {chained: segment for segment, chained in _CHAINED.items()}
_NONE: Final = bytes(LINK_BYTES)
_LEAST_ROWS: Final = 256  # of a segment, as a rule
# Fewer missing rows than this cannot hide sixteen whole segments, so a witness must be there.
_HIDING_ROWS: Final = (REACH - 1) * _LEAST_ROWS


def link_of(data: bytes) -> bytes:
    """What later segments remember of this one: ``data`` is the whole content of its record."""
    return hashlib.blake2b(data, digest_size=LINK_BYTES).digest()


def split(links: bytes) -> list[bytes]:
    """The single links of ``links``."""
    return [links[at : at + LINK_BYTES] for at in range(0, len(links), LINK_BYTES)]


def chained(segment: bytes, links: bytes) -> bytes:
    """The content of the next record. ``links``: those of the newest sixteen segments, newest first.

    The first byte stands for the segment's own as well.
    """
    padded = links.ljust(REACH * LINK_BYTES, b"\0")
    return bytes((_CHAINED[segment[0]],)) + padded[:LINK_BYTES] + padded[-LINK_BYTES:] + segment[1:]


def unchained(data: bytes) -> tuple[list[bytes], bytes]:
    """Links (none in an old store) and segment; DecodeError when it ends too early."""
    if not data or data[0] not in _FORMATS:
        return [], data
    start = 1 + 2 * LINK_BYTES
    if len(data) <= start:
        raise DecodeError("segment ends too early")
    return split(data[1:start]), bytes((_FORMATS[data[0]],)) + data[start:]


def remembered(links: bytes, data: bytes) -> bytes:
    """The links after a record with content ``data`` became the newest."""
    return (link_of(data) + links)[: REACH * LINK_BYTES]


def folded(
    samples: Sequence[Sample], first_row: int, sizes: tuple[int, int], links: bytes, habits: Habits
) -> tuple[list[tuple[int, bytes, Summary]], bytes]:
    """The segments that these samples become (first row, content, summary), and the links after them.

    ``sizes``: of a segment, and of the longer ones that what comes at once folds into (nobody waits for the rows in
    between). ``samples`` fill whole segments; ``links`` as of ``chained``.
    """
    folds: list[tuple[int, bytes, Summary]] = []
    short, long = sizes
    at = 0
    while at < len(samples):
        size = long if len(samples) - at >= long else short
        segment, summary = pack_segment(samples[at : at + size], habits)
        plain = chained(segment, links)
        folds.append((first_row + at, plain, summary))
        links = remembered(links, plain)
        at += size
    return folds, links


def vouched(
    segments: Iterable[tuple[int, int, bytes]], links: bytes, last_row: int, chain_from: int
) -> set[int]:
    """First rows of the segments that belong there: (first row, rows, content) each, in rising order.

    From the newest down, each one vouched for is a witness for two more. Segments of a time before the chain, or
    written anew by thinning (before ``chain_from``), have none; nor has one behind a gap that hides all its own.
    """
    known, trusted, next_first = set(split(links)) - {_NONE}, set(), last_row + 1
    for first, size, data in reversed(list(segments)):
        its_links, _ = unchained(data)
        without_chain = first < chain_from or not its_links
        hidden = next_first - (first + size) >= _HIDING_ROWS
        if link_of(data) in known or without_chain or hidden:
            trusted.add(first)
            known.update(set(its_links) - {_NONE})
            next_first = first
    return trusted


def unproven(segments: Sequence[tuple[int, int, bytes]], trusted: set[int], last_row: int) -> set[int]:
    """First rows of segments that none vouches for and none speaks against, as both witnesses may lie in gaps.

    ``segments`` as of ``vouched``, which found those that are ``trusted``.
    """
    found = set[int]()
    # Nearest last: so many segments at least, at most, and whether they may testify.
    newer: list[tuple[int, int, bool]] = []
    next_first = last_row + 1
    for first, size, _ in reversed(segments):
        missing = (next_first - (first + size)) // _LEAST_ROWS
        if missing > 0:
            newer.append((1, missing, False))
        if first not in trusted and _may_lack_both(newer):
            found.add(first)
        newer.append((1, 1, first in trusted))
        next_first = first
    return found


def _may_lack_both(newer: Sequence[tuple[int, int, bool]]) -> bool:
    """Whether the next segment is no witness, and the sixteenth perhaps none. The head testifies for the newest sixteen."""
    least = most = 0
    for fewest, many, testifies in reversed(newer):
        if testifies and not most:
            return False
        if not testifies and least < REACH <= most + many:
            return True
        least, most = least + fewest, most + many
        if least >= REACH:
            break
    return False
