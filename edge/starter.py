"""Starter configurations beside freshly made keys: complete, commented, and never overwritten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from core.errors import ConfigError, InputError
from core.settings import parse_toml
from edge.store.files import is_there, unusable

HUB: Final = """\
hub_id = "{hub_id}"
timezone = "Europe/London"      # where the person lives
# patient = "patient.toml"      # weight, therapy: see docs/configuration.md

[radio]
adapter = "bluez"

[sync]                          # remove the section to keep everything at home
host = "{host}"
port = {port}

# hometwin pair prints a block like this for each health device in range
# [[device]]
# source = "cgm"
# profile = "cgm"
# address = "C0:00:00:00:00:01"
# passkey = 123456
"""
CLOUD: Final = """\
timezone = "Europe/London"      # of the portal's pages

[mqtt]
host = "{host}"
port = {port}

[web]
host = "127.0.0.1"              # a reverse proxy with TLS stands before it for others
port = 8080

[advice]
approval = "clinician"
"""


DEFAULT_ADDRESS: Final = ("localhost", 8883)


def broker_address(folder: Path, host: str | None, port: int | None) -> tuple[str, int]:
    """Where hubs reach the broker: as given now, else as given when this folder was made.

    Adding a hub later must not move the broker away from those that it serves.
    """
    path = folder / "broker" / "address"
    known = DEFAULT_ADDRESS
    try:
        match = re.fullmatch(rb"(\S+)\s+(\d{1,5})\s*", path.read_bytes())
        if match is None:
            raise InputError(
                "is not 'HOST PORT'", where=str(path), mend="mend it, or remove it and give --host"
            )
        known = (match[1].decode("utf-8", "replace"), int(match[2]))
    except FileNotFoundError:
        pass
    except OSError as err:
        raise unusable(path, err) from None
    return host or known[0], port or known[1]


def remember_address(folder: Path, host: str, port: int) -> None:
    """For the next time that a hub is added."""
    _write(folder / "broker" / "address", f"{host} {port}\n")


def write_starters(folder: Path, hub_ids: Sequence[str], host: str, port: int) -> list[Path]:
    """Write hub.toml for each hub and cloud.toml where they are missing; returns what was written."""
    wanted = {
        folder / "hubs" / hub_id / "hub.toml": HUB.format(hub_id=hub_id, host=host, port=port)
        for hub_id in hub_ids
    }
    wanted[folder / "cloud" / "cloud.toml"] = CLOUD.format(host=host, port=port)
    made = []
    for path, text in wanted.items():
        if not is_there(path):
            _write(path, text)
            made.append(path)
    return made


def naming_another(folder: Path, host: str, port: int) -> list[Path]:
    """The settings made earlier that name another broker than the one at ``host``: they are the user's to edit."""
    made = [folder / "cloud" / "cloud.toml", *sorted((folder / "hubs").glob("*/hub.toml"))]
    return [path for path in made if is_there(path) and not _names(path, host, port)]


def _names(path: Path, host: str, port: int) -> bool:
    try:
        settings = parse_toml(path.read_bytes(), str(path))
    except (OSError, ConfigError):
        return True  # its reader will say what is wrong
    broker = settings.get("sync", settings.get("mqtt"))
    if not isinstance(broker, dict):
        return True  # everything stays at home
    return (broker.get("host"), broker.get("port", port)) == (host, port)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    except OSError as err:
        raise unusable(path, err) from None
