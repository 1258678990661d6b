"""The cloud's database: SQLite (WAL) by default, PostgreSQL by another URL. One door for all parts.

``with db.write() as session`` is one transaction; ``with db.read() as session`` never blocks the writer.
Both are synchronous. ``await db.run(function, *args)`` calls ``function(session, *args)`` in one write
transaction on the database's own thread, so the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import alembic.command
from alembic.config import Config as AlembicConfig
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session, sessionmaker

from cloud.sealing import Sealer, attach_sealer
from cloud.tables import (
    AdviceRow,
    AlarmRow,
    AuditRow,
    Base,
    ContributionRow,
    CorrectionRow,
    DownlinkRow,
    EstimateRow,
    ForecastRow,
    HubRow,
    MetaRow,
    PolicyRow,
    PriorRow,
    RejectedRow,
    SampleRow,
    UplinkRow,
)
from core.errors import (
    ConfigError,
    EnvironmentMissing,
    NewerVersionError,
    StoreError,
    TamperedError,
    WrongKeyError,
)

__all__ = [
    "AdviceRow",
    "AlarmRow",
    "AuditRow",
    "Base",
    "ContributionRow",
    "CorrectionRow",
    "Database",
    "DownlinkRow",
    "EstimateRow",
    "ForecastRow",
    "HubRow",
    "MetaRow",
    "PolicyRow",
    "PriorRow",
    "RejectedRow",
    "SampleRow",
    "UplinkRow",
]

# A portal query under way may hold SQLite's lock for a checkpoint; half a minute is far beyond any of ours.
BUSY_TIMEOUT_MS: Final = 30_000
KEY_CHECK: Final = b"hometwin database 1"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
MIGRATION_LOCK: Final = 0x486F6D65  # any constant; processes that start together upgrade one by one

P = ParamSpec("P")
R = TypeVar("R")


class Database:
    """An open, migrated database whose key has been checked."""

    def __init__(self, engine: Engine, sealer: Sealer) -> None:
        self.engine = engine
        self.sealer = sealer
        self._read = sessionmaker(engine, expire_on_commit=False)
        self._write = sessionmaker(engine.execution_options(writes=True), expire_on_commit=False)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self._file = _file_of(engine.url)
        self._file_id = _file_id(self._file)

    @classmethod
    def open(cls, url: str, key: bytes) -> Database:
        """Open ``url``, create or upgrade its tables, check the key.

        Raises ConfigError (bad URL), EnvironmentMissing (unreachable, driver missing), WrongKeyError,
        NewerVersionError; nothing was changed then.
        """
        parsed = _parse(url)
        sealer = Sealer(key)
        try:
            engine = _make_engine(parsed)
            attach_sealer(engine.dialect, sealer)
            with engine.execution_options(writes=True).begin() as connection:
                _check_key_if_there(connection, sealer)
                _upgrade(connection)
                _write_key_check(connection, sealer)
        except DBAPIError as err:
            raise EnvironmentMissing(
                f"the database cannot be opened: {type(err.orig).__name__}: {_first_line(err.orig)}",
                where=parsed.render_as_string(hide_password=True),
                mend="check [database] url, the folder and its permissions",
            ) from None
        return cls(engine, sealer)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one consistent snapshot; changes made in it are dropped."""
        with self._read() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are durable when the block ends without error."""
        with self._write.begin() as session:
            yield session

    async def run(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """``function(session, ...)`` in one write transaction, off the event loop; durable on return.

        StoreError when the database cannot (disk full, server gone, file deleted): nothing was changed then,
        or nothing that lasts.
        """

        def transact() -> R:
            with _database_trouble(), self.write() as session:
                result = function(session, *args, **kwargs)
            self._check_file()  # after the commit: only then is it known to have been in that file
            return result

        return await asyncio.wrap_future(self._thread.submit(transact))

    async def query(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """``function(session, ...)`` on a snapshot, in a thread of its own: it never delays the writer."""

        def look() -> R:
            self._check_file()
            with _database_trouble(), self.read() as session:
                return function(session, *args, **kwargs)

        return await asyncio.to_thread(look)

    def _check_file(self) -> None:
        """SQLite goes on writing into a file that somebody has deleted; nobody would ever read it again."""
        if _file_id(self._file) != self._file_id:
            raise StoreError(
                "the database file was deleted or replaced while it was open",
                where=str(self._file),
                mend="put it back, then restart the cloud",
            )

    def close(self) -> None:
        """Wait for the transaction under way and close all connections."""
        self._thread.shutdown(wait=True)
        self.engine.dispose()


@contextlib.contextmanager
def _database_trouble() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as err:
        cause: DBAPIError = err
        while isinstance(cause.__context__, DBAPIError):  # undoing what failed may fail as well
            cause = cause.__context__
        raise StoreError(
            f"the database cannot do it now: {_first_line(cause.orig)}", mend="see disk space and the server"
        ) from None


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise ConfigError(
            "not a database URL", where="database.url", mend="for example sqlite:///hometwin.sqlite"
        ) from None


def _make_engine(url: URL) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    if (path := _file_of(url)) is not None:
        _create_private(path)
    try:
        # hide_parameters: an error text must never quote a value
        engine = create_engine(url, hide_parameters=True)
    except (NoSuchModuleError, ModuleNotFoundError) as err:
        raise EnvironmentMissing(
            f"no driver for this database: {err}",
            where="database.url",
            mend="use sqlite:///…, or install the driver (pip install psycopg)",
        ) from None
    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _file_of(url: URL) -> Path | None:
    """SQLite's file; None for a server or a database in memory."""
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(str(url.database)) if is_file else None


def _file_id(path: Path | None) -> tuple[int, int] | None:
    """Device and inode; None without a file."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _create_private(path: Path) -> None:
    """An empty file that only its owner reads. SQLite gives its WAL the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as err:
        raise EnvironmentMissing(
            f"the database file cannot be opened: {err.strerror}",
            where=str(path),
            mend="check [database] url, the folder and its permissions",
        ) from None


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see below
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledgement promises durability, also through a power cut
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer that starts as a reader cannot upgrade once somebody else has written (SQLITE_BUSY at once,
    # whatever the timeout), so writers say so at the start.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except CommandError as err:
        raise NewerVersionError(
            f"the database was written by a newer version: {err}", mend="upgrade hometwin"
        ) from None


def _key_check(connection: Connection) -> bytes | None:
    return connection.execute(select(MetaRow.value).where(MetaRow.name == "key_check")).scalar()


def _check_key_if_there(connection: Connection, sealer: Sealer) -> None:
    if not connection.dialect.has_table(connection, "meta"):
        return
    try:
        sealed = _key_check(connection)
    except SQLAlchemyError:
        raise EnvironmentMissing(
            "the database holds foreign tables", where="database.url", mend="give hometwin its own database"
        ) from None
    if sealed is None:
        return
    try:
        sealer.open(b"meta.key_check", sealed)
    except TamperedError:
        raise WrongKeyError(
            "the database key does not open this database",
            where="database.key_file",
            mend="put back the key file that belongs to it",
        ) from None


def _write_key_check(connection: Connection, sealer: Sealer) -> None:
    if _key_check(connection) is None:
        value = sealer.seal(b"meta.key_check", KEY_CHECK)
        connection.execute(insert(MetaRow).values(name="key_check", value=value))


def _first_line(err: BaseException | None) -> str:
    return str(err).splitlines()[0] if str(err) else ""
