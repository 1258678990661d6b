"""``hometwin keys …``: steps that leave, wherever they are cut, at least one key that opens the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.errors import InputError
from edge.config import HubConfig
from edge.desk import at_the_desk
from edge.store.files import is_there, unusable
from edge.store.keys import SEALED_SUFFIX, Passphrase, Secret, create_key, load_key, sync_folder

NEXT_SUFFIX = ".next"


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
    lines += [f"set aside, still readable with older keys: {name}" for name in keys["set_aside"]]
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
    with at_the_desk(config) as ask:
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
            fresh.replace(place)
            sync_folder(place.parent)
        except OSError as err:
            raise unusable(place, err) from None
        answer = ask({"do": "keys.retire", "key": key.hex()})
    return [
        f"{place} holds a new key; {_old(answer['retired'])}. Copies of the old key open old copies only."
    ]


def retire(config: HubConfig, keep: Secret) -> list[str]:
    """Only ``keep`` opens the store from now on (of its kind)."""
    with at_the_desk(config, keep) as ask:
        answer = ask({"do": "keys.retire", **_named(keep)})
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
    """The key file is lost: the passphrase makes a new one. No hub may run."""
    place = config.path(config.store.key_file)
    with at_the_desk(config, words) as ask:
        key = create_key(place)
        ask({"do": "keys.add", "key": key.hex()})
        answer = ask({"do": "keys.retire", "key": key.hex()})
    lines = [f"made {place}; {_old(answer['retired'])}"]
    if is_there(place.with_name(place.name + SEALED_SUFFIX)):
        lines.append(
            f"next: seal it over {place.name}{SEALED_SUFFIX} (docs/configuration.md), or the hub finds the old one"
        )
    return lines


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
