"""What Idefics2 and Idefics3 share: an image is one or more tiles whose placeholders stand among the ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass as checked

from ...values import Image
from ..dimensions import OPEN, Count, Dimensions, Linears, count_tower, list_mlp
from .family import Encoded, Pixels
from .layout import IMAGE_TOKEN, MARKERS, SPECIAL_IDS
from .placeholder_family import PlaceholderFamily

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor


@checked(frozen=True, config=OPEN)
class Text:
    """Mistral and Llama, which have the same layers."""

    model_type: Literal["mistral", "llama"] = "llama"
    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count | None = None
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None

    @property
    def inner(self) -> int:
        return self.intermediate_size or (14336 if self.model_type == "mistral" else 11008)

    @property
    def kv_width(self) -> int:
        usual = 8 if self.model_type == "mistral" else self.num_attention_heads
        return self._head * (self.num_key_value_heads or usual)

    @property
    def linears(self) -> tuple[Linears, ...]:
        layers, hidden, attended = self.num_hidden_layers, self.hidden_size, self._attended
        return (
            Linears(layers, attended, hidden),
            Linears(2 * layers, self.kv_width, hidden),
            Linears(layers, hidden, attended),
            *list_mlp(layers, hidden, self.inner),
        )

    def count(self, *, is_tied: bool) -> int:
        words = self.vocab_size * self.hidden_size * (1 if is_tied else 2)
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return words + norms + sum(one.weights for one in self.linears)

    @property
    def _head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def _attended(self) -> int:
        return self._head * self.num_attention_heads


@checked(frozen=True, config=OPEN)
class TiledVision:
    hidden_size: Count
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    patch_size: Count = 32
    image_size: Count = 224

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def count(self) -> int:
        width = self.hidden_size
        tower = count_tower(width, self.intermediate_size, self.num_hidden_layers, self.patch_size)
        return tower + width + self.patches * width + 2 * width


def measure_tiled(
    architecture: str, text: Text, vision: TiledVision, connector: int, tile_tokens: int, *, is_tied: bool
) -> Dimensions:
    """The dimensions of a language model that sees tiles, each as a number of tokens."""
    return Dimensions(
        architecture=architecture,
        parameters=text.count(is_tied=is_tied) + vision.count() + connector,
        linears=text.linears,
        layers=text.num_hidden_layers,
        kv_width=text.kv_width,
        width=text.hidden_size,
        inner_width=text.inner,
        vocabulary=text.vocab_size,
        vision_width=vision.hidden_size,
        vision_inner_width=vision.intermediate_size,
        patches=vision.patches,
        tile_pixels=vision.image_size**2,
        tile_features=tile_tokens,
        feature_width=text.hidden_size,
        tile_tokens=tile_tokens,
    )


class TiledFamily(PlaceholderFamily):
    """Images of any number of tiles, padded to the largest of a batch; the model drops the all-zero tiles."""

    has_slots = True

    def __init__(self, processor: Any, config: Any, *, generation: Any = None, detail: str | None = None) -> None:
        super().__init__(processor, config, generation=generation, detail=detail)
        self.tile_tokens = int(processor.image_seq_len)

    @classmethod
    def build_random(cls, sizes: Mapping[str, Any], build_tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
        import transformers

        words, edge = dict(sizes["text_config"]), sizes["vision_config"]["image_size"]
        added = (*MARKERS, *(one for one in cls.markers if one not in MARKERS))
        tokenizer = build_tokenizer(words["vocab_size"], bos=cls.bos, added=added)
        settings = {
            **sizes,
            "text_config": words | SPECIAL_IDS,
            "vision_config": dict(sizes["vision_config"]),
        }
        settings["image_token_id"] = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        processor = cls._build_processor(edge, tokenizer, cls.measure(sizes, cls.__name__).tile_tokens)
        return transformers.AutoConfig.for_model(**settings), processor

    @classmethod
    @abstractmethod
    def _build_processor(cls, edge: int, tokenizer: Any, tile_tokens: int) -> Any:
        """A processor for tiles of so many pixels and tokens."""

    def prepare(self, image: Image) -> Pixels:
        if self.pixel_table.keeps_bytes:
            return self.cut(image.pixels)
        prepared = self.processor.image_processor([[image.pixels]], return_tensors="pt", **self.image_options)
        rows, cols = prepared.get("rows"), prepared.get("cols")
        mask = prepared["pixel_attention_mask"][0].bool()
        return Pixels(
            prepared["pixel_values"][0],
            None if bool(mask.all()) else mask,
            int(rows[0][0]) if rows is not None else 0,
            int(cols[0][0]) if cols is not None else 0,
        )

    @abstractmethod
    def cut(self, image: PIL.Image.Image) -> Pixels:
        """The tiles of an image as the checkpoint's image processor resizes and cuts them, as bytes."""

    @property
    def image_options(self) -> dict[str, Any]:
        """Options that this architecture's image processor needs for every image."""
        return {}

    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        import torch

        tiles = [[(self.pixel_table.look_up(one.values, one.mask), one.mask) for one in row.pixels] for row in rows]
        prepared = [one for row in rows for one in row.pixels]
        if not prepared:
            return {}
        count = max(sum(one.values.shape[0] for one in row.pixels) for row in rows)
        channels = prepared[0].values.shape[1]
        height = max(one.values.shape[2] for one in prepared)
        breadth = max(one.values.shape[3] for one in prepared)
        pixels = torch.zeros(len(rows), count, channels, height, breadth)
        mask = torch.zeros(len(rows), count, height, breadth, dtype=torch.long)
        for index, images in enumerate(tiles):
            first = 0
            for values, valid in images:
                last = first + values.shape[0]
                pixels[index, first:last, :, : values.shape[2], : values.shape[3]] = values
                mask[index, first:last, : values.shape[2], : values.shape[3]] = 1 if valid is None else valid
                first = last
        return {"pixel_values": pixels, "pixel_attention_mask": mask}

    def encode_images(self, model: Any, pixels: Sequence[Pixels]) -> list[Tensor]:
        """The features of all tiles of each image, in the order of their placeholders."""
        import torch

        from ..devices import find_input_device

        core, device = model.model, find_input_device(model)
        values = torch.cat([one.values for one in pixels]).to(device)
        masks = None
        if any(one.mask is not None for one in pixels):
            whole = [
                values.new_ones(one.values[:, 0].shape, dtype=torch.bool) if one.mask is None else one.mask
                for one in pixels
            ]
            masks = torch.cat([one.to(device) for one in whole])
        found = core.get_image_features(
            self.pixel_table.look_up(values, masks)[None].to(core.dtype),
            None if masks is None else masks[None],
            return_dict=True,
        )
        counts = [one.values.shape[0] * self.tile_tokens for one in pixels]
        return list(torch.split(torch.cat(list(found.pooler_output)), counts))
