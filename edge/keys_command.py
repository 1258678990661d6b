"""``hometwin keys …``: steps that leave, wherever they are cut, at least one key that opens the store."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from core.errors import InputError, StoreBusyError
from edge.audit_command import all_lines
from edge.config import HubConfig
from edge.desk import Ask, at_the_desk, hub_answers
from edge.store.files import is_there, unusable
from edge.store.journal import read_line
from edge.store.keys import (
    SEALED_SUFFIX,
    Passphrase,
    Secret,
    create_key,
    load_key,
    load_passphrase,
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
        trouble = trouble_at_next_start(config, ask)
        made = _slots_made(config, ask)
    lines = [
        f"slot {slot['number']}: {slot['kind']}{made.get(slot['number'], '')}, "
        f"{'held: rotate-data keeps it' if slot['in_use'] else 'not held: rotate-data closes it'}"
        for slot in keys["slots"]
    ]
    numbers = ", ".join(str(n) for n in keys["data_keys"])
    lines.append(f"data key {numbers}{' (sealing anew)' if keys['rotating'] else ''}")
    if trouble:
        lines.append(f"attention: {trouble}")
    if not keys["copied"]:
        lines.append(_NO_COPY)
    lines += [
        f"set aside, what it holds is readable with the keys of its time: {name}"
        for name in keys["set_aside"]
    ]
    lines += [f"set aside, empty: {name}" for name in keys["set_aside_empty"]]
    return lines


def _slots_made(config: HubConfig, ask: Ask) -> dict[int, str]:
    """When each slot was made, as far as the audit log tells."""
    made = {}
    for entry in map(read_line, all_lines(ask)[0]):
        if entry.what == "key.added" and "slot" in entry.detail:
            when = datetime.fromtimestamp(entry.time_us / 1e6, config.zone)
            made[entry.detail["slot"]] = f" of {when:%Y-%m-%d}"
    return made


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
        place = config.path(config.store.key_file)
        if to is not None:
            return _rotate_to(ask, to, place)
        if not is_there(place):
            if is_there(_sealed(place)):
                mend = "use --to FILE, then its credential"
                raise InputError("the key is not a file here", where=str(place), mend=mend)
            raise InputError("the key file is gone", where=str(place), mend=_stay_up(place))
        if not _opens(ask, place):
            raise _foreign(place, _stay_up(place))
        old = _put_in_place(ask, place)
    with contextlib.suppress(InputError):  # another user's
        shred_unfinished(place.parent)
    return [f"{place} holds a new key; {old}. Copies of the old key open old copies only."]


def _put_in_place(ask: Ask, place: Path) -> str:
    """A new key at ``place``, which alone opens the store then; goes on where a cut left it."""
    fresh = place.with_name(place.name + NEXT_SUFFIX)
    key = load_key(fresh, {}) if is_there(fresh) else create_key(fresh)
    ask({"do": "keys.add", "key": key.hex()})
    try:
        if os.geteuid() == 0 and is_there(place):
            owner = place.stat()
            os.chown(fresh, owner.st_uid, owner.st_gid)
        replace_overwriting(place, fresh)
    except OSError as err:
        raise unusable(place, err) from None
    return _old(ask({"do": "keys.retire", "key": key.hex()})["retired"])


def _foreign(place: Path, then: str) -> InputError:
    what = "what lies here does not open the store, so it is kept: it may open something else"
    return InputError(what, where=str(place), mend=f"move it away; {then}")


def _rotate_to(ask: Ask, to: Path, place: Path) -> list[str]:
    made = not is_there(to)
    key = create_key(to) if made else load_key(to, {})
    if not made and slot_opened_by(ask, key) is not None:
        raise InputError(
            "this key opens the store already: no new one was made, and the keys stay as they are",
            where=str(to),
            mend=f"name a file that is not there; was it added just now, go on: hometwin keys retire {to}",
        )
    ask({"do": "keys.add", "key": key.hex()})
    lines = [
        f"{'made' if made else 'took the key that lies in'} {to}; the old key and this one open the store",
        "next: put it in the place of the old key (or credential), restart the hub, and say",
        f"  hometwin keys retire {to}",
    ]
    if os.path.realpath(to) == str(place):
        lines[1] = "next, as it lies in its place:"
    return lines


def retire(config: HubConfig, keep: Secret) -> list[str]:
    """Only ``keep`` opens the store from now on (of its kind).

    InputError while the hub would find another one at its next start, and so could not open the store any more.
    """
    with _one_at_a_time(config), at_the_desk(config, keep) as ask:
        note = _check_next_start(config, keep, ask)
        answer = ask({"do": "keys.retire", **_named(keep)})
    if isinstance(keep, bytes):
        fresh = config.path(config.store.key_file + NEXT_SUFFIX)
        with contextlib.suppress(InputError):
            if is_there(fresh) and load_key(fresh, {}) != keep:
                shred(fresh)  # of a rotation that was cut; it opens nothing any more
    return [_old(answer["retired"]), *note]


def _check_next_start(config: HubConfig, keep: Secret, ask: Ask) -> list[str]:
    """InputError unless the hub will find ``keep``, or still has another kind; a line where that cannot be seen."""
    kept, by_words = slot_opened_by(ask, keep), isinstance(keep, Passphrase)
    if kept is None or by_words != bool(config.store.passphrase_file):
        return []
    place = config.path(config.store.passphrase_file or config.store.key_file)
    wrong = InputError(
        "the hub finds its way in here at its next start, and not what shall stay: it could not start again",
        where=str(place),
        mend="put the one that stays in this place (or its credential), restart the hub, then retire again",
    )
    if is_there(place) and os.access(place, os.R_OK):
        load = load_passphrase if by_words else load_key
        try:
            found = slot_opened_by(ask, load(place, {}, private=False))
        except InputError:
            found = None  # a damaged one
        if found != kept:
            raise wrong
        return []
    # A credential that only systemd opens. A hub that was started with what stays holds no other way in.
    kind, slots = ("passphrase" if by_words else "key"), ask({"do": "keys"})["slots"]
    if any(s["in_use"] and s["number"] != kept and s["kind"] == kind for s in slots):
        raise wrong
    if hub_answers(config):
        return []
    return [f"the hub starts again only if its credential holds this one; {place} cannot be read here"]


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
    if count := answer["dropped"]:
        were = "other way in was" if count == 1 else "other ways in were"
        lines.append(
            f"{count} {were} closed (keys or passphrases that the hub does not hold): add again what you use"
        )
    return lines


def add_passphrase(config: HubConfig, words: Passphrase) -> list[str]:
    """A passphrase as a second way in."""
    with at_the_desk(config) as ask:
        answer = ask({"do": "keys.add", **_named(words)})
    return [f"this passphrase opens the store (slot {answer['slot']}): write it down, away from the hub"]


def recover(config: HubConfig, words: Passphrase) -> list[str]:
    """The key file is lost: the passphrase makes a new one. A key that lies there is kept, whatever it opens.

    InputError while a hub runs: it holds the store open, so nothing would prove the passphrase, and needs none.
    """
    place = config.path(config.store.key_file)
    if hub_answers(config):
        if is_there(place):
            mend = "hometwin keys list tells whether the key in place opens the store, hometwin keys rotate puts a new one there"
        else:
            mend = _stay_up(place)
        raise InputError(
            "a hub runs, and holds the store open: no passphrase is needed", where="keys recover", mend=mend
        )
    with _one_at_a_time(config), at_the_desk(config, words) as ask:
        if is_there(place):
            if _opens(ask, place):
                raise InputError(
                    "the key is there and opens the store: nothing is to be recovered",
                    where=str(place),
                    mend=f"hometwin keys retire {place} ends all others",
                )
            raise _foreign(place, "hometwin keys recover again")
        lines = [f"made {place}; {_put_in_place(ask, place)}"]
    if is_there(_sealed(place)):
        lines.append(
            f"next: seal it over {place.name}{SEALED_SUFFIX} (docs/configuration.md), or the hub finds the old one"
        )
    return lines


def slot_opened_by(ask: Ask, secret: Secret) -> int | None:
    """The slot of the store at the desk that ``secret`` opens."""
    slot: int | None = ask({"do": "keys.find", **_named(secret)})["slot"]
    return slot


def _opens(ask: Ask, place: Path) -> bool:
    """Whether the file holds a key of the store; InputError when it cannot be read, which says nothing of it."""
    try:
        return slot_opened_by(ask, load_key(place, {}, private=False)) is not None
    except InputError:
        if os.access(place, os.R_OK):
            return False  # a damaged one
        raise


def trouble_at_next_start(config: HubConfig, ask: Ask) -> str:
    """Why the running hub could not start again; empty when it could, or when that cannot be seen from here."""
    place = config.path(config.store.passphrase_file or config.store.key_file)
    try:
        if not is_there(place):
            if is_there(_sealed(place)):
                return ""
            words = "write the passphrase there again, or a new one (hometwin keys passphrase): do not stop the hub"
            mend = words if config.store.passphrase_file else _stay_up(place)
            return f"{place} is gone, so the hub cannot start again but by a credential that lies elsewhere: {mend}"
        if config.store.passphrase_file or not os.access(place, os.R_OK):
            return ""  # trying words takes its time
        if _opens(ask, place):
            return ""
    except InputError as err:
        return str(err)
    return f"{place} does not open the store, so the hub cannot start again: move it away; {_stay_up(place)}"


def _stay_up(place: Path) -> str:
    """The way out while a hub holds the store of a lost key open."""
    return (
        f"do not stop the hub, it holds the record open; hometwin keys rotate --to {place} makes a new key, "
        f"hometwin keys retire {place} ends the lost one"
    )


def _sealed(place: Path) -> Path:
    return place.with_name(place.name + SEALED_SUFFIX)


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
        f"{count} older key{'s open' if count != 1 else ' opens'} nothing any more"
        if count
        else "no older key was left"
    )


def _named(secret: Secret) -> dict[str, Any]:
    if isinstance(secret, Passphrase):
        return {"passphrase": secret.text}
    return {"key": secret.hex()}
