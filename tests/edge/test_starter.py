"""Provisioning writes configurations that work, and a hub added later leaves the broker where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cloud.config import load_config as load_cloud
from edge.config import load_config


def provision(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "hometwin", "provision", str(folder), *words],
        check=True,
        timeout=60,
        capture_output=True,
    )


def test_the_starters_are_complete_and_a_second_hub_moves_nothing(tmp_path: Path) -> None:
    provision(tmp_path, "--hub", "home", "--host", "192.168.1.10", "--port", "8884")
    conf = (tmp_path / "broker" / "mosquitto.conf").read_text()
    assert "listener 8884" in conf
    mine = tmp_path / "hubs" / "home" / "hub.toml"
    mine.write_text(mine.read_text() + "# mine\n")
    provision(tmp_path, "--hub", "second")
    assert (tmp_path / "broker" / "mosquitto.conf").read_text() == conf
    assert mine.read_text().endswith("# mine\n")
    for hub_id in ("home", "second"):
        config = load_config(tmp_path / "hubs" / hub_id / "hub.toml", {})
        assert config.sync is not None
        assert (config.hub_id, config.sync.host, config.sync.port) == (hub_id, "192.168.1.10", 8884)
        assert config.path(config.store.key_file).is_file()
    assert load_cloud(tmp_path / "cloud" / "cloud.toml").advice.approval == "clinician"
