"""A damaged or tampered store never stops the hub: what is proven good is carried over, the rest is set aside.

The damaged file stays, sealed as it is, under another name; a new file takes its place by one rename, once it is whole.
Of each table a decision is taken, and told:

- a record that cannot be read or fails authentication is *damaged*: it is left behind;
- a table whose records all authenticate but whose sum (head.py) disagrees was *put back* by somebody: nothing of it
  is used, except segments that the chain (chain.py) vouches for;
- what hangs on a lost record is asked for again: samples from the sensors (refill.py), outbox messages from samples.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, HometwinError, InputError, StoreError, TamperedError, WrongKeyError
from core.messages import Sample, decode, encode
from edge.store import refill
from edge.store.aggregates import decode_aggregates
from edge.store.chain import chained, remembered, unchained, vouched
from edge.store.database import PAGE_BYTES, WriterLock, is_full, make_database, no_space
from edge.store.files import copy_readable, give_to_owner_of, open_new, open_regular, real_path
from edge.store.gather import Found, Kept, agrees, gather, ident_of, read_head
from edge.store.head import HEAD_ROW, Head
from edge.store.index import Index
from edge.store.journal import Detail, hash_of, make_line, read_line
from edge.store.keyring import ASIDE_SUFFIX, COPYING_SUFFIX
from edge.store.keys import NO_LINKS, Secret, sync_folder
from edge.store.leaves import Leaves
from edge.store.migrations import APPLICATION_ID
from edge.store.refill import Refill, Wanted
from edge.store.repair_keys import choose_keys, copy_opens
from edge.store.salvage import attach, with_first_page
from edge.store.sealing import Sealer, Table, looks_sealed, marks, row_ident
from edge.store.segment import encode_segment, read_summary
from edge.store.slots import COPY_SUFFIX, KeyRecords, load_copy, load_first_page
from edge.store.store import BATCH_SAMPLES, Store, blob_plain
from edge.store.thinning import SPARE_SUFFIX
from edge.store.wal import COMMITS_LOST

log = structlog.get_logger()

BEGIN_BYTES: Final = (
    400 << 10
)  # a new store with its log, and a day of readings; less than the room held for a full disk

KEPT_ASIDE: Final = 3  # damaged files that are kept; the card must not fill with them
WHOLE_SUFFIX: Final = "-whole"  # of a damaged file of which nothing could be carried over
_MOST_MISSING: Final = 256  # spans that a report remembers; what is beyond would be counted again
US_PER_MS: Final = 1000
REPAIR_BLOB: Final = "repair"  # where the hub remembers the last report


class RepairReport(msgspec.Struct, frozen=True):
    """What a repair found and did. Counts are records, by table."""

    time_us: int
    reason: str  # why the store could not be opened: place and kind of damage
    set_aside: str  # the damaged file's new name
    kept: dict[str, int]
    damaged: dict[str, int]  # could not be read, or failed authentication
    distrusted: dict[str, int]  # authentic, but not of this state of the store
    # Samples that no record holds any more since this damage. None: nobody knows, as only the head tells.
    rows_lost: int | None
    first_lost_row: int  # 0 when none is
    # Records of the other tables that the head knows of and that are not kept; segments: of before a thinning, rows uncounted.
    others_lost: dict[str, int] = {}
    missing: tuple[tuple[int, int], ...] = ()  # all spans of lost rows, those of earlier repairs included

    @property
    def tampered(self) -> bool:
        """Whether somebody, not the card, did it: nothing wears out into authentic records."""
        return bool(self.distrusted)


def open_or_repair(
    path: Path | str, key: Secret, *, hub_id: str, clock: Clock, before: Callable[[], None] = lambda: None
) -> tuple[Store, RepairReport | None]:
    """The store, repaired when it has to be. Errors of the key, the lock, the version and the disk are raised.

    ``before`` is called before a repair, which may take minutes.
    """
    path = real_path(path)
    try:
        return _sound(path, key, hub_id, clock), None
    except TamperedError as err:
        if not _was_ours(path):
            if _holds_ours(path):
                raise InputError(
                    "first page of the store is destroyed, and no copy of its keys lies beside it",
                    where=str(path),
                    mend=f"put back {path.name}{COPY_SUFFIX}, or the whole folder, from a backup; the file stays as it is. "
                    "To begin anew meanwhile, move it away and keep it",
                ) from None
            raise InputError(
                "file is no store, and never was one",
                where=str(path),
                mend="check the state folder; move the file away if the store shall be there",
            ) from None
        reason = str(err)
        log.error("store.damaged", reason=reason)
        before()
        report = repair(path, key, hub_id=hub_id, clock=clock, reason=reason)
    except WrongKeyError:
        # Both the wrapped key and its check value may be damaged: the copy beside the store may know better.
        if not copy_opens(path, key, hub_id):
            raise
        reason = f"{path}: the wrapped keys are damaged; their copy opens the store"
        report = repair(path, key, hub_id=hub_id, clock=clock, reason=reason)
        log.error("store.damaged", reason=reason)
    try:
        store = _sound(path, key, hub_id, clock)
    except TamperedError:
        aside = _set_aside_whole(path, clock)
        report = msgspec.structs.replace(report, set_aside=aside, kept={}, rows_lost=None)
        store = Store.open(path, key, hub_id=hub_id, clock=clock)
    if not report.kept:  # else the new file has known it from its beginning
        store.put_blob(REPAIR_BLOB, encode(report))
        store.note("hub", "store.repaired", **_told(report))
    log.error(
        "store.repaired",
        set_aside=report.set_aside,
        kept=report.kept,
        damaged=report.damaged,
        distrusted=report.distrusted,
        rows_lost=_told(report)["rows_lost"],
        others_lost=report.others_lost,
    )
    return store, report


def _told(report: RepairReport) -> dict[str, Detail]:
    """For the audit log."""
    return {
        "reason": report.reason,
        "set_aside": report.set_aside,
        "rows_lost": "unknown" if report.rows_lost is None else report.rows_lost,
        "others_lost": sum(report.others_lost.values()),
        "damaged": sum(report.damaged.values()),
        "distrusted": sum(report.distrusted.values()),
    }


def _sound(path: Path, key: Secret, hub_id: str, clock: Clock) -> Store:
    store = Store.open(path, key, hub_id=hub_id, clock=clock)
    try:
        store.check_structure()
    except BaseException:
        store.close()
        raise
    return store


def repair(path: Path, key: Secret, *, hub_id: str, clock: Clock, reason: str) -> RepairReport:
    """Put a store of all that is good in the place of the damaged one."""
    lock = WriterLock(path)
    try:
        try:
            try:
                return _carry_over(path, key, hub_id, clock, reason)
            except _FAILURES as err:
                if not _refused(err):
                    raise
                _make_room(path)  # once more: there may be room now, and a disk may fail once
                return _carry_over(path, key, hub_id, clock, reason)
        except WrongKeyError:
            raise  # whoever holds the right key can still repair it: nothing is begun anew under this one
        except _FAILURES as err:
            if _refused(err):
                _make_room(path)
                if not _can_begin(path):
                    why = err.what if isinstance(err, HometwinError) else type(err).__name__
                    raise StoreError(
                        f"store is damaged and cannot be repaired now ({why}); it stays where it is",
                        where=str(path),
                        mend="free as much space as the store is long; it is repaired at the next start",
                    ) from None
                # Alarms come before history: the record waits beside a new store until somebody puts it back.
                log.error(
                    "store.not_repaired_now", mend="see to room and rights, stop the hub, put the file back"
                )
            # Or nothing could be carried over, no key opens it: begin anew beside it.
            log.error("store.not_salvaged", error=type(err).__name__)
            aside = _set_aside_whole(path, clock)
            return RepairReport(clock.now_us(), reason, aside, {}, {"file": 1}, {}, None, 1)
    finally:
        lock.release()


_FAILURES: Final = (
    *(HometwinError, sqlite3.Error, OSError),
    *(ValueError, OverflowError, TypeError, AttributeError),
)


def _refused(err: BaseException) -> bool:
    """Whether the disk or its rights, not the damage, kept a repair from being done: it will do another time."""
    if isinstance(err, OSError):
        return err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    if isinstance(err, sqlite3.Error):
        code = getattr(err, "sqlite_errorcode", 0) & 0xFF
        no_right = code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN)
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) or no_right
    return isinstance(err, (InputError, StoreError)) and not isinstance(err, TamperedError)


def _make_room(path: Path) -> None:
    """Remove what a repair left half done, and the room held for a full disk."""
    names = [
        of + end
        for of in (".repaired", ".mended", COPYING_SUFFIX)
        for end in ("", "-wal", "-shm", "-journal")
    ]
    for name in (*names, SPARE_SUFFIX):
        with contextlib.suppress(OSError):
            path.with_name(path.name + name).unlink(missing_ok=True)


def _can_begin(path: Path) -> bool:
    """Whether there is room for a new store, tried by taking it."""
    trial = path.with_name(path.name + ".new")
    try:
        with os.fdopen(open_new(trial), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, BEGIN_BYTES)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)
    return True


def _was_ours(path: Path) -> bool:
    """Whether a store of ours lies, or lay, at ``path``: what is somebody else's is not touched."""
    try:
        with path.open("rb") as file:
            page = file.read(PAGE_BYTES)
    except FileNotFoundError:
        return True  # only its log is left
    except OSError:
        page = b"?"  # the disk cannot read it
    named = page[68:72] == APPLICATION_ID.to_bytes(4, "big") or b"_sqlite_migrations" in page
    return not page or named or load_copy(path) is not None


def _holds_ours(path: Path) -> bool:
    """Whether records that look like ours lie in it."""
    with contextlib.suppress(OSError), contextlib.closing(Leaves(path)) as leaves:
        return any(looks_sealed(cell.sealed) for cell in leaves.cells())
    return False


def _carry_over(path: Path, key: Secret, hub_id: str, clock: Clock, reason: str) -> RepairReport:
    distrusted: dict[str, int] = {}
    _seat_log(path)
    mended = path.with_name(path.name + ".mended")
    copy = with_first_page(path, load_first_page(path), mended)
    try:
        # Closed after the connection, whose locks it would take away.
        with contextlib.closing(Leaves(path)) as leaves, contextlib.closing(copy or attach(path)) as db:
            records, sealer = choose_keys(db, leaves, path, key, hub_id, distrusted)
            old = read_head(db, sealer, leaves)
            found = gather(db, leaves, old, sealer)
    finally:
        for end in ("", "-wal", "-shm"):
            mended.with_name(mended.name + end).unlink(missing_ok=True)
    log_left = path.with_name(path.name + "-wal")
    if log_left.exists() and log_left.stat().st_size:
        if is_full(path):
            raise no_space(path)
        raise TamperedError("write-ahead log cannot be folded in", where=str(log_left))
    kept = {table: _trusted(table, part, old, sealer, distrusted) for table, part in found.items()}
    kept[Table.SEGMENTS] = _apart(kept[Table.SEGMENTS])
    rows = _Rows(kept, old, _missing_before(kept[Table.BLOBS], sealer))
    gone = {} if old is None else {t: n for t in kept if (n := old.counts[t] - len(kept[t])) > 0}
    damaged = {
        t.name.lower(): max(part.bad, old.counts[t] - len(part.good) if old else 0)
        for t, part in found.items()
        if part.bad
    }
    if old is None:
        damaged["head"] = 1
    told = (Table.SEGMENTS, Table.TAIL) if rows.lost else (Table.TAIL,)  # as rows
    uncounted = COMMITS_LOST in reason  # records that this head never knew of
    aside = _name_aside(path, clock)
    report = RepairReport(
        clock.now_us(),
        reason,
        aside.name,
        {table.name.lower(): len(part) for table, part in kept.items()},
        damaged,
        distrusted,
        None if old is None or uncounted else rows.lost,
        rows.first_newly_lost or (rows.last_row + 1) * uncounted,
        {t.name.lower(): n for t, n in gone.items() if t not in told},
        tuple(rows.missing[-_MOST_MISSING:]),
    )
    fresh = path.with_name(path.name + ".repaired")
    make_database(fresh, lambda new: _fill(new, records, kept, rows, old, sealer, report))
    facts = path.stat()
    fresh.chmod(stat.S_IMODE(facts.st_mode))
    give_to_owner_of(path, fresh)
    _keep_as(path, aside)
    fresh.rename(path)
    sync_folder(path.parent)
    forget_oldest(path)
    return report


def _seat_log(path: Path) -> None:
    """SQLite deletes a log beside a file that is gone or empty. Beside a first page it takes it, as far as that goes."""
    log_left = path.with_name(path.name + "-wal")
    if not (log_left.exists() and log_left.stat().st_size) or (path.exists() and path.stat().st_size):
        return
    page = load_first_page(path)
    if not page:
        raise TamperedError("nothing is left but a log", where=str(log_left))
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
        give_to_owner_of(path.parent, file.fileno())
        file.write(page)


def _trusted(
    table: Table, part: Found, old: Head | None, sealer: Sealer, distrusted: dict[str, int]
) -> list[Kept]:
    """The records of one table that may be used."""
    if table is Table.JOURNAL:
        good = _unbroken(part.good)
    elif old is None:
        return part.good
    else:
        if agrees(old, table, part.good, sealer):
            return part.good
        good = _vouched(part.good, old) if table is Table.SEGMENTS else part.good * bool(part.bad)
    if len(good) < len(part.good) and not (table is Table.JOURNAL and part.bad):
        distrusted[table.name.lower()] = len(part.good) - len(good)
    elif old is not None and not part.bad and old.counts[table] > len(part.good):
        distrusted[table.name.lower()] = 0  # nothing is damaged, and yet some are gone: somebody took them
    return good


def _unbroken(entries: list[Kept]) -> list[Kept]:
    """The audit log as far as each entry follows on the one before."""
    previous, kept = "", list[Kept]()
    for place, sealed, plain in entries:
        line = plain.decode()
        entry = read_line(line)
        if entry.number != place or entry.number != len(kept) + 1 or entry.previous != previous:
            break
        kept.append((place, sealed, plain))
        previous = hash_of(line).hex()
    return kept


def _vouched(segments: list[Kept], old: Head) -> list[Kept]:
    """The segments that a later one vouches for."""
    sized = [(row, _size(plain), plain) for row, _, plain in segments]
    trusted = vouched(sized, old.links, old.last_row, old.chain_from)
    return [item for item in segments if item[0] in trusted]


def _size(plain: bytes) -> int:
    return read_summary(unchained(plain)[1]).size


def _apart(segments: list[Kept]) -> list[Kept]:
    """Without those that claim rows of the one before."""
    kept, end = [], 0
    for row, sealed, plain in segments:
        if row > end:
            kept.append((row, sealed, plain))
            end = row + _size(plain) - 1
    return kept


class _Rows:
    """Rows of the new store: segments as they are, the tail too when nothing of it is missing."""

    def __init__(
        self, kept: dict[Table, list[Kept]], old: Head | None, before: Sequence[tuple[int, int]]
    ) -> None:
        segments, tail = kept[Table.SEGMENTS], kept[Table.TAIL]
        spans = [(row, row + _size(plain) - 1) for row, _, plain in segments]
        end = spans[-1][1] if spans else 0
        tail = [item for item in tail if item[0] > end]
        rows = [row for row, _, _ in tail]
        newest = max([end, *rows])
        self.last_row = newest if old is None else max(newest, old.last_row)
        whole = rows == list(range(self.last_row - len(rows) + 1, self.last_row + 1))
        self.tail: list[Kept] = tail if whole else []
        # What is left of a tail with holes becomes a segment: a tail has none.
        self.folded = [] if whole else [(row, decode(plain, Sample)) for row, _, plain in tail]
        if self.folded:
            spans.append((rows[0], rows[0] + len(rows) - 1))
        elif tail:
            spans.append((rows[0], rows[-1]))
        first_kept = 1 if old is None else min([old.chain_from or 1, self.last_row + 1])
        self.missing: list[tuple[int, int]] = []
        expected = first_kept
        for first, last in [*spans, (self.last_row + 1, self.last_row)]:
            if first > expected:
                self.missing.append((expected, first - 1))
            expected = max(expected, last + 1)
        self.first_lost = self.missing[0][0] if self.missing else 0
        new = list(_beyond(self.missing, before))
        self.lost = sum(last - first + 1 for first, last in new)
        self.first_newly_lost = new[0][0] if new else 0


def _beyond(missing: list[tuple[int, int]], before: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans of rows without those of ``before``; both in rising order."""
    for first, last in missing:
        for start, end in before:
            if start <= last and end >= first:
                if start > first:
                    yield first, start - 1
                first = end + 1
        if first <= last:
            yield first, last


def _missing_before(blobs: list[Kept], sealer: Sealer) -> tuple[tuple[int, int], ...]:
    """What an earlier repair did not find any more."""
    ident = sealer.name_hash(REPAIR_BLOB)
    for place, _, plain in blobs:
        if place == ident:
            with contextlib.suppress(DecodeError):
                return decode(plain[1 + plain[0] :], RepairReport).missing
    return ()


def _fill(
    db: sqlite3.Connection,
    records: KeyRecords,
    kept: dict[Table, list[Kept]],
    rows: _Rows,
    old: Head | None,
    sealer: Sealer,
    report: RepairReport,
) -> None:
    """All of a new store, and that it was repaired: a cut right after this must not lose what is to be told and asked."""
    head = Head(sealer.commitment_key)
    db.execute("INSERT INTO identity VALUES (1, ?)", (records.store_id,))
    db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", records.slots)
    kept = {**kept, Table.TAIL: rows.tail, Table.KEYRING: [(n, sealed, b"") for n, sealed in records.keyring]}
    for _, _, plain in kept[Table.SEGMENTS]:
        head.links = remembered(head.links, plain)
    if rows.folded:
        plain = chained(encode_segment([sample for _, sample in rows.folded]), head.links)
        head.links = remembered(head.links, plain)
        first = rows.folded[0][0]
        sealed = sealer.seal(Table.SEGMENTS, row_ident(first), plain)
        kept[Table.SEGMENTS] = [*kept[Table.SEGMENTS], (first, sealed, plain)]
    blobs = {REPAIR_BLOB: encode(report)}
    if rows.first_lost:
        blobs[refill.BLOB] = bytes(_ask_again(kept, rows.first_lost, report.time_us))
    kept[Table.BLOBS] = _with_blobs(kept[Table.BLOBS], blobs, sealer)
    journal = kept[Table.JOURNAL]
    head.journal_last = len(journal) + 1
    before = hash_of(journal[-1][2].decode()) if journal else b""
    line = make_line(head.journal_last, report.time_us, "hub", "store.repaired", _told(report), before)
    head.journal_hash = hash_of(line)
    sealed = sealer.seal(Table.JOURNAL, row_ident(head.journal_last), line.encode())
    kept[Table.JOURNAL] = [*journal, (head.journal_last, sealed, line.encode())]
    for table, items in kept.items():
        for place, sealed, _ in items:
            head.add(table, ident_of(table, place), marks(sealed))
        db.executemany(
            f"INSERT INTO {table.name.lower()} VALUES (?, ?)",  # noqa: S608 - constants
            [(place, sealed) for place, sealed, _ in items],
        )
    now_ms = report.time_us // US_PER_MS
    numbers = [number for number, _, _ in kept[Table.OUTBOX]]
    head.last_row = rows.last_row
    head.archive_last = max([n for n, _, _ in kept[Table.ARCHIVE]], default=0)
    if old is None:
        # Numbers that the cloud knows must not come again: time does not repeat itself (Store._next).
        head.generation, head.last_outbox = now_ms, max([now_ms, *numbers])
    else:
        head.generation, head.counters = old.generation + 1, old.counters
        head.last_outbox, head.chain_from = max([old.last_outbox, *numbers]), old.chain_from
        head.archive_last = max(head.archive_last, old.archive_last)
        # Messages that are gone held the newest of the samples that were sent: these are sent again.
        gone = old.counts[Table.OUTBOX] != len(numbers)
        again = old.counts[Table.OUTBOX] * BATCH_SAMPLES if gone else 0
        head.sample_pointer = max(0, min(old.sample_pointer, rows.last_row) - again)
    db.execute("INSERT INTO tail VALUES (?, ?)", (HEAD_ROW, head.seal(sealer)))


def _with_blobs(kept: list[Kept], blobs: dict[str, bytes], sealer: Sealer) -> list[Kept]:
    """The blobs with these in place of those of the same names."""
    fresh = []
    for name, data in blobs.items():
        ident, plain = sealer.name_hash(name), blob_plain(name.encode(), data)
        fresh.append((ident, sealer.seal(Table.BLOBS, ident, plain), plain))
    names = {ident for ident, _, _ in fresh}
    return [*(item for item in kept if item[0] not in names), *fresh]


def _ask_again(kept: dict[Table, list[Kept]], first_lost_row: int, now_us: int) -> Refill:
    """Sensors are asked from before the gap. What was asked for before lies within what is asked for now."""
    index = Index()
    for row, _, plain in kept[Table.SEGMENTS]:
        index.add_segment(row, read_summary(unchained(plain)[1]))
    for row, _, plain in kept[Table.TAIL]:
        index.add_tail(decode(plain, Sample), row)
    for _, _, plain in kept[Table.AGGREGATES]:
        for one in decode_aggregates(plain):
            index.add_aggregate(one)
    wanted = {}
    for source in sorted(index.sources):
        newest = max(index.cursors(source).values())
        floor = index.cursor_before(first_lost_row, source)
        if floor != newest:
            wanted[source] = Wanted(floor, newest)
    return Refill(now_us, wanted)


# --- files


def _name_aside(path: Path, clock: Clock) -> Path:
    # Above every other, whatever the clock says: the lowest are forgotten first.
    number = max([1, clock.now_us() // US_PER_MS, *(n + 1 for n, _ in _asides(path))])
    while (aside := path.with_name(f"{path.name}{ASIDE_SUFFIX}{number}")).exists() or (
        aside.with_name(aside.name + WHOLE_SUFFIX).exists()
    ):
        number += 1
    return aside


def _keep_as(path: Path, aside: Path) -> None:
    """A second name for the damaged file, or a copy where the file system knows no second names (FAT, exFAT)."""
    try:
        os.link(path, aside)
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
    else:
        return
    # The name comes last: a copy that was cut does not pass for the file, which keeps its name until then.
    copy = path.with_name(path.name + COPYING_SUFFIX)
    with os.fdopen(open_new(copy), "wb") as file:
        copy_readable(path, file)
        give_to_owner_of(path, file.fileno())
        file.flush()
        os.fsync(file.fileno())
    if aside.exists():
        raise FileExistsError(errno.EEXIST, "name is taken", str(aside))
    copy.rename(aside)


def _set_aside_whole(path: Path, clock: Clock) -> str:
    """Rename the file, its log and the copy of its keys, which may be the only good one: works without any space."""
    aside = _name_aside(path, clock)
    aside = aside.with_name(aside.name + WHOLE_SUFFIX)  # the only copy: never forgotten
    try:
        # The log first: without its store it is only set aside at the next start.
        for suffix in ("-wal", COPY_SUFFIX, ""):
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.rename(aside.with_name(aside.name + suffix))
        sync_folder(path.parent)
    except OSError as err:
        raise StoreError(
            f"damaged store cannot be set aside: {err.strerror}", where=str(path), mend="check the disk"
        ) from None
    return aside.name


def _asides(path: Path) -> list[tuple[int, Path]]:
    """Damaged stores set aside by number, lowest first; logs that were set aside are none."""
    pattern = re.compile(re.escape(path.name + ASIDE_SUFFIX) + "([0-9]{1,18})")
    found = [(pattern.fullmatch(p.name), p) for p in path.parent.iterdir()]
    return sorted((int(match[1]), p) for match, p in found if match)


def forget_oldest(path: Path, keep: int = KEPT_ASIDE) -> list[str]:
    """Damaged files beyond the newest few go; the oldest first. The names of those that went."""
    gone: list[str] = []
    with contextlib.suppress(OSError):
        for _, old in _asides(path)[:-keep]:
            old.unlink()
            gone.append(old.name)
            old.with_name(old.name + "-wal").unlink(missing_ok=True)
    return gone
