"""Opening: one writer, the right key, a known version, old files readable, and no numpy in the hub."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from core.errors import (
    InputError,
    NewerVersionError,
    StoreBusyError,
    StoreError,
    TamperedError,
    WrongKeyError,
)
from core.messages import Sample
from edge.store.keys import Passphrase
from edge.store.migrations import SCHEMA_VERSION, SET_NAME
from edge.store.sealing import Cipher
from edge.store.store import audit
from tests.edge.store.conftest import HUB, KEY, START_US, open_store, reading

VECTORS = Path(__file__).parents[2] / "vectors"


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_a_new_store_is_private_and_empty(path: Path) -> None:
    with open_store(path) as store:
        assert (store.last_row, store.sample_pointer, store.pending(5)) == (0, 0, [])
        assert {p.stat().st_mode & 0o777 for p in path.parent.iterdir()} == {0o600}
    assert sorted(p.name for p in path.parent.iterdir()) == [
        path.name,
        path.name + ".keys",
        path.name + ".lock",
    ]


def test_commits_wait_for_the_disk(path: Path) -> None:
    with open_store(path) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)


def test_a_wrong_key_or_hub_is_refused_and_changes_nothing(path: Path) -> None:
    with open_store(path) as store:
        store.append([reading(1)])
    before = content(path.parent)
    with pytest.raises(WrongKeyError, match="key does not open") as caught:
        open_store(path, key=b"x" * 32)
    assert caught.value.exit_code == 2
    with pytest.raises(WrongKeyError, match="another hub_id"):
        open_store(path, hub_id="hub-2")
    with pytest.raises(WrongKeyError):
        audit(path, b"x" * 32, hub_id=HUB)
    with pytest.raises(InputError, match="not 32"):
        open_store(path, key=b"short")
    assert content(path.parent) == before
    with open_store(path) as store:
        assert store.last_row == 1


def test_a_second_opening_is_refused_within_and_across_processes(path: Path) -> None:
    with open_store(path) as store:
        with pytest.raises(StoreBusyError, match=rf"\({os.getpid()}\)"):
            open_store(path)
        done = subprocess.run(
            [sys.executable, "-c", OPEN_ONCE, str(path)], capture_output=True, text=True, timeout=60
        )
        assert "StoreBusyError" in done.stderr
        with pytest.raises(StoreBusyError):
            audit(path, KEY, hub_id=HUB)
        assert store.append([reading(1)])
    open_store(path).close()


def test_another_program_on_the_file_is_a_busy_store(path: Path) -> None:
    open_store(path).close()
    db = sqlite3.connect(path)
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        open_store(path)
    db.close()
    open_store(path).close()


def test_a_failed_opening_gives_the_lock_back(path: Path) -> None:
    open_store(path).close()
    for _ in range(3):
        with pytest.raises(WrongKeyError):
            open_store(path, key=b"x" * 32)
    open_store(path).close()


def test_a_newer_store_is_refused_and_untouched(path: Path) -> None:
    open_store(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, '0999_later', '')",
        (SET_NAME,),
    )
    db.commit()
    db.close()
    before = content(path.parent)
    with pytest.raises(NewerVersionError, match="install the newer version"):
        open_store(path)
    with pytest.raises(NewerVersionError):
        audit(path, KEY, hub_id=HUB)
    assert content(path.parent) == before


def test_a_version_set_back_is_tampering(path: Path) -> None:
    open_store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 0")
    db.close()
    with pytest.raises(TamperedError, match="version does not match"):
        open_store(path)


@pytest.mark.parametrize("data", [b"", b"not a database, by far" * 300])
def test_a_file_that_is_no_store_is_refused_and_kept(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(TamperedError):
        open_store(path)
    assert path.read_bytes() == data


def test_somebody_elses_database_is_refused_and_kept(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (a)")
    db.close()
    before = content(path.parent)
    with pytest.raises(TamperedError, match="not a store"):
        open_store(path)
    assert content(path.parent) == before


def test_a_beginning_that_was_cut_leaves_nothing_in_the_way(path: Path) -> None:
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        fresh.with_name(fresh.name + suffix).write_bytes(b"half a file")
    open_store(path).close()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        path.name,
        path.name + ".keys",
        path.name + ".lock",
    ]


def test_folders_that_cannot_be_used_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        open_store(tmp_path / "file" / "replay.sqlite")
    with pytest.raises(InputError, match="no store here"):
        audit(tmp_path / "missing.sqlite", KEY, hub_id=HUB)


def test_a_cut_write_ahead_log_leaves_every_acknowledged_sample_before_the_cut(folder: Path) -> None:
    """What a power cut leaves: the file as of the last checkpoint, and some beginning of the log."""
    path, cut = folder / "replay.sqlite", folder / "cut" / "replay.sqlite"
    cut.parent.mkdir()
    acknowledged: list[tuple[int, int]] = []  # size of the log, rows
    with open_store(path) as store:
        wal = path.with_name(path.name + "-wal")
        for n in range(300):
            store.append([reading(n)])
            acknowledged.append((wal.stat().st_size, store.last_row))
        main, log = path.read_bytes(), wal.read_bytes()
    for size in [*range(0, len(log), 70_001), len(log) - 1, len(log)]:
        cut.write_bytes(main)
        cut.with_name(cut.name + "-wal").write_bytes(log[:size])
        with open_store(cut) as store:
            rows = store.last_row
            assert rows >= max((r for s, r in acknowledged if s <= size), default=0)
            assert [s.seq for _, s in store.read(0, 1000)] == list(range(rows))
        shutil.rmtree(cut.parent)
        cut.parent.mkdir()


def test_a_store_of_schema_1_opens_with_all_it_held(path: Path) -> None:
    vector = json.loads((VECTORS / "store_v1.json").read_text())
    path.write_bytes(zlib.decompress(base64.b64decode(vector["sqlite"])))
    with open_store(path, bytes.fromhex(vector["key"]), vector["hub_id"]) as store:
        wanted = [
            (row, Sample(*fields[:7], amends=tuple(fields[7]) if fields[7] else None, deleted=fields[8]))
            for row, *fields in vector["samples"]
        ]
        assert store.read(0, 10_000) == wanted
        assert store.pending(99) == [(n, bytes.fromhex(data)) for n, data in vector["pending"]]
        assert store.sample_pointer == vector["sample_pointer"]
        for name, data in vector["blobs"].items():
            assert store.get_blob(name) == bytes.fromhex(data)
        for name, number in vector["counters"].items():
            assert store.next_number(name) == START_US // 1000 > number  # as in a store made today
        assert store.check().ok
        assert store.append([reading(10**6)])


@pytest.mark.parametrize("way_in", ["key", "other_key", "passphrase"])
def test_a_store_of_schema_2_opens_by_each_of_its_keys_and_ends_its_rotation(path: Path, way_in: str) -> None:
    vector = json.loads((VECTORS / "store_v2.json").read_text())
    path.write_bytes(zlib.decompress(base64.b64decode(vector["sqlite"])))
    text = vector[way_in]
    secret = Passphrase(text) if way_in == "passphrase" else bytes.fromhex(text)
    with open_store(path, secret, vector["hub_id"]) as store:
        wanted = [
            (row, Sample(*fields[:7], amends=tuple(fields[7]) if fields[7] else None, deleted=fields[8]))
            for row, *fields in vector["samples"]
        ]
        for _ in range(2):
            assert store.read(0, 10_000) == wanted
            assert store.pending(99) == [(n, bytes.fromhex(data)) for n, data in vector["pending"]]
            assert store.sample_pointer == vector["sample_pointer"]
            for name, data in vector["blobs"].items():
                assert store.get_blob(name) == bytes.fromhex(data)
            assert store.journal(0, 99)[: len(vector["journal"])] == vector["journal"]
            assert store.archive.read("alarms", 0, 9)[0].data == bytes.fromhex(vector["archive"][0][1])
            [(_, [series])] = store.thinner.read(0, 9)
            assert [list(b) for b in series.buckets] == vector["aggregates"][0][4]
            assert store.check().ok
            assert store.keys.overview()["data_keys"] in ([1, 2], [2])
            while store.keys.reseal():
                pass
        assert store.keys.overview()["data_keys"] == [2]


def test_a_store_written_with_the_other_cipher_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, cipher in enumerate([Cipher.CHACHA20_POLY1305, Cipher.AES_256_GCM] * 2):
        monkeypatch.setattr("edge.store.sealing.best_cipher", lambda cipher=cipher: cipher)
        with open_store(path) as store:
            store.append(reading(100 * n + i) for i in range(100))
            assert store.last_row == 100 * (n + 1)
            assert store.check().ok


OPEN_ONCE = textwrap.dedent(
    """
    import sys, time
    from core.clock import SystemClock
    from core.messages import Sample
    from edge.store.store import Store
    store = Store.open(sys.argv[1], bytes(range(32)), hub_id="hub-1", clock=SystemClock(time.time_ns))
    store.append(Sample(n, "cgm_mgdl", 100.0, "cgm", store.last_row + n) for n in range(1, 601))
    store.read(0, 1000)
    store.close()
    print(*sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "pandas", "sqlite_utils"}))
    print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
    """
)


def test_the_hub_never_loads_sqlite_utils_or_numpy(path: Path) -> None:
    """Neither when it makes its store (a short-lived process does the migration) nor on any later start."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", OPEN_ONCE, str(path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        loaded, peak_kib = done.stdout.splitlines()[-2:]
        print(f"peak RSS of a process with only the store: {int(peak_kib) / 1024:.1f} MiB")
        assert loaded == ""
        assert int(peak_kib) < 48 * 1024
    with open_store(path) as store:
        assert store.last_row == 1200


def test_both_ways_of_migrating_make_the_same_schema(folder: Path) -> None:
    def schema(path: Path) -> list[tuple[object, ...]]:
        db = sqlite3.connect(path)
        rows = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        rows += db.execute("PRAGMA user_version").fetchall() + db.execute("PRAGMA application_id").fetchall()
        db.close()
        return rows

    here, there = folder / "here.sqlite", folder / "there.sqlite"
    open_store(here).close()
    subprocess.run([sys.executable, "-c", OPEN_ONCE, str(there)], check=True, capture_output=True, timeout=60)
    assert schema(here) == schema(there)


def test_a_migration_that_fails_says_why_and_leaves_no_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sqlite_utils")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StoreError, match="migration failed"):
        open_store(path)
    assert not path.exists()
    monkeypatch.undo()
    open_store(path).close()


DENY_WRITE_EXECUTE = "import ctypes; print(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))\n"  # PR_SET_MDWE


def test_the_store_works_where_memory_is_never_writable_and_executable(path: Path) -> None:
    """MemoryDenyWriteExecute=yes of hometwin-hub.service, set here by the kernel's own switch (Linux 6.3)."""
    done = subprocess.run(
        [sys.executable, "-c", DENY_WRITE_EXECUTE + OPEN_ONCE, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stdout.startswith("-1"):
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
