"""Keys change while the store is open, in steps that a cut may fall between; what is destroyed stays destroyed."""

from __future__ import annotations

import base64
import json
import shutil
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import InputError, StoreError, TamperedError, WrongKeyError
from edge.store.database import reported
from edge.store.journal import read_line
from edge.store.keyring import _DATA_TABLES, erasing
from edge.store.keys import Passphrase, load_passphrase, shred
from edge.store.repair import open_or_repair
from edge.store.slots import copy_path, load_copy
from edge.store.store import FOLD_SAMPLES, Store
from tests.edge.store.conftest import HUB, KEY, FixedClock, open_store, reading
from tests.edge.store.test_tamper import cells, everything, sql
from tests.system.faults.disk import FULL, Action, Disk, Op

Opened = Callable[..., Store]
OTHER = bytes(range(32, 64))
THIRD = b"k" * 32
WORDS = Passphrase("five words that nobody knows")
VECTORS = Path(__file__).parents[2] / "vectors"


def fill(store: Store, first: int = 0) -> None:
    store.append(reading(n) for n in range(first, first + 2 * FOLD_SAMPLES + 20))
    for n in range(3):
        store.enqueue(b"message %d" % n, sample_row=store.last_row)
    store.put_blob("engine", b"snapshot")
    store.put_blob("bonds", b"bonds")
    store.note("hub", "test.filled")


@pytest.fixture
def full(path: Path) -> Path:
    with open_store(path) as store:
        fill(store)
    return path


def copies_after_each_commit(store: Store, folder: Path) -> Iterator[Path]:
    """While the caller's block runs, what a power cut after each commit would leave."""
    for n, (main, log) in enumerate(store.cuts):  # type: ignore[attr-defined]
        place = folder / f"cut{n}"
        place.mkdir()
        (place / "replay.sqlite").write_bytes(main)
        (place / "replay.sqlite-wal").write_bytes(log)
        yield place / "replay.sqlite"


def record_cuts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember both files as they are on the disk after each transaction."""
    store.cuts = []  # type: ignore[attr-defined]
    change = store._change
    log = store._path.with_name(store._path.name + "-wal")

    def changed(*args: object) -> None:
        change(*args)  # type: ignore[arg-type]
        store.cuts.append((store._path.read_bytes(), log.read_bytes()))  # type: ignore[attr-defined]

    monkeypatch.setattr(store, "_change", changed)


def test_a_second_key_opens_as_well_until_the_first_is_retired(full: Path) -> None:
    with open_store(full) as store:
        wanted = everything(store)
        slot = store.keys.add(OTHER)
        assert store.keys.add(OTHER) == slot
    for key in (KEY, OTHER):
        with open_store(full, key) as store:
            assert everything(store) == wanted
            assert store.check().ok
    with open_store(full) as store:
        assert len(store.keys.retire(OTHER)) == 1
        assert store.append([reading(5000)])
    with pytest.raises(WrongKeyError):
        open_store(full)
    with open_store(full, OTHER) as store:
        assert store.check().ok
        assert [read_line(line).what for line in store.journal(0, 9)][1:] == ["key.added", "key.retired"]


def test_a_key_that_opens_nothing_cannot_be_the_one_that_stays(full: Path) -> None:
    with open_store(full) as store:
        with pytest.raises(InputError, match="add it first"):
            store.keys.retire(OTHER)
        assert store.keys.retire(KEY) == []


def test_at_every_cut_of_a_change_of_key_a_key_that_a_person_holds_opens_the_store(
    full: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(full) as store:
        wanted = everything(store)
        record_cuts(store, monkeypatch)
        store.keys.add(OTHER)
        store.keys.retire(OTHER)
        opened = []
        for cut in copies_after_each_commit(store, folder):
            fits = []
            for key in (KEY, OTHER):
                place = cut.with_name(f"try{key[0]}.sqlite")
                shutil.copy(cut, place)
                shutil.copy(cut.with_name(cut.name + "-wal"), place.with_name(place.name + "-wal"))
                try:
                    with open_store(place, key) as again:
                        assert everything(again) == wanted
                    fits.append(key)
                except WrongKeyError:
                    pass
            opened.append(fits)
    assert opened == [[KEY, OTHER], [OTHER]]


def test_a_passphrase_is_a_second_way_in(full: Path) -> None:
    with open_store(full) as store:
        wanted = everything(store)
        store.keys.add(WORDS)
        store.keys.add(OTHER)
        store.keys.retire(OTHER)
    with open_store(full, WORDS) as store:
        assert everything(store) == wanted
        store.keys.add(THIRD)
    with open_store(full, THIRD) as store:
        assert [s["kind"] for s in store.keys.overview()["slots"]] == ["passphrase", "key", "key"]
    with pytest.raises(WrongKeyError):
        open_store(full, Passphrase("five words that somebody guessed"))


def test_a_store_can_begin_with_a_passphrase(path: Path) -> None:
    with Store.open(path, WORDS, hub_id=HUB, clock=FixedClock()) as store:
        store.append([reading(1)])
    with pytest.raises(WrongKeyError):
        open_store(path)
    with Store.open(path, WORDS, hub_id=HUB, clock=FixedClock()) as store:
        assert store.last_row == 1


def test_passphrases_come_from_private_files_and_never_show(tmp_path: Path) -> None:
    file = tmp_path / "store.passphrase"
    file.write_text("five words that nobody knows\n")
    with pytest.raises(InputError, match="chmod 600"):
        load_passphrase(file, {})
    file.chmod(0o600)
    words = load_passphrase(file, {})
    assert words.stretched(bytes(16), 4) == WORDS.stretched(bytes(16), 4)
    assert "words" not in repr(words) + str(words)
    file.write_text("short")
    with pytest.raises(InputError, match=r"store\.passphrase.*12 characters"):
        load_passphrase(file, {})
    with pytest.raises(TamperedError):
        words.stretched(bytes(16), 30)
    file.write_bytes("fünf Wörter, die niemand weiß".encode("latin-1"))
    with pytest.raises(InputError, match=r"store\.passphrase.*UTF-8"):
        load_passphrase(file, {})


def test_the_same_words_typed_otherwise_open_the_store(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """é is one character, or an e and an accent; a slot from before this rule opens to what was typed."""
    composed = Passphrase("fünf Wörter die niemand kennt")
    decomposed = Passphrase(unicodedata.normalize("NFD", composed.text))
    with open_store(full) as store:
        store.keys.add(decomposed)
    with open_store(full, composed) as store:
        store.keys.add(OTHER)
        with monkeypatch.context() as before:
            before.setattr(unicodedata, "normalize", lambda _form, text: text)
            old = Passphrase(decomposed.text + "!")
        store.keys.add(old)
    with open_store(full, Passphrase(old.text)) as store:
        assert store.last_row
        assert len(store.keys.retire(Passphrase(old.text))) == 1
    with pytest.raises(WrongKeyError):
        open_store(full, composed)


def test_a_new_data_key_seals_everything_anew_while_the_store_is_used(full: Path) -> None:
    before = {content for t in ("tail", "segments", "outbox", "blobs") for *_, content in cells(full, t)}
    with open_store(full) as store:
        wanted_rows = store.read(0, 10_000)
        assert store.keys.rotate_data() == []
        assert store.keys.rotating
        steps = n = 0
        while store.keys.reseal(4):
            steps += 1
            n += 1
            store.append([reading(20_000 + n)])
            store.put_blob("engine", b"state %d" % n)
            assert store.get_blob("bonds") == b"bonds"
            assert store.read(0, 10_000)[: len(wanted_rows)] == wanted_rows
        assert steps > 5
        assert not store.keys.rotating
        assert store.keys.overview()["data_keys"] == [2]
        assert store.check().ok
        assert store.get_blob("engine") == b"state %d" % n
        assert len(store.pending(99)) == 3
    after = [
        content for t in ("tail", "segments", "outbox", "blobs", "journal") for *_, content in cells(full, t)
    ]
    assert {content[1] for content in after} == {2}
    assert not before & set(after)
    with open_store(full) as store:
        assert store.check().ok
        assert store.read(0, 10_000)[: len(wanted_rows)] == wanted_rows
        assert [read_line(x).what for x in store.journal(1, 9)] == ["datakey.begun", "datakey.rotated"]


def test_a_rotation_that_is_cut_goes_on_at_the_next_opening(
    full: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(full) as store:
        wanted = everything(store)
        record_cuts(store, monkeypatch)
        store.keys.rotate_data()
        while store.keys.reseal(100):
            pass
        keys = []
        for cut in copies_after_each_commit(store, folder):
            with open_store(cut) as again:
                keys.append(again.keys.overview()["data_keys"])
                assert everything(again) == wanted
                while again.keys.reseal():
                    pass
                assert again.keys.overview()["data_keys"] == [2]
                assert everything(again) == wanted
                assert again.check().ok
    assert keys[0] == [1, 2]
    assert keys[-1] == [2]
    assert len(keys) > 4


def test_a_new_data_key_is_not_wrapped_by_keys_that_the_hub_does_not_hold(full: Path) -> None:
    with open_store(full) as store:
        store.keys.add(WORDS)
    with open_store(full) as store:
        assert len(store.keys.rotate_data()) == 1  # the passphrase was not given this time
    with pytest.raises(WrongKeyError):
        open_store(full, WORDS)


def test_two_rotations_in_a_row_and_a_change_of_key_between(full: Path) -> None:
    with open_store(full) as store:
        wanted = everything(store)
        for key in (OTHER, THIRD):
            store.keys.rotate_data()
            store.keys.reseal()
            store.keys.add(key)  # in the middle of a rotation
            store.keys.retire(key)
            while store.keys.reseal():
                pass
        assert everything(store) == wanted
    with open_store(full, THIRD) as store:
        assert store.keys.overview()["data_keys"] == [3]
        assert store.check().ok


def test_retired_wraps_are_not_left_in_the_files(full: Path) -> None:
    with open_store(full) as store:
        [(_, old)] = store._db.execute("SELECT number, sealed FROM keyring").fetchall()
        store.keys.add(OTHER)
        store.keys.retire(OTHER)
        found = [file.name for file in full.parent.iterdir() if old in file.read_bytes()]
    assert found == []


def test_retired_wraps_are_not_left_in_the_copy_that_was_replaced(full: Path) -> None:
    with open_store(full) as store:
        store.keys.add(OTHER)
        [(_, old)] = store._db.execute("SELECT number, sealed FROM keyring WHERE number >> 8 = 1").fetchall()
        with copy_path(full).open("rb") as handle:
            assert old in handle.read()
            store.keys.retire(OTHER)
            handle.seek(0)
            assert old not in handle.read()


def test_a_retired_key_and_wrong_words_are_told_what_opens_the_store_now(full: Path) -> None:
    with open_store(full) as store:
        store.keys.add(WORDS)
        store.keys.add(OTHER)
        store.keys.retire(OTHER)
    with pytest.raises(WrongKeyError, match=r"the key does not .*newest key .*keys recover"):
        open_store(full)
    with pytest.raises(WrongKeyError, match=r"the passphrase does not .*as it was set"):
        open_store(full, Passphrase("five words that are not these"))


def test_a_copy_that_cannot_be_written_is_told(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.store.store.save_copy", lambda *_: False)
    with open_store(full) as store:
        assert not store.keys.overview()["copied"]
        monkeypatch.undo()
        store.keys.add(OTHER)
        assert store.keys.overview()["copied"]


def test_erased_nothing_opens_and_every_file_is_gone(full: Path, folder: Path) -> None:
    aside = full.with_name(full.name + ".damaged-1")
    shutil.copy(full, aside)
    store = open_store(full)
    gone = store.keys.erase()
    assert {full.name, full.name + ".keys", aside.name} <= set(gone)
    # The mark goes when the key is gone too (edge/erase_command.py).
    assert {p.name for p in folder.iterdir()} == {full.name + ".lock", full.name + ".erasing"}


def test_with_the_keyring_destroyed_a_copy_of_everything_else_is_useless(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that counts: the wrapped keys go before the files do, so a cut in between reveals nothing."""
    store = open_store(full)
    monkeypatch.setattr("edge.store.keyring.shred", lambda _: False)
    store.keys.erase()
    copy_path(full).unlink()
    erasing(full).unlink()
    with pytest.raises(TamperedError):
        open_store(full)


@pytest.mark.parametrize("after", range(4))
def test_an_erase_that_is_cut_is_finished_by_the_next_opening(
    full: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The copy of the keys would bring the record back otherwise."""
    done = []

    def cut(file: Path) -> bool:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(file)
        return shred(file)

    store = open_store(full)
    with monkeypatch.context() as patch:
        patch.setattr("edge.store.keyring.shred", cut)
        with pytest.raises(KeyboardInterrupt):
            store.keys.erase()
    with pytest.raises(InputError, match="begun and cut off"):
        open_or_repair(full, KEY, hub_id=HUB, clock=FixedClock())
    assert {p.name for p in folder.iterdir()} == {full.name + ".lock", full.name + ".erasing"}
    with pytest.raises(
        InputError, match="begun and cut off"
    ):  # nor does a new record begin under the old key
        open_store(full)


def on_a_full_disk(path: Path, call: Callable[[Store], object], *, log_too: bool) -> str:
    """Open the store, and call while the file (and its log) takes nothing; what is told."""
    full = False

    def decide(op: Op) -> Action:
        refuses = full and op.kind == "write" and (log_too or op.name == path.name)
        return FULL if refuses else None

    with Disk(decide):
        store = open_store(path)
        full = True
        try:
            call(store)
        except StoreError as err:
            return str(err)
        finally:
            full = False
            store.close()
    return ""


def test_a_rotation_that_ends_on_a_full_disk_keeps_everything_under_its_name(full: Path) -> None:
    """The new key was taken into use, and the old marks kept: bonds were gone, and at the next start somebody's work."""
    with open_store(full) as store:
        wanted = everything(store)
        store.keys.rotate_data()
    seen: list[object] = []

    def end(store: Store) -> None:
        while store.keys._at[0] < len(_DATA_TABLES):  # opened anew, it looks through all once more
            store.keys.reseal()
        with pytest.raises(StoreError, match="no space"):
            store.keys.reseal()
        seen.extend((store.keys.rotating, store.get_blob("bonds")))

    assert on_a_full_disk(full, end, log_too=False) == ""
    assert seen == [False, b"bonds"]
    with open_store(full) as store:
        assert everything(store) == wanted
        assert store.check().ok


def test_a_retired_key_is_gone_from_the_copy_also_where_the_log_cannot_be_folded(full: Path) -> None:
    with open_store(full) as store:
        store.keys.add(OTHER)
    assert "no space" in on_a_full_disk(full, lambda store: store.keys.retire(KEY), log_too=False)
    copy = load_copy(full)
    assert copy is not None
    assert [slot[0] for slot in copy.slots] == [1]
    with pytest.raises(WrongKeyError):
        open_store(full, OTHER)


def test_erasing_on_a_full_disk_erases(full: Path, folder: Path) -> None:
    """It left its mark and the hub went on: what came until the next start was acknowledged, and destroyed then."""
    assert on_a_full_disk(full, lambda store: store.keys.erase(), log_too=True) == ""
    assert {p.name for p in folder.iterdir()} == {full.name + ".lock", full.name + ".erasing"}


def test_what_cannot_be_destroyed_saves_nothing_else(full: Path, folder: Path) -> None:
    odd = full.with_name(full.name + ".spare")
    odd.mkdir()
    store = open_store(full)
    with pytest.raises(InputError, match=r"\.spare: cannot be destroyed: .*\(remove it yourself"):
        store.keys.erase()
    assert {p.name for p in folder.iterdir()} == {odd.name, full.name + ".lock", full.name + ".erasing"}


def test_an_effort_that_is_none_of_ours_is_damage_and_repaired(full: Path) -> None:
    with open_store(full) as store:
        store.keys.add(WORDS)
    sql(full, "UPDATE slots SET cost = 99 WHERE kind = 2")
    store, report = open_or_repair(full, WORDS, hub_id=HUB, clock=FixedClock())
    assert report is not None
    assert report.rows_lost == 0
    store.close()
    open_store(full, WORDS).close()


def test_the_copy_of_the_wrapped_keys_follows_every_change(full: Path) -> None:
    with open_store(full) as store:
        first = load_copy(full)
        store.keys.add(OTHER)
        second = load_copy(full)
        assert first is not None
        assert second is not None
        assert len(first.slots) == 1
        assert len(second.slots) == 2
        with reported(full):
            assert second.keyring == store._db.execute("SELECT number, sealed FROM keyring").fetchall()


def test_a_store_of_schema_1_takes_new_keys(path: Path) -> None:
    vector = json.loads((VECTORS / "store_v1.json").read_text())
    path.write_bytes(zlib.decompress(base64.b64decode(vector["sqlite"])))
    key = bytes.fromhex(vector["key"])
    with open_store(path, key, vector["hub_id"]) as store:
        wanted = store.read(0, 10_000)
        assert store.keys.overview()["slots"] == [{"number": 0, "kind": "key", "in_use": True}]
        store.keys.add(OTHER)
        store.keys.retire(OTHER)
        store.keys.rotate_data()
        while store.keys.reseal():
            pass
    with pytest.raises(WrongKeyError):
        open_store(path, key, vector["hub_id"])
    with open_store(path, OTHER, vector["hub_id"]) as store:
        assert store.read(0, 10_000) == wanted
        assert store.check().ok
