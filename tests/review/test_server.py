"""The page over HTTP: who may ask, what may be asked, and what a browser is told not to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from idefics_cli.review.corrections import review_path
from idefics_cli.review.server import HEADERS, build
from idefics_cli.review.session import ReviewSession
from tests.review.rows import make_row, read_rows, write_rows

PORT = 8123
TOKEN = "a-token-nobody-can-guess"
BASE = f"http://127.0.0.1:{PORT}"
OWN = {"Origin": BASE}


class Page:
    """Calls of the application without a socket between."""

    def __init__(self, session: ReviewSession) -> None:
        self.app = build(session, TOKEN, PORT)

    def ask(self, path: str, method: str = "GET", **options: Any) -> httpx2.Response:
        async def call() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url=BASE) as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.ask(f"/{TOKEN}/{path}", "POST", json=body, headers=OWN | headers)


@pytest.fixture
def rows(tmp_path: Path, red_circle: Path) -> Path:
    several = [
        make_row(0, images=[str(red_circle)]),
        make_row(1),
        make_row(2, text="<script>alert(1)</script>"),
    ]
    return write_rows(tmp_path / "rows.jsonl", several)


@pytest.fixture
def page(rows: Path, tmp_path: Path) -> Page:
    session = ReviewSession([rows], tmp_path / "cache")
    session.read_all()
    return Page(session)


@pytest.fixture(autouse=True)
def _no_threads_stay_behind() -> Iterator[None]:
    yield
    assert threading.active_count() < 60


def test_the_page_and_its_files_carry_a_policy(page: Page) -> None:
    for path in ("", "static/review.js", "static/review.css", "rows", "nothing"):
        reply = page.ask(f"/{TOKEN}/{path}")
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "*" not in policy
    html = page.ask(f"/{TOKEN}/").text
    assert " style=" not in html
    assert " on" not in html.replace(" only", "")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 404),
        ("/wrong-token-of-some-length/rows", {}, 404),
        (f"/{TOKEN}", {}, 404),
        (f"/{TOKEN[:-1]}/rows", {}, 404),
        (f"/{TOKEN}x/rows", {}, 404),
        (f"//{TOKEN}/rows", {}, 404),
        (f"/{TOKEN}/rows", {"Host": "evil.example"}, 421),
        (f"/{TOKEN}/rows", {"Host": f"127.0.0.1:{PORT + 1}"}, 421),
        (f"/{TOKEN}/rows", {"Origin": "http://evil.example"}, 403),
        (f"/{TOKEN}/rows", {"Origin": "null"}, 403),
        (f"/{TOKEN}/rows", {"Sec-Fetch-Site": "cross-site"}, 403),
        (f"/{TOKEN}/rows", {"Sec-Fetch-Site": "same-site"}, 403),
        (f"/{TOKEN}/rows", {"Host": f"localhost:{PORT}"}, 200),
    ],
)
def test_only_the_page_itself_may_ask(page: Page, path: str, headers: dict[str, str], status: int) -> None:
    assert page.ask(path, headers=headers).status_code == status


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_nothing_is_changed_without_the_origin(page: Page, rows: Path, headers: dict[str, str]) -> None:
    body = {"action": "reject", "rows": [0], "generation": 0}
    assert page.ask(f"/{TOKEN}/decide", "POST", json=body, headers=headers).status_code == 403
    assert not review_path(rows).exists()


@pytest.mark.parametrize(
    "path",
    [
        "pictures/small/0/1",
        "pictures/small/99/0",
        "pictures/small/-1/0",
        "pictures/small/0/-1",
        "pictures/huge/0/0",
        "pictures/small/..%2f..%2fetc%2fpasswd/0",
        "pictures/small/../../../etc/passwd/0",
        "pictures/small/1/0",
        "pictures/small/%D9%A1/0",
        "static/..%2fserver.py",
        "static/../server.py",
        "static/index.html",
        "static/%2e%2e/__init__.py",
        "rows/99",
        "rows/zero",
        "rows?start=-1",
        "rows?count=1e9",
        "rows?start=99999999999999999999",
        "rows?sort=path",
        "rows?q=confidence:x",
        "etc/passwd",
    ],
)
def test_what_is_no_row_is_refused(page: Page, path: str) -> None:
    reply = page.ask(f"/{TOKEN}/{path}")
    assert reply.status_code in (400, 404, 409)
    assert "root:" not in reply.text
    assert "Traceback" not in reply.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"action": "reject"},
        {"action": "delete", "rows": [0], "generation": 0},
        {"action": "text", "rows": [0], "generation": 0},
        {"action": "reject", "rows": [0], "generation": 0, "values": {"text": "x"}},
        {"action": "reject", "rows": ["0"], "generation": 0},
        {"action": "reject", "rows": [99], "generation": 0},
        {"action": "reject", "rows": [-1], "generation": 0},
        {"action": "reject", "rows": [0], "generation": 1},
        {"action": "reject", "rows": [0], "generation": 0, "path": "/etc/passwd"},
        {"action": "right", "rows": [0], "generation": 0},
        {"action": "text", "rows": [0], "generation": 0, "values": {"text": "x" * 9_000_000}},
    ],
)
def test_what_no_page_says_is_refused(page: Page, rows: Path, body: Any) -> None:
    reply = page.post("decide", body)
    assert reply.status_code in (400, 409), reply.text
    assert reply.json()["error"]
    assert not review_path(rows).exists()


def test_a_form_of_another_page_is_refused(page: Page, rows: Path) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"):
        reply = page.ask(f"/{TOKEN}/undo", "POST", content=b"{}", headers=OWN | {"Content-Type": kind})
        assert reply.status_code == 400


def test_rows_are_found_corrected_and_taken_back(page: Page, rows: Path) -> None:
    found = page.ask(f"/{TOKEN}/rows", params={"q": "script", "facets": "1"}).json()
    assert found["found"] == 1
    assert found["rows"][0]["text"] == "<script>alert(1)</script>"
    body = {"action": "text", "rows": [2], "generation": 0, "values": {"text": "a star"}, "seen": {"2": 0}}
    assert page.post("decide", body).json()["changed"] == 1
    assert page.post("decide", body).status_code == 409
    assert page.ask(f"/{TOKEN}/rows/2").json()["text"] == "a star"
    every = {"action": "accept", "q": "circle", "sort": "", "stamp": 7, "generation": 0}
    assert page.post("decide", every).json()["changed"] == 2
    assert page.post("undo", {}).json()["changed"] == 2
    assert [entry.get("undo", False) for entry in read_rows(review_path(rows))] == [False] * 3 + [True] * 2


def test_pictures_come_by_the_number_of_their_row(page: Page) -> None:
    reply = page.ask(f"/{TOKEN}/pictures/small/0/0")
    assert reply.headers["content-type"] == "image/webp"
    assert reply.content[:4] == b"RIFF"
    assert page.ask(f"/{TOKEN}/pictures/small/1/0").status_code == 404
