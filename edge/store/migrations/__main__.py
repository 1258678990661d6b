"""``python -m edge.store.migrations PATH``: the short-lived process that ``migrate`` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from core.errors import HometwinError, TamperedError
from edge.store.database import reported
from edge.store.migrations import DAMAGED
from edge.store.migrations.steps import apply_steps

if __name__ == "__main__":
    try:
        with reported(Path(sys.argv[1])):
            apply_steps(Path(sys.argv[1]))
    except TamperedError:
        sys.exit(DAMAGED)
    except HometwinError as err:
        sys.exit(err.what)
