"""A million rows: opened, shown, found and sorted in seconds, in bounded memory. Figures are for two idle cores."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.review.rows import make_ranked, make_row

pytestmark = pytest.mark.slow
COUNT = 1_000_000
WORDS = [
    *("red", "blue", "green", "car", "dog", "cat", "runs", "wide", "field", "under", "sky"),
    *("small", "large", "house", "tree", "near", "water"),
]
QUERIES = (
    "dog",
    '"wide field"',
    "dog -red",
    "/wide.*sky$/",
    "label:cat",
    "is:failed",
    "confidence:..0.6",
    "is:repeated",
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(COUNT):
            text = " ".join(WORDS[(number * step ^ number % step) % 17] for step in (3, 5, 7, 9, 11, 13, 15))
            row = make_ranked(number, "cat", 0.5 + number % 50 / 100) if number % 2 else make_row(number, text=text)
            file.write(json.dumps(row) + "\n")
    return path


def test_a_million_rows(rows: Path) -> None:
    start = time.monotonic()
    words = [sys.executable, "-m", "idefics_cli", "review", str(rows), "--no-browser"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx2.Client(base_url=address, timeout=60) as client:

            def ask(query: str = "", sort: str = "", facets: str = "1") -> tuple[float, dict[str, object]]:
                begun = time.monotonic()
                view = {"q": query, "sort": sort, "stamp": "1", "count": "60", "facets": facets}
                reply = client.get("rows", params=view).raise_for_status().json()
                return time.monotonic() - begun, reply

            first_seconds, _ = ask()
            shown = time.monotonic() - start
            while ask(facets="0")[1]["count"] != COUNT:
                time.sleep(0.5)
            opened = time.monotonic() - start
            page_seconds, _ = ask(sort="confidence")
            page_again, _ = ask(sort="confidence")
            found = {query: ask(query)[0] for query in QUERIES}
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    finally:
        process.terminate()
        process.communicate(timeout=60)
    cpu = ", ".join(f"{query} {seconds:.2f}" for query, seconds in found.items())
    sys.stderr.write(
        f"\nfirst page after {shown:.1f} s ({first_seconds:.2f}), all rows after {opened:.1f} s, "
        f"sorted {page_seconds:.2f} s, again {page_again:.2f} s, {cpu}; {peak:.0f} MB\n"
    )
    assert peak < 500
    assert page_again < 0.5
    assert opened < 10
    assert max(found.values()) < 2
