"""Architectures with a chat template that show an image as a run of one token: LLaVA and related ones.

The processor is called once for each image alone, for its text and its tensors; so prompts are encoded as text, and
share prefixes, batches and image features as those of the IDEFICS line do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...values import Choice, Image, Prompt
from .chat_template import OF_TEXT, ChatTemplateFamily
from .family import Encoded, ImageSpan, Pixels
from .layout import lay_out
from .placeholder_family import PlaceholderFamily
from .refusals import check_images

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SpelledImage(Pixels):
    """One image from its processor: the text that stands for it, and its tensors by name."""

    spelling: str = ""
    copies: int = 1
    """How often it is among its tensors: some processors cut an image that is one of several in another way."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        return sum(int(one.nbytes) for one in self.tensors.values())


_TILE_PATCHES = 1024
"""Patches of a tile for a tower that takes images as rows of patches: as many as 448 pixels square have."""
_ONE_OF_MANY = "+"
"""At the end of a digest: the image as it is seen beside others."""


class TemplatedFamily(ChatTemplateFamily, PlaceholderFamily):
    has_prefixes = True
    has_slots = True

    def __init__(self, processor: Any, config: Any, *, generation: Any = None, detail: str | None = None) -> None:
        super().__init__(processor, config, generation=generation, detail=detail)
        self._is_list = True

    def _find_image_tokens(self) -> None:
        self.image_id = int(self.config.image_token_id)
        self._marker = str(self.tokenizer.convert_ids_to_tokens(self.image_id))
        self._shown = str(getattr(self.processor, "image_token", None) or self._marker)
        self.banned_ids = (self.image_id,)

    def encode(self, prompt: Prompt, images: Sequence[Image], *, thinks: bool | None = None) -> Encoded:
        check_images(lay_out(prompt, strip_turns=False), images)
        (row,) = self._encode_all([self._write(prompt, thinks)], images)
        return row

    def encode_choices(self, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice]) -> tuple[Encoded, ...]:
        return self._encode_all(self.write_choices(prompt, images, choices), images)

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        return PlaceholderFamily.collate(self, rows)

    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        """The tensors of all images; tiles of one image are padded to the largest number."""
        import torch

        images = [one for row in rows for one in row.pixels if isinstance(one, SpelledImage)]
        found: dict[str, Tensor] = {}
        for name in images[0].tensors if images else ():
            parts = [one.tensors[name] for one in images]
            if parts[0].ndim == 5:
                most = max(part.shape[1] for part in parts)
                parts = [
                    torch.cat([part, part.new_zeros(1, most - part.shape[1], *part.shape[2:])], dim=1) for part in parts
                ]
            found[name] = torch.cat(parts)
        return found

    def spell_image(self, pixels: Pixels) -> str:
        assert isinstance(pixels, SpelledImage)
        return pixels.spelling

    def prepare(self, image: Image) -> Pixels:
        copies = 2 if image.digest.endswith(_ONE_OF_MANY) else 1
        made = self.processor(
            text=[self._shown * copies],
            images=[[image.pixels] * copies],
            add_special_tokens=False,
            return_text_replacement_offsets=True,
        )
        spelling = str(made.pop("text_replacement_offsets")[0][0]["replacement"])
        tensors = {name: value for name, value in made.convert_to_tensors("pt").items() if name not in OF_TEXT}
        return SpelledImage(tensors["pixel_values"], spelling=spelling, copies=copies, tensors=tensors)

    @property
    def sees_alone(self) -> bool:
        """Pixtral's tower compares all patches of a pass with one another, and hides those of other images after it."""
        return bool(self.config.vision_config.model_type == "pixtral")

    def count_tiles(self, pixels: Pixels) -> int:
        shape = pixels.values.shape
        if len(shape) == 2:
            return math.ceil(shape[0] / _TILE_PATCHES)
        return int(shape[0] * shape[1] if len(shape) == 5 else shape[0])

    def encode_images(self, model: Any, pixels: Sequence[Pixels]) -> list[Tensor]:
        """The features of each image in the order of its tokens."""
        import torch

        images = [one for one in pixels if isinstance(one, SpelledImage)]
        counts = [one.spelling.count(self._marker) for one in images for _ in range(one.copies)]
        # Of a single token a model may drop the axis of tokens, as Mistral 3 does: then it looks at two.
        times = 2 if sum(counts) == 1 else 1
        found = self._look(model, images * times).pooler_output
        self._is_list = isinstance(found, list | tuple)
        rows = torch.cat([one.flatten(0, -2) for one in found])
        split = torch.split(rows, counts * times)
        firsts = accumulate((one.copies for one in images[:-1]), initial=0)
        return [split[first] for first in firsts]

    def _look(self, model: Any, pixels: Sequence[Pixels]) -> Any:
        """Run the vision tower of the model."""
        import torch

        from ..devices import find_input_device

        core, device = model.model, find_input_device(model)
        known = signature(core.get_image_features).parameters
        pinpoints = getattr(self.processor.image_processor, "image_grid_pinpoints", None)
        if pinpoints and hasattr(core.config, "image_grid_pinpoints"):
            # The model finds the tiles of an image by its size: from the same sizes as the processor.
            core.config.image_grid_pinpoints = [list(pair) for pair in pinpoints]
        images = [one for one in pixels if isinstance(one, SpelledImage)]
        inputs = {
            name: torch.cat([one.tensors[name] for one in images]).to(device)
            for name in images[0].tensors
            if name in known
        }
        inputs = {k: v.to(core.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return core.get_image_features(**inputs, return_dict=True)

    def join_features(self, placed: Sequence[Tensor] | Tensor) -> Any:
        import torch

        return super().join_features(placed if self._is_list else torch.cat(list(placed)))

    def _encode_all(self, texts: Sequence[str], images: Sequence[Image]) -> tuple[Encoded, ...]:
        """Texts with a marker for each image; all of them show the same images."""
        if len(images) > 1 and self._counts_images:
            images = [replace(image, digest=image.digest + _ONE_OF_MANY) for image in images]
        pixels, spellings = self._spell_images(images)
        whole = [self._spell(text, spellings) for text in texts]
        bos = self.tokenizer.bos_token
        rows = self._tokenize_alike(whole, adds_special=not (bos and whole[0].startswith(bos)))
        counts = [spelling.count(self._marker) for spelling in spellings]
        encoded = tuple(Encoded(row, self._find_runs(row, images, counts), pixels) for row in rows)
        self.check_length(max(encoded, key=lambda one: len(one.ids)))
        return encoded

    def _tokenize_alike(self, texts: Sequence[str], *, adds_special: bool) -> list[tuple[int, ...]]:
        """The ids of texts that begin alike.

        Nothing merges across a special token, so what comes before the last one that they share is tokenised once.
        """
        first = tuple(self.tokenizer(texts[0], add_special_tokens=adds_special)["input_ids"])
        cut = self._find_seam_token(texts) if len(texts) > 1 else 0
        tails = self._tokenize_texts([text[cut:] for text in texts]) if cut > 0 else []
        if tails and first[len(first) - len(tails[0]) :] == tuple(tails[0]):
            head = first[: len(first) - len(tails[0])]
            return [(*head, *tail) for tail in tails]
        others = self.tokenizer(texts[1:], add_special_tokens=adds_special)["input_ids"] if texts[1:] else []
        return [first, *map(tuple, others)]

    @property
    def _counts_images(self) -> bool:
        """Whether the processor prepares an image among others differently than alone."""
        return "batch_num_images" in self.processor.model_input_names

    def _spell(self, text: str, spellings: Sequence[str]) -> str:
        pieces = text.split(self._shown)
        if len(pieces) != len(spellings) + 1:
            raise ModelError(
                f"the chat template of {self.config.model_type} writes {len(pieces) - 1} of {len(spellings)} images",
                hint="its template is of another checkpoint; download it again",
            )
        return pieces[0] + "".join(spelling + piece for spelling, piece in zip(spellings, pieces[1:], strict=True))

    def _find_runs(self, ids: Sequence[int], images: Sequence[Image], counts: Sequence[int]) -> tuple[ImageSpan, ...]:
        places = [index for index, token in enumerate(ids) if token == self.image_id]
        spans = []
        for image, count in zip(images, counts, strict=True):
            run, places = places[:count], places[count:]
            spans.append(ImageSpan(run[0], run[-1] + 1, image.digest))
        return tuple(spans)
