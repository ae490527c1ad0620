"""From requests to bodies of OpenAI-compatible servers.

What a server would ignore is refused by name. The kind of server is read from `owned_by` in its list of models: vLLM
and SGLang support more than the OpenAI API, llama.cpp some of it under its own names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import BadItem
from ...models.families.idefics3 import SmolVLMFamily
from ...models.families.layout import continue_reply, is_chat, lay_out, trim_reply
from ...models.families.refusals import any_of, refuse_markers
from ...values import AnswerFormat, Decoding, ImagePart, Message, Part, Prompt, Request, TextPart

_KNOWN_TO_ALL = {
    "max_new_tokens": "max_tokens",
    **{name: name for name in ("temperature", "top_p", "stop", "seed")},
}
_OF_VLLM = {"top_k": "top_k", "repetition_penalty": "repetition_penalty"}
_OF_LLAMA_CPP = {"top_k": "top_k", "repetition_penalty": "repeat_penalty"}
_SPECIAL = re.compile(rf"{any_of(SmolVLMFamily.markers).pattern}|<\|[^|<>\s]*\|>|</?s>")
"""Markers of the IDEFICS line, and what special tokens of others look like."""
FEW_STOPS, WARM = 4, 2.0
"""What every server takes."""
_TILE_EDGES = (("idefics3", 364), ("smolvlm-", 384), ("smolvlm", 512))
"""The edge of a tile, by what the names of models have in them: SmolVLM-Instruct 384, its smaller sisters 512."""
DETAIL_TILES = {"low": 1, "medium": 2, "high": 4}
"""Tiles along the longer edge."""
BANNED = SmolVLMFamily.markers[:2]
"""What no answer says: a model that writes the marker of an image would wait for one."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a kind of server supports beyond the OpenAI API: decoding options by our names, and open turns."""

    name: str = "this server"
    options: Mapping[str, str] = field(default_factory=dict)
    continues_turns: bool = False
    """Whether the assistant's turn may be left open, or closed for its likelihood to be read."""
    takes_detail: bool = False
    bans_words: bool = False
    takes_thinking: bool = False
    """Whether a request says if the model thinks first."""
    most_stops: int | None = None
    most_temperature: float | None = None


DIALECTS = {
    "vllm": Dialect(
        "vLLM",
        _OF_VLLM,
        continues_turns=True,
        takes_detail=True,
        bans_words=True,
        takes_thinking=True,
        most_stops=4,
        most_temperature=2.0,
    ),
    "sglang": Dialect("SGLang", _OF_VLLM, takes_thinking=True),
    "llamacpp": Dialect("llama.cpp", _OF_LLAMA_CPP, takes_thinking=True),
    "idefics": Dialect("idefics", takes_thinking=True),
}


def needs_dialect(request: Request) -> bool:
    """Whether a request uses something that not every server supports."""
    is_common = all(name in _KNOWN_TO_ALL for name in request.decoding.list_changes())
    has_format = request.answer_format is not None
    decoding = request.decoding
    if len(decoding.stop) > FEW_STOPS or "" in decoding.stop or decoding.temperature > WARM:
        return True
    return has_format or bool(request.choices) or request.prompt[-1].role == "assistant" or not is_common


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt that cannot be a chat, and special tokens in its texts."""
    if not is_chat(prompt):
        raise BadItem("a server with chat completions cannot continue a document", hint="leave --style completion out")
    refuse_markers(lay_out(prompt, strip_turns=False), _SPECIAL)


def write_chat(request: Request, images: Mapping[str, str], dialect: Dialect) -> dict[str, Any]:
    """The body that asks for an answer, without the model's name. `images` are data URLs by source."""
    body = {"messages": write_messages(request.prompt, images), **write_decoding(request.decoding, dialect)}
    if dialect.options:
        body["logprobs"] = True  # what other servers make of it is not known
    if dialect.bans_words and images:
        body["bad_words"] = list(BANNED)
    if request.answer_format is not None:
        body |= write_format(request.answer_format, dialect.name)
    if request.prompt[-1].role != "assistant":
        return body
    if not dialect.continues_turns:
        raise BadItem(
            f"the template begins the reply, which {dialect.name} is not known to go on with",
            hint="use another template",
        )
    return body | {"add_generation_prompt": False, "continue_final_message": True}


def write_messages(prompt: Prompt, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """The messages of a prompt, with a begun reply as in our own families."""
    return [{"role": message.role, "content": _write_content(message, images)} for message in trim_reply(prompt)]


def find_reply(prompt: Prompt) -> tuple[Part, ...]:
    """The parts of a begun reply; none if there is none."""
    return prompt[-1].parts if prompt[-1].role == "assistant" else ()


def extend_reply(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text after its begun reply, or as its reply."""
    begun = find_reply(prompt)
    return (*(prompt[:-1] if begun else prompt), Message("assistant", (*begun, TextPart(text))))


def word_label(prompt: Prompt, continuation: str) -> str:
    """A label as what a reply goes on with, or as the whole reply."""
    return continue_reply(continuation) if find_reply(prompt) else continuation.strip()


def write_decoding(decoding: Decoding, dialect: Dialect) -> dict[str, Any]:
    """Decoding options by the server's names. Raises BadItem for one that it does not have."""
    _check_ranges(decoding, dialect)
    names = {**_KNOWN_TO_ALL, **dialect.options}
    changes = decoding.list_changes()
    if decoding.temperature == 0:
        # Nothing is drawn, here as there.
        changes = {name: value for name, value in changes.items() if name not in ("top_p", "top_k", "seed")}
    if decoding.num_beams == 1:
        changes.pop("length_penalty", None)
    if unknown := [name for name in changes if name not in names]:
        flags = ", ".join("--" + name.replace("_", "-") for name in unknown)
        neutral = {each.name: each.default for each in fields(Decoding)}
        hint = " ".join(f"--{name.replace('_', '-')} {neutral[name]}" for name in unknown)
        raise BadItem(f"{dialect.name} is not known to understand {flags}", hint=f"set {hint}")
    given = {names[name]: value for name, value in changes.items()}
    sampling = {"seed": decoding.seed} if decoding.temperature > 0 else {}
    return {"max_tokens": decoding.max_new_tokens, "temperature": decoding.temperature, **sampling, **given}


def _check_ranges(decoding: Decoding, dialect: Dialect) -> None:
    """Refuse values that the server is known to refuse, with our message."""
    if "" in decoding.stop:
        raise BadItem(f"{dialect.name} takes no empty --stop", hint="leave it out")
    if dialect.most_stops is not None and len(decoding.stop) > dialect.most_stops:
        raise BadItem(
            f"{dialect.name} takes {dialect.most_stops} --stop, and this has {len(decoding.stop)}",
            hint="leave some out",
        )
    if dialect.most_temperature is not None and decoding.temperature > dialect.most_temperature:
        raise BadItem(
            f"{dialect.name} takes a --temperature of {dialect.most_temperature:g} at most",
            hint=f"set --temperature {dialect.most_temperature:g} or less",
        )


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
    if answer_format.kind == "regex":
        regex = {"regex": answer_format.text}
        return regex if dialect == "SGLang" else {"structured_outputs": regex}
    choices = json.loads(answer_format.text)
    return {"regex": _one_of(choices)} if dialect == "SGLang" else {"structured_outputs": {"choice": choices}}


def write_thinking(thinks: bool | None, dialect: Dialect) -> dict[str, Any]:
    """The part of a body that says whether the model thinks first; empty by default."""
    if thinks is None:
        return {}
    if dialect.takes_thinking:
        return {"chat_template_kwargs": {"enable_thinking": thinks}}
    if thinks:
        raise BadItem(f"{dialect.name} is not known to take --think", hint="leave it out")
    return {}


def write_detail(detail: str, checkpoint: str, dialect: Dialect) -> dict[str, Any]:
    """The part of a body that sets the number of tiles of an image. Raises BadItem where that is not supported."""
    if not dialect.takes_detail:
        raise BadItem(f"{dialect.name} is not known to take --detail", hint="leave it out")
    edge = next((edge for name, edge in _TILE_EDGES if name in checkpoint.lower()), None)
    if edge is None:
        raise BadItem(f"it is not known how {checkpoint} cuts images", hint="leave --detail out")
    return {"mm_processor_kwargs": {"size": {"longest_edge": edge * DETAIL_TILES[detail]}}}


def _one_of(choices: Sequence[str]) -> str:
    """Choices as a regular expression."""
    escaped = ("".join(c if c.isalnum() else f"\\{c}" for c in choice) for choice in choices)
    return f"({'|'.join(escaped)})"


def _write_content(message: Message, images: Mapping[str, str]) -> str | list[dict[str, Any]]:
    """Plain text where there is nothing else: not every server takes parts from the system or the assistant."""
    if all(isinstance(part, TextPart) for part in message.parts):
        return "".join(part.text for part in message.parts if isinstance(part, TextPart))
    return [
        {"type": "image_url", "image_url": {"url": images[part.source]}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.parts
    ]
