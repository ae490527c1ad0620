"""The values that all layers use: prompts, requests, answers.

Frozen, without I/O. Nothing here knows a model, a file or a terminal; an image is a *source* (where it is) until
`images.decode` turns it into an `Image`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .content import Content

if TYPE_CHECKING:
    import PIL.Image

Role = Literal["document", "system", "user", "assistant"]
Style = Literal["completion", "chat"]
FinishReason = Literal["stop", "length"]
Normalization = Literal["none", "tokens", "pmi"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words of a prompt. Never searched for markers: a special token in here is refused, not obeyed."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One image of a prompt, by its source: a path, an http(s) or data URL, or "-" for standard input."""

    source: str


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: its parts interleave in order.

    A completion prompt is a single message with the role "document", which the model continues. In a chat prompt a
    last message with the role "assistant" is left open: the model continues it instead of beginning its own turn.
    """

    role: Role
    parts: tuple[Part, ...]


Prompt = tuple[Message, ...]


def list_sources(prompt: Prompt) -> tuple[str, ...]:
    """The sources of a prompt's images, in prompt order, repeats kept."""
    return tuple(part.source for message in prompt for part in message.parts if isinstance(part, ImagePart))


def drop_images(prompt: Prompt) -> Prompt:
    """The words of a prompt alone."""
    return tuple(
        Message(message.role, tuple(part for part in message.parts if isinstance(part, TextPart))) for message in prompt
    )


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is decoded; the key by which requests may share a batch. Greedy unless `temperature` > 0."""

    max_new_tokens: int = 64
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def list_changes(self) -> dict[str, Any]:
        """The values that differ from the defaults, as in rows."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        built_in = {each.name: each.default for each in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != built_in[name]
        }


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The format of an answer: `text` is a JSON schema, a pattern, or a JSON list of choices."""

    kind: Literal["schema", "regex", "choices"]
    text: str


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a model is, in nats: log-probability of its tokens, mean and least; the margin of a label over the
    second.
    """

    mean_logprob: float | None = None
    min_logprob: float | None = None
    margin: float | None = None

    def to_row(self) -> dict[str, float | None]:
        """To four decimals: those after them depend on the other rows of a batch."""
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """A label to rank and the text that would follow the prompt if the model gave it, terminator included.

    In chat prompts the terminator is the family's end-of-utterance token, which the family adds.
    """

    label: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Example:
    """A shot: its images, fields and answer; `turn` replaces the template's order of words and images."""

    images: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    answer: str
    turn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One line of input, before a template words it."""

    id: str
    images: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    task: str = ""
    template: str = ""
    """The label of its template, `name@version`."""
    examples: tuple[Example, ...] = ()
    decoding: Decoding = Decoding()
    has_own_stop: bool = False
    """Whether `decoding.stop` was set for this item; if not, the rendering of its template has the last word."""
    labels: tuple[str, ...] = ()
    is_ranked: bool = True
    """Whether labels are ranked; if not, the generated answer must be one of them."""
    normalize: Normalization = "none"
    values: tuple[float, ...] = ()
    """What each label counts, where their mean is asked for."""
    answer_format: AnswerFormat | None = None
    is_named: bool = False
    """Whether the id is the user's own, and so says by itself which item this is."""
    meta: Mapping[str, Any] | None = field(default=None, hash=False)  # copied to its row
    problem: str = ""
    """Why it cannot be asked at all. Such an item becomes a failed row."""
    problem_code: str = "bad_item"
    key: str = ""
    """What its row is known by when a run is resumed."""
    think: bool | None = None  # whether its answer begins with thoughts; None is as the model was told
    instead_of: str = ""
    """The key of the row of another run that its own takes the place of."""
    shard: Mapping[str, int | None] | None = None  # its place, as its row has it, where a list has parts
    read_own: Callable[[], Mapping[str, bytes | Path]] | None = field(default=None, compare=False, repr=False)
    """Reads images that came with it, by their sources: once, and before the next item is asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One unit of work: a prompt to continue, or choices to rank after it."""

    id: str
    task: str
    prompt: Prompt
    decoding: Decoding = Decoding()
    choices: tuple[Choice, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    template: str = ""
    images: tuple[str, ...] = ()
    """Sources of the images asked about (the shots' images are in the prompt only)."""
    normalize: Normalization = "none"
    """How choices compare: as they are, per token, or less what they score without the images."""
    answer_format: AnswerFormat | None = None
    wants_tokens: bool = False
    likeliest_tokens: int = 0
    """How many tokens that could have been said are told beside each."""
    opening: str = ""
    """What the answer begins with: already in the prompt, repeated before the generated text."""
    cache_answer: bool = False
    """Whether later requests go on from its answer, as the next turn of a conversation does."""
    think: bool | None = None  # whether the answer begins with thoughts; None is as the model was told

    @property
    def thinks(self) -> bool | None:
        """Never before an answer that is one of labels, or follows a format."""
        return False if self.is_bound else self.think

    @property
    def is_bound(self) -> bool:
        """Whether its answer must be one of labels, or follow a format."""
        return bool(self.choices) or self.answer_format is not None


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Upright RGB pixels and a digest: images of equal digests have equal pixels.

    An image that whoever answers is to read has no digest yet; `data` is its file, if they cannot reach it.
    """

    source: str
    pixels: PIL.Image.Image
    digest: str
    warnings: tuple[str, ...] = ()
    content: Content | None = None
    """The bytes that it was decoded from."""
    data: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes it holds in memory."""
        return self.pixels.width * self.pixels.height * 3 + len(self.data or b"")


_NOT_OF_WEIGHTS = {"is_of_weights": False}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which weights, and how to load them; the key of the backend cache."""

    checkpoint: str
    revision: str | None = None
    style: Style | None = field(default=None, metadata=_NOT_OF_WEIGHTS)
    dtype: str = "auto"
    quantization: str | None = None
    device: str = "auto"
    attention: str | None = None
    compiles: bool = False
    detail: str | None = None
    max_memory: tuple[tuple[str, int], ...] = ()
    """How many bytes of which device ("0", "1", …, "cpu") the weights may take; empty for what there is."""
    keeps_quantized: bool = field(default=True, metadata=_NOT_OF_WEIGHTS)
    """Whether quantized weights are kept on disk, so that the next load reads only those."""
    servers: tuple[str, ...] = ()
    """The addresses of the servers that run it, under the name `checkpoint`; none for this machine."""
    scope: str | None = field(default=None, metadata=_NOT_OF_WEIGHTS)
    """What images it was made for, if not for all: answers about others carry a warning."""
    others: tuple[tuple[str, Any], ...] = ()
    """What else was set for it, by name, for a family that reads it."""

    def list_weights(self) -> dict[str, Any]:
        """The fields that decide which weights are loaded, and how."""
        kept = [one.name for one in fields(self) if one.metadata.get("is_of_weights", True)]
        values = {name: getattr(self, name) for name in kept}
        return values | dict(values.pop("others"))


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request: asked for, taken from a shared prefix, generated."""

    prompt_tokens: int = 0
    shared_tokens: int = 0
    new_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """One ranked label: log-likelihood (nats) and its softmax over the labels of the request."""

    label: str
    logprob: float
    probability: float


@dataclass(frozen=True, slots=True)
class AnswerToken:
    """A token's text, its log-probability, and the most likely tokens at its place."""

    text: str
    logprob: float
    likeliest: tuple[AnswerToken, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """Why an answer may be wrong, and the digest of the image that is the reason; "" if none is."""

    text: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's answer to one request. `scores` come best first and only for requests with choices.

    `text` is the continuation as generated, leading space kept; `full_text` has the prompt before it, markers removed.
    """

    text: str
    full_text: str = ""
    finish_reason: FinishReason = "stop"
    scores: tuple[Score, ...] = ()
    usage: Usage = Usage()
    seconds: float = 0.0
    confidence: Confidence | None = field(default=None, compare=False)
    tokens: tuple[AnswerToken, ...] = field(default=(), compare=False)
    """Where the request `wants_tokens`."""
    warnings: tuple[AnswerWarning, ...] = ()

    @property
    def likelihood(self) -> float | None:
        """How likely its label is, or its tokens on average; None for beams."""
        if self.scores:
            return self.scores[0].probability
        mean = self.confidence.mean_logprob if self.confidence is not None else None
        return None if mean is None else math.exp(mean)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no answer: a code from the documented list and a one-line message."""

    code: str
    message: str
