"""New samples enter a store: into the tail, one record each; what fills a segment is folded in the same transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from core.messages import Sample, encode
from edge.store.chain import folded
from edge.store.head import HEAD_ROW, Head
from edge.store.sealing import NONCE_BYTES, Table, marks, row_ident

if TYPE_CHECKING:
    from edge.store.store import Store

log = structlog.get_logger()

# Three of 512 fill a page, as five of 256 do; longer ones leave half a page empty.
FOLDS_AT_ONCE: Final = 2
# A sample that comes alone and the head in one statement, which is a transaction of its own. Any other record in that
# place is refused: the file's rule that nothing is NULL undoes it all.
_INSERT_ALONE: Final = """INSERT INTO tail VALUES (?1, ?2), (?3, ?4) ON CONFLICT (number)
    DO UPDATE SET sealed = CASE number WHEN ?3 THEN excluded.sealed END"""


def append_alone(store: Store, sample: Sample) -> None:
    """One sample that completes no segment: what sensors do all day, so each step of it counts."""
    index, sealer = store._index, store._sealer
    row = index.last_row + 1

    def put(head: Head) -> bytes:
        nonces = os.urandom(2 * NONCE_BYTES)  # asked for once: the kernel takes its time to answer
        record = sealer.seal(Table.TAIL, row_ident(row), encode(sample), nonces[:NONCE_BYTES])
        head.add(Table.TAIL, row_ident(row), marks(record))
        head.last_row += 1
        sealed = head.seal(sealer, nonces[NONCE_BYTES:])
        store._cursor.execute(_INSERT_ALONE, (row, record, HEAD_ROW, sealed))
        if store._cursor.lastrowid == HEAD_ROW:  # put in, not updated
            # We know what it held, so nothing is lost; what else may be gone, its sums tell at the next opening.
            log.error("store.head_was_missing")
        return sealed

    store._put(put, lambda: index.add_tail(sample))


def append_new(
    store: Store,
    new: Sequence[Sample],
    fold_samples: int,
    also: Callable[[Head], None] = lambda _: None,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Any number of samples whose keys are not there yet. ``also`` writes in the same transaction, ``then`` remembers."""
    index, seal, insert = store._index, store._sealer.seal, store._insert
    whole = (len(index.tail) + len(new)) // fold_samples * fold_samples
    rows = [*index.tail, *new] if whole else []
    sizes = (fold_samples, FOLDS_AT_ONCE * fold_samples)
    folds, links = folded(rows[:whole], index.tail_first_row, sizes, store._head.links, store._habits)
    kept, kept_row = (rows[whole:], index.tail_first_row + whole) if whole else (new, index.last_row + 1)

    def write(head: Head) -> None:
        if folds:
            store._cursor.execute("DELETE FROM tail WHERE number < ?", (HEAD_ROW,))
            head.clear(Table.TAIL)
            made = [(row, seal(Table.SEGMENTS, row_ident(row), plain)) for row, plain, _ in folds]
            insert(head, Table.SEGMENTS, made)
        alone = ((n, seal(Table.TAIL, row_ident(n), encode(s))) for n, s in enumerate(kept, kept_row))
        insert(head, Table.TAIL, alone)
        head.last_row += len(new)
        head.links = links
        also(head)

    def remember() -> None:
        then()
        for row, _, summary in folds:
            index.add_segment(row, summary)
        for sample in kept:
            index.add_tail(sample)

    store._change(write, remember)
