"""The store is synchronous and waits for the disk; this gives it one thread of its own.

One worker, so that calls keep their order and SQLite sees one caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from core.errors import TamperedError

P = ParamSpec("P")
R = TypeVar("R")


class StoreThread:
    """Runs calls one after the other, off the event loop. ``damaged`` is set when one found the store damaged."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self.damaged = asyncio.Event()

    async def __call__(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``call(*args, **kwargs)``. A cancelled waiter does not cancel the write itself."""
        future = self._executor.submit(call, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except TamperedError:
            self.damaged.set()
            raise

    def close(self) -> None:
        """Wait for calls under way, take no more."""
        self._executor.shutdown(wait=True)
