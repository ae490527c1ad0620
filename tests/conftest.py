"""Fixtures of all tests: the program run in this process, pictures, golden files, and an empty home."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import pytest

from tests.program import Run, run_program

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_configure() -> None:
    # Tests side by side have a core each. Two torches with all cores each take twice as long, waiting for each other.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Each of the many programs that tests start would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so would every program they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No settings, no cache, no network, no colour; whatever a test or the program sets is undone."""
    before = dict(os.environ)
    home = tmp_path_factory.mktemp("home")
    runtime = tempfile.mkdtemp(prefix="idefics-")  # the name of a socket is short
    for name in [name for name in os.environ if name.startswith(("IDEFICS_", "HF_"))]:
        del os.environ[name]
    os.environ |= {
        "IDEFICS_CONFIG_DIR": str(home / "config"),
        "IDEFICS_CACHE_DIR": str(home / "cache"),
        "IDEFICS_STATE_DIR": str(home / "state"),
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "IDEFICS_RUNTIME_DIR": runtime,
    }
    os.environ |= {"NO_COLOR": "1", "COLUMNS": "100", "TERMINAL_WIDTH": "100", "TERM": "dumb"}
    os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # help must not depend on the shell
    yield
    if Path(runtime, "server.sock").exists():  # a test failed before it ended the server it had begun
        os.environ["IDEFICS_RUNTIME_DIR"] = runtime
        run_program("serve", "--stop")
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(runtime)


@pytest.fixture
def run() -> Callable[..., Run]:
    return run_program


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with tests/golden/<name>, or write it there with --update-golden."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        assert path.exists(), f"{path} is missing: run pytest --update-golden"
        assert text == path.read_bytes().decode()

    return compare


@pytest.fixture
def red_circle(tmp_path: Path) -> Path:
    return _draw(tmp_path / "red.png", "red")


@pytest.fixture
def two_images(tmp_path: Path) -> tuple[Path, Path]:
    return _draw(tmp_path / "a.png", "red"), _draw(tmp_path / "b.png", "blue")


def _draw(path: Path, colour: str) -> Path:
    image = PIL.Image.new("RGB", (96, 96), "white")
    PIL.ImageDraw.Draw(image).ellipse((20, 20, 76, 76), fill=colour)
    image.save(path)
    return path
