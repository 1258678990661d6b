"""The models a twin can run. Adding one is its file plus one line here."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from core.errors import InputError
from core.models import hovorka

MODELS: Final[dict[str, ModuleType]] = {"glucose": hovorka}


def find(name: str) -> ModuleType:
    """The model module of that name; InputError names those there are."""
    if name not in MODELS:
        raise InputError(f"unknown model {name[:40]!r}", where="model", mend="use one of " + " ".join(MODELS))
    return MODELS[name]
