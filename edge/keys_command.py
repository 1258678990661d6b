"""``hometwin keys …``: steps that leave, wherever they are cut, at least one key that opens the store."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from core.errors import InputError, StoreBusyError
from edge.config import HubConfig
from edge.desk import at_the_desk, hub_answers
from edge.store.files import is_there, unusable
from edge.store.keys import (
    SEALED_SUFFIX,
    Passphrase,
    Secret,
    create_key,
    load_key,
    replace_overwriting,
    shred,
    shred_unfinished,
)

NEXT_SUFFIX = ".next"
_NO_COPY: Final = (
    "attention: the copy of the wrapped keys (.keys) could not be written. An older one may lie there, which retired keys open, "
    "and damage to the store's own keys may then cost the record: see to room and rights of the folder, then restart the hub"
)


def overview_lines(config: HubConfig) -> list[str]:
    """What opens the store."""
    with at_the_desk(config) as ask:
        keys = ask({"do": "keys"})
    lines = [
        f"slot {slot['number']}: {slot['kind']}{', in use' if slot['in_use'] else ''}"
        for slot in keys["slots"]
    ]
    numbers = ", ".join(str(n) for n in keys["data_keys"])
    lines.append(f"data key {numbers}{' (sealing anew)' if keys['rotating'] else ''}")
    if not keys["copied"]:
        lines.append(_NO_COPY)
    lines += [
        f"set aside, what it holds is readable with the keys of its time: {name}"
        for name in keys["set_aside"]
    ]
    lines += [f"set aside, empty: {name}" for name in keys["set_aside_empty"]]
    return lines


def rotate(config: HubConfig, to: Path | None) -> list[str]:
    """A new key-encryption key.

    Without ``to``: a new file is made beside the key file, the store learns it, the file takes the old one's
    place, the store forgets the old key. Started again after a cut, it goes on where it was. With ``to``: the
    new key lies there and both open the store, until ``retire`` is told that the new one has found its place.
    """
    if config.store.passphrase_file and to is None:
        raise InputError(
            "a passphrase opens this store",
            where="store.passphrase_file",
            mend="hometwin keys passphrase adds a new one, hometwin keys retire --passphrase ends the old one",
        )
    with _one_at_a_time(config), at_the_desk(config) as ask:
        if to is not None:
            key = load_key(to, {}) if is_there(to) else create_key(to)
            ask({"do": "keys.add", "key": key.hex()})
            return [
                f"made {to}; the old key and this one open the store",
                "next: put it in the place of the old key (or credential), restart the hub, and say",
                f"  hometwin keys retire {to}",
            ]
        place = config.path(config.store.key_file)
        if not is_there(place):
            raise InputError(
                "the key is not a file here", where=str(place), mend="use --to FILE, then its credential"
            )
        fresh = place.with_name(place.name + NEXT_SUFFIX)
        key = load_key(fresh, {}) if is_there(fresh) else create_key(fresh)
        ask({"do": "keys.add", "key": key.hex()})
        try:
            owner = place.stat()
            if os.geteuid() == 0:
                os.chown(fresh, owner.st_uid, owner.st_gid)
            replace_overwriting(place, fresh)
        except OSError as err:
            raise unusable(place, err) from None
        answer = ask({"do": "keys.retire", "key": key.hex()})
    with contextlib.suppress(InputError):  # another user's
        shred_unfinished(place.parent)
    return [
        f"{place} holds a new key; {_old(answer['retired'])}. Copies of the old key open old copies only."
    ]


def retire(config: HubConfig, keep: Secret) -> list[str]:
    """Only ``keep`` opens the store from now on (of its kind)."""
    with _one_at_a_time(config), at_the_desk(config, keep) as ask:
        answer = ask({"do": "keys.retire", **_named(keep)})
    if isinstance(keep, bytes):
        fresh = config.path(config.store.key_file + NEXT_SUFFIX)
        with contextlib.suppress(InputError):
            if is_there(fresh) and load_key(fresh, {}) != keep:
                shred(fresh)  # of a rotation that was cut; it opens nothing any more
    return [_old(answer["retired"])]


def rotate_data(config: HubConfig) -> list[str]:
    """A new data key; the hub seals everything anew beside its work."""
    with at_the_desk(config) as ask:
        answer = ask({"do": "keys.rotate_data"})
    lines = ["a new data key seals what comes from now on"]
    lines.append(
        "the hub seals the rest anew; hometwin keys list shows when it is done"
        if answer["rotating"]
        else "done"
    )
    if answer["dropped"]:
        lines.append(
            f"{answer['dropped']} other ways in were closed (keys or passphrases that the hub does not hold): "
            "add them again"
        )
    return lines


def add_passphrase(config: HubConfig, words: Passphrase) -> list[str]:
    """A passphrase as a second way in."""
    with at_the_desk(config) as ask:
        answer = ask({"do": "keys.add", **_named(words)})
    return [f"this passphrase opens the store (slot {answer['slot']}): write it down, away from the hub"]


def recover(config: HubConfig, words: Passphrase) -> list[str]:
    """The key file is lost: the passphrase makes a new one, or a new key that lies there already open the store.

    InputError while a hub runs: it holds the store open, so nothing would prove the passphrase.
    """
    place = config.path(config.store.key_file)
    if hub_answers(config):
        raise InputError("a hub runs, and holds the store", where="keys recover", mend="stop the hub first")
    with _one_at_a_time(config), at_the_desk(config, words) as ask:
        known = {slot["number"] for slot in ask({"do": "keys"})["slots"]}
        key = load_key(place, {}) if is_there(place) else create_key(place)
        if ask({"do": "keys.add", "key": key.hex()})["slot"] in known:
            raise InputError(
                "the key is there and opens the store: nothing is to be recovered",
                where=str(place),
                mend=f"hometwin keys retire {place} ends all others",
            )
        answer = ask({"do": "keys.retire", "key": key.hex()})
    lines = [f"made {place}; {_old(answer['retired'])}"]
    if is_there(place.with_name(place.name + SEALED_SUFFIX)):
        lines.append(
            f"next: seal it over {place.name}{SEALED_SUFFIX} (docs/configuration.md), or the hub finds the old one"
        )
    return lines


@contextlib.contextmanager
def _one_at_a_time(config: HubConfig) -> Iterator[None]:
    """Two rotations at once retire each other's key: the key file could be left with one that opens nothing."""
    try:
        folder = os.open(config.store_path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # there is no store, as who asks for it says
        return
    except OSError as err:
        raise unusable(config.store_path.parent, err) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusyError(
                "keys are being changed by another command",
                where=str(config.store_path),
                mend="wait for it; hometwin keys list then shows what there is",
            ) from None
        yield
    finally:
        os.close(folder)


def _old(count: int) -> str:
    return (
        f"{count} older key{'s' if count != 1 else ''} opens nothing any more"
        if count
        else "no older key was left"
    )


def _named(secret: Secret) -> dict[str, Any]:
    if isinstance(secret, Passphrase):
        return {"passphrase": secret.text}
    return {"key": secret.hex()}
