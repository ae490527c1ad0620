"""The OpenAPI document of the API."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from .. import __version__
from ..prompts.tasks import TASKS
from .openai_schema import MOST_ANSWERS, ChatCall

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_ITEM = {
    "type": "object",
    "description": "As a line of `idefics batch`; other keys are fields of the template or options of decoding.",
    "properties": {
        "id": {"type": ["string", "integer"]},
        "task": {"enum": [*TASKS, "run"]},
        "template": {**_TEXT, "description": "The name of a template, instead of a task."},
        "image": {**_TEXT, "description": "An http(s) or data URL."},
        "images": {"type": "array", "items": _TEXT},
        "fields": {"type": "object", "additionalProperties": _TEXT},
        "decoding": {"type": "object"},
        "examples": {"type": "array", "items": {"type": "object"}},
        "labels": {"type": "array", "items": _TEXT},
        "generate": {"type": "boolean"},
        "normalize": {"enum": ["none", "tokens", "pmi"]},
        "scale": {**_TEXT, "description": "Of rate: 1-5, or yes/no."},
        "schema": {"type": "object", "description": "A JSON schema that the answer follows."},
        "regex": {**_TEXT, "description": "A pattern that the answer matches."},
        "choices": {"type": "array", "items": _TEXT, "description": "The answer is one of these."},
    },
}
_ROW = {
    "type": "object",
    "description": "As the commands print it; `error` says why an item has no answer.",
    "required": ["id", "task", "text", "label", "scores", "model", "usage", "error"],
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT),
}
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "chat.completion"},
        "created": _COUNT,
        "model": _TEXT,
        "choices": {"type": "array", "minItems": 1, "maxItems": MOST_ANSWERS},
        "usage": _USAGE,
    },
}
_EVENT = {
    "type": "object",
    "description": "A chunk of the completion as JSON, or [DONE].",
    "required": ["data"],
    "properties": {"data": _TEXT},
}
_REFUSALS = {
    "400": "The call cannot be answered as it is; the message says why.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "421": "The Host header does not name this server.",
    "503": "No room for it now, no answer in time, or the server is ending; Retry-After says when to try again.",
}


@cache
def describe_api() -> dict[str, Any]:
    _, schemas = models_json_schema([(ChatCall, "validation")], ref_template="#/components/schemas/{model}")
    items = {"oneOf": [_ITEM, {"type": "array", "items": _ITEM, "minItems": 1}]}
    rows = {"oneOf": [_ROW, {"type": "array", "items": _ROW}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "idefics", "version": __version__, "description": "A vision-language model."},
        "paths": {
            "/v1/chat/completions": {
                "post": _describe_post(
                    "Continue a conversation; with `stream` as server-sent events.",
                    {"$ref": "#/components/schemas/ChatCall"},
                    {
                        "application/json": {"schema": _COMPLETION},
                        "text/event-stream": {"schema": _EVENT},
                    },
                )
            },
            "/v1/requests": {
                "post": _describe_post(
                    "Answer an item or a list of items; a row each.",
                    items,
                    {"application/json": {"schema": rows}},
                )
            },
            "/v1/models": {"get": _describe_get("The model that is served.", "application/json")},
            "/v1/models/{id}": {"get": _describe_model()},
            "/health": {"get": _describe_get("Whether the server is ready.", "application/json")},
            "/metrics": {"get": _describe_get("What was counted, for Prometheus.", "text/plain")},
            "/openapi.json": {"get": _describe_get("This document.", "application/json")},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _describe_post(summary: str, body: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **_describe_refusals(_REFUSALS),
        },
    }


def _describe_get(summary: str, media_type: str) -> dict[str, Any]:
    refusals = {status: _REFUSALS[status] for status in ("401", "421")}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {media_type: {}}},
            **_describe_refusals(refusals),
        },
    }


def _describe_model() -> dict[str, Any]:
    described = _describe_get("The model of this name.", "application/json")
    described["responses"] |= _describe_refusals({"404": _REFUSALS["404"]})
    return described | {"parameters": [{"name": "id", "in": "path", "required": True, "schema": _TEXT}]}


def _describe_refusals(refusals: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": why, "content": content} for status, why in refusals.items()}
