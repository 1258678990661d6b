"""Known hubs are the key files in one folder, as they are now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud.registry import Registry
from core.errors import ConfigError


def test_a_hub_is_known_from_the_moment_its_key_lies_there_until_it_is_removed(tmp_path: Path) -> None:
    registry, path = Registry(tmp_path), tmp_path / "hub-1.key"
    assert registry.key("hub-1") is None
    path.touch(0o600)
    path.write_bytes(bytes(32))
    assert registry.key("hub-1") == bytes(32)
    path.write_bytes(bytes([1]) * 32)
    os.utime(path, ns=(1, 1))
    assert registry.key("hub-1") == bytes([1]) * 32
    assert registry.hub_ids() == ["hub-1"]
    path.unlink()
    assert registry.key("hub-1") is None


@pytest.mark.parametrize("hub_id", ["../signing", "a/b", "", ".", "HUB", "x" * 40, "hub\0"])
def test_a_name_from_a_topic_never_reaches_other_files(tmp_path: Path, hub_id: str) -> None:
    (tmp_path / "hubs").mkdir()
    (tmp_path / "signing.key").write_bytes(bytes(32))
    assert Registry(tmp_path / "hubs").key(hub_id) is None


def test_a_damaged_key_makes_the_hub_unknown_not_the_cloud_fail(tmp_path: Path) -> None:
    (tmp_path / "hub-1.key").write_bytes(b"short")
    assert Registry(tmp_path).key("hub-1") is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Registry(tmp_path / "hubs")
