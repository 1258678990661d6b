"""What lies beside a store and is no file of ours: links, pipes, endless files. None is followed, none is waited for."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InputError, TamperedError
from edge.config import HubConfig
from edge.erase_command import erase
from edge.store import files
from edge.store.database import WriterLock
from edge.store.keyring import destroy_files, erasing
from edge.store.keys import Passphrase, load_key, load_passphrase
from edge.store.repair import _can_begin, open_or_repair
from edge.store.slots import MAX_SLOTS, copy_path
from edge.store.store import audit
from edge.store.wal import _MOST_FRAMES, _frames
from tests.edge.store.conftest import HUB, KEY, FixedClock, open_store, reading

NOT_OURS = b"a line of somebody else\n"


def beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


@pytest.fixture
def victim(folder: Path) -> Path:
    """What links of these tests name: nobody may change it."""
    there = folder / "victim"
    there.write_bytes(NOT_OURS)
    return there


def made(path: Path) -> None:
    with open_store(path) as store:
        store.append([reading(1)])


def put_pipe(at: Path) -> None:
    at.unlink(missing_ok=True)
    os.mkfifo(at)


# --- links


def test_the_lock_is_never_a_link(path: Path, victim: Path) -> None:
    beside(path, ".lock").symlink_to(victim)
    with pytest.raises(InputError, match="is a link") as caught:
        open_store(path)
    assert caught.value.mend
    assert victim.read_bytes() == NOT_OURS


def test_a_lock_that_is_somebodys_file_by_another_name_is_not_written_to(path: Path, victim: Path) -> None:
    os.link(victim, beside(path, ".lock"))
    open_store(path).close()
    assert victim.read_bytes() == NOT_OURS


@pytest.mark.parametrize("end", ["-wal", "-journal", "-shm"])
def test_no_file_that_sqlite_opens_is_a_link(path: Path, victim: Path, end: str) -> None:
    made(path)
    beside(path, end).symlink_to(victim)
    for opening in (open_store, lambda p: audit(p, KEY, hub_id=HUB)):
        with pytest.raises(InputError, match="is a link"):
            opening(path)
    assert victim.read_bytes() == NOT_OURS


@pytest.mark.parametrize("end", [".keys", ".keys.new", ".new", ".mended", ".repaired"])
def test_what_is_written_by_the_way_replaces_a_link_and_leaves_what_it_names(
    path: Path, victim: Path, end: str
) -> None:
    if end != ".new":
        made(path)
    if end.startswith(".keys"):
        beside(path, ".keys").unlink()
    beside(path, end).symlink_to(victim)
    mode = stat.S_IMODE(victim.stat().st_mode)
    if end in (".mended", ".repaired"):
        with path.open("r+b") as file:
            file.write(
                b"\0" * 4096
            )  # the first page is gone, so a repair copies all to .mended and .repaired
    store, _ = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert store.last_row == (end != ".new")
    assert victim.read_bytes() == NOT_OURS
    assert stat.S_IMODE(victim.stat().st_mode) == mode
    assert not any(p.is_symlink() for p in path.parent.iterdir())


def test_the_trial_of_room_replaces_a_link(path: Path, victim: Path) -> None:
    beside(path, ".new").symlink_to(victim)
    assert _can_begin(path)
    assert victim.read_bytes() == NOT_OURS


def test_erasing_removes_links_and_leaves_what_they_name(path: Path, victim: Path) -> None:
    made(path)
    for end in ("-shm", ".spare", ".damaged-7"):
        beside(path, end).symlink_to(victim)
    erasing(path).symlink_to(victim.with_name("made"))
    destroy_files(path)
    assert victim.read_bytes() == NOT_OURS
    assert not victim.with_name("made").exists()
    assert {p.name for p in path.parent.iterdir()} == {
        "victim",
        erasing(path).name,
        beside(path, ".lock").name,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_away_only_what_it_made_itself(path: Path, victim: Path) -> None:
    owned = path.parent / "of-the-hub"
    owned.mkdir()
    os.chown(owned, 65534, 65534)
    inside = owned / path.name
    made(inside)
    assert {p.stat().st_uid for p in owned.iterdir()} == {65534}
    link, second = owned / "link", owned / "second"
    link.symlink_to(victim)
    with pytest.raises(InputError, match="is a link"):
        files.give_to_owner_of(inside, link)
    os.link(victim, second)
    files.give_to_owner_of(inside, second)
    assert victim.stat().st_uid == 0


# --- a store that is named by a link


def test_a_store_named_by_a_link_takes_samples_and_its_files_lie_beside_the_real_one(path: Path) -> None:
    real = path.parent / "disk" / "other.sqlite"
    real.parent.mkdir()
    made(real)
    path.symlink_to(real)
    with open_store(path) as store:
        assert store.append([reading(2)])
        assert store.append([reading(3)])
    assert [p.name for p in path.parent.iterdir() if p.is_file() and not p.is_symlink()] == []
    assert audit(path, KEY, hub_id=HUB).ok
    store, repair = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert repair is None
        assert store.last_row == 3


def test_a_damaged_store_named_by_a_link_is_repaired_where_it_lies(path: Path) -> None:
    real = path.parent / "disk" / "other.sqlite"
    real.parent.mkdir()
    made(real)
    path.symlink_to(real)
    with real.open("r+b") as file:
        file.write(b"\0" * 4096)
    store, repair = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    with store:
        assert repair is not None
        assert store.append([reading(2)])
    assert path.is_symlink()
    assert real.with_name(repair.set_aside).exists()


@pytest.mark.parametrize("cut", ["", "before the store", "after the store"])
def test_erasing_a_store_named_by_a_link_destroys_the_real_one(folder: Path, cut: str) -> None:
    config = HubConfig(HUB, base=str(folder))
    config.state.mkdir()
    key = config.path(config.store.key_file)
    key.write_bytes(KEY)
    key.chmod(0o600)
    real = folder / "disk" / "other.sqlite"
    real.parent.mkdir()
    made(real)
    config.store_path.symlink_to(real)
    if cut:
        erasing(real).touch()
    if cut == "after the store":
        destroy_files(real)
    erase(config, HUB)
    assert [p.name for p in real.parent.iterdir() if not p.name.endswith(".lock")] == []
    assert not config.store_path.is_symlink()
    assert not key.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is led astray")
def test_root_follows_no_link_of_one_user_to_a_file_of_another(path: Path) -> None:
    real = path.parent / "roots.sqlite"
    made(real)
    before = real.read_bytes()
    path.symlink_to(real)
    os.lchown(path, 65534, 65534)
    with pytest.raises(InputError, match="file of another"):
        open_store(path)
    with pytest.raises(InputError, match="file of another"):
        audit(path, KEY, hub_id=HUB)
    assert real.read_bytes() == before


# --- pipes and endless files


@pytest.mark.parametrize("end", ["", "-wal", "-journal", "-shm", ".lock"])
def test_a_pipe_is_refused_and_not_waited_for(path: Path, end: str) -> None:
    made(path)
    put_pipe(beside(path, end))
    with pytest.raises(InputError, match="no regular file"):
        open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())


@pytest.mark.parametrize("load", [load_key, load_passphrase])
def test_a_pipe_in_the_place_of_a_key_is_refused_and_not_waited_for(
    path: Path, load: Callable[[Path], object]
) -> None:
    """hometwin keys check, keys rotate (its store.key.next) and the hub waited for somebody to write into it."""
    put_pipe(beside(path, ".key"))
    beside(path, ".link").symlink_to(beside(path, ".key"))
    for end in (".key", ".link"):
        with pytest.raises(InputError, match="not a regular file"):
            load(beside(path, end))


@pytest.mark.parametrize("spoil", [put_pipe, lambda at: os.truncate(at, 1 << 42)], ids=["pipe", "endless"])
def test_an_odd_copy_of_the_keys_is_written_anew(path: Path, spoil: Callable[[Path], None]) -> None:
    made(path)
    good = copy_path(path).read_bytes()
    spoil(copy_path(path))
    made(path)
    assert copy_path(path).read_bytes() == good


def test_an_odd_copy_of_the_keys_hangs_no_repair(path: Path) -> None:
    made(path)
    put_pipe(copy_path(path))
    with path.open("r+b") as file:
        file.write(b"\0" * 100)
    store, report = open_or_repair(path, KEY, hub_id=HUB, clock=FixedClock())
    store.close()
    assert report is not None


def test_an_endless_log_is_looked_at_only_so_far(path: Path) -> None:
    log = beside(path, "-wal")
    log.touch()
    os.truncate(log, 1 << 40)
    with log.open("rb") as file:
        numbers = [number for number, _ in _frames(file.fileno(), 4096, 7)]
    assert numbers == list(range(7, 7 + _MOST_FRAMES))


def test_more_passphrases_than_a_store_can_have_are_not_tried(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Passphrase("five quiet words near home")
    open_store(path, words).close()
    db = sqlite3.connect(path)
    db.execute("UPDATE slots SET salt = randomblob(16)")
    for number in range(MAX_SLOTS):
        db.execute(
            "INSERT INTO slots VALUES (?, 2, randomblob(16), 16, randomblob(16), randomblob(16))",
            (number + 9,),
        )
    db.commit()
    db.close()
    tried: list[bytes] = []
    monkeypatch.setattr(Passphrase, "stretched", lambda self, salt, log2_n: tried.append(salt) or [bytes(32)])
    with pytest.raises(TamperedError):
        open_store(path, words)
    assert tried == []


# --- the lock


def test_only_a_lock_that_is_held_is_called_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("edge.store.database.fcntl.flock", refuse)
    with pytest.raises(InputError, match="No locks available"):
        WriterLock(path)
