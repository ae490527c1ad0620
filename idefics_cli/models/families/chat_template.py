"""Any other architecture whose processor has a chat template, which lays out the prompt.

One prompt at a time, as tensors of unknown processors cannot be stacked; where its images stand is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ...errors import BadItem, ModelError
from ...values import Choice, Image, ImagePart, Prompt, Style
from .family import Encoded, Family, check_images, preparing
from .layout import Mark, is_chat, lay_out, trim_reply

if TYPE_CHECKING:
    from torch import Tensor


class ChatTemplateFamily(Family):
    unquantized = ("lm_head", ".*vision.*", ".*visual.*", ".*projector.*", ".*connector.*")

    def check_style(self, style: Style) -> None:
        if style != "chat":
            raise ModelError(
                f"{self.config.model_type} is run by its chat template, which cannot continue a document",
                hint="use --style chat",
            )

    def render(self, prompt: Prompt) -> str:
        self._refuse_special_tokens(lay_out(prompt, strip_turns=False))
        if not is_chat(prompt):
            self.check_style("completion")
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
                    for part in message.parts
                ],
            }
            for message in trim_reply(prompt)
        ]
        is_open = prompt[-1].role == "assistant"
        try:
            text: str = self.processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not is_open, continue_final_message=is_open
            )
        except TemplateError as error:  # how a template says that it has no place for a role
            raise BadItem(f"the chat template of this model refuses the prompt ({error})") from error
        return text

    def encode(self, prompt: Prompt, images: Sequence[Image]) -> Encoded:
        check_images(lay_out(prompt, strip_turns=False), images)
        return self._encode_text(self.render(prompt), images)

    def encode_choice(self, prompt: Prompt, images: Sequence[Image], choice: Choice) -> Encoded:
        pieces = lay_out(prompt, strip_turns=False)
        check_images(pieces, images)
        label = choice.continuation.strip()
        self._refuse_special_tokens((label, Mark("")))
        text = self.render(prompt)
        space = "" if not text or text[-1].isspace() else " "
        return self._encode_text(f"{text}{space}{label}{self._read_end()}", images)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        (row,) = rows
        assert row.inputs is not None, "a prompt of another family"
        return dict(row.inputs)

    def _read_end(self) -> str:
        """The token that ends a turn, as the tokenizer writes it."""
        end = self.tokenizer.eos_token_id if self.eou_id is None else self.eou_id
        return "" if end is None else str(self.tokenizer.convert_ids_to_tokens(end))

    def _encode_text(self, text: str, images: Sequence[Image]) -> Encoded:
        bos = self.tokenizer.bos_token
        options: dict[str, Any] = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        if images:
            options["images"] = [[image.pixels for image in images]]
        with preparing(images, self.config.model_type):
            inputs = self.processor(text=[text], return_tensors="pt", **options)
        encoded = Encoded(tuple(inputs["input_ids"][0].tolist()), inputs=dict(inputs))
        self.check_length(encoded)
        return encoded
