"""This program's version: in one place, and without the packaging library that would read it from metadata."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
