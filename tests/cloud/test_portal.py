"""The portal over real HTTP: nothing without login, everything with it, and a decision by a click."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import socketio
from sqlalchemy import select as rows_of

from cloud.db import AdviceRow, AuditRow, Database, HubRow
from cloud.portal.accounts import Accounts, set_password
from cloud.portal.guard import COOKIE, Sessions
from core.errors import ConfigError, EnvironmentMissing, InputError
from core.messages import DoseAdvice, decode
from tests.cloud import filled
from tests.cloud.portal_process import Browser, browser, portal


class Site:
    def __init__(self, base: str, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.password = (folder / "portal.password").read_text().strip()

    def login(self) -> str:
        """The session cookie."""
        answer = httpx.post(f"{self.base}/login", data={"name": "clinician", "password": self.password})
        assert answer.status_code == 303
        return f"{COOKIE}={answer.cookies[COOKIE]}"

    def get(self, path: str, cookie: str = "") -> httpx.Response:
        return httpx.get(f"{self.base}{path}", headers={"Cookie": cookie} if cookie else {})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("portal")
    db = filled.open_database(folder)
    with db.write() as session:
        filled.fill(session)
        filled.fill(session, "hub-2", "Second Person")
        filled.fill(session, "hub-3", "Third Person")
    db.close()
    with portal(folder) as base:
        yield Site(base, folder)


@pytest.fixture
def database(site: Site) -> Iterator[Database]:
    db = filled.open_database(site.folder)
    yield db
    db.close()


@pytest.mark.parametrize(
    "path", ["/", "/person/hub-1", "/person/unknown", "/causes", "/static/portal.css", "/docs"]
)
def test_no_page_without_login(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login"
    assert answer.content == b""


def test_scripts_and_posts_without_login_are_refused_not_redirected(site: Site) -> None:
    answer = httpx.get(f"{site.base}/person/hub-1", headers={"Accept": "application/json"})
    assert answer.status_code == 401
    assert httpx.post(f"{site.base}/logout").status_code == 401
    forged = {"Cookie": f"{COOKIE}=forged"}
    assert httpx.get(f"{site.base}/", headers=forged).status_code == 303


async def test_the_live_socket_needs_the_session_too(site: Site) -> None:
    client = socketio.AsyncClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(site.base, transports=["websocket"], socketio_path="/_nicegui_ws/socket.io")
    await client.disconnect()


async def test_a_foreign_site_cannot_open_the_live_socket(site: Site) -> None:
    headers = {"Cookie": site.login(), "Origin": "https://evil.example"}
    client = socketio.AsyncClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(
            site.base, headers=headers, transports=["websocket"], socketio_path="/_nicegui_ws/socket.io"
        )
    await client.disconnect()


def test_a_foreign_site_cannot_post(site: Site) -> None:
    headers = {"Cookie": site.login(), "Origin": "https://evil.example"}
    assert httpx.post(f"{site.base}/logout", headers=headers).status_code == 403


def test_an_origin_that_is_no_address_is_foreign(site: Site) -> None:
    answer = httpx.post(f"{site.base}/login", headers={"Origin": "http://["})
    assert (answer.status_code, answer.text) == (403, "cross-origin request refused\n")


def test_half_requests_do_not_keep_anybody_from_the_portal(site: Site) -> None:
    """More than it holds, from many clients; the limits by themselves: test_connections."""
    url = httpx.URL(site.base)
    with contextlib.ExitStack() as crowd:
        for n in range(600):
            one = crowd.enter_context(
                socket.create_connection((url.host, url.port), 20, (f"127.0.1.{n % 200 + 1}", 0))
            )
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        assert site.get("/healthz").status_code == 200
        log = (site.folder / "portal.log").read_text()
    assert log.count("portal.crowded") == 1
    assert "Traceback" not in log


def test_causal_graph_page_says_what_records_cannot_answer(site: Site) -> None:
    page = site.get("/causes", site.login())
    assert page.status_code == 200
    assert "illness would have to be measured" in page.text
    assert "Causal graph of a dose and later glucose" in page.text


def test_health_check_says_nothing_of_anybody(site: Site) -> None:
    answer = site.get("/healthz")
    assert answer.json() == {"status": "ok"}


def test_first_password_lies_in_a_private_file_and_not_in_the_log(site: Site) -> None:
    for name in ("portal.password", "portal.json"):
        assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600
    assert site.password not in (site.folder / "portal.log").read_text()
    assert site.password not in (site.folder / "portal.json").read_text()


def test_session_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    answer = httpx.post(f"{site.base}/login", data={"name": "clinician", "password": site.password})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_logout_ends_the_session_at_the_server(site: Site) -> None:
    cookie = site.login()
    assert site.get("/", cookie).status_code == 200
    assert httpx.post(f"{site.base}/logout", headers={"Cookie": cookie}).status_code == 303
    assert site.get("/", cookie).status_code == 303


@pytest.mark.parametrize("path", ["/", "/person/hub-1", "/login"])
def test_pages_carry_security_headers_and_are_not_cached(site: Site, path: str) -> None:
    answer = site.get(path, site.login())
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    # Under no-referrer browsers post the login form with "Origin: null", which the guard refuses.
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


def test_no_asset_comes_from_the_internet(site: Site) -> None:
    cookie = site.login()
    for path in ("/login", "/", "/person/hub-1"):
        text = site.get(path, cookie).text
        sources = re.findall(r"""(?:src|href)=["']([^"']+)|url\(["']([^"')]+)|"(/_nicegui[^"]+)\"""", text)
        found = [next(filter(None, s)) for s in sources]
        assert found
        assert all(s.startswith(("/", "data:", "#")) and not s.startswith("//") for s in found)
        for source in {s for s in found if s.startswith(("/static", "/_nicegui")) and not s.endswith("/")}:
            assert site.get(source, cookie).status_code == 200, source


def test_person_page_shows_everything_and_escapes_names(site: Site) -> None:
    text = site.get("/person/hub-1", site.login()).text
    for words in (
        "Glucose, insulin, meals",
        "Reading just now",
        "Hub synchronised 1 min ago",
        "Insulin sensitivity",
        "4.2 U bolus",
        "Waits for your decision",
        "Hometwin is not a medical device",
        "type-1 adult",
        "Forecast 5–95 %",
        "Chance of a low",
        "70 mg/dL within 30 min, from a reading 4 min old",
    ):
        assert words in text, words
    assert "Person &amp;lt;One&amp;gt; &amp;amp; Co" in text
    assert "<One>" not in text
    assert "<because>" not in text


def test_unknown_person_is_said_so(site: Site) -> None:
    assert "There is no such person" in site.get("/person/nobody", site.login()).text


def test_overview_lists_people_with_age_and_alarms(site: Site) -> None:
    text = site.get("/", site.login()).text
    for words in ("Second Person", "3 people", "3 with an alarm", "/person/hub-2", "Reading just now"):
        assert words in text


async def test_approval_by_a_click_is_stored_with_name_and_note(site: Site, database: Database) -> None:
    async with browser(site.base, site.login(), "/person/hub-1") as tab:
        await tab.click("Approve")
        await tab.until(lambda t: "Approve this advice?" in t.text())
        await tab.type("Note (optional)", "After our call")
        await tab.click("Approve and send")
        await tab.until(lambda t: "approved, going out" in t.text())
        assert "Approved by" in tab.tab.text()
    with database.read() as session:
        row = session.get(AdviceRow, "hub-1-1")
        assert (row.state, row.decided_by, row.note) == ("approved", "clinician", "After our call")
        assert decode(row.body, DoseAdvice).approved_by == "clinician"
        assert "approved advice hub-1-1" in session.scalars(rows_of(AuditRow.what)).all()


async def test_a_rejection_needs_its_reason(site: Site, database: Database) -> None:
    async with browser(site.base, site.login(), "/person/hub-2") as tab:
        await tab.click("Reject")
        await tab.until(lambda t: "Reject this advice?" in t.text())
        await tab.click("Reject")
        await tab.until(
            lambda t: any("needs a note" in json.dumps(m) for n, m in t.messages if n == "notify")
        )
        with database.read() as session:
            assert session.get(AdviceRow, "hub-2-1").state == "proposed"
        await tab.type("Why? (needed)", "Ill today")
        await tab.click("Reject")
        await tab.until(lambda t: "rejected" in t.text())
    with database.read() as session:
        assert session.get(AdviceRow, "hub-2-1").note == "Ill today"


async def test_a_click_after_logout_decides_nothing(site: Site, database: Database) -> None:
    cookie = site.login()
    async with browser(site.base, cookie, "/person/hub-3") as tab:
        await tab.click("Approve")
        await tab.until(lambda t: "Approve this advice?" in t.text())
        await asyncio.to_thread(httpx.post, f"{site.base}/logout", headers={"Cookie": cookie})
        await tab.click("Approve and send")
        await tab.until(lambda t: any("/login" in json.dumps(m) for _, m in t.messages))
    with database.read() as session:
        assert session.get(AdviceRow, "hub-3-1").state == "proposed"


async def test_an_old_tab_hears_nothing_after_logout_but_where_to_log_in(
    site: Site, database: Database
) -> None:
    from core.messages import Sample

    cookie = site.login()
    async with browser(site.base, cookie, "/person/hub-2") as tab:
        await asyncio.to_thread(httpx.post, f"{site.base}/logout", headers={"Cookie": cookie})
        with database.write() as session:
            late = Sample(filled.NOW_US + 2_000_000, "cgm_mgdl", 203.0, "cgm", 88_888_888)
            filled.add_samples(session, [late], "hub-2")
            session.get(HubRow, "hub-2").last_number += 1
        before, messages = tab.tab.text(), len(tab.tab.messages)
        for number, element in list(tab.tab.elements.items()):  # every control of the page, also the window's
            for listener in element.get("events", []):
                with contextlib.suppress(socketio.exceptions.SocketIOError):
                    await tab._event(number, listener["listener_id"], json.dumps("dark"))
        await tab.until(lambda t: len(t.messages) > messages)
        await wait_for_end(tab)
        assert tab.tab.messages[messages:] == [("open", {"path": "/login", "new_tab": False})]
        assert tab.tab.text() == before
        assert "203" not in re.findall(r"<b>(\d+)</b>", tab.tab.text())


async def wait_for_end(tab: Browser) -> None:
    """The server has closed the socket."""
    end_s = time.monotonic() + 20
    while tab._client.connected:
        assert time.monotonic() < end_s, "the socket stayed open"
        await asyncio.sleep(0.01)


async def test_new_data_appear_on_an_open_page(site: Site, database: Database) -> None:
    from core.messages import Sample

    async with browser(site.base, site.login(), "/person/hub-3") as tab:
        assert "201" not in re.findall(r"<b>(\d+)</b>", tab.tab.text())
        with database.write() as session:
            late = Sample(filled.NOW_US + 1_000_000, "cgm_mgdl", 201.0, "cgm", 99_999_999)
            filled.add_samples(session, [late], "hub-3")
            session.get(HubRow, "hub-3").last_number += 1
        await tab.until(lambda t: "<b>201</b>" in t.text())


def test_wrong_passwords_are_limited_and_say_when_to_try_again(tmp_path: Path) -> None:
    db = filled.open_database(tmp_path)
    db.close()
    with portal(tmp_path) as base:
        wrong = {"name": "clinician", "password": "wrong"}
        codes = [httpx.post(f"{base}/login", data=wrong).status_code for _ in range(7)]
        assert codes == [401] * 5 + [429] * 2
        answer = httpx.post(f"{base}/login", data=wrong)
        assert 0 < int(answer.headers["retry-after"]) <= 61
        right = {"name": "clinician", "password": (tmp_path / "portal.password").read_text().strip()}
        assert httpx.post(f"{base}/login", data=right).status_code == 429


def test_a_claimed_address_does_not_get_around_the_limit(tmp_path: Path) -> None:
    filled.open_database(tmp_path).close()
    wrong = {"name": "clinician", "password": "wrong"}
    with portal(tmp_path) as base:
        codes = [
            httpx.post(f"{base}/login", data=wrong, headers={"X-Forwarded-For": f"10.0.0.{i}"}).status_code
            for i in range(7)
        ]
        assert codes == [401] * 5 + [429] * 2
        claimed = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.9"}
        assert "strict-transport-security" not in httpx.get(f"{base}/login", headers=claimed).headers


def test_a_trusted_proxy_says_who_is_who_so_that_nobody_locks_out_others(tmp_path: Path) -> None:
    filled.open_database(tmp_path).close()
    wrong = {"name": "clinician", "password": "wrong"}
    with portal(tmp_path, trusted_proxy="127.0.0.1") as base:
        evil = {"X-Forwarded-For": "10.0.0.66"}
        codes = [httpx.post(f"{base}/login", data=wrong, headers=evil).status_code for _ in range(7)]
        assert codes == [401] * 5 + [429] * 2
        right = {"name": "clinician", "password": (tmp_path / "portal.password").read_text().strip()}
        good = {"X-Forwarded-For": "10.0.0.7", "X-Forwarded-Proto": "https"}
        answer = httpx.post(f"{base}/login", data=right, headers=good)
        assert answer.status_code == 303
        assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/login", "/healthz", "/static/login.css"])
def test_other_methods_are_refused_before_a_page_is_built(site: Site, method: str, path: str) -> None:
    answer = httpx.request(method, f"{site.base}{path}")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert len(answer.content) < 100


def test_open_pages_answer_head_and_pages_refuse_to_be_posted_to(site: Site) -> None:
    for path in ("/login", "/healthz", "/static/login.css"):
        answer = httpx.head(f"{site.base}{path}")
        assert (answer.status_code, answer.content) == (200, b"")
    for path in ("/healthz", "/static/login.css"):
        assert httpx.post(f"{site.base}{path}").status_code == 405
    cookie = {"Cookie": site.login()}
    for path in ("/", "/person/hub-1"):
        assert httpx.post(f"{site.base}{path}", headers=cookie).status_code == 405


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=B"])
def test_a_large_login_is_cut_off_early(site: Site, chunked: bool, kind: str) -> None:
    """The server answers, or hangs up, long before all of it was sent."""
    url = httpx.URL(site.base)
    with socket.create_connection((url.host, url.port), timeout=20) as wire:
        size = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
        head = [b"POST /login HTTP/1.1", b"Host: x", b"Content-Type: " + kind.encode(), size, b"", b""]
        wire.sendall(b"\r\n".join(head))
        piece = b"a" * 65_536
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000 and not select.select([wire], [], [], 0.01)[0]:
                wire.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                sent += len(piece)
            assert wire.recv(100).startswith(b"HTTP/1.1 413")
        assert sent < 20_000_000


def test_a_login_of_usual_size_passes_and_one_over_the_limit_does_not(site: Site) -> None:
    for size, status in ((16_000, 401), (17_000, 413)):
        form = {"name": "x" * size, "password": ""}
        assert httpx.post(f"{site.base}/login", data=form).status_code == status
    big = {"Cookie": site.login()}
    assert httpx.post(f"{site.base}/logout", headers=big, content=b"x" * 2000).status_code == 413


async def test_a_socket_on_an_open_path_needs_a_session_as_well(site: Site) -> None:
    client = socketio.AsyncClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(site.base, transports=["websocket"], socketio_path="/login")
    await client.disconnect()


async def test_a_taken_port_is_named(site: Site, tmp_path: Path) -> None:
    from cloud.portal.server import _listen

    port = int(site.base.rsplit(":", 1)[1])
    with pytest.raises(EnvironmentMissing, match=f"port {port}"):
        _listen("127.0.0.1", port)


async def test_accounts_survive_a_restart_and_can_change_their_password(tmp_path: Path) -> None:
    accounts, password = Accounts.open(tmp_path)
    assert password is not None
    assert await accounts.check("clinician", password)
    assert not await accounts.check("clinician", password + "x")
    assert not await accounts.check("nobody", password)
    assert not await accounts.check("clinician", "x" * 10_000)
    again, second = Accounts.open(tmp_path)
    assert second is None
    assert await again.check("clinician", password)
    set_password(tmp_path, "Dr. Grün", "a long enough one")
    set_password(tmp_path, "clinician", "another long one")
    changed, _ = Accounts.open(tmp_path)
    assert await changed.check("Dr. Grün", "a long enough one")
    assert not await changed.check("clinician", password)
    assert not (tmp_path / "portal.password").exists()
    with pytest.raises(InputError):
        set_password(tmp_path, "clinician", "short")


@pytest.mark.parametrize("text", ["", "{}", '{"accounts": {}}', '{"accounts": {"a": {"n": 1}}}', "\xff"])
def test_a_damaged_account_file_is_named_and_never_opens_the_door(tmp_path: Path, text: str) -> None:
    (tmp_path / "portal.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"portal\.json"):
        Accounts.open(tmp_path)


def test_sessions_end_by_themselves() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    token = sessions.start("clinician")
    assert sessions.name(token) == "clinician"
    now[0] = 12 * 3600 + 1
    assert sessions.name(token) is None
    assert sessions.name(None) is None
