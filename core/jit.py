"""The only way this project compiles: one decorator, one cache, one kind of arithmetic.

``fastmath`` stays off everywhere: it deletes ``isnan``, and a missing reading is NaN. It also gained
nothing when measured. ``error_model="numpy"`` lets 0/0 be NaN instead of adding a branch per division;
callers check results once, at the boundary.

Numba's cache looks only at the file of the outermost function: it misses changed constants and changed
callees in other files. So the cache directory is named after a digest of all sources with kernels: any
edit gives a fresh directory, and an old kernel can never run against new sources.
"""

from __future__ import annotations

import hashlib
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numba
from numba.core import config as numba_config

F = TypeVar("F", bound=Callable[..., Any])

JIT_DISABLED: Final = bool(numba_config.DISABLE_JIT)


def _source_digest() -> str:
    """Digest over the sources of this package that hold kernels (about a millisecond)."""
    root = Path(__file__).parent
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        if b"core.jit" in source or path.name == "jit.py":
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + source)
    return digest.hexdigest()


def _place_cache() -> None:
    """Give numba a cache directory that belongs to exactly these sources."""
    base = os.environ.get("NUMBA_CACHE_DIR") or str(Path(__file__).parent / "__pycache__")
    numba_config.CACHE_DIR = str(Path(base) / f"kernels-{_source_digest()}")


if not JIT_DISABLED:
    _place_cache()


def jit(function: F) -> F:
    """Compile ``function`` on first call and keep the machine code on disk."""
    compiled: F = numba.njit(cache=True, fastmath=False, error_model="numpy")(function)
    return compiled


def specialise(template: Callable[..., Any], name: str, **names: Any) -> Callable[..., Any]:
    """Compile a copy of ``template`` in which the given global names mean other things.

    This is how a solver or filter is joined to a model without knowing it. Functions passed as
    arguments or closed over would defeat the disk cache (they pickle with a fresh identity in each
    process); globals do not. ``name`` must be unique per set of ``names``: it names the cache file.
    """
    scope = dict(template.__globals__)
    scope.update(names)
    copy = types.FunctionType(template.__code__, scope, template.__name__, template.__defaults__)
    copy.__qualname__ = f"{template.__qualname__}__{name}"
    copy.__module__ = template.__module__
    copy.__doc__ = template.__doc__
    return jit(copy)
