"""What a person writes with transformers alone: a processor call and `generate`, nothing shared, nothing kept.

The baseline for the engine. One request a call is the task guide's loop; several are a batch made by hand.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig

from ..models.families.chat_template import ChatTemplateFamily
from ..models.families.family import Family
from ..models.loading import load_model, open_family
from ..values import Choice, Image, ModelSpec, Request, Style, list_sources
from .arms import ArmAnswer, Spent


class Script:
    """A loaded checkpoint and the few lines around it."""

    spent: Spent | None = None

    def __init__(self, spec: ModelSpec) -> None:
        self.family: Family = open_family(spec)
        self.style: Style = spec.style or self.family.default_style
        self.model: Any = load_model(spec, self.family)

    def answer(self, requests: Sequence[Request], images: Mapping[str, Image], batch_size: int) -> list[ArmAnswer]:
        """Every request in its place. Those of one task come in batches; labels are ranked image by image."""
        size = batch_size if self.family.has_prefixes else 1
        replies: dict[int, ArmAnswer] = {}
        for group in _group(requests):
            if requests[group[0]].choices:
                replies |= {index: self._rank(requests[index], images, size) for index in group}
                continue
            for first in range(0, len(group), size):
                batch = group[first : first + size]
                replies |= zip(batch, self._generate([requests[index] for index in batch], images), strict=True)
        return [replies[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _generate(self, requests: Sequence[Request], images: Mapping[str, Image]) -> Iterator[ArmAnswer]:
        inputs = self._process([(request, "") for request in requests], images)
        family = self.family
        config = GenerationConfig(
            max_new_tokens=max(request.decoding.max_new_tokens for request in requests),
            do_sample=False,
            eos_token_id=list(family.stop_ids) or None,
            pad_token_id=family.pad_id,
            bad_words_ids=[[index] for index in family.banned_ids] or None,
        )
        sequences = self.model.generate(**inputs, generation_config=config)
        width = inputs["input_ids"].shape[1]
        rows = zip(requests, sequences[:, width:].tolist(), inputs["attention_mask"], strict=True)
        for request, row, mask in rows:
            # A batch is as long as its longest answer; the others are cut.
            row = row[: request.decoding.max_new_tokens]
            words = list(takewhile(lambda index: index not in family.stop_ids, row))
            yield ArmAnswer(
                text=family.decode(words),
                asked_tokens=int(mask.sum()),
                computed_tokens=width,
                new_tokens=min(len(words) + 1, len(row)),
            )

    @torch.inference_mode()
    def _rank(self, request: Request, images: Mapping[str, Image], size: int) -> ArmAnswer:
        """One full prompt with each label after it; the log-probabilities of the label's tokens summed."""
        pictures = [images[source] for source in list_sources(request.prompt)]
        prompt = self.family.encode(request.prompt, pictures).ids
        rows = [self.family.encode_choice(request.prompt, pictures, choice).ids for choice in request.choices]
        start = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(prompt, *rows, strict=False)))
        logprobs: list[float] = []
        computed = 0
        for first in range(0, len(rows), size):
            batch = request.choices[first : first + size]
            inputs = self._process([(request, choice.continuation) for choice in batch], images)
            computed += inputs["input_ids"].numel()
            logprobs += self._score(inputs, [len(row) - start for row in rows[first : first + size]])
        return ArmAnswer(
            logprobs=tuple(zip((choice.label for choice in request.choices), logprobs, strict=True)),
            asked_tokens=len(prompt),
            computed_tokens=computed - sum(len(row) - start for row in rows),
        )

    def _score(self, inputs: dict[str, Any], lengths: Sequence[int]) -> list[float]:
        """The summed log-probability of the last `lengths` tokens of each row."""
        # Images that lie in three dimensions are placed by the model.
        if self.family.has_prefixes and "mm_token_type_ids" not in inputs:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        longest = max(lengths)
        logits = self.model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
        targets = inputs["input_ids"][:, -longest:]
        logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, targets[..., None])[..., 0]
        return [
            float(row[longest - length :].cpu().double().sum()) for row, length in zip(logprobs, lengths, strict=True)
        ]

    def _process(self, rows: Sequence[tuple[Request, str]], images: Mapping[str, Image]) -> dict[str, Any]:
        """The checkpoint's own processor, called as its documentation says, on prompts and what continues them."""
        texts = [word_row(self.family, self.style, request, words, images) for request, words in rows]
        pictures = [[images[source].pixels for source in list_sources(request.prompt)] for request, _ in rows]
        texts, adds_bos = drop_bos(self.family, texts)
        options = self.family.call_processor(texts, pictures, adds_bos=adds_bos)
        inputs = self.family.processor(**options, return_tensors="pt")
        return dict(inputs.to(self.model.device, self.model.dtype))


def word_row(family: Family, style: Style, request: Request, words: str, images: Mapping[str, Image]) -> str:
    """A prompt and a label after it, if any: unchanged in a document; in a turn after one space, and ended."""
    if not words or not isinstance(family, ChatTemplateFamily):
        text = family.render(request.prompt)
        if not words or style == "completion":
            return text + words
        end = family.tokenizer.convert_ids_to_tokens(family.eou_id or family.tokenizer.eos_token_id)
        return f"{text} {words.strip()}{end}"
    own = [images[source] for source in list_sources(request.prompt)]
    return family.write_choices(request.prompt, own, [Choice(words, words)])[0]


def drop_bos(family: Family, texts: list[str]) -> tuple[list[str], bool]:
    """The texts for a tokenizer that begins a text itself, and whether this one does."""
    bos = family.tokenizer.bos_token or ""
    adds_bos = family.tokenizer("")["input_ids"] == [family.tokenizer.bos_token_id]
    return ([text.removeprefix(bos) for text in texts] if adds_bos else texts), adds_bos


def _group(requests: Sequence[Request]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(
            (request.task, replace(request.decoding, max_new_tokens=0), bool(request.choices)), []
        ).append(index)
    return list(groups.values())
