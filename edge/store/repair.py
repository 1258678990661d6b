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
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from core.clock import Clock
from core.errors import DecodeError, HometwinError, InputError, StoreError, TamperedError, WrongKeyError
from core.messages import decode, encode
from edge.store import untold
from edge.store.aside import (
    KEPT_ASIDE,
    WHOLE_SUFFIX,
    forget_oldest,
    keep_as,
    name_aside,
    newest_aside,
    set_aside_whole,
)
from edge.store.chain import unproven, vouched
from edge.store.database import PAGE_BYTES, WriterLock, is_full, make_database, no_space
from edge.store.files import give_to_owner_of, open_new, open_regular, real_path
from edge.store.gather import ROW_TABLES, Found, Kept, agrees, gather, read_head
from edge.store.head import Head
from edge.store.journal import hash_of, read_line
from edge.store.keyring import COPYING_SUFFIX
from edge.store.keys import Secret, sync_folder
from edge.store.leaves import Leaves
from edge.store.migrations import APPLICATION_ID
from edge.store.rebuild import REPAIR_BLOB, RepairReport, Rows, fill, missing_before, size_of, told
from edge.store.repair_keys import choose_keys, copy_opens
from edge.store.salvage import attach, fold_log, with_first_page
from edge.store.sealing import Sealer, Table, looks_sealed
from edge.store.slots import COPY_SUFFIX, load_copy, load_first_page
from edge.store.store import Store
from edge.store.thinning import SPARE_SUFFIX
from edge.store.wal import COMMITS_LOST

__all__ = ["KEPT_ASIDE", "REPAIR_BLOB", "RepairReport", "forget_oldest", "open_or_repair", "repair"]

log = structlog.get_logger()

BEGIN_BYTES: Final = (
    400 << 10
)  # a new store with its log, and a day of readings; less than the room held for a full disk

_UNTOLD: Final = "the hub ended before it could tell that a damaged log, or store, was set aside"
_MOST_MISSING: Final = 256  # spans that a report remembers; what is beyond would be counted again


def open_or_repair(
    path: Path | str, key: Secret, *, hub_id: str, clock: Clock, before: Callable[[], None] = lambda: None
) -> tuple[Store, RepairReport | None]:
    """The store, repaired when it has to be. Errors of the key, the lock, the version and the disk are raised.

    ``before`` is called before a repair, which may take minutes.
    """
    path = real_path(path)
    try:
        store = _sound(path, key, hub_id, clock)
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
    except WrongKeyError:
        # Both the wrapped key and its check value may be damaged: the copy beside the store may know better.
        if not copy_opens(path, key, hub_id):
            raise
        reason = f"{path}: the wrapped keys are damaged; their copy opens the store"
    else:
        if not untold.is_marked(path):
            return store, None
        log.error("store.damaged", reason=_UNTOLD)
        return store, _tell(store, _uncounted(store, clock, _UNTOLD))
    log.error("store.damaged", reason=reason)
    before()
    return _repaired(path, key, hub_id, clock, reason)


def _repaired(path: Path, key: Secret, hub_id: str, clock: Clock, reason: str) -> tuple[Store, RepairReport]:
    """A damaged store once more: as it is where only its log was damaged, else repaired, else begun anew."""
    if untold.is_marked(path):
        with contextlib.suppress(TamperedError, WrongKeyError):
            store = _sound(path, key, hub_id, clock)
            return store, _tell(store, _uncounted(store, clock, reason))
    report = repair(path, key, hub_id=hub_id, clock=clock, reason=reason)
    try:
        store = _sound(path, key, hub_id, clock)
    except (TamperedError, WrongKeyError):
        aside = set_aside_whole(path, clock)
        store = Store.open(path, key, hub_id=hub_id, clock=clock)
        anew = RepairReport(clock.now_us(), reason, aside, {}, {"file": 1}, {}, None, 1)
        return store, _tell(store, anew)
    if report is None:
        return store, _tell(store, _uncounted(store, clock, reason))
    return store, _tell(store, report, is_stored=True)


def _uncounted(store: Store, clock: Clock, reason: str) -> RepairReport:
    """Of a store that is sound, but without what came last: nobody knows how much that was."""
    before: RepairReport | None = None
    with contextlib.suppress(DecodeError):
        before = decode(store.get_blob(REPAIR_BLOB) or b"", RepairReport)
    kept = {table.name.lower(): store._head.counts[table] for table in ROW_TABLES}
    aside = newest_aside(store.path)
    # Told, and only the mark is still there: no less is asked for. A loss seen now is another one, though a log that somebody
    # removed left it the same name.
    if reason == _UNTOLD and before is not None and aside == before.set_aside and before.rows_lost is None:
        return msgspec.structs.replace(before, kept=kept)
    report = RepairReport(clock.now_us(), reason, aside, kept, {}, {}, None, store.last_row + 1)
    if aside.endswith(WHOLE_SUFFIX):
        return msgspec.structs.replace(report, damaged={"file": 1}, first_lost_row=1)
    return msgspec.structs.replace(report, missing=before.missing if before is not None else ())


def _tell(store: Store, report: RepairReport, *, is_stored: bool = False) -> RepairReport:
    """Tell it in store and log. On a full disk the mark stays, and it is told again at the next start."""
    try:
        if not is_stored:
            store.put_blob(REPAIR_BLOB, encode(report))
            store.note("hub", "store.repaired", **told(report))
        untold.clear(store.path)
    except StoreError as err:
        log.error("store.repair_not_noted", error=err.what)
    log.error(
        "store.repaired",
        set_aside=report.set_aside,
        kept=report.kept,
        damaged=report.damaged,
        distrusted=report.distrusted,
        unproven=report.unproven,
        rows_lost=told(report)["rows_lost"],
        others_lost=report.others_lost,
    )
    return report


def _sound(path: Path, key: Secret, hub_id: str, clock: Clock) -> Store:
    store = Store.open(path, key, hub_id=hub_id, clock=clock)
    try:
        store.check_structure()
    except BaseException:
        store.close()
        raise
    return store


def repair(path: Path, key: Secret, *, hub_id: str, clock: Clock, reason: str) -> RepairReport | None:
    """Put a store of all that is good in the place of the damaged one; None where nothing can be carried over (now)."""
    lock = WriterLock(path)
    uncounted = COMMITS_LOST in reason

    def carried_over() -> RepairReport:
        nonlocal uncounted
        _seat_log(path)
        # Records that this head never knew of: of a log that is set aside now, or was by opening. Folded in, it tells once.
        uncounted = fold_log(path) or uncounted or untold.is_marked(path)
        return _carry_over(path, key, hub_id, clock, reason, uncounted=uncounted)

    try:
        try:
            try:
                return carried_over()
            except _FAILURES as err:
                if not _refused(err):
                    raise
                _make_room(path)  # once more: there may be room now, and a disk may fail once
                return carried_over()
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
            return None
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


def _carry_over(
    path: Path, key: Secret, hub_id: str, clock: Clock, reason: str, *, uncounted: bool
) -> RepairReport:
    distrusted: dict[str, int] = {}
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
    no_witness = _unproven(found[Table.SEGMENTS], kept[Table.SEGMENTS], old)
    if no_witness:
        distrusted["segments"] -= no_witness
        if not distrusted["segments"]:
            del distrusted["segments"]
    kept[Table.SEGMENTS] = _apart(kept[Table.SEGMENTS])
    rows = Rows(kept, old, missing_before(kept[Table.BLOBS], sealer))
    gone = {} if old is None else {t: n for t in kept if (n := old.counts[t] - len(kept[t])) > 0}
    damaged = {
        t.name.lower(): max(part.bad, old.counts[t] - len(part.good) if old else 0)
        for t, part in found.items()
        if part.bad
    }
    if old is None:
        damaged["head"] = 1
    as_rows = (Table.SEGMENTS, Table.TAIL) if rows.lost else (Table.TAIL,)  # told so
    aside = name_aside(path, clock)
    report = RepairReport(
        clock.now_us(),
        reason,
        aside.name,
        {table.name.lower(): len(part) for table, part in kept.items()},
        damaged,
        distrusted,
        None if old is None or uncounted else rows.lost,
        rows.first_newly_lost or (rows.last_row + 1) * uncounted,
        {t.name.lower(): n for t, n in gone.items() if t not in as_rows},
        tuple(rows.missing[-_MOST_MISSING:]),
        no_witness,
    )
    fresh = path.with_name(path.name + ".repaired")
    make_database(fresh, lambda new: fill(new, records, kept, rows, old, sealer, report))
    facts = path.stat()
    fresh.chmod(stat.S_IMODE(facts.st_mode))
    give_to_owner_of(path, fresh)
    keep_as(path, aside)
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
    trusted = vouched(_sized(segments), old.links, old.last_row, old.chain_from)
    return [item for item in segments if item[0] in trusted]


def _unproven(part: Found, trusted: list[Kept], old: Head | None) -> int:
    """How many segments are left out only because what could vouch for them is damaged."""
    if old is None or not part.bad or len(trusted) == len(part.good):
        return 0
    return len(unproven(_sized(part.good), {row for row, _, _ in trusted}, old.last_row))


def _sized(segments: list[Kept]) -> list[tuple[int, int, bytes]]:
    return [(row, size_of(plain), plain) for row, _, plain in segments]


def _apart(segments: list[Kept]) -> list[Kept]:
    """Without those that claim rows of the one before."""
    kept, end = [], 0
    for row, sealed, plain in segments:
        if row > end:
            kept.append((row, sealed, plain))
            end = row + size_of(plain) - 1
    return kept
