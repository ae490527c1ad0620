"""`/v1/chat/completions`: from the OpenAI API to a prompt, and from an answer back.

What is not supported is refused by name. Knows neither sockets nor schedulers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ..prompts.answer_format import check_schema
from ..prompts.decoding_ranges import RANGES, check_decoding
from ..values import (
    Answer,
    AnswerFormat,
    AnswerToken,
    Decoding,
    ImagePart,
    Message,
    Part,
    Prompt,
    Request,
    TextPart,
)

TASK = "chat"
DEFAULT_NEW_TOKENS = 256
MOST_ANSWERS = 16
MOST_LIKELIEST = 20
"""Tokens that could have been said, told of each place."""


class StrictSchema(BaseModel):
    """Data from a program: an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextContent(StrictSchema):
    type: Literal["text"]
    text: str


class ImageUrl(StrictSchema):
    url: str = Field(description="An http(s) or data URL.")
    detail: Literal["auto"] = "auto"


class ImageContent(StrictSchema):
    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class ChatMessage(StrictSchema):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)] | Annotated[list[Content], Field(min_length=1)]

    def to_message(self) -> Message:
        if isinstance(self.content, str):
            return Message(self.role, (TextPart(self.content),))
        parts: list[Part] = [
            TextPart(one.text) if isinstance(one, TextContent) else ImagePart(one.image_url.url) for one in self.content
        ]
        return Message(self.role, tuple(parts))


class StreamOptions(StrictSchema):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class TemplateOptions(StrictSchema):
    enable_thinking: bool | None = Field(
        default=None, description="Whether the model thinks first; thoughts are not in the answer."
    )


class PlainText(StrictSchema):
    type: Literal["text"]


class AnyObject(StrictSchema):
    type: Literal["json_object"]


class NamedSchema(StrictSchema):
    name: str = Field(default="answer", description="Not used.")
    description: str | None = Field(default=None, description="Not used.")
    wanted: dict[str, Any] = Field(alias="schema", description="A JSON schema that the answer follows.")
    strict: bool | None = Field(default=None, description="Not used: an answer always follows its schema.")


class OfSchema(StrictSchema):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | AnyObject | OfSchema, Field(discriminator="type")]


def _draw(name: str) -> Any:
    """A field for an option of `Decoding`, with its range in the schema."""
    allowed = RANGES[name]
    least = allowed.least if allowed.off is None else allowed.off
    return Field(default=None, json_schema_extra={"minimum": least, "maximum": allowed.most})


class ChatCall(StrictSchema):
    """The body of a call. Greedy unless `temperature` is given; a last assistant message is continued."""

    model: str = Field(description="The model that is served: see /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = _draw("max_new_tokens")
    max_completion_tokens: int | None = _draw("max_new_tokens")
    temperature: float | None = _draw("temperature")
    top_p: float | None = _draw("top_p")
    seed: int | None = _draw("seed")
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS, description="Sampled from `seed`, `seed` + 1, …")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateOptions | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELIEST)
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: str | None = Field(default=None, description="Not used.")

    @field_validator("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
    @classmethod
    def _is_in_range(cls, value: Any, info: ValidationInfo) -> Any:
        name = "max_new_tokens" if str(info.field_name).startswith("max_") else str(info.field_name)
        check_decoding(name, [value] if isinstance(value, str) else value)
        return value

    def to_prompt(self, *, has_system_role: bool = True) -> Prompt:
        """The conversation. For a model without system turns, the system message goes before the first message."""
        prompt = [message.to_message() for message in self.messages]
        if has_system_role or len(prompt) < 2 or prompt[0].role != "system":
            return tuple(prompt)
        system, first, *rest = prompt
        return (Message(first.role, (*system.parts, TextPart("\n"), *first.parts)), *rest)

    def to_decoding(self) -> Decoding:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Decoding(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_NEW_TOKENS,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed or 0,
            stop=tuple(stop),
        )

    def to_requests(self, *, has_system_role: bool = True) -> list[Request]:
        """A request for each answer that is asked for. Raises UsageError for a schema that cannot be enforced."""
        prompt, decoding = self.to_prompt(has_system_role=has_system_role), self.to_decoding()
        wanted = self.to_format()
        count = self.n or 1
        return [
            Request(
                "chat",
                TASK,
                prompt,
                replace(decoding, seed=decoding.seed + place, stop=() if wanted else decoding.stop),
                answer_format=wanted,
                wants_tokens=bool(self.logprobs),
                likeliest_tokens=self.top_logprobs or 0,
                think=None if self.chat_template_kwargs is None else self.chat_template_kwargs.enable_thinking,
            )
            for place in range(count)
        ]

    def to_format(self) -> AnswerFormat | None:
        if isinstance(self.response_format, OfSchema):
            return check_schema(self.response_format.json_schema.wanted)
        return check_schema({"type": "object"}) if isinstance(self.response_format, AnyObject) else None

    @model_validator(mode="after")
    def _tells_tokens(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs: true`")
        return self

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatReply:
    """One completion: whole, or in chunks whose texts add up to the same."""

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = model
        self._created = int(time.time())
        self._pending = ""
        self._has_begun = False

    def complete(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text.strip()},
                "finish_reason": answer.finish_reason,
                "logprobs": describe_tokens(answer),
            }
            for index, answer in enumerate(answers)
        ]
        return self._envelope("chat.completion") | {"choices": choices, "usage": describe_usage(*answers)}

    def begin(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def add(self, piece: str) -> Iterator[dict[str, Any]]:
        """Spaces around the whole text are removed, as in a completion: a space at the end is held back."""
        text = self._pending + piece
        if not self._has_begun:
            text = text.lstrip()
        visible = text.rstrip()
        self._pending = text[len(visible) :]
        if visible:
            self._has_begun = True
            yield self._chunk({"content": visible})

    def end(self, answer: Answer, *, wants_usage: bool) -> Iterator[dict[str, Any]]:
        yield self._chunk({}, answer.finish_reason)
        if wants_usage:
            yield self._envelope("chat.completion.chunk") | {
                "choices": [],
                "usage": describe_usage(answer),
            }

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def describe_tokens(answer: Answer) -> dict[str, Any] | None:
    """The log-probability of each token, if that was asked for."""
    if not answer.tokens:
        return None
    content = [
        {**_describe_token(token), "top_logprobs": [_describe_token(other) for other in token.likeliest]}
        for token in answer.tokens
    ]
    return {"content": content, "refusal": None}


def _describe_token(token: AnswerToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode())}


def describe_usage(*answers: Answer) -> dict[str, Any]:
    """The tokens of answers to the same prompt, which counts once."""
    usage = answers[0].usage
    new_tokens = sum(answer.usage.new_tokens for answer in answers)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": usage.prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.shared_tokens},
    }
