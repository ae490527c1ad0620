"""The images of a call that is given up are given up with it."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any, cast

import psutil
import pytest

from idefics_cli.images import Limits
from idefics_cli.images.isolated import decoders
from idefics_cli.serve.budget import Holding
from idefics_cli.serve.request_images import load_images
from idefics_cli.serve.state import Rules, ServerState
from tests.images.test_bounds import of_scans
from tests.site import Page, open_site


def count_decoders() -> int:
    """Processes that decode for this one."""
    return sum("decoder_process" in " ".join(child.cmdline()) for child in psutil.Process().children())


def test_a_decode_ends_with_its_call() -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(of_scans()).decode()

    async def give_up() -> None:
        state = ServerState("none", cast(Any, None), {})
        call = asyncio.create_task(load_images([url], state, Holding(state.budget)))
        while count_decoders() == 0:
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        end = time.monotonic() + 3
        while count_decoders() and time.monotonic() < end:
            await asyncio.sleep(0.05)
        assert count_decoders() == 0

    decoders.end_idle()  # those that other tests have left for later
    asyncio.run(give_up())


def test_a_transfer_ends_with_its_call() -> None:
    hung_up: list[float] = []

    def drip(page: Page) -> None:
        page.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        try:
            while not page.server.closing.wait(0.02):
                page.wfile.write(b"x")
        except OSError:
            hung_up.append(time.monotonic())

    async def give_up(url: str) -> None:
        state = ServerState("none", cast(Any, None), {})
        state.rules = Rules(limits=Limits())
        call = asyncio.create_task(load_images([url], state, Holding(state.budget)))
        await asyncio.sleep(0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        end = time.monotonic() + 3
        while not hung_up and time.monotonic() < end:
            await asyncio.sleep(0.05)

    with open_site() as site:
        site.pages["/a.png"] = drip
        asyncio.run(give_up(site.url("/a.png")))
        assert hung_up
