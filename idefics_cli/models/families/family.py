"""What the engine needs of every architecture: ids, spans, model inputs, and the tokens that stop an answer.

Knows no weights and no layout of prompts. Torch is imported only where tensors are made, so that rendering a prompt
does not pay for it.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from ...errors import BadItem, ModelError, PromptError, describe_problems
from ...values import Choice, Image, ImagePart, Message, Prompt, Style, TextPart
from ..dimensions import Dimensions
from .layout import END_OF_UTTERANCE, FAKE_TOKEN, IMAGE_TOKEN, Piece, lay_out, read_aloud
from .refusals import any_of, list_added_tokens, refuse_markers, special_token

if TYPE_CHECKING:
    from torch import Tensor


THOUGHTS = (("<think>", "</think>"), ("<|channel>", "<channel|>"), ("[THINK]", "[/THINK]"))
"""What stands around thoughts, by the habit of several makers."""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where an image stands among the ids, its markers included, and which image it is."""

    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One prepared image: tiles by channels by height by width, and which of the pixels are padding, if any.

    Bytes are still to be converted, see `PixelTable`.
    """

    values: Tensor
    mask: Tensor | None = None
    rows: int = 0
    cols: int = 0

    @property
    def held_bytes(self) -> int:
        return int(self.values.nbytes) + (0 if self.mask is None else int(self.mask.nbytes))


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt as the model takes it.

    `inputs` is only for processors whose tensors cannot be split by image; `shown` are then the digests of the images.
    """

    ids: tuple[int, ...]
    spans: tuple[ImageSpan, ...] = ()
    pixels: tuple[Pixels, ...] = ()
    inputs: Mapping[str, Tensor] | None = None
    shown: tuple[str, ...] = ()


class Family(ABC):
    """One opened checkpoint without its weights.

    `processor`, `config` and `generation` are those of transformers; `generation` is the checkpoint's
    generation config, read only for the tokens that end an answer.
    """

    markers: ClassVar[tuple[str, ...]] = (IMAGE_TOKEN, FAKE_TOKEN, END_OF_UTTERANCE)
    """What no text of a user may contain, whatever the tokenizer."""
    strip_turns: ClassVar[bool] = False
    """Whether the texts of turns lose their outer spaces, as those of documents always do."""
    has_batches: ClassVar[bool] = True
    """Whether `collate` takes several prompts."""
    has_system_role: ClassVar[bool] = True
    """Whether a conversation may begin with a message of the system."""
    has_prefixes: ClassVar[bool] = False
    """Whether prompts may go on from a shared prefix and be batched: then the family is a `PlaceholderFamily`."""
    has_slots: ClassVar[bool] = False
    """Whether rows may join others that are being written: every layer keeps keys and values of all tokens, and one
    mask serves all layers."""
    flash_attention: ClassVar[bool] = True
    unsafe_dtypes: ClassVar[frozenset[str]] = frozenset()
    unquantized: ClassVar[tuple[str, ...]] = ("lm_head", "model.vision_model", "model.connector")
    """Modules that stay in full precision under quantization, by full name."""

    sizes: ClassVar[Any] = None
    """Its config.json as a dataclass that measures itself; None where there is no formula."""
    detail_tiles: ClassVar[Mapping[str | None, int]] = MappingProxyType({None: 1})
    """Tiles of one square image, of which there are most, at each `--detail`; None is without one."""

    begins_words: ClassVar[bool] = False
    """Whether it was trained with a tokenizer that begins a word after every marker."""

    @classmethod
    def open_processor(cls, checkpoint: str, config: Any, source: Mapping[str, Any]) -> Any:
        """The processor of a checkpoint, with PIL images; `source` are the options of `from_pretrained`."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(checkpoint, backend="pil", **source)

    @classmethod
    def build_random(cls, sizes: Mapping[str, Any], build_tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
        """A config of these sizes and a processor for random weights.

        `build_tokenizer` takes the count of tokens, `bos` and the tokens `added`.
        """
        raise ModelError(f"there are no random weights of {cls.__name__}", hint="use a checkpoint")

    @property
    def image_edge(self) -> int | None:
        """The longer edge to which an image of any size is scaled; None if that is not known."""
        return None

    def call_processor(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Any]], *, adds_bos: bool
    ) -> dict[str, Any]:
        """Calls the checkpoint's own processor with rendered prompts, as its documentation says."""
        options: dict[str, Any] = {"padding": True, "add_special_tokens": adds_bos, "text": list(texts)}
        return options | ({"images": [list(own) for own in pictures]} if any(pictures) else {})

    @classmethod
    def measure(cls, config: Mapping[str, Any], name: str) -> Dimensions:
        """The dimensions that a config.json describes; `name` is whose it is, for a ModelError."""
        given = {key: value for key, value in config.items() if value is not None}
        try:
            known: Dimensions = TypeAdapter(cls.sizes).validate_python(given).measure()
        except ValidationError as error:
            raise ModelError(
                f"the config of {name} does not fit its architecture: {describe_problems(error)}",
                hint="check its config.json",
            ) from error
        return replace(known, tiles=cls.detail_tiles)

    def __init__(self, processor: Any, config: Any, *, generation: Any = None, detail: str | None = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._lock = threading.Lock()
        """For what is shared by the threads that encode: tokenizers have settings, which a call may change."""
        self.config = config
        self.text_config = config.get_text_config()
        self.pad_id = self._find_pad_id()
        self.eou_id = self._find_id(END_OF_UTTERANCE)
        self.fake_id, self.image_id = self._find_id(FAKE_TOKEN), self._find_id(IMAGE_TOKEN)
        self.banned_ids = tuple(i for i in (self.fake_id, self.image_id) if i is not None)
        added = list_added_tokens(self.tokenizer)
        # Words that a small tokenizer does not know come out as the unknown token: no smuggling there.
        self._added_ids = frozenset(added.values()) - {self.tokenizer.unk_token_id}
        self._forbidden = any_of((*self.markers, *added) or ("\0",))
        self.stop_ids = self._find_stop_ids(generation)
        self.set_detail(detail)

    @property
    def default_style(self) -> Style:
        return "chat" if getattr(self.processor, "chat_template", None) else "completion"

    @property
    def context_tokens(self) -> int:
        return int(self.text_config.max_position_embeddings)

    def check_style(self, style: Style) -> None:
        """Refuse a style that the checkpoint was not trained for."""
        if style == "chat" and self.eou_id is None:
            raise ModelError(
                f"this checkpoint has no {END_OF_UTTERANCE} token, so it cannot chat",
                hint="use --style completion or an instruct checkpoint",
            )

    def set_detail(self, detail: str | None) -> None:
        """Choose how finely images are cut into tiles."""
        if detail is not None:
            raise ModelError(
                f"--detail {detail} has no effect on {self.config.model_type}, which takes every image at one size",
                hint="leave --detail out",
            )

    @property
    def can_think(self) -> bool:
        """Whether its answers can begin with thoughts."""
        return False

    def think(self) -> None:
        """Let answers begin with thoughts, which are not part of their text."""
        if not self.can_think:
            raise ModelError(
                f"--think has no effect on {self.config.model_type}, whose chat template has no thinking",
                hint="leave --think out",
            )

    def check_thinking(self, thinks: bool | None) -> None:
        """Refuse a request that wants thoughts of a model that has none."""
        if thinks and not self.can_think:
            raise BadItem(
                f"{self.config.model_type} cannot think first: its chat template has no thinking",
                hint='leave "think" out',
            )

    @cached_property
    def thought_marks(self) -> tuple[int, int] | None:
        """The tokens that begin and end thoughts."""
        vocabulary = self.tokenizer.get_vocab()
        found = (tuple(vocabulary.get(one) for one in pair) for pair in THOUGHTS)
        return next(((int(begin), int(end)) for begin, end in found if begin is not None and end is not None), None)

    def read_prompt(self, prompt: Prompt) -> str:
        """The prompt without markers, for people."""
        return read_aloud(lay_out(prompt, strip_turns=self.strip_turns))

    def count_held_bytes(self, encoded: Encoded, own: Sequence[int]) -> int:
        """The bytes of a prompt's tensors while it waits. `own` are the places of images that are not shown by others,
        as those of examples are.
        """
        return sum(int(one.nbytes) for one in (encoded.inputs or {}).values())

    def check_length(self, encoded: Encoded, new_tokens: int = 0) -> None:
        """Refuse a prompt that does not fit into the context; nothing is ever cut off."""
        needed = len(encoded.ids) + new_tokens
        if needed > self.context_tokens:
            room = f" and {new_tokens} for the answer" if new_tokens else ""
            raise PromptError(
                f"the prompt takes {len(encoded.ids)} tokens{room}, the model has room for {self.context_tokens}",
                code="prompt_too_long",
            )

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def is_byte(self, index: int) -> bool:
        """Whether a token is one byte of a character: sentencepiece decodes a run of them only as a whole."""
        token = str(self.tokenizer.convert_ids_to_tokens(index))
        return token.startswith("<0x") and len(token) == 6

    @abstractmethod
    def render(self, prompt: Prompt, *, thinks: bool | None = None) -> str:
        """The prompt text, beginning of text included, with one marker per image."""

    @abstractmethod
    def encode(self, prompt: Prompt, images: Sequence[Image], *, thinks: bool | None = None) -> Encoded:
        """The prompt as the model takes it. `images` are those of the prompt, in its order.

        `thinks` says whether the answer begins with thoughts, None that it does if the model was told to think.
        """

    @abstractmethod
    def encode_choices(self, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice]) -> tuple[Encoded, ...]:
        """The prompt with each label after it, tokenised as one text: ids may merge across the seam."""

    def encode_choice(self, prompt: Prompt, images: Sequence[Image], choice: Choice) -> Encoded:
        return self.encode_choices(prompt, images, [choice])[0]

    @abstractmethod
    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Left-padded model inputs of one or more prompts."""

    def make_probes(self) -> tuple[Encoded, Encoded]:
        """Two prompts of different lengths about one image, to check what a batch does to them."""
        import numpy
        import PIL.Image

        noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
        image = Image("probe", PIL.Image.fromarray(noise), "probe")
        short, long = (
            self.encode((Message("user", (ImagePart("probe"), TextPart(words))),), [image])
            for words in ("What is this?", "What is this? Say it in one word, please.")
        )
        return short, long

    def _refuse_special_tokens(self, pieces: Iterable[Piece]) -> None:
        pieces = list(pieces)
        refuse_markers(pieces, self._forbidden)
        # A tokenizer that normalises text may find a special token where the eye sees none.
        for ids in self._tokenize_texts([piece for piece in pieces if isinstance(piece, str)]):
            for index in ids:
                if index in self._added_ids:
                    raise special_token(self.tokenizer.convert_ids_to_tokens(index))

    def _tokenize_text(self, text: str) -> list[int]:
        return self._tokenize_texts([text])[0]

    def _tokenize_texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        with self._lock:
            ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _find_id(self, token: str) -> int | None:
        """The id of a token, None if the tokenizer has no single token for it."""
        found = self.tokenizer.get_vocab().get(token)
        return None if found is None else int(found)

    def _find_pad_id(self) -> int:
        for candidate in (
            self.tokenizer.pad_token_id,
            self.tokenizer.unk_token_id,
            self.tokenizer.eos_token_id,
        ):
            if candidate is not None:
                return int(candidate)
        return 0

    def _find_stop_ids(self, generation: Any) -> tuple[int, ...]:
        """Every id that ends an answer: the sources of a checkpoint disagree, so all of them are joined."""
        sources = (generation, self.config, self.text_config)
        candidates = [self.tokenizer.eos_token_id, self.eou_id]
        for ids in (getattr(source, "eos_token_id", None) for source in sources):
            candidates += ids if isinstance(ids, list | tuple) else [ids]
        # A config that was never told its ids has defaults, which may be words of this tokenizer.
        return tuple(sorted({int(i) for i in candidates if i is not None and i in self._added_ids}))
