"""Provisioning writes configurations that work, and a hub added later leaves the broker where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloud.config import load_config as load_cloud
from core.errors import InputError
from edge.config import load_config
from edge.starter import broker_address, naming_another


def provision(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "hometwin", "provision", str(folder), *words],
        check=True,
        timeout=60,
        capture_output=True,
    )


@pytest.mark.parametrize("kept", ["", "localhost", "localhost " + "9" * 5000, "\xff \xfe", None])
def test_an_address_that_cannot_be_read_is_named(tmp_path: Path, kept: str | None) -> None:
    path = tmp_path / "broker" / "address"
    path.parent.mkdir()
    if kept is None:
        path.mkdir()
    else:
        path.write_bytes(kept.encode("latin-1"))
    with pytest.raises(InputError, match=r"broker/address: (is not|cannot be used: Is a directory)"):
        broker_address(tmp_path, None, None)


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


def test_a_moved_broker_names_the_settings_that_still_lead_to_the_old_one(tmp_path: Path) -> None:
    provision(tmp_path, "--hub", "home", "--host", "old.example")
    assert naming_another(tmp_path, "old.example", 8883) == []
    (tmp_path / "hubs" / "alone").mkdir()
    (tmp_path / "hubs" / "alone" / "hub.toml").write_text('hub_id = "alone"\n')  # keeps everything at home
    assert naming_another(tmp_path, "new.example", 8883) == [
        tmp_path / "cloud" / "cloud.toml",
        tmp_path / "hubs" / "home" / "hub.toml",
    ]
