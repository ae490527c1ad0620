"""The plain ways to ask a model, against which the engine is measured: whole prompts, one at a time, nothing shared."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from idefics_cli.engine.engine import Engine, Work
from idefics_cli.engine.flow import Flow
from idefics_cli.engine.generate import Generation, generate
from idefics_cli.engine.inputs import to_model
from idefics_cli.engine.oom_retry import Done
from idefics_cli.errors import ItemError
from idefics_cli.models.families.family import Encoded, Family
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.values import Choice, Decoding, Image, ModelSpec, Prompt
from tests.models.tiny import checkpoint


@functools.cache
def opened(kind: str) -> tuple[Family, Any]:
    spec = ModelSpec(str(checkpoint(kind)))
    family = open_family(spec)
    return family, load_model(spec, family)


def run_all(engine: Engine, works: Sequence[Work], *, rows: int) -> list[Done | ItemError]:
    """What the engine answers to each work, in order."""
    given = iter([works])
    ended = Flow(engine, lambda count, wait: next(given, None), rows).run()
    done = {id(work): one for work, one in (pair for pair in ended if pair is not None)}
    return [done[id(work)] for work in works]


@torch.inference_mode()
def plain_answer(kind: str, row: Encoded, decoding: Decoding) -> Generation:
    """One `generate` of the full prompt, from its pixels."""
    family, model = opened(kind)
    (made,) = generate(model, family, [row], decoding, to_model(model, family.collate([row])))
    return made


@torch.inference_mode()
def plain_scores(
    kind: str, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice], start: int
) -> list[float]:
    """One forward of the full prompt with its label for each label, and one addition for each token."""
    family, model = opened(kind)
    scores = []
    for choice in choices:
        row = family.encode_choice(prompt, images, choice)
        logits = model(**family.collate([row]), use_cache=False).logits[0].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        places = range(start, len(row.ids))
        scores.append(math.fsum(float(logprobs[place - 1, row.ids[place]]) for place in places))
    return scores
