"""The cloud's configuration: read once, typed, frozen. Unknown keys are errors that name themselves.

Relative paths (and a relative SQLite file in ``database.url``) are taken from the folder of the TOML file.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from core.errors import ConfigError
from core.settings import Text, parse_toml

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
SQLITE_PREFIX = "sqlite:///"


class DatabaseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where records go, and the key that seals their values."""

    url: Text = "sqlite:///cloud.sqlite"
    key_file: Text = "database.key"


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker, and the certificate that ``hometwin provision`` made for the cloud."""

    host: Text
    port: Port = 8883
    ca: Text = "ca.crt"
    cert: Text = "client.crt"
    key: Text = "client.key"


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that signs downlinks, and the folder with one ``<hub>.key`` per hub."""

    signing_key: Text = "signing.key"
    hubs_dir: Text = "hubs"


class WebConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the portal listens, and whom it believes.

    ``trusted_proxy``: the address of the reverse proxy that may say whom it speaks for (X-Forwarded-For,
    X-Forwarded-Proto). Empty: nobody may.
    """

    host: Text = "127.0.0.1"
    port: Port = 8080
    trusted_proxy: str = ""


class AdviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``clinician``: nothing leaves unapproved. ``demo``: approved by nobody, and it says so."""

    approval: Literal["clinician", "demo"] = "clinician"


class CloudConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the cloud process needs to know."""

    mqtt: MqttConfig
    database: DatabaseConfig = DatabaseConfig()
    keys: KeysConfig = KeysConfig()
    web: WebConfig = WebConfig()
    advice: AdviceConfig = AdviceConfig()
    timezone: str = "UTC"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    base: str = "."  # folder of the file; set by load_config, never by hand

    def path(self, relative: str) -> Path:
        """A path of the configuration, made absolute."""
        return Path(os.path.realpath(Path(self.base) / relative))  # Path.resolve raises at a loop of links

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def database_url(self) -> str:
        """The URL with a relative SQLite file made absolute."""
        url = self.database.url
        name = url.removeprefix(SQLITE_PREFIX)
        if name == url or name in ("", ":memory:"):
            return url
        return SQLITE_PREFIX + str(self.path(name))


def load_config(path: Path) -> CloudConfig:
    """The configuration in ``path``; ConfigError names the file, the key and the mend."""
    try:
        document = parse_toml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), mend="check the path given") from None
    except OSError as err:
        raise ConfigError(f"cannot be read: {err.strerror}", where=str(path)) from None
    if "base" in document:
        raise ConfigError("unknown key 'base'", where=str(path), mend="remove it")
    config = _convert({**document, "base": str(path.resolve().parent)}, path)
    try:
        ZoneInfo(config.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder's name, or a very long one
        raise ConfigError(
            f"unknown timezone {config.timezone[:40]!r}",
            where=f"{path}: timezone",
            mend="use a name like Europe/London",
        ) from None
    try:
        if config.web.trusted_proxy:
            ipaddress.ip_address(config.web.trusted_proxy)
    except ValueError:
        raise ConfigError(
            "not an address",
            where=f"{path}: web.trusted_proxy",
            mend='use one like "127.0.0.1", or remove it',
        ) from None
    return config


def _convert(document: dict[str, Any], path: Path) -> CloudConfig:
    try:
        return msgspec.convert(document, type=CloudConfig)
    except RecursionError:
        raise ConfigError("nested too deeply", where=str(path), mend="see docs/configuration.md") from None
    except msgspec.ValidationError as err:
        # msgspec says "... - at `$.mqtt.port`"; a person reads mqtt.port
        what, _, place = str(err).partition(" - at `$")
        key = place.rstrip("`").lstrip(".")
        if "regex" in what:
            what = "cannot hold control characters"
        raise ConfigError(
            what.replace("Object", "the table").replace("`", "'"),
            where=f"{path}: {key}" if key else str(path),
            mend="see docs/configuration.md",
        ) from None
