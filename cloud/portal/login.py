"""Login, logout and the health check: plain FastAPI routes, plain HTML, no script."""

from __future__ import annotations

from html import escape
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from sqlalchemy import text
from sqlalchemy.orm import Session

from cloud import audit
from cloud.portal.accounts import MAX_PASSWORD
from cloud.portal.context import context
from cloud.portal.guard import COOKIE, SESSION_S, token_of

log = structlog.get_logger()
router = APIRouter()

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Hometwin: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/static/login.css"></head>
<body><main><h1>Hometwin</h1><p>For clinicians. Every login and decision is recorded.</p>
{problem}
<form method="post" action="/login">
<label for="name">Name</label>
<input id="name" name="name" value="{name}" autocomplete="username" maxlength="60" required {focus_name}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password"
 maxlength="{limit}" required {focus_password}>
<button>Log in</button></form>
<footer>Not a medical device.</footer></main></body></html>"""


@router.api_route("/login", methods=["GET", "HEAD"])
async def login_page() -> Response:
    """The form."""
    return _page("")


@router.post("/login")
async def login(
    request: Request, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = ""
) -> Response:
    """Check name and password; a session cookie when they belong together."""
    portal = context()
    address = request.client.host if request.client else "unknown"
    wait_s = portal.logins.wait_s(address)
    if wait_s > 0:
        log.warning("portal.login_limited")
        page = _page(f"Too many attempts. Wait {wait_s:.0f} seconds, then try again.", name, 429)
        page.headers["Retry-After"] = str(int(wait_s) + 1)
        return page
    portal.logins.begin(address)
    async with portal.logins.checking():
        matches = await portal.accounts.check(name.strip(), password)
    if not matches:
        log.warning("portal.login_failed")
        await portal.db.run(_note, portal.clock.now_us(), "portal", "a login failed")
        return _page("Name or password is wrong.", name, 401)
    portal.logins.succeeded(address)
    await portal.db.run(_note, portal.clock.now_us(), name.strip(), "logged in")
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE,
        portal.sessions.start(name.strip()),
        max_age=int(SESSION_S),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session."""
    portal = context()
    token = token_of(request.scope)
    name = portal.sessions.name(token)
    portal.sessions.end(token)
    if name is not None:
        await portal.db.run(_note, portal.clock.now_us(), name, "logged out")
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz() -> Response:
    """Whether pages and database work. Nothing of any person, so it needs no login."""
    try:
        await context().db.query(_select_one)
    except Exception:
        return JSONResponse({"status": "database unreachable"}, status_code=503)
    return JSONResponse({"status": "ok"})


def _page(problem: str, name: str | None = None, status: int = 200) -> HTMLResponse:
    names = context().accounts.names
    shown = name if name is not None else (names[0] if len(names) == 1 else "")
    body = PAGE.format(
        problem=f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else "",
        name=escape(shown[:60], quote=True),
        limit=MAX_PASSWORD,
        focus_name="" if shown else "autofocus",
        focus_password="autofocus" if shown else "",
    )
    return HTMLResponse(body, status_code=status)


def _note(session: Session, now_us: int, who: str, what: str) -> None:
    audit.note(session, now_us, who, what)


def _select_one(session: Session) -> None:
    session.execute(text("SELECT 1"))
