"""What all tests share: where real recordings lie, that nothing is skipped silently in CI, and how two workers share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "tests/system/"

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Numba's index may come to name another signature's code when two processes add to one function at once.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / "core" / "__pycache__" / worker))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole house first: it mostly waits, and the other worker computes meanwhile."""
    items.sort(key=lambda item: not item.nodeid.startswith(SYSTEM))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays with one worker, for what its fixtures prepare; never are two whole houses up at once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return SYSTEM if nodeid.startswith(SYSTEM) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # ours has the long ones first
    return ByFile(config, log)


def recordings_folder() -> Path:
    """``HOMETWIN_DATA``, or the folder ``shared/data`` beside the checkout."""
    return Path(os.environ.get("HOMETWIN_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def recording_2307() -> Path:
    """A real person's recording (T1D-UOM participant 2307). Absent: a failure in CI, a skip elsewhere."""
    path = recordings_folder() / "t1d_uom" / "2307.csv.gz"
    if not path.is_file():
        message = "recording absent (mend: set HOMETWIN_DATA to a folder with t1d_uom/2307.csv.gz)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
