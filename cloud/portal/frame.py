"""The frame of every page: header, theme, main part, footer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Final

from fastapi import Request
from nicegui import ui

from cloud.portal.blocks import DISCLAIMER
from cloud.portal.guard import token_of

THEME_COOKIE: Final = "hometwin_theme"  # set by portal.js, so that the first drawing has the right colours


class Block:
    """A piece of HTML text that goes to the browser only when it has changed."""

    def __init__(self, classes: str = "") -> None:
        self._element = ui.html("", sanitize=False).classes(classes)
        self._text = ""

    def show(self, text: str) -> None:
        """Replace the text."""
        if text != self._text:
            self._text = text
            self._element.set_content(text)

    def hide_when_empty(self) -> None:
        """No box for nothing."""
        self._element.set_visibility(bool(self._text))


@contextmanager
def frame(title: str, request: Request) -> Iterator[None]:
    """Everything around a page's own content."""
    user = request.scope.get("hometwin_user") or ""
    ui.page_title(f"{title} · Hometwin")
    ui.add_head_html('<link rel="stylesheet" href="/static/portal.css">')
    ui.add_head_html('<script src="/static/portal.js"></script>')
    ui.html(
        '<a class="skip" href="#main">To the content</a><header class="top"><a class="brand" href="/">Hometwin</a>'
        f'<span class="grow"></span><span class="user">{escape(user)}</span>'
        '<button type="button" class="plain" id="theme" aria-label="Change between light and dark">◐</button>'
        '<form method="post" action="/logout"><button class="plain">Log out</button></form></header>',
        sanitize=False,
    ).classes("full")
    # NiceGUI's own page element is the <main> of the document already.
    with ui.element("div").classes("page").props('id="main" tabindex="-1"'):
        yield
    ui.html(
        f'<footer class="foot">{DISCLAIMER} <a href="/causes">What causes what</a></footer>', sanitize=False
    ).classes("full")


def token(request: Request) -> str | None:
    """The session this page was opened with."""
    return token_of(request.scope)


def is_dark(request: Request) -> bool:
    """The theme that this browser showed last."""
    return request.cookies.get(THEME_COOKIE) == "dark"
