"""The page in a real browser: found, sorted, corrected, compared, by keyboard, in two tabs, after a restart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.review.corrections import review_path
from tests.program import run_program
from tests.review.browser import list_texts, list_troubles, open_browser, press, resize, wait
from tests.review.rows import make_failed, make_ranked, make_row, read_rows, write_rows

pytestmark = [pytest.mark.browser]
ENTER, ESCAPE, END, DELETE = "\ue007", "\ue00c", "\ue010", "\ue017"
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"
IMAGES = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".png", ".jpg"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@contextmanager
def serve(*paths: Path, port: int = 0) -> Iterator[str]:
    """The program, as a person starts it; its address."""
    words = ["review", *map(str, paths), "--no-browser", *(("--port", str(port)) if port else ())]
    process = subprocess.Popen(
        [sys.executable, "-m", "idefics_cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode == 0
    assert "ssh -L" in said


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    several = [
        make_row(n, images=[str(IMAGES[n % len(IMAGES)])], text=f"a {('red', 'blue')[n % 2]} circle, number {n}")
        for n in range(40)
    ]
    several += [make_ranked(n, ("cat", "dog")[n % 2], 0.5 + n / 200, ("dog", "cat")[n % 2]) for n in range(40, 60)]
    several += [make_failed(n) for n in range(60, 65)]
    several += [make_row(65, text=HOSTILE, id=HOSTILE, images=[f"{HOSTILE}.png"])]
    several += [make_row(66, text="\u202eright to left \u05d0\u05d1\u05d2", id="\u05e9\u05dc\u05d5\u05dd.png")]
    several += [make_row(67, text="long " * 200_000)]
    return write_rows(tmp_path / "rows.jsonl", several)


def open_page(browser: Any, address: str) -> None:
    browser.get(address)
    browser.get_log("browser")  # the page before this one may have missed its server
    wait(lambda: "rows" in status(browser), "the page did not say how many rows")


def status(browser: Any) -> str:
    return list_texts(browser, "#status")[0]


def alert(browser: Any) -> str:
    return list_texts(browser, "#alert")[0]


def focus(browser: Any) -> str:
    """What a screen reader says of the element with the focus."""
    return str(browser.execute_script("return document.activeElement.ariaLabel"))


def answers(browser: Any) -> list[str]:
    return list_texts(browser, "#grid .answer, #grid .label")


def find(browser: Any, query: str, count: str) -> None:
    press(browser, ESCAPE, "/")
    browser.execute_script("document.activeElement.select()")
    press(browser, query or DELETE, ENTER)
    wait(lambda: status(browser).startswith(f"{count} of"), f"{query}: not {count}")
    if count != "0":
        wait(lambda: browser.execute_script("return document.getElementById('grid').contains(document.activeElement)"))


def test_rows_are_found_and_sorted(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        assert status(browser) == "68 of 68 rows"
        find(browser, "text:red -/number [0-9]$/", "15")
        find(browser, "label:cat", "10")
        browser.find_element("css selector", "[data-term='label:dog']").click()
        wait(lambda: status(browser).startswith("20 of"))
        browser.find_element("css selector", "[data-term='label:dog']").click()
        wait(lambda: status(browser).startswith("10 of"))
        browser.execute_script(
            "const s = document.getElementById('sort'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
            "-confidence",
        )
        wait(lambda: "79.0 %" in list_texts(browser, "#grid li:first-child .scores")[0])
        find(browser, "confidence:0.75..", "10")
        find(browser, "", "68")
        browser.find_element("css selector", "[data-term='is:failed']").click()
        wait(lambda: status(browser).startswith("5 of"))
        press(browser, "/", " confidence:x", ENTER)
        wait(lambda: "is not a range" in alert(browser))
        assert list_troubles(browser, ("favicon.ico", "/pictures/", "400 (Bad Request)")) == []


def test_a_person_without_a_mouse_corrects_rows(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        press(browser, "j")
        press(browser, "e")
        wait(lambda: browser.execute_script("return document.activeElement.id") == "text")
        press(browser, "a green star", ENTER)
        wait(lambda: "a green star" in answers(browser))
        press(browser, "j")
        press(browser, "x")
        wait(lambda: browser.execute_script("return document.querySelectorAll('#grid .reject').length") == 1)
        press(browser, "u")
        wait(lambda: not browser.execute_script("return document.querySelectorAll('#grid .reject').length"))
        press(browser, "a")
        wait(lambda: browser.execute_script("return document.querySelectorAll('#grid .accept').length") == 1)
        press(browser, "j", "s", "j", "s", "2")
        wait(lambda: answers(browser).count("dog") == 2)
        press(browser, ENTER)
        wait(lambda: browser.execute_script("return document.getElementById('detail').open"))
        press(browser, ESCAPE)
        press(browser, "?")
        wait(lambda: browser.execute_script("return document.getElementById('help').open"))
        press(browser, ESCAPE)
        find(browser, "is:edited", "3")
        find(browser, "", "68")
        press(browser, END)
        wait(lambda: focus(browser).startswith("Row 68 of 68"))
        press(browser, "k")
        wait(lambda: focus(browser).startswith("Row 67 of 68"))
    decisions = [entry["decision"] for entry in read_rows(review_path(rows))]
    assert decisions == ["edit", "reject", None, "accept", "edit", "edit"]
    assert run_program("review", rows, "--apply").code == 0
    written = read_rows(rows.with_name("rows.corrected.jsonl"))
    assert [row["text"] for row in written[1:5]] == [
        "a green star",
        "a red circle, number 2",
        "dog",
        "dog",
    ] or ([row["label"] for row in written[3:5]] == ["dog", "dog"])


def test_many_rows_are_replaced_and_rejected_at_once(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        find(browser, "text:circle", "40")
        browser.find_element("css selector", "[data-do=all]").click()
        browser.find_element("css selector", "[data-do=replace]").click()
        wait(lambda: browser.execute_script("return document.getElementById('ask').open"))
        browser.find_element("id", "ask-first").send_keys("circle")
        browser.find_element("id", "ask-second").send_keys("disc")
        press(browser, ENTER)
        wait(lambda: "a blue disc, number 1" in answers(browser))
        find(browser, "text:disc", "40")
        find(browser, "is:failed", "5")
        browser.find_element("css selector", "[data-do=all]").click()
        browser.find_element("css selector", "#bulk [data-do=reject]").click()
        wait(lambda: browser.execute_script("return document.querySelectorAll('#grid .reject').length") == 5)
        browser.find_element("css selector", "[data-do=undo]").click()
        wait(lambda: not browser.execute_script("return document.querySelectorAll('#grid .reject').length"))


def test_hostile_text_stays_text(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        find(browser, "right", "1")
        assert "\u202eright to left \u05d0\u05d1\u05d2" in answers(browser)
        find(browser, "owned", "1")
        assert HOSTILE in answers(browser)
        press(browser, ENTER)
        wait(lambda: browser.execute_script("return document.getElementById('detail').open"))
        assert browser.execute_script("return document.querySelectorAll('script').length") == 1
        press(browser, ESCAPE)
        find(browser, "long", "1")
        press(browser, "e")
        wait(lambda: browser.execute_script("return document.getElementById('text').value.length") == 1_000_000)
        press(browser, ESCAPE)
        assert browser.title == "rows.jsonl"
        injected = "document.body.innerHTML = '<b>x</b>'"
        with pytest.raises(Exception, match="TrustedHTML"):
            browser.execute_script(injected)
        assert list_troubles(browser, ("favicon.ico", "/pictures/", "TrustedHTML")) == []


def test_two_tabs_do_not_overwrite_each_other(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        first = browser.current_window_handle
        press(browser, "j", "e")
        wait(lambda: browser.execute_script("return document.activeElement.id") == "text")
        browser.switch_to.new_window("tab")
        open_page(browser, address)
        press(browser, "j", "e")
        wait(lambda: browser.execute_script("return document.activeElement.id") == "text")
        press(browser, "theirs", ENTER)
        wait(lambda: "theirs" in answers(browser))
        browser.close()
        browser.switch_to.window(first)
        press(browser, "mine", ENTER)
        wait(lambda: "changed elsewhere" in list_texts(browser, "#detail-alert")[0])
        assert browser.execute_script("return document.getElementById('text').value") == "mine"
        press(browser, ESCAPE)
        wait(lambda: "theirs" in answers(browser), "the other tab's correction was not shown")


def test_a_server_that_is_started_again_has_the_corrections(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        press(browser, "j", "x")
        wait(lambda: browser.execute_script("return document.querySelectorAll('#grid .reject').length") == 1)
        press(browser, "e")
        wait(lambda: browser.execute_script("return document.activeElement.id") == "text")
    press(browser, "unsaved", ENTER)
    wait(lambda: "server has ended" in list_texts(browser, "#detail-alert")[0])
    assert browser.execute_script("return document.getElementById('text').value") == "unsaved"
    with serve(rows) as again:
        assert again != address
        open_page(browser, again)
        assert browser.execute_script("return document.querySelectorAll('#grid .reject').length") == 1
        press(browser, "u")
        wait(lambda: not browser.execute_script("return document.querySelectorAll('#grid .reject').length"))


def test_two_files_are_compared_and_one_chosen(browser: Any, rows: Path, tmp_path: Path) -> None:
    other = [make_row(n, text=f"a red square, number {n}") for n in range(0, 30)]
    with serve(rows, write_rows(tmp_path / "other.jsonl", other)) as address:
        open_page(browser, address)
        find(browser, "is:disagree", "30")
        assert list_texts(browser, "#grid del")[0] == "circle"
        assert list_texts(browser, "#grid ins")[0] == "square"
        press(browser, "r")
        wait(lambda: browser.execute_script("return document.querySelectorAll('#grid .right').length") == 1)
        find(browser, "is:agree", "1")
        find(browser, "is:missing", "38")
    assert read_rows(review_path(rows))[0]["after"]["text"] == "a red square, number 0"


def test_rows_that_come_meanwhile_appear(browser: Any, rows: Path) -> None:
    with serve(rows) as address:
        open_page(browser, address)
        with rows.open("a", encoding="utf-8") as file:
            file.write('{"id": "late.png", "text": "a late star"}\n')
        wait(lambda: status(browser) == "69 of 69 rows")
        find(browser, "late", "1")


def test_a_page_of_another_origin_gets_nothing(browser: Any, rows: Path, tmp_path: Path) -> None:
    with serve(rows) as address:
        page = tmp_path / "evil.html"
        page.write_text(
            "<script>Promise.allSettled([fetch('ADDRESSrows'), fetch('ADDRESSdecide', {method: 'POST', body: '{}'})])"
            ".then(a => document.title = a.map(r => r.status).join(' '))</script>"
            "<iframe src='ADDRESS'></iframe>".replace("ADDRESS", address)
        )
        browser.get(page.as_uri())
        wait(lambda: browser.title == "rejected rejected")
    assert not review_path(rows).exists()


def test_one_file_for_a_phone_does_the_same(rows: Path, tmp_path: Path) -> None:
    assert run_program("review", rows, "--html", tmp_path / "page.html").code == 0
    with open_browser(360, 740, downloads=str(tmp_path)) as phone:
        open_page(phone, (tmp_path / "page.html").as_uri())
        assert status(phone) == "68 of 68 rows"
        find(phone, "label:cat confidence:0.75..", "5")
        find(phone, "is:failed", "5")
        find(phone, "text:red -/number [0-9]$/", "15")
        press(phone, "e")
        wait(lambda: phone.execute_script("return document.activeElement.id") == "text")
        press(phone, "a green star", ENTER)
        wait(lambda: "a green star" in answers(phone))
        press(phone, "a", "j", "x", "u")
        wait(lambda: not phone.execute_script("return document.querySelectorAll('#grid .reject').length"))
        phone.find_element("css selector", "[data-do=save]").click()
        wait(review_path(rows).exists)
        assert list_troubles(phone) == []
    result = run_program("review", rows, "--apply", "--as", "examples")
    assert result.code == 0, result.stderr
    (shot,) = read_rows(rows.with_name("rows.examples.jsonl"))
    assert shot["answer"] == "a green star"


AXE = Path(__file__).parents[2] / ".axe" / "package" / "axe.min.js"
SHOTS = Path(os.environ.get("IDEFICS_SCREENSHOTS", "/nonexistent"))


@pytest.mark.parametrize(
    ("name", "width", "is_dark"), [("phone", 360, False), ("wide", 1600, False), ("dark", 1280, True)]
)
def test_the_page_is_for_everybody(
    browser: Any, rows: Path, tmp_path: Path, name: str, width: int, is_dark: bool
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is fetched by make test-browser")
    other = write_rows(tmp_path / "other.jsonl", [make_row(n, text=f"a red square, number {n}") for n in range(30)])
    with ExitStack() as stack:
        for files in ((rows,), (rows, other)):
            address = stack.enter_context(serve(*files))
            resize(browser, width, 900, is_dark=is_dark)
            open_page(browser, address)
            wait(lambda: browser.execute_script("return [...document.images].every((one) => one.complete)"))
            shots = [("", "")]
            press(browser, "j", "x")
            shots += [("detail", "e"), ("help", "?")]
            for place, key in shots:
                press(browser, *key)
                if place:
                    wait(partial(browser.execute_script, f"return document.getElementById('{place}').open"))
                if SHOTS.is_dir():
                    browser.save_screenshot(str(SHOTS / f"{name}-{len(files)}-{place or 'grid'}.png"))
                browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
                found = browser.execute_async_script(
                    "const done = arguments[0]; axe.run(document).then((result) => done(result.violations.map("
                    "(one) => `${one.id}: ${one.nodes.map((node) => node.target + ' ' + node.failureSummary)}`)))"
                )
                assert found == []
                press(browser, ESCAPE)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, "the page is wider than the screen"
    resize(browser, 1280, 900)


def test_nothing_is_asked_of_another_machine() -> None:
    static = Path(__file__).parents[2] / "idefics_cli" / "review" / "static"
    for path in static.iterdir():
        assert not re.search(r"https?://(?!127\.)", path.read_text(encoding="utf-8"))
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in static.iterdir()) <= 800
