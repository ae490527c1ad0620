"""Calls made from the OpenAPI document, right and wrong ones: the server never fails, hangs or leaves its document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from idefics_cli.serve.openapi import describe_api
from tests.serve.running import Running, chat, running

SCHEMA = schemathesis.openapi.from_dict(describe_api())
CALLS = [(path, method) for path in SCHEMA for method in SCHEMA[path]]
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--timeout", "2") as one:
        yield one


def fuzz(server: Running, path: str, method: str, examples: int) -> None:
    operation = SCHEMA[path][method]
    right, wrong = (operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(right | wrong)
    def call(case: Any) -> None:
        if isinstance(case.body, dict) and "messages" in case.body:
            case.body["model"] = "shapes"  # no generator would guess it
        response = case.call(base_url=server.url.removesuffix("/v1"), timeout=TIMEOUT_SECONDS)
        if response.status_code != 503:
            case.validate_response(response, checks=[not_a_server_error, *CHECKS])

    call()


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_calls_from_the_document(server: Running, path: str, method: str) -> None:
    fuzz(server, path, method, 12)
    assert server.ask("/health")[1]["status"] == "ready"


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), CALLS)
def test_many_calls_from_the_document(server: Running, path: str, method: str) -> None:
    fuzz(server, path, method, 500)
    assert "Traceback" not in server.log.read_text()


def test_the_document_is_served_and_says_what_is_refused(server: Running) -> None:
    said = requests.get(server.url.removesuffix("/v1") + "/openapi.json", timeout=TIMEOUT_SECONDS).json()
    assert said == describe_api()
    fields = said["components"]["schemas"]["ChatCall"]
    assert fields["additionalProperties"] is False
    assert set(chat("x")) <= set(fields["properties"])
