"""A hub that must not open its store says so in one line, ends with code 2, and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import HometwinError, StoreError
from edge.store.keys import create_key
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock, open_store, reading
from tests.system.faults.power_cut import get_files, put_files

pytestmark = pytest.mark.system
HUB = "home"
NAME = "replay.sqlite"
FILES = (NAME, NAME + "-wal")


class Home:
    """A hub's folder with a store in it, as a hub that was killed leaves it (``clean``: as one that ended)."""

    def __init__(self, root: Path, *, clean: bool) -> None:
        self.root, self.state = root, root / "state"
        self.key = create_key(root / "store.key")
        (root / "hub.toml").write_text(
            f'hub_id = "{HUB}"\n[radio]\nadapter = "bumble:tcp-client:127.0.0.1:1"\n'
        )
        self.state.mkdir()
        with Store.open(self.state / NAME, self.key, hub_id=HUB, clock=FixedClock()) as store:
            store.append(reading(n) for n in range(300))
            store.enqueue(b"message")
            files = get_files(self.state, FILES)
        if not clean:
            put_files(self.state, files)

    def start(self) -> subprocess.CompletedProcess[str]:
        """Start the hub; it must end by itself."""
        command = [sys.executable, "-P", "-m", "edge.hub_main", str(self.root / "hub.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def content(self) -> list[tuple[object, ...]]:
        """Every row of every table, read from a copy."""
        copy = self.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.state, copy)
        db = sqlite3.connect(copy / NAME)
        try:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = [(name, *row) for name in sorted(names) for row in db.execute(f"SELECT * FROM {name}")]
            return [*rows, *db.execute("PRAGMA user_version").fetchall()]
        finally:
            db.close()


def other_key(home: Home) -> None:
    (home.root / "store.key").unlink()
    create_key(home.root / "store.key")


def other_hub(home: Home) -> None:
    toml = home.root / "hub.toml"
    toml.write_text(toml.read_text().replace(f'"{HUB}"', '"away"'))


def newer_version(home: Home) -> None:
    db = sqlite3.connect(home.state / NAME)
    [(version,)] = db.execute("PRAGMA user_version")
    db.execute(f"PRAGMA user_version = {version + 1}")
    with db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('hometwin.store', '0999_later')"
        )
    db.close()


@pytest.mark.parametrize("clean", [True, False], ids=["ended", "killed"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_key, "the key does not open this store"),
        (other_hub, "the store was made for another hub_id"),
        (newer_version, "install the newer version"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_that_is_not_this_hubs_is_refused_and_untouched(
    tmp_path: Path, change: Callable[[Home], None], says: str, clean: bool
) -> None:
    home = Home(tmp_path, clean=clean)
    change(home)
    before, files = home.content(), get_files(home.state, FILES)
    ended = home.start()
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 2, ended.stderr
    assert lines[-1].startswith("hometwin: ")
    assert says in lines[-1]
    assert "Traceback" not in ended.stderr
    assert home.key.hex() not in ended.stderr
    assert home.content() == before
    if clean:
        assert get_files(home.state, FILES) == files


HOLD = """
import sys
from pathlib import Path
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock
store = Store.open(sys.argv[1], Path(sys.argv[2]).read_bytes(), hub_id=sys.argv[3], clock=FixedClock())
print("holds", flush=True)
sys.stdin.readline()
"""


def test_a_second_hub_is_told_which_process_has_the_store_and_the_first_loses_nothing(tmp_path: Path) -> None:
    """tests/system/test_hub.py does it with two whole hubs; here the store is compared."""
    home = Home(tmp_path, clean=True)
    command = [sys.executable, "-c", HOLD, str(home.state / NAME), str(tmp_path / "store.key"), HUB]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    ) as first:
        assert first.stdout is not None
        while (line := first.stdout.readline()) != "holds\n":
            assert line, "the first did not start"
        files = get_files(home.state, FILES)
        ended = home.start()
        assert ended.returncode == 2, ended.stderr
        assert f"another process ({first.pid}) holds this store" in ended.stderr.strip().splitlines()[-1]
        assert get_files(home.state, FILES) == files
        first.kill()
    with Store.open(home.state / NAME, home.key, hub_id=HUB, clock=FixedClock()) as store:
        assert store.check().ok
        assert store.last_row == 300


def test_a_forged_identity_makes_no_wrong_key_right(folder: Path) -> None:
    """Who has the card but not the key puts an identity and keyring of their own into the file: it opens nothing."""
    ours, theirs = folder / NAME, folder / "theirs.sqlite"
    their_key = bytes(reversed(range(32)))
    with open_store(ours) as store:
        store.append(reading(n) for n in range(300))
        store.put_blob("state", b"x" * 100)
    open_store(theirs, their_key).close()
    for tables in (("identity",), ("keyring",), ("identity", "keyring")):
        forged = folder / "forged.sqlite"
        shutil.copy(ours, forged)
        db = sqlite3.connect(forged)
        db.execute("ATTACH ? AS theirs", (str(theirs),))
        for table in tables:
            db.execute(f"DELETE FROM {table}")
            db.execute(f"INSERT INTO {table} SELECT * FROM theirs.{table}")
        db.commit()
        db.close()
        for key in (their_key, None):
            with pytest.raises(HometwinError) as caught:
                (open_store(forged, key) if key else open_store(forged)).close()
            assert isinstance(caught.value, StoreError)
