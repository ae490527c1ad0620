"""When and how often a server is asked again."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest

from idefics_cli.http_retry import MAX_PAUSE_SECONDS, Retry, Transient, is_transient, parse_retry_after

RETRY = Retry(attempts=3, backoff_seconds=0.001, max_retry_after_seconds=5.0)


def ask(*outcomes: Exception | str, retry: Retry = RETRY) -> tuple[str, int]:
    """What comes of these outcomes, one after the other, and how many were needed."""
    left = list(outcomes)

    async def function() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return asyncio.run(retry.ask(function)), len(outcomes) - len(left)


def test_what_may_help_is_tried_again_and_its_own_error_comes_in_the_end() -> None:
    transient = Transient(KeyError("busy"))
    assert ask(transient, transient, "done") == ("done", 3)
    with pytest.raises(KeyError, match="busy"):
        ask(transient, transient, transient, "done")
    with pytest.raises(ValueError, match="for good"):
        ask(ValueError("for good"), "done")


def test_a_server_says_how_long_to_wait() -> None:
    began = time.monotonic()
    assert ask(Transient(KeyError(), 0.2), "done") == ("done", 2)
    assert time.monotonic() - began >= 0.2
    with pytest.raises(KeyError):
        ask(Transient(KeyError(), 6.0), "done")


def test_retry_after_is_seconds_or_a_date_and_has_an_end() -> None:
    assert [parse_retry_after(text) for text in ("7", " 0 ", "", None, "soon", "-1", "1.5")] == [
        7.0, 0.0, None, None, None, None, None,
    ]  # fmt: skip
    in_a_minute = email.utils.format_datetime(email.utils.localtime()).replace("-0000", "+0000")
    assert (parse_retry_after(in_a_minute) or 0.0) <= 1.0
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < (parse_retry_after(later) or 0.0) <= 60
    assert parse_retry_after("9" * 5000) == MAX_PAUSE_SECONDS
    assert parse_retry_after(email.utils.formatdate(time.time() + 10**9, usegmt=True)) == MAX_PAUSE_SECONDS


def test_what_a_status_means() -> None:
    assert [status for status in (200, 301, 400, 403, 404, 408, 429, 500, 503) if is_transient(status)] == [
        408, 429, 500, 503,
    ]  # fmt: skip
