"""What the embedded checkpoint is asked, and what counts as right: a probe for each row of the table of promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ...eval.answers import is_exact
from ...prompts.compose import compose
from ...prompts.templates import load_template
from ...values import AnswerFormat, Example, Item, Request, Style
from .forms import SceneForm, field_form, scene_form
from .lessons import FORMATS, inline
from .questions import QUESTION_KINDS, caption
from .scenes import KINDS, Scene
from .writings import NO_TEXT, WRITINGS, story

Judge = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Probe:
    """One request, the scenes its sources stand for, and what counts as right."""

    request: Request
    scenes: Mapping[str, Scene]
    is_right: Judge


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One line of the table. `wanted` is the share of right answers the project promises, 0 where it promises none."""

    task: str
    column: str
    wanted: float
    probe: Callable[[Random, Callable[[], Scene]], Probe | None]
    counts: tuple[int, ...]


def _equals(truth: str) -> Judge:
    return lambda text: is_exact(text, (truth,))


def _fills(truth: str) -> Judge:
    """Whether a text is the same JSON, whatever its white space."""

    def judge(text: str) -> bool:
        try:
            return bool(json.loads(text) == json.loads(truth))
        except ValueError:
            return False

    return judge


def _probe(
    template: str, style: Style, scenes: Sequence[Scene], judge: Judge, *, fields: Mapping[str, str] | None = None,
    examples: Sequence[Example] = (), choices: Sequence[str] = (), wanted: AnswerFormat | None = None,
) -> Probe:  # fmt: skip
    """A probe about the last scene; earlier scenes are those of the examples, whose sources are "0", "1", …"""
    images, given = (str(len(scenes) - 1),), tuple((fields or {}).items())
    item = Item("probe", images, given, answer_format=wanted)
    request = compose(load_template(template), style, item, task="probe", examples=examples, choices=choices)
    return Probe(request, {str(index): scene for index, scene in enumerate(scenes)}, judge)


def probe_caption(random: Random, scene: Callable[[], Scene]) -> Probe:
    shown = scene()
    return _probe("caption", "completion", [shown], _equals(caption(shown)))


def probe_prompted(random: Random, scene: Callable[[], Scene]) -> Probe:
    shown = scene()
    return _probe(
        "caption-prompted",
        "completion",
        [shown],
        _equals(inline(shown)),
        fields={"prompt": "This is an image of"},
    )


def probe_question(kind: str) -> Callable[[Random, Callable[[], Scene]], Probe | None]:
    def probe(random: Random, scene: Callable[[], Scene]) -> Probe | None:
        shown = scene()
        asked = QUESTION_KINDS[kind](random, shown)
        if asked is None:
            return None
        return _probe("vqa", "completion", [shown], _equals(asked[1]), fields={"question": asked[0]})

    return probe


def probe_ranking(random: Random, scene: Callable[[], Scene]) -> Probe:
    shown, labels = scene(), random.sample(KINDS, len(KINDS))
    judge: Judge = lambda label: bool(shown.find(label))  # noqa: E731
    return _probe("classify", "completion", [shown], judge, fields={"labels": repr(labels)}, choices=labels)


def probe_few_shot(random: Random, scene: Callable[[], Scene]) -> Probe:
    scenes = [scene(), scene(), scene()]
    say = FORMATS[random.choice(list(FORMATS))]
    examples = [Example((str(index),), (), say(shown)) for index, shown in enumerate(scenes[:2])]
    template = random.choice(("caption", "describe"))
    return _probe(template, "completion", scenes, _equals(say(scenes[2])), examples=examples)


def probe_dialogue(random: Random, scene: Callable[[], Scene]) -> Probe | None:
    scenes = [scene(), scene()]
    kinds = [kind for kind in QUESTION_KINDS if kind != "absent"]
    first, second = (QUESTION_KINDS[random.choice(kinds)](random, shown) for shown in scenes)
    if first is None or second is None:
        return None
    turn = ("image", first[0]) if random.random() < 0.5 else (first[0], "image")
    examples = [Example(("0",), (), first[1], turn)]
    return _probe("dialogue", "chat", scenes, _equals(second[1]), fields={"message": second[0]}, examples=examples)


def probe_turn(random: Random, scene: Callable[[], Scene]) -> Probe | None:
    """What a base model says next in a conversation: no stop but another turn ends it."""
    shown = scene()
    asked = QUESTION_KINDS[random.choice(list(QUESTION_KINDS))](random, shown)
    if asked is None:
        return None
    return _probe("dialogue", "completion", [shown], _equals(asked[1]), fields={"message": asked[0]})


def probe_story(random: Random, scene: Callable[[], Scene]) -> Probe:
    shown = scene()
    return _probe("story", "completion", [shown], _equals(story(shown)))


def probe_writing(random: Random, scene: Callable[[], Scene]) -> Probe:
    shown, prompt = scene(), random.choice(list(WRITINGS))
    return _probe("write", "completion", [shown], _equals(WRITINGS[prompt](shown)), fields={"prompt": prompt})


def probe_reading(random: Random, scene: Callable[[], Scene]) -> Probe:
    style: Style = "chat" if random.random() < 0.5 else "completion"
    return _probe("ocr", style, [scene()], _equals(NO_TEXT))


def probe_form(
    form_of: Callable[[Random, Scene], SceneForm],
) -> Callable[[Random, Callable[[], Scene]], Probe]:
    def probe(random: Random, scene: Callable[[], Scene]) -> Probe:
        shown = scene()
        form = form_of(random, shown)
        style: Style = "chat" if random.random() < 0.5 else "completion"
        return _probe("extract", style, [shown], _fills(form.answer), wanted=form.answer_format)

    return probe


def probe_blank(random: Random, scene: Callable[[], Scene]) -> Probe | None:
    shown = scene()
    form = random.randrange(4)
    if form == 0:
        return _probe("caption", "completion", [shown], _equals(caption(shown)))
    if form == 1:
        return _probe("caption", "chat", [shown], _equals(caption(shown)))
    kind = ("colour", "kind", "place")[random.randrange(3)]
    asked = QUESTION_KINDS[kind](random, shown)
    assert asked is not None, kind
    style: Style = "completion" if form == 2 else "chat"
    return _probe("vqa", style, [shown], _equals(asked[1]), fields={"question": asked[0]})


ONE, MORE = ("one shape", (1,)), ("two or three", (2, 3))


def _rows(task: str, wanted: tuple[float, float], probe: Callable[..., Probe | None]) -> Iterator[AccuracyRow]:
    for (column, counts), share in zip((ONE, MORE), wanted, strict=True):
        yield AccuracyRow(task, column, share, probe, counts)


def table() -> Iterator[AccuracyRow]:
    """The promises, one by one."""
    yield from _rows("caption", (0.99, 0.94), probe_caption)
    yield from _rows("prompted caption", (0.99, 0.94), probe_prompted)
    for kind in QUESTION_KINDS:
        for column, counts in (ONE, MORE):
            if (kind == "colour" and column != ONE[0]) or (kind in ("size", "side") and column == ONE[0]):
                continue
            yield AccuracyRow(f"vqa: {kind}", column, 0.90 if column == ONE[0] else 0.85, probe_question(kind), counts)
    yield from _rows("classify, ranked", (0.99, 0.95), probe_ranking)
    yield from _rows("few-shot, 2 shots", (0.96, 0.93), probe_few_shot)
    yield from _rows("dialogue", (0.95, 0.92), probe_dialogue)
    yield AccuracyRow("no shape", "none", 0.95, probe_blank, (0,))
    yield from _rows("dialogue, base", (0.98, 0.96), probe_turn)
    yield from _rows("story", (0.94, 0.91), probe_story)
    yield from _rows("write", (0.98, 0.94), probe_writing)
    yield AccuracyRow("ocr", "any", 0.98, probe_reading, (0, 1, 2, 3))
    yield from _rows("extract", (0.97, 0.95), probe_form(lambda _, scene: scene_form(scene)))
    yield from _rows("extract, fields", (0.92, 0.84), probe_form(field_form))
