"""The format of an answer as a server's request has it. A server may ignore it; the runner validates the answer."""

from __future__ import annotations

import json
from typing import Any

from ...errors import BadItem
from ...values import AnswerFormat

_OF_VLLM = {"regex": "regex", "choices": "choice"}


def write_format(answer_format: AnswerFormat, dialect: str) -> dict[str, Any]:
    """The part of a body that asks for a format. Raises BadItem for a server that is not known to support it."""
    if answer_format.kind == "schema":
        schema = {"name": "answer", "schema": json.loads(answer_format.text), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if dialect not in ("vLLM", "SGLang"):
        raise BadItem(
            f"{dialect} is not known to keep to {'a pattern' if answer_format.kind == 'regex' else 'choices'}",
            hint="ask with --schema, or classify --generate",
        )
    if dialect == "SGLang":
        return (
            {"regex": answer_format.text}
            if answer_format.kind == "regex"
            else {"regex": _one_of(answer_format)}
        )
    value = answer_format.text if answer_format.kind == "regex" else json.loads(answer_format.text)
    return {"structured_outputs": {_OF_VLLM[answer_format.kind]: value}}


def _one_of(answer_format: AnswerFormat) -> str:
    """Choices as a regular expression."""
    escaped = (
        "".join(c if c.isalnum() else f"\\{c}" for c in choice) for choice in json.loads(answer_format.text)
    )
    return f"({'|'.join(escaped)})"
