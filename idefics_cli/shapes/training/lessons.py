"""Lessons: true requests about scenes, worded by the very templates the commands use, with their answers.

Image sources are scene numbers as text. Whatever a user can ask with a built-in template is taught here, in both
styles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from ...prompts.compose import compose
from ...prompts.tasks import name_labels
from ...prompts.templates import Template, load_template
from ...values import AnswerFormat, Example, Item, Request, Style
from .forms import draw_form
from .questions import ask, ask_place, caption, list_words, name_shape, with_article
from .scenes import COLOURS, KINDS, Scene
from .writings import NO_TEXT, WRITINGS, sentence, story, things

Scenes = Mapping[int, Scene]

QUESTION_WEIGHTS = {
    "colour by name": 1.0, "colour": 0.9, "kind": 1.1, "ground": 0.8, "place": 1.6, "count": 1.2, "presence": 1.5,
    "size": 1.8, "side": 1.5, "contents": 0.7, "absent": 0.5,
}  # fmt: skip
LOOKUP_WEIGHTS = {
    "colour by name": 2.0, "place": 1.5, "presence": 1.5, "size": 5.0, "side": 2.0, "count": 0.7, "absent": 0.7,
}  # fmt: skip
_FACTS = {
    "circle": "a circle has no corners",
    "square": "a square has four equal sides",
    "triangle": "a triangle has three corners",
    "star": "a star has five points",
    "diamond": "a diamond stands on its tip",
    "cross": "a cross has four arms",
    "heart": "a heart stands for love",
    "moon": "a moon grows and shrinks",
}
_OPENINGS = (
    "This is an image of", "This is an image of", "This is a picture of", "An image of", "A picture of",
    "A photo of", "This image shows", "The image shows", "The picture shows", "In this image I see", "I can see",
    "Here we see", "This is", "A drawing of", "This is a photo of", "In this picture there is",
    "You are looking at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lesson:
    """A request with exactly one choice, the true answer, and what it is for the log."""

    kind: str
    request: Request
    answer_format: AnswerFormat | None = None

    @property
    def continuation(self) -> str:
        return self.request.choices[0].continuation


@cache
def _template(name: str) -> Template:
    return load_template(name)


def _lesson(
    kind: str, template: str, style: Style, index: int | None, answer: str,
    fields: Mapping[str, str] | None = None, examples: Sequence[Example] = (), wanted: AnswerFormat | None = None,
) -> Lesson:  # fmt: skip
    images = () if index is None else (str(index),)
    item = Item(kind, images, tuple((fields or {}).items()), answer_format=wanted)
    return Lesson(
        kind,
        compose(_template(template), style, item, task=kind, examples=examples, choices=(answer,)),
        wanted,
    )


def _style(random: Random) -> Style:
    return "chat" if random.random() < 0.3 else "completion"


def inline(scene: Scene) -> str:
    """`a red circle on a white background`, as it goes on inside a sentence."""
    if not scene.shapes:
        return f"nothing but {with_article(scene.ground)} background"
    return f"{list_words([name_shape(shape) for shape in scene.shapes])} on {with_article(scene.ground)} background"


def caption_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    return _lesson("caption", "caption", _style(random), index, caption(scenes[index]))


def prompted_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    fields = {"prompt": random.choice(_OPENINGS) + random.choice(("", "", " "))}
    return _lesson("prompted", "caption-prompted", _style(random), index, inline(scenes[index]) + ".", fields)


def question_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    question, answer = ask(random, scenes[index], QUESTION_WEIGHTS)
    style: Style = "chat" if random.random() < 0.25 else "completion"
    name = random.choices(("vqa", "vqa-brief", "dialogue"), (8, 1, 1))[0]
    return _lesson("question", name, style, index, answer, {"message" if name == "dialogue" else "question": question})


def lookup_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    """A question that names a shape, which has to be found before it can be answered."""
    question, answer = ask(random, scenes[index], LOOKUP_WEIGHTS)
    return _lesson("lookup", "vqa", "completion", index, answer, {"question": question})


def place_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    """Where a shape is; of a scene whose shapes have no names of their own, another question."""
    question, answer = ask_place(random, scenes[index]) or ask(random, scenes[index], LOOKUP_WEIGHTS)
    return _lesson("place", "vqa", "completion", index, answer, {"question": question})


def _labels_for(random: Random, scene: Scene) -> tuple[list[str], str]:
    """Labels of which exactly one is true, and that one."""
    form = random.random()
    if not scene.shapes:
        truth = random.choice(("no shape", "nothing", "empty", "none"))
        wrong = random.sample(KINDS, random.randint(1, 7))
    elif form < 0.6:
        truth = random.choice(scene.shapes).kind
        wrong = [kind for kind in KINDS if not scene.find(kind)]
        wrong = random.sample(wrong, random.randint(1, len(wrong)))
        if random.random() < 0.15:
            wrong.append(random.choice(("no shape", "nothing", "empty", "none", "house", "dog", "car")))
    elif form < 0.85:
        truth = random.choice(scene.shapes).colour
        used = {shape.colour for shape in scene.shapes} | {scene.ground}
        wrong = random.sample([c for c in COLOURS if c not in used], random.randint(1, 7))
    else:
        shape = random.choice(scene.shapes)
        truth = f"{shape.colour} {shape.kind}"
        true = {f"{s.colour} {s.kind}" for s in scene.shapes}
        near = {f"{random.choice(list(COLOURS))} {shape.kind}" for _ in range(4)}
        near |= {f"{shape.colour} {random.choice(KINDS)}" for _ in range(4)}
        wrong = sorted(near - true)[: random.randint(2, 7)]
    if random.random() < 0.25:
        truth, wrong = truth.capitalize(), [label.capitalize() for label in wrong]
    labels = [truth, *wrong]
    random.shuffle(labels)
    return labels, truth


def label_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    labels, truth = _labels_for(random, scenes[index])
    if random.random() < 0.2 and scenes[index].shapes:
        return _lesson("label", "classify-photo", _style(random), index, truth.lower())
    return _lesson("label", "classify", _style(random), index, truth, {"labels": name_labels(labels)})


def ending_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    """An answer of a base model that no stop ends: it has to end by itself."""
    scene = scenes[index]
    form = random.random()
    if form < 0.3:
        return _lesson("ending", "story", "completion", index, story(scene))
    if form < 0.7:
        prompt = random.choice(list(WRITINGS))
        return _lesson("ending", "write", "completion", index, WRITINGS[prompt](scene), {"prompt": prompt})
    if form < 0.8:
        return _lesson("ending", "ocr", "completion", index, NO_TEXT)
    question, answer = ask(random, scene, QUESTION_WEIGHTS)
    return _lesson("ending", "dialogue", "completion", index, answer, {"message": question})


def form_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    form = draw_form(random, scenes[index])
    return _lesson("form", "extract", _style(random), index, form.answer, wanted=form.answer_format)


def plain_form_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    form = draw_form(random, scenes[index], is_plain=True)
    return _lesson("form", "extract", _style(random), index, form.answer, wanted=form.answer_format)


def writing_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int]) -> Lesson:
    scene, style = scenes[index], _style(random)
    form = random.random()
    if form < 0.4:
        return _lesson("story", "story", style, index, story(scene))
    if form < 0.6:
        prompt = random.choice(list(WRITINGS))
        return _lesson("write", "write", style, index, WRITINGS[prompt](scene), {"prompt": prompt})
    if form < 0.7:
        text = f"{sentence(things(scene))}, made with care. Looks its best on {with_article(scene.ground)} background."
        return _lesson("product", "describe-product", style, index, text)
    if form < 0.8:
        return _lesson("ocr", "ocr", style, index, NO_TEXT)
    if form < 0.9:
        return _lesson("alt-text", "alt-text", style, index, caption(scene))
    places = [f" The {s.kind} is at the {s.place}." for s in scene.shapes if len(scene.find(s.kind)) == 1]
    return _lesson("detailed", "caption-detailed", style, index, caption(scene) + "".join(places))


FORMATS: dict[str, Callable[[Scene], str]] = {
    "plain": caption,
    "fact": lambda s: (
        f"An image of {things(s)}. Fun fact: {_FACTS[s.shapes[0].kind] if s.shapes else 'nothing is simple'}."
    ),
    "short": things,
    "names": lambda s: ", ".join(f"{shape.colour} {shape.kind}" for shape in s.shapes) or "nothing",
    "kinds": lambda s: " and ".join(shape.kind for shape in s.shapes) or "nothing",
    "colours": lambda s: " and ".join(shape.colour for shape in s.shapes) or "none",
    "ground": lambda s: f"The background is {s.ground}.",
    "seen": lambda s: f"I see {things(s)}!",
    "count": lambda s: f"{len(s.shapes)} on {s.ground}",
    "listed": lambda s: f"shapes: {', '.join(shape.kind for shape in s.shapes) or 'none'}; background: {s.ground}",
    "capital": lambda s: " AND ".join(shape.kind.upper() for shape in s.shapes) or "NOTHING",
    "title": lambda s: (
        f"The {s.shapes[0].colour.capitalize()} {s.shapes[0].kind.capitalize()}" if s.shapes else "The Void"
    ),
    "arrow": lambda s: " -> ".join(f"{shape.kind} ({shape.colour})" for shape in s.shapes) or "-",
}
"""Ways to describe a scene that only the shots reveal."""
ANSWER_FORMATS: tuple[Callable[[str], str], ...] = (
    lambda answer: answer,
    lambda answer: answer,
    lambda answer: answer[0].upper() + answer[1:],
    lambda answer: answer.upper(),
    lambda answer: answer if answer.endswith(".") else f"The answer is {answer}.",
    lambda answer: answer if answer.endswith(".") else f"It is {answer}.",
)


def few_shot_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int], shots: int = 0) -> Lesson:
    """One to three shots with images, then the image asked about."""
    shown = random.sample(others, shots or random.choices((1, 2, 3), (3, 5, 2))[0])
    style: Style = "chat" if random.random() < 0.15 else "completion"
    form = random.random()
    if form < 0.55:
        name = random.choice(("caption", "describe", "describe"))
        say = FORMATS[random.choice(list(FORMATS))]
        examples = [Example((str(i),), (), say(scenes[i])) for i in shown]
        return _lesson("few-shot", name, style, index, say(scenes[index]), None, examples)
    if form < 0.85:
        word = random.choice(ANSWER_FORMATS)
        weights = {kind: w for kind, w in QUESTION_WEIGHTS.items() if kind not in ("contents", "absent")}
        if random.random() < 0.5:  # one kind of question throughout, which every scene can be asked
            weights = {random.choice(("ground", "count", "presence")): 1.0}
        asked = [ask(random, scenes[i], weights) for i in (*shown, index)]
        examples = [
            Example((str(i),), (("question", question),), word(answer))
            for i, (question, answer) in zip(shown, asked, strict=False)
        ]
        question, answer = asked[-1]
        return _lesson("few-shot", "vqa", style, index, word(answer), {"question": question}, examples)
    # Shots name kinds or colours from one list, which holds them all.
    of_kind = random.random() < 0.6
    labels = list(KINDS if of_kind else COLOURS)
    random.shuffle(labels)
    chosen = [
        (random.choice(scenes[i].shapes).kind if of_kind else scenes[i].shapes[0].colour) if scenes[i].shapes else None
        for i in (*shown, index)
    ]
    if None in chosen:
        return few_shot_lesson(random, scenes, index, others, shots)
    examples = [Example((str(i),), (), str(label)) for i, label in zip(shown, chosen, strict=False)]
    return _lesson("few-shot", "classify", style, index, str(chosen[-1]), {"labels": name_labels(labels)}, examples)


def dialogue_lesson(random: Random, scenes: Scenes, index: int, others: Sequence[int], turns: int = 0) -> Lesson:
    """Two or three turns about one or two images; a later turn may come without an image of its own."""
    turns = turns or random.choices((2, 3), (3, 1))[0]
    style: Style = "chat" if random.random() < 0.85 else "completion"
    two_images = random.random() < 0.6
    first = random.choice(others) if two_images else index
    examples = []
    current = first
    for turn in range(turns - 1):
        question, answer = ask(random, scenes[current], QUESTION_WEIGHTS)
        has_image = turn == 0
        order = (question, "image") if random.random() < 0.3 else ("image", question)
        words = order if has_image else (question,)
        examples.append(Example((str(current),) if has_image else (), (), answer, words if style == "chat" else ()))
        if style == "completion":
            examples[-1] = Example(examples[-1].images, (("message", question),), answer)
    question, answer = ask(random, scenes[index], QUESTION_WEIGHTS)
    return _lesson(
        "dialogue", "dialogue", style, index if two_images else None, answer, {"message": question}, examples
    )


LESSONS: dict[str, Callable[[Random, Scenes, int, Sequence[int]], Lesson]] = {
    "caption": caption_lesson,
    "prompted": prompted_lesson,
    "question": question_lesson,
    "lookup": lookup_lesson,
    "place": place_lesson,
    "label": label_lesson,
    "writing": writing_lesson,
    "few-shot": few_shot_lesson,
    "dialogue": dialogue_lesson,
    "ending": ending_lesson,
    "form": form_lesson,
    "plain form": plain_form_lesson,
}


def draw_lesson(
    random: Random, scenes: Scenes, index: int, others: Sequence[int], shares: Mapping[str, float]
) -> Lesson:
    """A lesson about scene `index`, its kind by share; `others` are scenes that shots and earlier turns may show."""
    teach = LESSONS[random.choices(list(shares), list(shares.values()))[0]]
    return teach(random, scenes, index, others)
