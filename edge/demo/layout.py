"""The demo's folder: certificates, keys and configurations as a person would make them, for one machine."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import EnvironmentMissing
from sync.provision import provision

HUB_ID: Final = "demo"

# The addresses and passkeys that the virtual devices carry on their backs.
DEVICES: Final = (
    ("cgm", "cgm", "C0:00:00:00:00:01", 123456),
    ("strap", "heart_rate", "C0:00:00:00:00:02", None),
    ("pump", "insulin_pump", "C0:00:00:00:00:03", 654321),
    ("meter", "glucose_meter", "C0:00:00:00:00:04", 111222),
    ("watch", "alert", "C0:00:00:00:00:05", None),
)


@dataclass(frozen=True)
class DemoLayout:
    """Where everything of one demo lies, and on which ports it talks."""

    root: Path
    broker_port: int
    air_port: int
    portal_port: int

    @property
    def hub_toml(self) -> Path:
        return self.root / "hubs" / HUB_ID / "hub.toml"

    @property
    def cloud_toml(self) -> Path:
        return self.root / "cloud" / "cloud.toml"

    @property
    def mosquitto_conf(self) -> Path:
        return self.root / "broker" / "mosquitto.conf"

    @property
    def hub_socket(self) -> Path:
        return self.hub_toml.parent / "run" / "hub.sock"

    @property
    def engine_socket(self) -> Path:
        return self.hub_toml.parent / "run" / "engine.sock"

    @property
    def sensor_state(self) -> Path:
        return self.root / "sensors"

    @property
    def sensor_control(self) -> Path:
        return self.root / "sensors.sock"

    @property
    def database(self) -> Path:
        return self.root / "cloud" / "cloud.sqlite"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, option: str) -> None:
    """EnvironmentMissing when somebody listens on ``port`` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise EnvironmentMissing(
                f"port {port} is taken", where=option, mend=f"stop what uses it, or give another {option}"
            ) from None


def make_layout(
    root: Path, timezone: str, portal_port: int, approval: str = "demo", patient: str = ""
) -> DemoLayout:
    """Provision everything in ``root`` and write the configurations. ``patient``: the person's file, for hub and clinic."""
    layout = DemoLayout(root, free_port(), free_port(), portal_port)
    for folder in (root, layout.logs, layout.sensor_state):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    provision(root, [HUB_ID], "127.0.0.1", layout.broker_port)
    layout.hub_toml.write_text(hub_toml(layout, timezone))
    for path in (
        layout.hub_toml.parent / "patient.toml",
        layout.cloud_toml.parent / "hubs" / f"{HUB_ID}.patient.toml",
    ):
        path.write_text(patient or f'timezone = "{timezone}"\n')
    layout.cloud_toml.write_text(cloud_toml(layout, timezone, approval))
    return layout


def hub_toml(layout: DemoLayout, timezone: str) -> str:
    """The hub's configuration: virtual air, five devices, the broker of this machine."""
    lines = [
        f'hub_id = "{HUB_ID}"',
        f'timezone = "{timezone}"',
        'patient = "patient.toml"',
        "[radio]",
        f'adapter = "bumble:tcp-client:127.0.0.1:{layout.air_port}"',
        "[sync]",
        'host = "127.0.0.1"',
        f"port = {layout.broker_port}",
    ]
    for source, profile, address, passkey in DEVICES:
        lines += ["[[device]]", f'source = "{source}"', f'profile = "{profile}"', f'address = "{address}"']
        if passkey is not None:
            lines.append(f"passkey = {passkey}")
    return "\n".join(lines) + "\n"


def cloud_toml(layout: DemoLayout, timezone: str, approval: str) -> str:
    """The cloud twin's configuration. ``approval = "demo"`` lets advice pass without a clinician, and says so."""
    return "\n".join(
        [
            f'timezone = "{timezone}"',
            "[database]",
            f'url = "sqlite:///{layout.database}"',
            'key_file = "database.key"',
            "[mqtt]",
            'host = "127.0.0.1"',
            f"port = {layout.broker_port}",
            'ca = "ca.crt"',
            'cert = "client.crt"',
            'key = "client.key"',
            "[keys]",
            'signing_key = "signing.key"',
            'hubs_dir = "hubs"',
            "[web]",
            'host = "127.0.0.1"',
            f"port = {layout.portal_port}",
            "[advice]",
            f'approval = "{approval}"',
            "",
        ]
    )
