"""The replay buffer: what is acknowledged is on the disk, sealed, in order, once.

Samples enter the tail, one sealed record each; every 256 of them are folded into one column-wise segment in
the same transaction that adds the last. Everything is committed to by the head (head.py). The interface is
synchronous and waits for the disk; one thread at a time is inside, any thread may call.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import structlog

from core.clock import Clock
from core.errors import DecodeError, InputError, StoreError, TamperedError
from core.messages import Sample
from edge.store import refill
from edge.store.admission import checked_name, normal
from edge.store.appending import append_alone, append_new
from edge.store.archive import Archive
from edge.store.arrivals import Arrivals
from edge.store.chain import unchained
from edge.store.columns import Habits
from edge.store.database import SQLITE_ERRORS, WriterLock, reported
from edge.store.examine import CheckReport, Examination
from edge.store.files import real_path
from edge.store.head import HEAD_ROW, Head
from edge.store.index import Index
from edge.store.journal import Detail, hash_of, make_line
from edge.store.keyring import StoreKeys
from edge.store.keys import Secret
from edge.store.opening import audit, close_unsound, examined, open_file
from edge.store.refill import Refill
from edge.store.sealing import Sealer, Table, marks, row_ident
from edge.store.segment import decode_segment
from edge.store.slots import Ring, read_records, save_copy
from edge.store.thinning import Thinner, with_room
from edge.store.wal import check_log
from edge.store.watch import FileWatch

__all__ = ["CheckReport", "Store", "audit"]

log = structlog.get_logger()

# Larger folds pack better (1,024: some 10% less) but lengthen the transaction that folds and the tail that
# is read and written in full records; 256 is under a day of a CGM.
FOLD_SAMPLES: Final = 256
# Unpacked segments kept for the next question, a tenth of a MiB each: sync and engine read on where they were.
_KEPT_SEGMENTS: Final = 2
# Rows that one outbox message holds at most (about 12 kB sealed: any broker takes it). So it is known which samples
# a lost message can have held.
BATCH_SAMPLES: Final = 200
US_PER_MS: Final = 1000
Write = Callable[[Head], None]
_INSERT: Final = {t: f"INSERT INTO {t.name.lower()} VALUES (?, ?)" for t in Table}  # noqa: S608 - constants


def blob_plain(name: bytes, data: bytes) -> bytes:
    """The content of a blob's record."""
    return bytes((len(name),)) + name + data


class Store:
    """One person's samples, outbox, blobs and counters in one file. Open it with ``Store.open``."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        lock: WriterLock,
        db: sqlite3.Connection,
        ring: Ring,
        log_unreadable: bool,
    ) -> None:
        """Takes over ``lock`` and ``db``; TamperedError when any record is not what was written."""
        self._path, self._clock, self._writer, self._db = path, clock, lock, db
        self._cursor = db.cursor()  # of what every commit does: making one costs as much as a short statement
        self._ring, self._sealer = ring, ring.sealer()
        self._mutex = threading.RLock()
        self.arrivals = Arrivals(clock)
        self._index, self._habits = Index(), Habits()
        self._unpacked: OrderedDict[int, list[Sample]] = OrderedDict()
        self._closed = False
        # True while disk and memory may differ; stays so after a failure whose outcome is unknown.
        self._in_doubt = False
        seen = Examination(db, path, ring, self._sealer)
        index = self._index
        self.archive = Archive(self)
        seen.run(index.add_segment, index.add_tail, index.add_aggregate, self.archive.found, deep=False)
        if seen.first_error is not None:
            raise seen.first_error
        check_log(db, path, unreadable=log_unreadable)  # folds it in: only now it is known to be this store's
        self._head, self._head_sealed, self._blob_marks = seen.head, seen.head_sealed, seen.blob_marks
        if not index.tail:
            index.tail_first_row = self._head.last_row + 1
        self._files = FileWatch(path)
        try:
            self.save_key_copy()
            self.keys = StoreKeys(self)
            self.thinner = Thinner(self)
            self._refill = Refill.of(self.get_blob(refill.BLOB))
        except BaseException:
            self._files.close()
            raise

    @classmethod
    def open(cls, path: Path | str, key: Secret, *, hub_id: str, clock: Clock) -> Store:
        """The store at ``path``, made when there is none.

        StoreBusyError: another process has it. NewerVersionError: a newer program wrote it. WrongKeyError:
        ``key`` (32 bytes or a passphrase) or ``hub_id`` is not its own. TamperedError: any record fails authentication.
        """
        path = real_path(path)
        lock, db, ring, unreadable = open_file(path, key, hub_id)
        try:
            store = cls(path, clock, lock, db, ring, unreadable)
        except BaseException as err:
            try:
                close_unsound(db, ring, path, key, hub_id, err)
            finally:
                lock.release()
            raise
        log.info("store.opened", rows=store.last_row, generation=store.generation)
        return store

    # --- samples

    def append(self, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        """Store samples; those whose key is there already are ignored. Durable on return.

        Returns what was new, in order, with ``received_us`` and ``steady_us`` set. InputError (and nothing stored)
        when a sample cannot be kept: a number beyond 64 bits, a name beyond 200 bytes, an amendment of itself.
        """
        with self._mutex:
            self._check_usable()
            new = self._new(normal(list(samples), *self.arrivals.now()))
            if len(new) == 1 and len(self._index.tail) + 1 < FOLD_SAMPLES:
                append_alone(self, new[0])
            elif new:
                append_new(self, new, FOLD_SAMPLES)
            return new

    def cursors(self, source: str) -> dict[str, int]:
        """By kind, the sequence number after which to ask one source; the greatest, unless something was lost."""
        with self._mutex:
            if (wanted := self._refill.at(self._clock.now_us())) is not self._refill:
                self._refill = wanted  # also where the disk is full: it is counted anew from what is there
                with contextlib.suppress(StoreError):
                    self.want(wanted)
            return self._refill.cursors(source, self._index.cursors(source))

    @property
    def sources(self) -> set[str]:
        """All that ever gave a sample."""
        return self._index.sources

    def cursor_before(self, row: int, source: str) -> int | None:
        """Greatest sequence number that ``source`` gave before ``row``."""
        with self._mutex:
            return self._index.cursor_before(row, source)

    def missing_rows(self) -> list[tuple[int, int]]:
        """First and last row of what is not there (any more): thinned, or lost."""
        with self._mutex:
            return self._index.missing()

    def amended_rows(self) -> list[tuple[tuple[str, str, int], int]]:
        """Keys of what was replaced or deleted, with the row of the last record that did so."""
        with self._mutex:
            return self._index.amended_rows()

    def want(self, wanted: Refill) -> None:
        """Ask sensors again for what was lost, from now on and after restarts."""
        with self._mutex:
            self.put_blob(refill.BLOB, bytes(wanted))
            self._refill = wanted

    @property
    def refilling(self) -> list[str]:
        """Sources that are asked again for what was lost."""
        return sorted(self._refill.wanted)

    @property
    def last_row(self) -> int:
        """Row of the newest sample; 0 when there is none."""
        return self._head.last_row

    def read(self, after_row: int, limit: int) -> list[tuple[int, Sample]]:
        """At most ``limit`` samples after row ``after_row`` with their rows, as they were stored."""
        with self._mutex:
            self._check_usable()
            row, index = max(0, after_row) + 1, self._index
            found: list[tuple[int, Sample]] = []
            while len(found) < limit and row <= index.last_row:
                place = index.place_from(row)
                if place is None:
                    first, samples = index.tail_first_row, index.tail
                else:
                    first, samples = index.first_rows[place], self._segment(place)
                begin = max(row, first)
                part = samples[begin - first : begin - first + limit - len(found)]
                found.extend(enumerate(part, begin))
                row = first + len(samples)
            return found

    def between(self, start_us: int, end_us: int, kinds: Iterable[str] = ()) -> list[Sample]:
        """Samples with start <= time < end in time order, of these kinds (all when empty).

        Amendments are applied: what was replaced or deleted is absent, its last replacement is present.
        """
        with self._mutex:
            self._check_usable()
            wanted = frozenset(kinds)
            parts = [
                (self._index.first_rows[place], self._segment(place))
                for place in self._index.overlapping(start_us, end_us, wanted)
            ]
            parts.append((self._index.tail_first_row, self._index.tail))
            found = [
                (sample.time_us, row, sample)
                for first, samples in parts
                for row, sample in enumerate(samples, first)
                if start_us <= sample.time_us < end_us
                and (not wanted or sample.kind in wanted)
                and self._index.is_live(row, sample)
            ]
            found.sort(key=lambda item: item[:2])
            return [sample for _, _, sample in found]

    # --- blobs

    def put_blob(self, name: str, data: bytes) -> None:
        """Keep ``data`` under ``name`` in place of what was there. Durable and whole, or not at all."""
        with self._mutex:
            self._change(*self._blob_write(name, data))

    def _blob_write(self, name: str, data: bytes) -> tuple[Write, Callable[[], None]]:
        encoded = checked_name(name, "blob")
        ident = self._sealer.name_hash(name)
        sealed = self._sealer.seal(Table.BLOBS, ident, blob_plain(encoded, data))
        old = self._blob_marks.get(ident)

        def write(head: Head) -> None:
            if old is not None:
                head.remove(Table.BLOBS, ident, old)
            head.add(Table.BLOBS, ident, marks(sealed))
            self._db.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (ident, sealed))

        return write, lambda: self._blob_marks.update({ident: marks(sealed)})

    def get_blob(self, name: str) -> bytes | None:
        """What was put last under ``name``; None when nothing was."""
        with self._mutex:
            self._check_usable()
            ident = self._sealer.name_hash(name)
            expected = self._blob_marks.get(ident)
            if expected is None:
                return None
            sealed = self._sealed("SELECT sealed FROM blobs WHERE name_hash = ?", ident, "blobs")
            plain = self._sealer.open(Table.BLOBS, ident, sealed)
            if marks(sealed) != expected:
                raise TamperedError("record is older than the one written last", where="blobs")
            return plain[1 + plain[0] :]

    # --- outbox and counters

    def enqueue(self, payload: bytes, *, sample_row: int | None = None) -> int:
        """Put ``payload`` into the outbox; its number is greater than every one before, see ``_next``.

        ``sample_row``: the payload holds the samples up to this row; the pointer moves with it or not at all.
        """
        with self._mutex:
            pointer = self._head.sample_pointer if sample_row is None else sample_row
            if not self._head.sample_pointer <= pointer <= self._head.last_row:
                raise InputError(
                    "sample_row must not go back, nor beyond the last row", where="store.enqueue"
                )
            number = self._next(self._head.last_outbox)
            sealed = self._sealer.seal(Table.OUTBOX, row_ident(number), payload)

            def write(head: Head) -> None:
                head.last_outbox, head.sample_pointer = number, pointer
                head.add(Table.OUTBOX, row_ident(number), marks(sealed))
                self._db.execute("INSERT INTO outbox VALUES (?, ?)", (number, sealed))

            self._change(write)
            return number

    @property
    def sample_pointer(self) -> int:
        """The greatest sample row that an outbox message already holds."""
        return self._head.sample_pointer

    @property
    def acknowledged_row(self) -> int:
        """Samples up to this row are surely in the cloud: no waiting message can hold them."""
        waiting = self._head.counts[Table.OUTBOX] * BATCH_SAMPLES
        return max(0, self._head.sample_pointer - waiting)

    @property
    def fold_samples(self) -> int:
        """How many samples become one segment."""
        return FOLD_SAMPLES

    def pending(self, limit: int, after: int = 0) -> list[tuple[int, bytes]]:
        """The oldest messages that are not done, with their numbers, which are above ``after``."""
        with self._mutex:
            self._check_usable()
            with reported(self._path):
                rows = self._db.execute(
                    "SELECT number, sealed FROM outbox WHERE number > ? ORDER BY number LIMIT ?",
                    (after, max(0, limit)),
                ).fetchall()
            return [(n, self._sealer.open(Table.OUTBOX, row_ident(n), sealed)) for n, sealed in rows]

    def pending_count(self) -> int:
        """How many messages are not done."""
        return self._head.counts[Table.OUTBOX]

    def done(self, numbers: Iterable[int]) -> None:
        """Forget these messages: the cloud has them. Unknown numbers are ignored."""
        with self._mutex:
            self._check_usable()
            known: list[tuple[int, bytes]] = []
            with reported(self._path):
                for number in sorted({n for n in numbers if 0 < n <= self._head.last_outbox}):
                    row = self._db.execute("SELECT sealed FROM outbox WHERE number = ?", (number,)).fetchone()
                    if row is not None and isinstance(row[0], bytes):
                        known.append((number, row[0]))

            def write(head: Head) -> None:
                for number, sealed in known:
                    head.remove(Table.OUTBOX, row_ident(number), marks(sealed))
                    self._db.execute("DELETE FROM outbox WHERE number = ?", (number,))

            if known:
                self._change(write)

    def next_number(self, name: str) -> int:
        """The next number of this name: strictly rising across restarts and replaced stores, see ``_next``."""
        checked_name(name, "counter")
        with self._mutex:
            number = self._next(self._head.counters.get(name, 0))

            def write(head: Head) -> None:
                head.counters[name] = number

            self._change(write)
            return number

    # --- the audit log

    def note(self, who: str, what: str, **detail: Detail) -> None:
        """A durable entry of the audit log (journal.py). Details never hold readings or doses."""
        with self._mutex:
            self._change(lambda head: self._note(head, who, what, detail))

    def journal(self, after: int, limit: int) -> list[str]:
        """At most ``limit`` lines of the log after entry ``after``."""
        with self._mutex:
            self._check_usable()
            with reported(self._path):
                rows = self._db.execute(
                    "SELECT number, sealed FROM journal WHERE number > ? ORDER BY number LIMIT ?",
                    (max(0, after), max(0, limit)),
                ).fetchall()
            return [self._sealer.open(Table.JOURNAL, row_ident(n), sealed).decode() for n, sealed in rows]

    @property
    def journal_hash(self) -> str:
        """Of the newest entry, in hexadecimal."""
        return self._head.journal_hash.hex()

    # --- the store as a whole

    def check_structure(self) -> None:
        """TamperedError when SQLite finds its own structures damaged: a later write would trip over them."""
        with self._mutex, reported(self._path):
            if self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise TamperedError("SQLite finds its file damaged", where=str(self._path))

    def save_key_copy(self) -> None:
        """Keep the wrapped keys and the file's first page a second time: nothing is found without them."""
        self.has_key_copy = save_copy(
            self._path, read_records(self._db, self._path), self._files.first_page()
        )
        if not self.has_key_copy:
            log.warning("store.no_copy_of_keys")

    def now_us(self) -> int:
        """The time of the store's clock."""
        return self._clock.now_us()

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more."""
        return self._closed

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._path

    @property
    def generation(self) -> int:
        """Rises with every transaction. Remembered elsewhere, it reveals a store put back as a whole."""
        return self._head.generation

    def check(self) -> CheckReport:
        """Read and authenticate everything that is on the disk now."""
        with self._mutex:
            self._check_usable()
            return examined(self._db, self._path, self._ring)

    def close(self) -> None:
        """Fold the write-ahead log into the file and let others open it. Closing twice is harmless."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            try:
                with reported(self._path):
                    # First: after a write that failed it still holds its statement, and with it SQLite the file.
                    self._cursor.close()
                    self._db.close()
            finally:
                self._files.close()
                self._writer.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside

    def _new(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """Those whose keys are not here yet, each key once."""
        if len(samples) > 1 and self._index.are_new(samples):
            return tuple(samples)
        fresh: dict[tuple[str, str, int], Sample] = {}
        for sample in samples:
            key = sample.key
            if key in fresh or self._has(sample):
                self._has_come_again(sample.source, sample.seq)
            else:
                fresh[key] = sample
        return tuple(fresh.values())

    def _has(self, sample: Sample) -> bool:
        new = self._index.is_new(sample)
        if new is not None:
            return not new
        key = sample.key
        return any(s.key == key for place in self._index.suspects(key) for s in self._segment(place))

    def _has_come_again(self, source: str, seq: int) -> None:
        rest = self._refill.after(source, seq)
        if rest is not self._refill:
            self.want(rest)

    def _next(self, last: int) -> int:
        """The number after ``last`` (0: none): now in milliseconds, or one more when that is not greater.

        Outbox numbers, alarms and hand entries are known to the cloud by their number. A store made anew, or
        put back from an older copy, must not give out those of its predecessor again; time does not repeat
        itself. A clock that steps back only makes the numbers dense.
        """
        return max(last + 1, self._clock.now_us() // US_PER_MS)

    def _note(self, head: Head, who: str, what: str, detail: Mapping[str, Detail]) -> None:
        """An entry of the audit log, in the transaction of what it tells of."""
        number = head.journal_last + 1
        line = make_line(number, self._clock.now_us(), who, what, detail, head.journal_hash)
        sealed = self._sealer.seal(Table.JOURNAL, row_ident(number), line.encode())
        self._insert(head, Table.JOURNAL, [(number, sealed)])
        head.journal_last, head.journal_hash = number, hash_of(line)

    def _insert(self, head: Head, table: Table, records: Iterable[tuple[int, bytes]]) -> None:
        insert, execute = _INSERT[table], self._cursor.execute
        for record in records:
            head.add(table, row_ident(record[0]), marks(record[1]))
            execute(insert, record)

    def _change(
        self, write: Write, remember: Callable[[], None] = lambda: None, sealer: Sealer | None = None
    ) -> None:
        """One durable transaction: ``write`` to disk and draft, then ``remember`` in memory."""

        def put(head: Head) -> bytes:
            execute = self._cursor.execute
            execute("BEGIN IMMEDIATE")
            write(head)
            sealed = head.seal(sealer or self._sealer)
            done = execute("UPDATE tail SET sealed = ? WHERE number = ?", (sealed, HEAD_ROW))
            if done.rowcount != 1:
                raise TamperedError("head is missing", where=str(self._path))
            execute("COMMIT")
            return sealed

        self._put(put, remember)

    def _put(self, put: Callable[[Head], bytes], remember: Callable[[], None]) -> None:
        """``put``, a whole transaction that returns the head it sealed, then ``remember``.

        On a full disk the log may have room that it used before, or is given what was held for it (thinning.py). So
        ``put`` may be called again, after a rollback.
        """
        with_room(self, lambda: self._commit(put, remember))

    def begin_log_anew(self) -> bool:
        """Fold the write-ahead log into the file, to be written from its beginning; False when that fails."""
        with self._mutex:
            try:
                busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            except sqlite3.Error:
                return False
            return not busy

    def _commit(self, put: Callable[[Head], bytes], remember: Callable[[], None]) -> None:
        """What ``_put`` does, once.

        StoreError when the files are not where they were: a commit to a file without a name is on no disk
        after a restart. Looked at before, so that nothing is written, and after, so that nothing is
        acknowledged that was written while the file went away (then only a restart tells what is there).
        """
        self._check_usable()
        self._files.check()
        self._in_doubt = True
        try:
            with reported(self._path):
                draft = self._head.copy()
                sealed = put(draft)
            self._files.check()
        except BaseException:
            self._undo()
            raise
        self._head, self._head_sealed = draft, sealed
        remember()
        self._in_doubt = False

    def _undo(self) -> None:
        """After a failure: back to the last commit. In doubt when the disk does not say that it is there."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            row = self._db.execute("SELECT sealed FROM tail WHERE number = ?", (HEAD_ROW,)).fetchone()
        except SQLITE_ERRORS:
            return
        self._in_doubt = row != (self._head_sealed,)

    def _segment(self, place: int) -> list[Sample]:
        samples = self._unpacked.get(place)
        if samples is None:
            row = self._index.first_rows[place]
            sealed = self._sealed("SELECT sealed FROM segments WHERE number = ?", row, f"segments {row}")
            plain = self._sealer.open(Table.SEGMENTS, row_ident(row), sealed)
            try:
                samples = decode_segment(unchained(plain)[1])
            except DecodeError as err:
                raise TamperedError(err.what, where=f"segments {row}") from None
            self._unpacked[place] = samples
            if len(self._unpacked) > _KEPT_SEGMENTS:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(place)
        return samples

    def _sealed(self, query: str, ident: Any, where: str) -> bytes:
        with reported(self._path):
            row = self._db.execute(query, (ident,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise TamperedError("record is missing", where=where)
        return row[0]

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError("store is closed", where=str(self._path))
        if self._in_doubt:
            raise StoreError(
                "the last write ended in doubt",
                where=str(self._path),
                mend="restart: opening tells what is there",
            )
