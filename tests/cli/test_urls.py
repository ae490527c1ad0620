"""URLs through the whole program: each bad server is one row, none holds up the others."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend
from tests.site import Page, Site, open_site

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as server:
        yield server


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def drip(page: Page) -> None:
    page.answer(200, {"Content-Length": "1000000"})
    while not page.server.closing.wait(0.05):
        page.wfile.write(b"x")


def pour(page: Page) -> None:
    """100 GB, a megabyte at a time."""
    page.answer(200, {"Content-Type": "image/png"})
    for _ in range(100_000):
        page.wfile.write(bytes(1 << 20))


def test_every_bad_server_is_its_own_row(run: Program, red_circle: Path, site: Site) -> None:
    png = red_circle.read_bytes()
    site.pages |= {"/drip.png": drip, "/pour.png": pour}
    expected = {
        site.serve("/good.png", (200, {}, png)): None,
        site.url("/drip.png"): "timeout",
        site.url("/pour.png"): "too_large",
        site.serve("/huge.png", (200, {"Content-Length": str(10**11)}, b"x")): "too_large",
        site.serve("/lies.png", (200, {"Content-Length": str(len(png) + 9)}, png)): "fetch_failed",
        site.serve("/circle.png", (302, {"Location": "/circle.png"}, b"")): "fetch_failed",
        site.serve("/html.png", (200, {"Content-Type": "image/png"}, b"<html>no</html>")): "not_an_image",
        site.serve("/later.png", (500, {}, b""), (500, {}, b""), (200, {}, png)): None,
        site.serve("/gone.png", (404, {}, b"")): "fetch_failed",
        site.serve("/file.png", (302, {"Location": "file:///etc/passwd"}, b"")): "refused",
        "ftp://example.org/a.png": "refused",
        site.url("/good.png") + "?last": None,
    }
    site.pages["/good.png?last"] = site.pages["/good.png"]
    began = time.monotonic()
    result = run("caption", *expected, *MODEL, "--timeout=4", "--format=jsonl", backend=ScriptedBackend())
    assert time.monotonic() - began < 30
    codes = {row["images"][0]: row["error"] and row["error"]["code"] for row in rows(result)}
    if codes[site.url("/pour.png")] == "timeout":  # a busy machine does not get to 100 MB in that time
        expected[site.url("/pour.png")] = "timeout"
    assert codes == expected
    assert [row["images"][0] for row in rows(result)] == list(expected)
    assert result.code == 1


def test_private_addresses_are_refused_when_asked_to(run: Program, red_circle: Path, site: Site) -> None:
    url = site.serve("/a.png", (200, {}, red_circle.read_bytes()))
    command = ("caption", url, *MODEL, "--format=jsonl")
    assert rows(run(*command, backend=ScriptedBackend()))[0]["error"] is None
    refused = run(*command, "--no-private-addresses", backend=ScriptedBackend())
    assert rows(refused)[0]["error"]["code"] == "refused"
    assert len(site.asked) == 1


def test_text_that_looks_like_a_url_stays_text(run: Program, red_circle: Path, site: Site) -> None:
    url = site.serve("/a.png", (200, {}, red_circle.read_bytes()))
    line = json.dumps({"task": "vqa", "image": str(red_circle), "question": f"what is {url}"}).encode()
    assert run("batch", "-", *MODEL, backend=ScriptedBackend(), stdin=line).code == 0
    assert run("vqa", red_circle, "-q", url, *MODEL, backend=ScriptedBackend()).code == 0
    assert site.asked == []


def test_unordered_lets_the_fast_ones_go_first(run: Program, red_circle: Path, site: Site) -> None:
    png = red_circle.read_bytes()

    def answer(page: Page) -> None:
        time.sleep(3)
        page.answer(200, {"Content-Length": str(len(png))}, png)

    site.pages["/slow.png"] = answer
    command = ("caption", site.url("/slow.png"), *[red_circle] * 40, *MODEL, "--format=jsonl")
    for more, place in (((), 0), (("--unordered",), 40)):
        found = [row["images"][0] for row in rows(run(*command, *more, backend=ScriptedBackend()))]
        assert (len(found), found.index(site.url("/slow.png"))) == (41, place)


def test_latency_is_hidden_behind_the_model(run: Program, red_circle: Path, site: Site, tmp_path: Path) -> None:
    """64 images that take 12.8 s one after the other take little more than the model's 3.2 s."""
    from_urls, _ = measure_latency(run, red_circle, site, tmp_path)
    assert from_urls < 12


@pytest.mark.slow
def test_latency_costs_less_than_fifteen_per_cent(run: Program, red_circle: Path, site: Site, tmp_path: Path) -> None:
    from_urls, from_files = measure_latency(run, red_circle, site, tmp_path)
    sys.stdout.write(f"\nfrom URLs {from_urls:.2f} s, from files {from_files:.2f} s\n")
    assert from_urls <= 1.15 * from_files


def measure_latency(run: Program, picture: Path, site: Site, tmp_path: Path) -> tuple[float, float]:
    """Seconds for 64 images 200 ms away, and for the same files on disk, with 50 ms of model for each."""
    png = picture.read_bytes()

    def answer(page: Page) -> None:
        time.sleep(0.2)
        page.answer(200, {"Content-Length": str(len(png))}, png)

    urls, files = [], []
    for number in range(64):
        site.pages[f"/{number}.png"] = answer
        urls.append(site.url(f"/{number}.png"))
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(png)

    def reply(request: Request) -> str:
        time.sleep(0.05)
        return " fine"

    def measure(images: Sequence[str | Path]) -> float:
        began = time.monotonic()
        assert run("caption", *images, *MODEL, backend=ScriptedBackend(reply)).code == 0
        return time.monotonic() - began

    measure(urls[:1])  # what is imported or read once
    return measure(urls), measure(files)


def test_secrets_of_urls_are_nowhere_to_be_seen(run: Program, red_circle: Path, site: Site, tmp_path: Path) -> None:
    """A password, a signature, and a name that is told once."""
    secret = "?X-Amz-Signature=hush&id=7&access_token=hush&sig=hush"
    good = site.serve(f"/good.png{secret}", (200, {}, red_circle.read_bytes()))
    bad = site.serve(f"/bad.png{secret}", (404, {}, b""))
    sources = [one.replace("://", "://user:hush@") for one in (good, bad)]
    out = tmp_path / "out.jsonl"
    for more in (("-o", out), ("--verbose",), ("--format=jsonl",), ("--dry-run",)):
        result = run("caption", *sources, *more, *MODEL, backend=ScriptedBackend())
        assert result.code == 1
        assert "hush" not in result.stdout + result.stderr, more
    assert "hush" not in out.read_text()
    first = json.loads(out.read_text().splitlines()[0])
    assert first["images"] == [site.url("/good.png?X-Amz-Signature=…&id=7&access_token=…&sig=…")]
    again = run("caption", *sources, "-o", out, *MODEL, backend=ScriptedBackend())
    assert (again.code, "1 done before, 1 failed before" in again.stderr) == (1, True)
    told = run("caption", sources[1], *MODEL, backend=ScriptedBackend())
    assert told.stderr.count("bad.png") == 1, told.stderr
