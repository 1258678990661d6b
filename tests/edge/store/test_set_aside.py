"""Where a damaged store goes on file systems that know no links."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

import pytest

from edge.store.repair import open_or_repair
from edge.store.store import FOLD_SAMPLES
from tests.edge.store.conftest import HUB, KEY, START_US, FixedClock, open_store, reading
from tests.edge.store.test_repair import repaired, rows_of
from tests.edge.store.test_tamper import sql


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP])
def test_where_a_file_has_one_name_only_the_damaged_one_is_copied(
    path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """FAT and exFAT know no links; a copy that is cut is made again, and nothing that lies there is replaced."""
    with open_store(path) as store:
        store.append(reading(n) for n in range(FOLD_SAMPLES + 5))
    sql(path, "UPDATE segments SET sealed = zeroblob(99) WHERE number = 1")
    damaged = path.read_bytes()

    def no_links(*_: object) -> None:
        raise OSError(refusal, "refused")

    def power_cut(_: object, to: BinaryIO) -> None:
        to.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("edge.store.aside.os.link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr("edge.store.aside.copy_readable", power_cut)
        with pytest.raises(KeyboardInterrupt):
            open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    assert path.read_bytes() == damaged
    taken = path.with_name(f"{path.name}.damaged-{START_US // 1000}")
    taken.write_bytes(b"of before")
    store, report = repaired(path)
    assert report.rows_lost == FOLD_SAMPLES
    assert sorted(rows_of(store)) == list(range(FOLD_SAMPLES + 1, FOLD_SAMPLES + 6))
    store.close()
    assert (path.parent / report.set_aside).read_bytes() == damaged
    assert (path.parent / report.set_aside).stat().st_mode & 0o777 == 0o600
    assert taken.read_bytes() == b"of before"
    assert not path.with_name(path.name + ".aside").exists()
