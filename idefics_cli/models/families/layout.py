"""How a prompt is laid out as text: turns, images and the markers around them, before any tokenizer.

Words of the user and markers of the model stay separate here, so that nothing ever searches a question for a marker.
How an image is spelled is up to its family.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...values import ImagePart, Message, Prompt, TextPart

END_OF_UTTERANCE = "<end_of_utterance>"
FAKE_TOKEN = "<fake_token_around_image>"
IMAGE_TOKEN = "<image>"
MARKERS = (FAKE_TOKEN, IMAGE_TOKEN, END_OF_UTTERANCE)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{'<image>'}}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""How the processors of this line word a conversation, after the beginning of the text."""
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""What a config of random weights says of its tokenizer."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Text of the layout itself: role names and special tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one image."""


Piece = str | Mark | Slot


def is_chat(prompt: Prompt) -> bool:
    return any(message.role != "document" for message in prompt)


def lay_out(prompt: Prompt, *, strip_turns: bool) -> tuple[Piece, ...]:
    """The pieces of a prompt in order, without the beginning of text.

    Texts of a document lose their outer spaces (not newlines), as the IDEFICS processor strips its items; texts of
    turns do so only with `strip_turns`.
    """
    if not is_chat(prompt):
        return tuple(piece for message in prompt for piece in _merge(message, strip=True))
    pieces: list[Piece] = []
    prompt = trim_reply(prompt)
    for index, message in enumerate(prompt):
        is_open = message.role == "assistant" and index == len(prompt) - 1
        parts = _merge(message, strip=strip_turns)
        begins_with_text = bool(parts) and isinstance(parts[0], str)
        pieces += [Mark(f"{message.role.capitalize()}:{' ' if begins_with_text else ''}"), *parts]
        if not is_open:
            pieces.append(Mark(f"{END_OF_UTTERANCE}\n"))
    if prompt[-1].role != "assistant":
        pieces.append(Mark("Assistant:"))
    return tuple(pieces)


def trim_reply(prompt: Prompt) -> Prompt:
    """A begun reply without the space at its end, for every backend.

    The space would be a token of its own, after which no word stood in training.
    """
    *before, last = prompt
    end = last.parts[-1] if last.role == "assistant" and last.parts else None
    if not isinstance(end, TextPart) or not end.text.endswith(" "):
        return prompt
    kept = end.text.rstrip(" ")
    return trim_reply((*before, Message(last.role, (*last.parts[:-1], *([TextPart(kept)] if kept else [])))))


def continue_reply(continuation: str) -> str:
    """A label after a begun reply: one space before it, for every backend."""
    return f" {continuation.strip()}"


def continue_with(prompt: Prompt, continuation: str) -> tuple[Piece, ...]:
    """The pieces of an answer: unchanged after a document; in a turn, with one space before and the end after."""
    if is_chat(prompt):
        return (continue_reply(continuation), Mark(END_OF_UTTERANCE))
    return (continuation,)


def spell(pieces: Iterable[Piece], images: Sequence[str]) -> str:
    """The pieces as one text, with the spelling of each image in its slot."""
    spellings = iter(images)
    return "".join(
        next(spellings) if isinstance(piece, Slot) else piece.text if isinstance(piece, Mark) else piece
        for piece in pieces
    )


def read_aloud(pieces: Iterable[Piece]) -> str:
    """The pieces as plain words: no images, no special tokens, a space where an image stood."""
    text = ""
    is_after_image = False
    for piece in pieces:
        if isinstance(piece, Slot):
            is_after_image = True
            continue
        words = piece.text.replace(END_OF_UTTERANCE, "") if isinstance(piece, Mark) else piece
        if is_after_image and words and text and not text[-1].isspace() and not words[0].isspace():
            text += " "
        text += words
        is_after_image = is_after_image and not words
    return text


def _merge(message: Message, *, strip: bool) -> list[Piece]:
    """A message's parts with neighbouring texts joined and empty ones left out."""
    runs: list[str | Slot] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            runs.append(Slot())
        elif runs and isinstance(runs[-1], str):
            runs[-1] += part.text
        else:
            runs.append(part.text)
    stripped = (run.strip(" ") if strip and isinstance(run, str) else run for run in runs)
    return [run for run in stripped if run != ""]
