"""Keys come from a private file or a systemd credential; everything else gets one clear line."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from core.errors import InputError
from edge.store.keys import create_key, load_key, replace_overwriting

KEY = bytes(range(32))


def private(path: Path, data: bytes = KEY, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_made_key_is_private_random_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, {}) == key
    assert len(key) == 32
    assert key != create_key(tmp_path / "other.key")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = private(tmp_path / "store.key")
    with pytest.raises(InputError, match="is kept"):
        create_key(path)
    assert path.read_bytes() == KEY
    with pytest.raises(InputError, match="no such folder"):
        create_key(path / "a file is no folder")


def test_a_full_disk_leaves_no_half_made_key(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # every write fails, as on a full disk
    try:
        with pytest.raises(InputError, match=r"store\.key: key cannot be written: File too large"):
            create_key(tmp_path / "store.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    key = create_key(tmp_path / "store.key")
    assert load_key(tmp_path / "store.key", {}) == key


def test_a_disk_without_links_takes_a_key_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)  # as on FAT
    key = create_key(tmp_path / "store.key")
    assert load_key(tmp_path / "store.key", {}) == key
    with pytest.raises(InputError, match="is kept"):
        create_key(tmp_path / "store.key")
    assert [p.name for p in tmp_path.iterdir()] == ["store.key"]


@pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper() + "\n"])
def test_a_paper_backup_in_hexadecimal_works(tmp_path: Path, text: str) -> None:
    assert load_key(private(tmp_path / "store.key", text.encode()), {}) == KEY


@pytest.mark.parametrize(
    "data", [b"", KEY[:31], KEY + b"\n", KEY.hex().encode()[:-1], b"g" * 64, b"x" * 4096]
)
def test_other_contents_are_refused_without_showing_them(tmp_path: Path, data: bytes) -> None:
    path = private(tmp_path / "store.key", data)
    with pytest.raises(InputError) as caught:
        load_key(path, {})
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert not data or data.decode("latin1") not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_key_open_to_others_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "store.key", mode=mode)
    with pytest.raises(InputError, match=f"chmod 600 {path}"):
        load_key(path, {})


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_private_modes_are_accepted(tmp_path: Path, mode: int) -> None:
    assert load_key(private(tmp_path / "store.key", mode=mode), {}) == KEY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "store.key")
    os.chown(path, 1234, 1234)
    with pytest.raises(InputError, match="another user"):
        load_key(path, {})


def test_a_missing_key_or_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no key file.*hometwin keys"):
        load_key(tmp_path / "store.key", {})
    (tmp_path / "folder.key").mkdir()
    with pytest.raises(InputError):
        load_key(tmp_path / "folder.key", {})


def test_a_credential_of_the_same_name_wins_and_needs_no_private_mode(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    private(credentials / "store.key", b"c" * 32, 0o440)  # systemd 254 shows its ACL's mask like this
    path = private(tmp_path / "store.key")
    assert load_key(path, {"CREDENTIALS_DIRECTORY": str(credentials)}) == b"c" * 32
    assert (
        load_key(tmp_path / "missing" / "store.key", {"CREDENTIALS_DIRECTORY": str(credentials)}) == b"c" * 32
    )
    (credentials / "store.key").unlink()
    assert load_key(path, {"CREDENTIALS_DIRECTORY": str(credentials)}) == KEY


def test_what_is_replaced_is_overwritten(tmp_path: Path) -> None:
    """Seen through a handle that was open before; a file that has another name, as in a backup by links, is left."""
    for linked in (False, True):
        old, fresh = tmp_path / f"old-{linked}", tmp_path / "fresh"
        old.write_bytes(b"wrapped key" * 50)
        fresh.write_bytes(b"new")
        if linked:
            os.link(old, tmp_path / "backup")
        with old.open("rb") as handle:
            replace_overwriting(old, fresh)
            kept = handle.read()
        assert old.read_bytes() == b"new"
        assert len(kept) == 550
        assert (kept == b"wrapped key" * 50) == linked
    replace_overwriting(tmp_path / "nothing there", tmp_path / "backup")
    assert (tmp_path / "nothing there").exists()
