"""The hub's configuration: read once, typed, frozen. Unknown keys are errors that name themselves.

TOML first, then ``HOMETWIN_<SECTION>_<KEY>`` variables (for scalars of a section, e.g.
``HOMETWIN_SYNC_PORT=8884``). Relative paths are taken from the folder of the TOML file. Secrets are not
configuration: they are files or systemd credentials that the configuration names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from core.errors import ConfigError
from core.settings import Text, parse_toml

ProfileName = Literal[
    "cgm",
    "heart_rate",
    "glucose_meter",
    "insulin_pump",
    "blood_pressure",
    "pulse_oximeter",
    "weight",
    "thermometer",
    "alert",
]
SourceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
HubId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Mgdl = Annotated[float, msgspec.Meta(ge=20, le=600)]

# Variables that steer a process as a whole and belong to no section.
# Names of sources that hand entries use; a device of that name would mix its records with them.
RESERVED_SOURCES: Final = frozenset({"hand", "command", "file"})
# What to say of a value of a wrong form, by the last word of its key.
FORMS: Final = {
    "address": "write it like C0:00:00:00:00:01, in capitals",
    "passkey": "the six digits as a number without quotes; drop leading zeros",
    "profile": "one of cgm, heart_rate, glucose_meter, insulin_pump, blood_pressure, pulse_oximeter, weight, "
    "thermometer, alert",
    "source": "a short name in small letters",
    "hub_id": "small letters, digits and -",
    "low_mgdl": "in mg/dL; 3.9 mmol/L is 70",
    "urgent_low_mgdl": "in mg/dL; 3.0 mmol/L is 54",
    "high_mgdl": "in mg/dL; 13.9 mmol/L is 250",
    "urgent_high_mgdl": "in mg/dL; 19.4 mmol/L is 350",
}
RESERVED_VARIABLES: Final = frozenset({"HOMETWIN_CLOCK", "HOMETWIN_DATA", "HOMETWIN_CONFIG"})


class RadioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``adapter``: ``bluez`` on a Pi, ``bumble:<transport>`` for a virtual air or a bare HCI dongle."""

    adapter: Text = "bluez"


class DeviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sensor or wearable that the hub is allowed to talk to."""

    source: SourceName
    profile: ProfileName
    address: Annotated[str, msgspec.Meta(pattern=r"^([0-9A-F]{2}:){5}[0-9A-F]{2}$")]
    name: str = ""
    # Six digits printed on the device. Without one only devices that need none can pair.
    passkey: Annotated[int, msgspec.Meta(ge=0, le=999_999)] | None = None
    # A device without passkey that lost its bond may be an impostor: it pairs anew only when this allows it.
    # Wearables that carry alarms always may: a silent alarm is the greater harm.
    repair: bool = False


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the replay buffer lies, what opens it (a file, or a systemd credential of that name), how long it keeps."""

    path: Text = "replay.sqlite"
    key_file: Text = "store.key"
    passphrase_file: Text = ""  # when set, a passphrase opens the store instead of the key
    # 0: raw readings stay for ever. A year of a CGM and a strap is 1 MB, and aggregates can never be undone.
    raw_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0
    fine_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0  # 0: 5-min aggregates never become hourly
    # Below this people are told. Only much later the oldest readings are thinned, so that the newest find room (store_care.py).
    free_floor_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 64


class SyncConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The broker and the keys that ``hometwin provision`` made for this hub."""

    host: Text
    port: Port = 8883
    ca: Text = "ca.crt"
    cert: Text = "client.crt"
    key: Text = "client.key"
    envelope_key: Text = "envelope.key"
    cloud_key: Text = "cloud.pub"


class AlarmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds on the sensor's own readings; they work without the engine."""

    urgent_low_mgdl: Mgdl = 54.0
    low_mgdl: Mgdl = 70.0
    high_mgdl: Mgdl = 250.0
    urgent_high_mgdl: Mgdl = 350.0
    signal_loss_min: Annotated[float, msgspec.Meta(ge=5, le=240)] = 20.0
    predicted_low: bool = True


class PrivacyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise on what the hub contributes to the population prior (core/privacy.py). ``epsilon`` 0: none.

    ``epsilon`` and ``delta`` are the budget for all ``releases`` together; after the last one nothing leaves.
    """

    epsilon: Annotated[float, msgspec.Meta(ge=0, le=50)] = 0.0
    delta: Annotated[float, msgspec.Meta(gt=0, lt=0.01)] = 1e-6
    releases: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 12
    every_days: Annotated[float, msgspec.Meta(ge=1, le=3650)] = 30.0


class CommandConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hand entries over MQTT. Clear text is refused unless the broker is trusted on purpose."""

    allow_clear: bool = False


class HubConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the hub and its engine need to know."""

    hub_id: HubId
    timezone: str = "UTC"
    state_dir: Text = "state"
    runtime_dir: Text = "run"
    patient: Text | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    radio: RadioConfig = RadioConfig()
    device: tuple[DeviceConfig, ...] = ()
    store: StoreConfig = StoreConfig()
    sync: SyncConfig | None = None
    alarms: AlarmConfig = AlarmConfig()
    commands: CommandConfig = CommandConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    base: str = "."  # folder of the file; set by load_config, never by hand

    def path(self, relative: str) -> Path:
        """A path of the configuration, made absolute."""
        return Path(os.path.realpath(Path(self.base) / relative))  # Path.resolve raises at a loop of links

    @property
    def store_path(self) -> Path:
        return self.state / self.store.path

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def state(self) -> Path:
        return self.path(self.state_dir)

    @property
    def control_socket(self) -> Path:
        return self.path(self.runtime_dir) / "hub.sock"

    @property
    def engine_socket(self) -> Path:
        return self.path(self.runtime_dir) / "engine.sock"


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> HubConfig:
    """The configuration in ``path``; ConfigError names the file, the key and the mend."""
    document = read_toml(path)
    if "base" in document:
        raise ConfigError("unknown key 'base'", where=str(path), mend="remove it")
    _apply_variables(document, environ)
    document["base"] = str(path.resolve().parent)
    config: HubConfig = convert(document, HubConfig, path)
    find_zone(config.timezone, f"{path}: timezone")
    _check_devices(config, path)
    _check_thresholds(config.alarms, path)
    _check_store(config.store, path)
    return config


def find_zone(name: str, where: str) -> ZoneInfo:
    """The time zone of that name, or ConfigError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"unknown timezone {name[:40]!r}", where=where, mend="use a name like Europe/London"
        ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML document in ``path``; ConfigError with line and column when it is none."""
    try:
        return parse_toml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ConfigError(
            "no such file",
            where=str(path),
            mend="check the path: --config, HOMETWIN_CONFIG, or what names it",
        ) from None
    except OSError as err:
        raise ConfigError(f"cannot be read: {err.strerror}", where=str(path)) from None


def convert(document: dict[str, Any], kind: Any, path: Path) -> Any:
    """``document`` as ``kind``; ConfigError names the offending key in dotted form."""
    try:
        return msgspec.convert(document, type=kind)
    except msgspec.ValidationError as err:
        text = str(err)
        match = re.search(r" - at `\$\.?(.*)`$", text)
        key = match.group(1) if match else ""
        text = text[: match.start()] if match else text
        text = text.replace("Object contains unknown field", "unknown key").replace("`", "'")
        text = text.replace("Object missing required field", "missing key")
        where = f"{path}: {key}" if key else str(path)
        otherwise = "leave out control characters" if "regex" in text else "see docs/configuration.md"
        mend = FORMS.get(key.rpartition(".")[2], otherwise)
        raise ConfigError("cannot be used" if "regex" in text else text, where=where, mend=mend) from None


def _apply_variables(document: dict[str, Any], environ: Mapping[str, str]) -> None:
    sections: dict[str, type] = {
        "RADIO": RadioConfig,
        "STORE": StoreConfig,
        "SYNC": SyncConfig,
        "ALARMS": AlarmConfig,
        "PRIVACY": PrivacyConfig,
    }
    for variable, text in environ.items():
        if not variable.startswith("HOMETWIN_") or variable in RESERVED_VARIABLES:
            continue
        section, _, key = variable.removeprefix("HOMETWIN_").partition("_")
        field_name = key.lower()
        section_type = sections.get(section)
        fields = {f.name: f for f in msgspec.structs.fields(section_type)} if section_type else {}
        if field_name not in fields:
            raise ConfigError(
                "names no setting", where=variable, mend="unset it, or see docs/configuration.md"
            )
        value: Any = text
        if fields[field_name].type not in (str, Text):
            try:
                value = parse_toml(f"v = {text}".encode("utf-8", "replace"), variable)["v"]
            except ConfigError:
                raise ConfigError("cannot be read as a TOML value", where=variable) from None
        table = document.setdefault(section.lower(), {})
        if not isinstance(table, dict):
            raise ConfigError("must be a section", where=section.lower(), mend=f"write [{section.lower()}]")
        table[field_name] = value


def _check_devices(config: HubConfig, path: Path) -> None:
    for field in ("source", "address"):
        seen: set[str] = set()
        for device in config.device:
            value = getattr(device, field)
            if value in seen:
                raise ConfigError(
                    f"two devices share the {field} {value!r}",
                    where=f"{path}: device",
                    mend=f"give each its own {field}",
                )
            if value in RESERVED_SOURCES:
                raise ConfigError(
                    f"{value!r} is kept for hand entries", where=f"{path}: device", mend="name it otherwise"
                )
            seen.add(value)


def _check_store(store: StoreConfig, path: Path) -> None:
    if store.fine_days and not 0 < store.raw_days <= store.fine_days:
        raise ConfigError(
            "must not be less than raw_days, which must be set as well",
            where=f"{path}: store.fine_days",
            mend="see docs/configuration.md",
        )


def _check_thresholds(alarms: AlarmConfig, path: Path) -> None:
    order = (alarms.urgent_low_mgdl, alarms.low_mgdl, alarms.high_mgdl, alarms.urgent_high_mgdl)
    if not order[0] < order[1] < order[2] < order[3]:
        raise ConfigError(
            "thresholds must rise: urgent_low < low < high < urgent_high", where=f"{path}: alarms"
        )
