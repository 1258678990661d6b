"""Puts the portal together and serves it inside the cloud's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from nicegui import ui

from cloud.config import CloudConfig
from cloud.db import Database
from cloud.portal import causes, overview, person, whatif
from cloud.portal.accounts import FIRST_NAME, FIRST_PASSWORD_FILE, Accounts
from cloud.portal.connections import BACKLOG, BoundedProtocol, limits_here
from cloud.portal.context import Context, set_context
from cloud.portal.guard import App, Guard, Sessions
from cloud.portal.login import router
from core.clock import Clock
from core.errors import EnvironmentMissing

log = structlog.get_logger()

STATIC: Final = Path(__file__).parent.parent / "static"
CLOSE_S: Final = 2  # open pages reconnect by themselves; waiting for them would hold up the whole cloud
PAGES: Final = (  # importing them registers them
    overview.overview,
    person.person_page,
    causes.causes,
    whatif.whatif_page,
)

_pages_app: FastAPI | None = None


def make_app(context: Context) -> App:
    """The ASGI application for ``context``. One per process: NiceGUI keeps its pages in globals."""
    global _pages_app
    set_context(context)
    if _pages_app is None:
        app = FastAPI(title="Hometwin", docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(router)
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
        ui.run_with(
            app,
            title="Hometwin",
            favicon=STATIC / "favicon.svg",
            dark=False,
            tailwind=False,
            show_welcome_message=False,
            reconnect_timeout=15.0,
        )
        _pages_app = app
    return Guard(_pages_app, context.sessions)


def make_context(db: Database, config: CloudConfig, clock: Clock) -> Context:
    """Accounts (made when there are none) and empty sessions."""
    folder = Path(config.base).resolve()
    accounts, password = Accounts.open(folder)
    if password is not None:
        # The password itself belongs in no log: it lies in a file that only the owner reads.
        log.warning("portal.password_made", name=FIRST_NAME, file=str(folder / FIRST_PASSWORD_FILE))
    return Context(db, config, clock, accounts, Sessions())


async def run_portal(db: Database, config: CloudConfig, clock: Clock) -> None:
    """Serve until cancelled. EnvironmentMissing when the port is taken."""
    context = make_context(db, config, clock)
    listener = _listen(config.web.host, config.web.port)
    limits = limits_here(config.web.trusted_proxy)
    server = _Server(
        uvicorn.Config(
            make_app(context),
            http=functools.partial(BoundedProtocol, limits=limits),  # type: ignore[arg-type]  # called only
            backlog=BACKLOG,
            log_config=None,
            log_level="error",  # its warnings are of requests that are none, and anybody can send many
            access_log=False,  # paths name hubs
            server_header=False,
            # Without a proxy that we know, anybody could claim any address and any scheme.
            proxy_headers=bool(config.web.trusted_proxy),
            forwarded_allow_ips=config.web.trusted_proxy or "127.0.0.1",
            timeout_graceful_shutdown=CLOSE_S,
            ws_max_size=1 << 20,
            lifespan="on",
        )
    )
    log.info("portal.started", host=config.web.host, port=listener.getsockname()[1])
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            async with asyncio.timeout(2 * CLOSE_S):
                await task
        raise
    finally:
        listener.close()
        await context.questions.close()
        log.info("portal.stopped")


class _Server(uvicorn.Server):
    """The cloud, not the web server, answers signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as err:
        raise EnvironmentMissing(
            f"the portal cannot listen on port {port}: {err.strerror}",
            where="web.port",
            mend="end what uses it, or choose another [web] port",
        ) from None
    listener.setblocking(False)
    return listener
