"""hometwin keys, with the hub's desk answering on a real socket, and without a hub."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from core.errors import InputError, StoreBusyError, WrongKeyError
from edge.config import HubConfig, RadioConfig
from edge.control import ask_hub, serve_control
from edge.erase_command import erase
from edge.hub import Hub
from edge.keys_command import add_passphrase, overview_lines, recover, retire, rotate, rotate_data
from edge.store.keys import Passphrase, create_key, load_key, shred
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock, reading

WORDS = Passphrase("five words that nobody knows")


@pytest.fixture
def config(tmp_path: Path) -> HubConfig:
    config = HubConfig(
        hub_id="home", radio=RadioConfig(adapter="bumble:tcp-client:127.0.0.1:1"), base=str(tmp_path)
    )
    key = create_key(tmp_path / "store.key")
    config.state.mkdir()
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        store.append(reading(n) for n in range(600))
    return config


def rows(config: HubConfig, key: bytes) -> int:
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        assert store.check().ok
        return store.last_row


async def with_hub(config: HubConfig, call: Callable[[], Any]) -> Any:
    """Run ``call`` in a thread while a hub serves the store; wait until its store has nothing left to do."""
    key = load_key(config.path("store.key"), {})
    store = Store.open(config.store_path, key, hub_id="home", clock=FixedClock())
    hub = Hub(config, store, FixedClock(), None, "")
    server = await serve_control(config.control_socket, hub.on_request)
    care = asyncio.create_task(hub.care.run())
    try:
        answer = await asyncio.to_thread(call)
        async with asyncio.timeout(20):
            while config.store_path.exists() and store.keys.rotating:  # noqa: ASYNC110 - the hub tells it only when asked
                await asyncio.sleep(0.02)
        return answer
    finally:
        care.cancel()
        await asyncio.gather(care, return_exceptions=True)
        server.close()
        config.control_socket.unlink()
        hub.thread.close()
        store.close()


@pytest.mark.parametrize("running", [True, False])
async def test_rotating_puts_a_new_key_in_the_files_place(config: HubConfig, running: bool) -> None:
    old = load_key(config.path("store.key"), {})
    lines = await with_hub(config, lambda: rotate(config, None)) if running else rotate(config, None)
    assert old.hex() not in str(lines)
    new = load_key(config.path("store.key"), {})
    assert new != old
    assert rows(config, new) == 600
    with pytest.raises(WrongKeyError):
        rows(config, old)


async def test_a_rotation_cut_before_the_file_was_replaced_goes_on(config: HubConfig, tmp_path: Path) -> None:
    old = load_key(config.path("store.key"), {})
    fresh = create_key(tmp_path / "store.key.next")
    with Store.open(config.store_path, old, hub_id="home", clock=FixedClock()) as store:
        store.keys.add(fresh)
    rotate(config, None)
    assert load_key(config.path("store.key"), {}) == fresh
    assert not (tmp_path / "store.key.next").exists()
    with pytest.raises(WrongKeyError):
        rows(config, old)


async def test_with_a_key_elsewhere_both_open_until_the_old_one_is_retired(
    config: HubConfig, tmp_path: Path
) -> None:
    old, place = load_key(config.path("store.key"), {}), tmp_path / "elsewhere.key"
    await with_hub(config, lambda: rotate(config, place))
    new = load_key(place, {})
    assert rows(config, old) == rows(config, new) == 600
    config.path("store.key").write_bytes(b"cut")
    with pytest.raises(InputError, match="could not start again"):
        retire(config, new)
    config.path("store.key").write_bytes(old)
    with pytest.raises(InputError, match=r"could not start again .*put the one that stays in this place"):
        await with_hub(config, lambda: retire(config, new))
    assert rows(config, old) == 600
    config.path("store.key").write_bytes(new)
    await with_hub(config, lambda: retire(config, new))
    with pytest.raises(WrongKeyError):
        rows(config, old)
    assert rows(config, new) == 600


@pytest.mark.parametrize("running", [True, False])
async def test_a_new_data_key_while_the_hub_runs_and_without_it(config: HubConfig, running: bool) -> None:
    lines = await with_hub(config, lambda: rotate_data(config)) if running else rotate_data(config)
    assert "new data key" in lines[0]
    assert "data key 2" in overview_lines(config)
    assert rows(config, load_key(config.path("store.key"), {})) == 600


async def test_a_lost_key_file_is_made_anew_with_the_passphrase(config: HubConfig) -> None:
    await with_hub(config, lambda: add_passphrase(config, WORDS))
    lost = load_key(config.path("store.key"), {})
    config.path("store.key").unlink()
    with pytest.raises(InputError, match=r"no key file .*hometwin keys recover"):
        overview_lines(config)
    with pytest.raises(WrongKeyError):
        recover(config, Passphrase("five words that are not these"))
    assert not config.path("store.key").exists()
    recover(config, WORDS)
    assert rows(config, load_key(config.path("store.key"), {})) == 600
    with pytest.raises(WrongKeyError):
        rows(config, lost)


async def test_no_key_is_made_while_a_hub_runs_that_nobody_asked_the_passphrase_of(config: HubConfig) -> None:
    add_passphrase(config, WORDS)
    key, place = load_key(config.path("store.key"), {}), config.path("store.key")

    def recover_with_the_key_away(words: Passphrase) -> None:
        place.rename(place.with_name("away"))
        try:
            with pytest.raises(InputError, match="do not stop the hub"):
                recover(config, words)
            assert not place.exists()
        finally:
            place.with_name("away").rename(place)

    for words in (Passphrase("five words that are not these"), WORDS):
        await with_hub(config, lambda words=words: recover_with_the_key_away(words))  # type: ignore[misc]
    assert rows(config, key) == 600


def test_a_key_of_something_else_in_the_lost_ones_place_is_kept(config: HubConfig) -> None:
    add_passphrase(config, WORDS)
    place = config.path("store.key")
    lost = load_key(place, {})
    place.unlink()
    made = create_key(place)
    with pytest.raises(WrongKeyError):
        recover(config, Passphrase("five words that are not these"))
    with pytest.raises(InputError, match=r"kept: it may open something else .*move it away"):
        recover(config, WORDS)
    assert load_key(place, {}) == made
    assert rows(config, lost) == 600
    place.rename(place.with_name("else.key"))
    place.write_bytes(b"cut")
    with pytest.raises(InputError, match="move it away"):
        recover(config, WORDS)
    place.unlink()
    recover(config, WORDS)
    assert rows(config, load_key(place, {})) == 600
    with pytest.raises(WrongKeyError):
        rows(config, lost)
    with pytest.raises(InputError, match="nothing is to be recovered"):
        recover(config, WORDS)


@pytest.mark.parametrize("step", ["replace_overwriting", "_old"])
def test_a_recovery_that_is_cut_is_finished_by_a_second_one(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    add_passphrase(config, WORDS)
    place = config.path("store.key")
    place.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(f"edge.keys_command.{step}", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recover(config, WORDS)
    if step == "replace_overwriting":
        assert not place.exists()
        recover(config, WORDS)
    assert rows(config, load_key(place, {})) == 600
    assert not place.with_name("store.key.next").exists()


def test_a_key_that_opens_the_store_already_is_no_new_one(config: HubConfig, tmp_path: Path) -> None:
    """Else who was robbed of the key believes that it was changed."""
    place = config.path("store.key")
    for known in (place, tmp_path / "hex.key"):
        if known != place:
            known.write_text(load_key(place, {}).hex())
            known.chmod(0o600)
        with pytest.raises(InputError, match="opens the store already: no new one was made"):
            rotate(config, known)
    create_key(tmp_path / "other.key")
    lines = rotate(config, tmp_path / "other.key")
    assert lines[0].startswith("took the key that lies in ")
    assert rows(config, load_key(tmp_path / "other.key", {})) == 600


async def test_the_way_out_for_a_lost_key_file_while_the_hub_runs_is_told_and_goes(
    config: HubConfig,
) -> None:
    place = config.path("store.key")
    lost = load_key(place, {})

    def lose_and_mend() -> list[str]:
        assert "attention" not in "".join(overview_lines(config))
        place.unlink()
        way_out = f"do not stop the hub, .*rotate --to {place} .*retire {place}"
        for ask in (lambda: rotate(config, None), lambda: recover(config, WORDS)):
            with pytest.raises(InputError, match=way_out):
                ask()
        assert [line for line in overview_lines(config) if re.search(f"attention: .*gone.* {way_out}", line)]
        place.write_bytes(b"cut")
        assert [line for line in overview_lines(config) if "does not open the store, so the hub can" in line]
        place.unlink()
        create_key(place)  # of something else
        assert [line for line in overview_lines(config) if "does not open the store, so the hub can" in line]
        with pytest.raises(InputError, match="so it is kept"):
            rotate(config, None)
        place.unlink()
        lines = rotate(config, place)
        assert "restart" not in "".join(lines)
        assert "attention" not in "".join(overview_lines(config))
        return lines + retire(config, load_key(place, {}))

    assert (await with_hub(config, lose_and_mend))[-1] == "1 older key opens nothing any more"
    assert rows(config, load_key(place, {})) == 600
    with pytest.raises(WrongKeyError):
        rows(config, lost)


async def test_a_sealed_key_is_taken_to_be_the_one_that_opened_the_running_hubs_store(
    config: HubConfig, tmp_path: Path
) -> None:
    place, new_file = config.path("store.key"), tmp_path / "run.key"
    old, clear = load_key(place, {}), place.with_name("clear")
    rotate(config, new_file)
    new = load_key(new_file, {})
    place.with_name("store.key.cred").write_bytes(b"sealed")

    def without_clear_file(key: bytes) -> list[str]:
        place.rename(clear)
        assert "attention" not in "".join(overview_lines(config))
        try:
            return retire(config, key)
        finally:
            clear.rename(place)

    # The hub was not restarted: added since its start.
    async def not_restarted() -> None:
        await with_hub(
            config,
            lambda: (
                ask_hub(config.control_socket, {"do": "keys.add", "key": new.hex()}),
                without_clear_file(new),
            ),
        )

    with pytest.raises(InputError, match="restart the hub, then retire"):
        await not_restarted()
    assert rows(config, old) == 600
    place.write_bytes(new)  # what systemd opens for the hub at its next start
    assert await with_hub(config, lambda: without_clear_file(new)) == ["1 older key opens nothing any more"]
    place.unlink()
    assert "cannot be read here" in retire(config, new)[1]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("running", [True, False])
async def test_erasing_keeps_a_key_of_something_else_and_takes_the_sealed_one(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch, running: bool, cut: bool
) -> None:
    place = config.path("store.key")
    sealed = place.with_name("store.key.cred")
    sealed.write_bytes(b"sealed")
    ours = load_key(place, {})

    def swap_and_erase() -> list[str]:
        place.unlink()
        create_key(place)
        if cut:
            with monkeypatch.context() as patch:
                patch.setattr("edge.erase_command.shred", Mock(side_effect=KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    erase(config, "home")
        return [] if running and cut else erase(config, "home")

    lines = await with_hub(config, swap_and_erase) if running else swap_and_erase()
    lines = lines or erase(config, "home")
    assert f"kept {place}: it does not open this record, perhaps it opens something else" in lines
    assert f"destroyed {sealed}" in lines
    assert load_key(place, {}) != ours
    assert [p.name for p in config.state.iterdir()] == ["replay.sqlite.lock"]


@pytest.mark.parametrize("running", [True, False])
async def test_erasing_needs_the_hubs_name_and_leaves_nothing(config: HubConfig, running: bool) -> None:
    with pytest.raises(InputError, match="nothing was erased"):
        erase(config, "another")
    assert rows(config, load_key(config.path("store.key"), {})) == 600
    lines = await with_hub(config, lambda: erase(config, "home")) if running else erase(config, "home")
    assert "destroyed replay.sqlite" in lines
    assert not config.path("store.key").exists()
    assert [p.name for p in config.state.iterdir()] == ["replay.sqlite.lock"]


def test_keys_that_were_left_in_clear_go(config: HubConfig, tmp_path: Path) -> None:
    """A rotation that was cut leaves the next key, a cut while it was written one without a name."""
    key, unnamed, cut = config.path("store.key"), tmp_path / ".hometwin-key-abc", tmp_path / "store.key.next"
    unnamed.write_bytes(b"k" * 32)
    with key.open("rb") as handle:
        old = handle.read()
        rotate(config, None)
        handle.seek(0)
        assert handle.read() != old
    assert not unnamed.exists()
    create_key(cut)
    retire(config, load_key(key, {}))
    assert not cut.exists()
    create_key(cut)
    unnamed.write_bytes(b"k" * 32)
    lines = erase(config, "home")
    assert {f"destroyed {cut}", f"destroyed {unnamed}"} <= set(lines)
    assert [p.name for p in tmp_path.rglob("*") if "key" in p.name] == []


def test_the_list_tells_what_was_set_aside_and_a_copy_that_is_not_there(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.store_path.with_name("replay.sqlite.damaged-1").write_bytes(b"sealed")
    config.store_path.with_name("replay.sqlite.damaged-2-whole").touch()
    lines = overview_lines(config)
    assert [line for line in lines if "damaged-1" in line and "readable" in line]
    assert "set aside, empty: replay.sqlite.damaged-2-whole" in lines
    assert "attention" not in "".join(lines)
    monkeypatch.setattr("edge.store.store.save_copy", lambda *_: False)
    assert "could not be written" in "".join(overview_lines(config))


def test_what_was_set_aside_is_listed_whatever_the_store_is_called(config: HubConfig) -> None:
    named = msgspec.structs.replace(config, store=msgspec.structs.replace(config.store, path="a[b].sqlite"))
    for end in ("", ".keys"):
        config.store_path.with_name(config.store_path.name + end).rename(named.state / ("a[b].sqlite" + end))
    (named.state / "a[b].sqlite.damaged-1").write_bytes(b"sealed")
    (named.state / "a[b].sqlite.damaged-2").symlink_to("nowhere")
    lines = overview_lines(named)
    assert len([line for line in lines if "readable" in line]) == 2


@pytest.mark.parametrize("other", [rotate, retire])
def test_two_changes_of_keys_at_once_leave_a_key_that_opens_the_store(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch, other: Any
) -> None:
    """With the hub as the third, each retired the key of the other."""
    refused: list[StoreBusyError] = []

    def meanwhile(place: Path, fresh: Path) -> None:
        with pytest.raises(StoreBusyError, match="another command") as caught:
            rotate(config, None) if other is rotate else retire(config, load_key(place, {}))
        refused.append(caught.value)
        fresh.replace(place)

    monkeypatch.setattr("edge.keys_command.replace_overwriting", meanwhile)
    rotate(config, None)
    assert refused[0].exit_code == 2
    assert rows(config, load_key(config.path("store.key"), {})) == 600


@pytest.mark.parametrize("how", ["key lost", "damaged"])
def test_what_cannot_be_read_can_be_erased_all_the_same(config: HubConfig, how: str) -> None:
    if how == "key lost":
        config.path("store.key").unlink()
    else:
        config.store_path.write_bytes(b"noise" * 2000)
    lines = erase(config, "home")
    assert "destroyed replay.sqlite.keys" in lines
    assert [p.name for p in config.state.iterdir()] == ["replay.sqlite.lock"]


@pytest.mark.parametrize(
    "last", ["", "replay.sqlite.keys", "replay.sqlite-wal", "replay.sqlite", "store.key"]
)
def test_an_erase_that_is_cut_is_finished_by_a_second_one(
    config: HubConfig, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Cut before any file, amid them, before the key file, and before the mark."""
    done = [""]

    def cut(file: Path) -> bool:
        if last in done:
            raise KeyboardInterrupt
        done.append(file.name)
        return shred(file)

    with monkeypatch.context() as patch:
        patch.setattr("edge.store.keyring.shred", cut)
        patch.setattr("edge.erase_command.shred", cut)
        with pytest.raises(KeyboardInterrupt):
            erase(config, "home")
    erase(config, "home")
    assert not config.path("store.key").exists()
    assert [p.name for p in config.state.iterdir()] == ["replay.sqlite.lock"]
    with pytest.raises(InputError, match="no store here"):
        erase(config, "home")


async def test_the_desk_refuses_what_cannot_be_meant(config: HubConfig) -> None:
    def ask(**request: Any) -> str:
        with pytest.raises(InputError) as caught:
            ask_hub(config.control_socket, request)
        return str(caught.value)

    def all_of_it() -> None:
        assert "unknown request" in ask(do="keys.burn")
        assert "unknown request" in ask(do=["keys"])
        assert "not 32" in ask(do="keys.add", key="00")
        assert "hexadecimal" in ask(do="keys.add", key="zz")
        assert "12 characters" in ask(do="keys.add", passphrase="short")
        assert "UTF-8" in ask(do="keys.add", passphrase="\ud800" + "a" * 20)
        assert "confirmation" in ask(do="erase", confirm="somebody")
        assert "whole number" in ask(do="audit", after="x")

    await with_hub(config, all_of_it)
