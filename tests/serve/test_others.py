"""Other architectures behind a server: an answer, a stream, ranked labels, and thoughts where a call wants them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.models.others import other
from tests.serve.running import chat, data_url, running

PHOTO, QUESTION = "red-circle.png", "What is in this image?"
NAMES = [
    "qwen3_5",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_vl", "gemma3", "mllama")),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_streams_and_ranks(name: str) -> None:
    with (
        running("--model", str(other(name))) as server,
        openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
    ):
        (model,) = (one.id for one in client.models.list())

        def ask(**options: Any) -> Any:
            body = chat(PHOTO, QUESTION, max_tokens=6) | {"model": model} | options
            return client.chat.completions.create(**body)

        whole = ask()
        assert whole.usage.completion_tokens > 0
        pieces = [event.choices[0].delta.content for event in ask(stream=True) if event.choices]
        assert "".join(piece or "" for piece in pieces) == whole.choices[0].message.content
        item = {"task": "classify", "image": data_url(PHOTO), "labels": ["circle", "star", "a red star"]}
        status, (row,) = server.ask("/v1/requests", [item])
        assert (status, len(row["scores"])) == (200, 3), row
        wants = {"chat_template_kwargs": {"enable_thinking": True}}
        if name != "qwen3_5":
            with pytest.raises(openai.BadRequestError, match="cannot think first"):
                ask(extra_body=wants)
            return
        thought = ask(extra_body=wants)
        assert thought.usage.prompt_tokens != whole.usage.prompt_tokens
        assert thought.choices[0].message.content == "", "six tokens end no thoughts"
        without = ask(extra_body={"chat_template_kwargs": {"enable_thinking": False}})
        assert without.choices[0].message.content == whole.choices[0].message.content
