"""The audit chain: whole when nobody touched it, and any touch shows at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import select, text

from cloud import audit
from cloud.db import AuditRow, Database, MetaRow
from core.errors import TamperedError
from tests.cloud import filled


@pytest.fixture
def db(tmp_path: Path) -> Database:
    return filled.open_database(tmp_path)


def fill(db: Database, lines: int = 5) -> None:
    for k in range(lines):
        with db.write() as session:
            audit.note(session, 1000 + k, "clinician", f"approved advice {k}", f"record {k}")


def check(db: Database) -> int:
    with db.read() as session:
        return audit.verify(session)


def test_a_log_that_nobody_touched_is_whole(db: Database) -> None:
    assert check(db) == 0
    fill(db)
    assert check(db) == 5
    with db.read() as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.id)).all()
    assert [(r.who, r.what, r.evidence) for r in rows][2] == ("clinician", "approved advice 2", "record 2")


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE audit SET who = 'nobody' WHERE id = 3", "line 3"),
        ("UPDATE audit SET what = 'rejected' WHERE id = 1", "line 1"),
        ("UPDATE audit SET evidence = 'other' WHERE id = 2", "line 2"),
        ("UPDATE audit SET time_us = 0 WHERE id = 4", "line 4"),
        ("DELETE FROM audit WHERE id = 2", "line 3"),
        ("DELETE FROM audit WHERE id = 5", "end of the audit log"),
        ("DELETE FROM audit", "missing"),
        ("UPDATE audit SET chain = NULL WHERE id = 1", "line 2"),
        ("DELETE FROM meta WHERE name = 'audit_head'", "end of the audit log"),
        ("UPDATE audit SET id = 99 WHERE id = 2", "line 3"),
        (
            "INSERT INTO audit (time_us, who, what, chain) VALUES (1, 'x', 'y', x'00112233445566778899aabbccddeeff')",
            "6",
        ),
    ],
)
def test_every_touch_shows(db: Database, statement: str, where: str) -> None:
    fill(db)
    with db.write() as session:
        session.execute(text(statement))
    with pytest.raises(TamperedError, match=where):
        check(db)


def test_lines_of_before_the_chain_are_sealed_by_its_first(db: Database) -> None:
    with db.write() as session:
        session.execute(sa.insert(AuditRow).values(time_us=1, who="old", what="did something"))
    fill(db, 2)
    assert check(db) == 2
    with db.write() as session:
        session.execute(text("UPDATE audit SET who = 'else' WHERE id = 1"))
    with pytest.raises(TamperedError, match="line 2"):
        check(db)


def test_a_line_lands_with_its_transaction_or_not_at_all(db: Database) -> None:
    fill(db, 1)

    def break_off() -> None:
        with db.write() as session:
            audit.note(session, 5, "x", "half done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert check(db) == 1
    with db.read() as session:
        assert session.get(MetaRow, audit.HEAD) is not None
