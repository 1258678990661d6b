"""``python -m edge.store.migrations PATH``: the short-lived process that ``migrate`` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from edge.store.migrations.steps import apply_steps

if __name__ == "__main__":
    apply_steps(Path(sys.argv[1]))
