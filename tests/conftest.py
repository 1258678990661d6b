"""What all tests share: where real recordings lie, and that nothing is skipped silently in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
