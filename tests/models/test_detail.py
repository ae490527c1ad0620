"""`--detail` of other architectures: what an image costs, and that the model sees what the processor has cut."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import pytest
import transformers

from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.values import ModelSpec
from tests.models.others import other
from tests.models.test_others import GREEDY, opened
from tests.models.tiny import picture, user

CUTS = (
    "internvl",
    "aya_vision",
    "llava_next",
    "granite",
    "llava_onevision",
    "qwen2_5_vl",
    "glm4v",
    "gemma3",
    "gemma4",
)


@pytest.mark.parametrize("name", CUTS)
def test_detail_bounds_what_an_image_costs(name: str) -> None:
    large = picture(9, (1200, 1000))
    folder = str(other(name))
    costs = [
        len(open_family(ModelSpec(folder, detail=detail)).encode((user(large, "What?"),), [large]).ids)
        for detail in ("low", "medium", "high")
    ]
    plain = len(opened(name)[0].encode((user(large, "What?"),), [large]).ids)
    assert costs == sorted(costs)
    assert costs[-1] == plain or (name == "gemma3" and costs[-1] > plain == costs[0])
    assert name in ("qwen2_5_vl", "glm4v", "gemma3", "gemma4") or costs[0] < plain


@pytest.mark.parametrize(
    ("name", "detail"),
    [("llava_next", "low"), ("llava_onevision", "low"), ("aya_vision", "low"), ("gemma3", "high")],
)
def test_answers_at_another_detail_are_those_of_plain_transformers(name: str, detail: str) -> None:
    spec = ModelSpec(str(other(name)), detail=detail)
    family = open_family(spec)
    model, large = load_model(spec, family), picture(9, (900, 400))
    text = family.render((user(large, "What?"),))
    inputs = family.processor(text=[text], images=[[large.pixels]], add_special_tokens=text[0] != "<")
    inputs = inputs.convert_to_tensors("pt")
    encoded = family.encode((user(large, "What?"),), [large])
    assert inputs["input_ids"][0].tolist() == list(encoded.ids)
    if hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = family.processor.image_processor.image_grid_pinpoints
    config = transformers.GenerationConfig(
        max_new_tokens=6,
        eos_token_id=list(family.stop_ids),
        pad_token_id=0,
        bad_words_ids=[[family.image_id]],
    )
    whole = model.generate(**inputs, generation_config=config)[0, len(encoded.ids) :].tolist()
    (outcome,) = Engine(model, family).run([Continuation(encoded, GREEDY)])
    assert outcome.generation is not None
    assert list(outcome.generation.ids) == [index for index in whole if index not in family.stop_ids]


def test_detail_that_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(Exception, match="its processor decides this; leave --detail out"):
        open_family(ModelSpec(str(other("llava")), detail="low"))
