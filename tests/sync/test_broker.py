"""Starting Mosquitto, and what a person reads when it does not start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import sync.broker
from core.errors import ConfigError, EnvironmentMissing
from sync.broker import find_mosquitto, start_broker
from tests.sync.support import House


def test_it_accepts_connections_once_start_returns_and_none_after_stop(house: House) -> None:
    assert house.broker is not None
    socket.create_connection(("127.0.0.1", house.port), timeout=5).close()
    house.broker.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", house.port), timeout=5)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    house = House(tmp_path / "house")
    with socket.socket() as other:
        other.bind(("127.0.0.1", house.port))
        other.listen()
        with pytest.raises(EnvironmentMissing, match=f"port {house.port} cannot be used"):
            house.start()


def test_a_missing_mosquitto_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sync.broker, "EXTRA_PATH", ())
    with pytest.raises(EnvironmentMissing, match="apt install mosquitto"):
        find_mosquitto()


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="provision"):
        start_broker(tmp_path / "mosquitto.conf")


def test_a_configuration_that_mosquitto_refuses_gives_its_own_reason(tmp_path: Path) -> None:
    house = House(tmp_path / "house")
    house.paths.broker_conf.write_text(house.paths.broker_conf.read_text() + "nonsense true\n")
    with pytest.raises(EnvironmentMissing, match="nonsense"):
        house.start()
