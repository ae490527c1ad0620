"""Retries over HTTP: when they may help, after which pause, and what a server asks for (Retry-After).

Knows no requests; the caller decides what is `Transient`.
"""

from __future__ import annotations

import email.utils
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

MAX_PAUSE_SECONDS = 86_400.0
"""No server means a longer one."""
Given = TypeVar("Given")


def say_connection_error(error: BaseException) -> str:
    """Why there is no connection, in the system's words: "connection refused"."""
    said = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            is_of_names = isinstance(cause, socket.gaierror)  # their numbers are of another table
            return (str(cause.strerror) if is_of_names else os.strerror(cause.errno)).lower()
        cause = cause.__cause__ or cause.__context__
    return said


class Transient(Exception):
    """Worth another try, after `retry_after` seconds if the server said so; `error` is raised in the end."""

    def __init__(self, error: Exception, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and after which pauses, which double. A server that asks for a longer pause is not asked again."""

    attempts: int
    backoff_seconds: float
    max_retry_after_seconds: float
    total_seconds: float = math.inf

    async def ask(self, function: Callable[[], Awaitable[Given]]) -> Given:
        """Call a function, again while it raises Transient and tries are left; finally raise its `error`."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(self._is_worth_retrying),
            stop=tenacity.stop_after_attempt(self.attempts) | tenacity.stop_before_delay(self.total_seconds),
            wait=self._choose_wait,
            reraise=True,
        )

        async def call() -> Given:
            return await function()

        try:
            return await retrying(call)
        except Transient as transient:
            raise transient.error from transient

    def _is_worth_retrying(self, error: BaseException) -> bool:
        return isinstance(error, Transient) and (error.retry_after or 0.0) <= self.max_retry_after_seconds

    def _choose_wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Transient) and error.retry_after is not None:
            return error.retry_after
        return self.backoff_seconds * float(2 ** (state.attempt_number - 1))


def is_transient(status: int) -> bool:
    """Whether a server that answers with this status may succeed soon."""
    return status in (408, 425, 429) or status >= 500


def parse_retry_after(value: str | None) -> float | None:
    """The pause of a Retry-After, in seconds or until a date; None if it is neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(MAX_PAUSE_SECONDS, float(text[:20]))
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(MAX_PAUSE_SECONDS, max(0.0, seconds))
