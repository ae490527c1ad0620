"""Any architecture whose processor has a chat template, which lays out the prompt.

The tensors of an unknown processor cannot be split by image, and the places of images are not known, so prompts stay
whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ...errors import BadItem, ModelError
from ...values import Choice, Image, ImagePart, Message, Prompt, Style, TextPart
from .family import Encoded, Family
from .image_processors import check_detail, choose_detail, explain_missing, open_image_processor
from .layout import continue_reply, is_chat, lay_out, trim_reply
from .refusals import check_images, list_added_tokens, preparing

if TYPE_CHECKING:
    from torch import Tensor


_PROBE = "qxlabelxq"
"""A label that no template treats in its own way."""
_PRINTED = "{'type': 'text'"
"""What a template writes that wants a text and is given parts."""
OF_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


class ChatTemplateFamily(Family):
    _thinks = False
    markers = ()
    unquantized = ("lm_head", ".*vision.*", ".*visual.*", ".*projector.*", ".*connector.*")

    @classmethod
    def open_processor(cls, checkpoint: str, config: Any, source: Mapping[str, Any]) -> Any:
        try:
            return open_image_processor(checkpoint, config, source)
        except (ImportError, ValueError) as error:
            if (explained := explain_missing(config, error)) is not None:
                raise explained from error
            raise

    @classmethod
    def build_random(cls, sizes: Mapping[str, Any], build_tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
        from ..random.processor import build_processor

        return build_processor(sizes, build_tokenizer)

    def _find_stop_ids(self, generation: Any) -> tuple[int, ...]:
        """The stop ids of the config, and the token that ends a turn of the template: not all configs name it."""
        turn = (Message("user", (TextPart(_PROBE),)), Message("assistant", (TextPart(_PROBE),)))
        try:
            _, _, after = self._apply(turn, is_open=None).rpartition(_PROBE)
        except BadItem:
            after = ""
        end = self.tokenizer.get_vocab().get(self._cut_end(after))
        found = super()._find_stop_ids(generation)
        return found if end is None or end not in self._added_ids else tuple(sorted({*found, int(end)}))

    def check_style(self, style: Style) -> None:
        if style != "chat":
            raise ModelError(
                f"{self.config.model_type} is run by its chat template, which cannot continue a document",
                hint="use --style chat",
            )

    def set_detail(self, detail: str | None) -> None:
        """Fewer tiles or fewer patches, if the image processor has a limit that can be lowered."""
        if detail is None:
            return
        check_detail(detail)
        if not choose_detail(self.processor.image_processor, detail):
            raise ModelError(
                f"--detail {detail} has no effect on {self.config.model_type}: its processor decides this",
                hint="leave --detail out",
            )

    @property
    def can_think(self) -> bool:
        return "enable_thinking" in str(self.processor.chat_template)

    def think(self) -> None:
        super().think()
        self._thinks = True

    def render(self, prompt: Prompt, *, thinks: bool | None = None) -> str:
        return self._write(prompt, thinks)

    def _write(self, prompt: Prompt, thinks: bool | None) -> str:
        """The prompt text. It begins a thought only if the model, or the request, was told to."""
        self.check_thinking(thinks)
        self._refuse_special_tokens(lay_out(prompt, strip_turns=False))
        if not is_chat(prompt):
            self.check_style("completion")
        is_open = prompt[-1].role == "assistant"
        return self._apply(trim_reply(prompt), is_open=is_open, thinks=self._thinks if thinks is None else thinks)

    def encode(self, prompt: Prompt, images: Sequence[Image], *, thinks: bool | None = None) -> Encoded:
        check_images(lay_out(prompt, strip_turns=False), images)
        return self._encode_text(self._write(prompt, thinks), images)

    def encode_choices(self, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice]) -> tuple[Encoded, ...]:
        """The prompt with each label after it. The images are prepared once for all of them."""
        texts = self.write_choices(prompt, images, choices)
        whole = self._encode_text(texts[0], images)
        # Nothing merges across a special token, so what is before the last one is encoded only once.
        cut = self._find_seam_token(texts)
        tails = self._tokenize_texts([text[cut:] for text in texts]) if cut > 0 else []
        if not tails or whole.ids[len(whole.ids) - len(tails[0]) :] != tuple(tails[0]):
            return tuple(self._encode_text(text, images) for text in texts)
        head = len(whole.ids) - len(tails[0])
        return tuple(_end_with(whole, head, tail) for tail in tails)

    def _find_seam_token(self, texts: Sequence[str]) -> int:
        """Where the last special token begins that texts share with all before it; -1 where there is none."""
        common = _find_common(min(texts), max(texts))
        return max((common.rfind(token) for token in self._special_texts), default=-1)

    def begin(self, encoded: Encoded, length: int) -> Encoded:
        """The first tokens of a prompt, all of its images among them."""
        return _end_with(encoded, length, ())

    def find_cut(self, encoded: Encoded) -> int:
        """How many of its first tokens have all of its images; 0 where there are none, or they are not known."""
        token = getattr(self.config, "image_token_id", None)
        places = [place for place, index in enumerate(encoded.ids) if index == token]
        return places[-1] + 1 if places and encoded.shown and places[-1] + 1 < len(encoded.ids) else 0

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Left-padded model inputs; the tensors of images are concatenated. Raises ValueError if they cannot be."""
        import torch

        given = [dict(row.inputs or {}) for row in rows]
        if len(rows) == 1:
            return given[0]
        width = max(len(row.ids) for row in rows)
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for inputs in given for name in inputs):
            parts = [
                self._pad(name, inputs[name], width, len(row.ids))
                for inputs, row in zip(given, rows, strict=True)
                if name in inputs
            ]
            if len({(part.ndim, part.shape[1:]) for part in parts}) > 1:
                raise ValueError(f"{name} is of several shapes")
            found[name] = torch.cat(parts)
        return found

    def _pad(self, name: str, values: Tensor, width: int, length: int) -> Tensor:
        """Pad on the left what has a value for each token."""
        import torch

        if values.ndim < 2 or values.shape[:2] != (1, length):
            return values
        fill = self.pad_id if name == "input_ids" else 0
        padding = values.new_full((1, width - length, *values.shape[2:]), fill)
        return torch.cat([padding, values], dim=1)

    def write_choices(self, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice]) -> list[str]:
        """The texts of a prompt with each label as the assistant's finished turn, up to the token that ends it."""
        check_images(lay_out(prompt, strip_turns=False), images)
        labels = [choice.continuation.strip() for choice in choices]
        self._refuse_special_tokens(labels)
        text = self._write(prompt, thinks=False)
        before, after = self._find_seam(trim_reply(prompt), text)
        return [f"{text}{before}{label}{after}" for label in labels]

    def _find_seam(self, prompt: Prompt, text: str) -> tuple[str, str]:
        """What the template writes between a prompt and the reply, and what ends the reply."""
        *turns, last = prompt
        if last.role == "assistant":
            reply = Message("assistant", (*last.parts, TextPart(continue_reply(_PROBE))))
        else:
            turns, reply = list(prompt), Message("assistant", (TextPart(_PROBE),))
        whole = self._apply((*turns, reply), is_open=None)
        before, found, after = whole.partition(_PROBE)
        if not found or not before.startswith(text):
            # A template that words a finished turn in another way than an open one.
            space = "" if not text or text[-1].isspace() else " "
            return space, self._end_text
        return before[len(text) :], self._cut_end(after)

    def _cut_end(self, after: str) -> str:
        """Up to the first special token: a line break after it begins the next turn."""
        ends = [match.end() for token in self._special_texts if (match := re.search(re.escape(token), after))]
        return after[: min(ends)] if ends else self._end_text

    @cached_property
    def _special_texts(self) -> tuple[str, ...]:
        return tuple(list_added_tokens(self.tokenizer))

    @property
    def _end_text(self) -> str:
        """The token that ends a text, as the tokenizer writes it."""
        end = self.tokenizer.eos_token_id
        return "" if end is None else str(self.tokenizer.convert_ids_to_tokens(end))

    def _apply(self, prompt: Prompt, *, is_open: bool | None, thinks: bool = False) -> str:
        """The template's text: with the last turn open, a reply begun, or all turns finished (None)."""
        try:
            text = self._word(prompt, is_open, thinks, as_text=False)
        except ModelError as error:  # it may take a turn for a text
            try:
                return self._word(prompt, is_open, thinks, as_text=True)
            except ModelError:
                raise error from None
        if _PRINTED in text and not any(_PRINTED in one for one in _list_texts(prompt)):
            text = self._word(prompt, is_open, thinks, as_text=True)
        return text

    def _word(self, prompt: Prompt, is_open: bool | None, thinks: bool, *, as_text: bool) -> str:
        messages = [{"role": message.role, "content": _write_content(message, as_text=as_text)} for message in prompt]
        options = {"add_generation_prompt": is_open is False, "continue_final_message": is_open is True}
        if self.can_think:
            options["enable_thinking"] = thinks
        try:
            text: str = self.processor.apply_chat_template(messages, tokenize=False, **options)
        except TemplateError as error:  # how a template says that it has no place for a role
            raise BadItem(f"the chat template of this model refuses the prompt ({error})") from error
        return text

    def _encode_text(self, text: str, images: Sequence[Image]) -> Encoded:
        bos = self.tokenizer.bos_token
        options: dict[str, Any] = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        if images:
            options["images"] = [[image.pixels for image in images]]
        with preparing(images, self.config.model_type):
            inputs = self.processor(text=[text], **options).convert_to_tensors("pt")
        shown = tuple(image.digest for image in images)
        encoded = Encoded(tuple(inputs["input_ids"][0].tolist()), inputs=dict(inputs), shown=shown)
        self.check_length(encoded)
        return encoded


def _end_with(whole: Encoded, head: int, tail: Sequence[int]) -> Encoded:
    """The first ids of a prompt followed by others; the tensors of its images are shared."""
    import torch

    assert whole.inputs is not None
    ids = (*whole.ids[:head], *tail)
    inputs = dict(whole.inputs)
    for name, values in inputs.items():
        if name in OF_TEXT:
            ends = {"input_ids": list(tail), "attention_mask": [1] * len(tail)}.get(name, [0] * len(tail))
            inputs[name] = torch.cat([values[:, :head], torch.tensor([ends], dtype=torch.long)], dim=-1)
        elif values.ndim > 2 and values.shape[:2] == (1, len(whole.ids)):
            # What each token sees of the images, and so do those after it.
            last = values[:, head - 1 : head]
            inputs[name] = torch.cat([values[:, :head], last.expand(-1, len(tail), *last.shape[2:])], dim=1)
    return replace(whole, ids=ids, inputs=inputs)


def _find_common(one: str, other: str) -> str:
    """What two texts begin with: long texts, so they are compared by halves and not by letters."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return one[:least]


def _list_texts(prompt: Prompt) -> list[str]:
    return [part.text for message in prompt for part in message.parts if isinstance(part, TextPart)]


def _write_content(message: Message, *, as_text: bool) -> Any:
    """Parts, or plain text for templates that print what they get."""
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    if as_text and len(texts) == len(message.parts):
        return "".join(texts)
    return [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in message.parts
    ]
