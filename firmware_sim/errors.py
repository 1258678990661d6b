"""The one error that virtual devices raise on purpose. Its text is what a terminal shows: one line."""

from __future__ import annotations


class SimError(Exception):
    """Somebody gave the simulation something it cannot use, or the air is gone.

    The text never holds a reading or a dose: it may end up in a log.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "", exit_code: int = 2) -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend, self.exit_code = what, where, mend, exit_code

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" ({self.mend})" if self.mend else ""
        return f"{place}{self.what}{cure}"
