"""Opening, migrating and sealing the cloud's database."""

from __future__ import annotations

import sqlite3
import stat
import struct
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from cloud.db import AdviceRow, Base, Database, HubRow, SampleRow
from cloud.ingest import SAMPLE_KEY
from cloud.sealing import Sealer, read_database_key
from core.errors import ConfigError, EnvironmentMissing, NewerVersionError, TamperedError, WrongKeyError
from tests.cloud.ingest_support import KEY, open_database


def add_sample(db: Database, value: float = 123.456) -> None:
    with db.write() as session:
        session.add(HubRow(hub_id="hub-1", person="Ada"))
        session.flush()
        session.add(SampleRow(hub_id="hub-1", source="cgm", kind="cgm_mgdl", seq=1, time_us=1, value=value))


def test_the_migrations_make_exactly_the_tables_that_the_code_describes(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    db.close()


def test_records_outlive_closing_and_opening_again_changes_nothing(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    add_sample(db)
    db.close()
    db = open_database(tmp_path)
    with db.read() as session:
        assert session.scalars(select(SampleRow)).one().value == 123.456
    db.close()


def test_the_file_is_private_and_holds_no_clear_value(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    add_sample(db)
    with db.write() as session:
        session.add(
            AdviceRow(advice_id="a", hub_id="hub-1", created_us=1, state="proposed", body=b"dose 4.35 U")
        )
    db.close()
    path = tmp_path / "cloud.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    assert b"cgm_mgdl" in data  # kinds are clear on purpose, values are not
    for clear in (b"4.35 U", struct.pack("<d", 123.456), struct.pack(">d", 123.456)):
        assert clear not in data


def test_another_key_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    before = (tmp_path / "cloud.sqlite").read_bytes()
    with pytest.raises(WrongKeyError, match=r"database\.key_file"):
        open_database(tmp_path, bytes(32))
    assert (tmp_path / "cloud.sqlite").read_bytes() == before


def test_a_value_moved_to_another_column_or_changed_does_not_open() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"samples.value", b"12345678")
    assert sealer.open(b"samples.value", sealed) == b"12345678"
    for label, data in (
        (b"advice.body", sealed),
        (b"samples.value", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (b"samples.value", b""),
    ):
        with pytest.raises(TamperedError):
            sealer.open(label, data)


def test_a_fingerprint_depends_on_the_key() -> None:
    assert Sealer(KEY).digest(b"x") == Sealer(KEY).digest(b"x") != Sealer(bytes(32)).digest(b"x")


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    with sqlite3.connect(tmp_path / "cloud.sqlite") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(NewerVersionError, match="newer"):
        open_database(tmp_path)


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("nonsense", ConfigError, "not a database URL"),
        ("sqlite:////no/such/folder/x.sqlite", EnvironmentMissing, "cannot be opened"),
        ("oddbase://x", EnvironmentMissing, "no driver"),
    ],
)
def test_an_unusable_url_gives_one_clear_line(url: str, error: type, text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        Database.open(url, KEY)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "cloud.sqlite"
    path.write_bytes(b"a letter to my aunt" * 100)
    with pytest.raises(EnvironmentMissing, match="not a database"):
        open_database(tmp_path)
    assert path.read_bytes() == b"a letter to my aunt" * 100


def test_a_missing_or_short_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"database\.key"):
        read_database_key(tmp_path / "database.key")
    (tmp_path / "database.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes instead of 32"):
        read_database_key(tmp_path / "database.key")


def test_a_reader_sees_one_snapshot_and_does_not_hold_up_the_writer(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    with db.read() as session:
        assert session.scalars(select(HubRow)).all() == []
        add_sample(db)  # would time out if the reader blocked it
        assert session.scalars(select(HubRow)).all() == []
    with db.read() as session:
        assert len(session.scalars(select(HubRow)).all()) == 1
    db.close()


def test_writers_that_read_first_wait_for_one_another(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    add_sample(db)

    def increase() -> None:
        for _ in range(20):
            with db.write() as session:
                hub = session.scalars(select(HubRow)).one()
                hub.last_number += 1

    threads = [threading.Thread(target=increase) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as session:
        assert session.scalars(select(HubRow)).one().last_number == 60
    db.close()


def test_an_error_text_never_quotes_a_value(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    add_sample(db)
    with pytest.raises(Exception, match="UNIQUE") as caught, db.write() as session:
        session.add(HubRow(hub_id="hub-1", person="Ada Lovelace"))
    assert "Lovelace" not in str(caught.value)
    db.close()


def test_postgresql_understands_every_table_and_upsert() -> None:
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert "BYTEA" in text or table.name not in ("samples", "estimates", "advice")
        assert table.name != "samples" or "id BIGSERIAL" in text
    statement = postgresql.insert(SampleRow).on_conflict_do_nothing(index_elements=SAMPLE_KEY)
    assert "ON CONFLICT (hub_id, source, kind, seq) DO NOTHING" in str(statement.compile(dialect=dialect))
