"""Questions about a scene with their true answers, in many wordings and both spellings of colour."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .scenes import COLOURS, KINDS, Scene, Shape

Question = tuple[str, str]
"""What is asked, and the true answer."""


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name_shape(shape: Shape) -> str:
    """`a red circle`"""
    return with_article(f"{shape.colour} {shape.kind}")


def list_words(words: list[str]) -> str:
    """`a, b and c`"""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def caption(scene: Scene) -> str:
    """`A red circle and a blue star on a white background.`, from left to right."""
    if not scene.shapes:
        return "There is no shape in this image."
    text = f"{list_words([name_shape(shape) for shape in scene.shapes])} on {with_article(scene.ground)} background."
    return text[0].upper() + text[1:]


def _unique(random: Random, scene: Scene) -> Shape | None:
    alone = [shape for shape in scene.shapes if len(scene.find(shape.kind)) == 1]
    return random.choice(alone) if alone else None


def ask_colour_by_name(random: Random, scene: Scene) -> Question | None:
    shape = _unique(random, scene)
    if shape is None:
        return None
    kind = shape.kind
    wording = random.choice((
        "What {c} is the {k}?", "What {c} is the {k}?", "Which {c} is the {k}?", "What is the {c} of the {k}?",
        "What {c} does the {k} have?", "Which {c} does the {k} have?", "The {k} is what {c}?",
        "Tell me the {c} of the {k}.", "Name the {c} of the {k}.", "What's the {c} of the {k}?",
        "In what {c} is the {k} drawn?", "what {c} is the {k}", "Can you tell me what {c} the {k} is?",
        "What {c} is the {k} in this image?", "What {c} is the {k} in the picture?",
    ))  # fmt: skip
    return _spell(random, wording).replace("{k}", kind), shape.colour


def ask_colour(random: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) > 1:
        return None
    wording = random.choice((
        "What {c} is the {o}?", "What {c} is the {o}?", "Which {c} is the {o}?", "What is the {c} of the {o}?",
        "What {c} is it?", "Which {c} does the {o} have?", "Tell me the {c} of the {o}.",
        "What {c} is the {o} in this image?", "what {c} is the {o}", "What's the {c} of the {o}?",
        "What {c} does the {o} have?", "What {c} is this {o}?", "What {c} is the {o} in the picture?",
    ))  # fmt: skip
    noun = random.choice(("shape", "shape", "object", "figure", "thing"))
    answer = scene.shapes[0].colour if scene.shapes else "There is no shape."
    return _spell(random, wording).replace("{o}", noun), answer


def ask_kind(random: Random, scene: Scene) -> Question | None:
    if len(scene.shapes) <= 1:
        wording = random.choice((
            "What shape is this?", "Which shape is this?", "What shape is it?", "Which shape is shown?",
            "What shape is shown?", "What shape is in the image?", "Which shape is in the picture?",
            "What shape can you see?", "What is the shape?", "Which shape do you see?",
            "What kind of shape is this?", "Name the shape.", "what shape is this", "What shape is in this image?",
            "What shape do you see?", "What shape is in the picture?", "What is this shape?",
        ))  # fmt: skip
        return wording, scene.shapes[0].kind if scene.shapes else "There is no shape."
    alone = [s for s in scene.shapes if sum(other.colour == s.colour for other in scene.shapes) == 1]
    if not alone:
        return None
    shape = random.choice(alone)
    wording = random.choice((
        "Which shape is {x}?", "What shape is {x}?", "What is the {x} shape?", "Which shape is the {x} one?",
        "What is {x}?", "What shape has the {c} {x}?", "Name the {x} shape.", "What kind of shape is the {x} one?",
        "Which object is {x}?",
    ))  # fmt: skip
    return _spell(random, wording).replace("{x}", shape.colour), shape.kind


def ask_ground(random: Random, scene: Scene) -> Question:
    wording = random.choice((
        "What {c} is the background?", "What {c} is the background?", "What is the background {c}?",
        "Which {c} is the background?", "What is the {c} of the background?", "What {c} is the ground?",
        "Which {c} does the background have?", "What {c} does the background have?",
        "Tell me the {c} of the background.", "What {c} is behind the shapes?", "what {c} is the background",
        "What's the {c} of the background?", "On what {c} background is it?",
    ))  # fmt: skip
    return _spell(random, wording), scene.ground


def ask_place(random: Random, scene: Scene) -> Question | None:
    wordings = (
        "Where is the {k}?", "Where is the {k}?", "Where is the {k} in the image?",
        "Where in the picture is the {k}?", "In which part of the image is the {k}?",
        "What is the position of the {k}?", "Where can I find the {k}?", "Where do you see the {k}?",
        "where is the {k}", "Where is the {k} located?", "Where's the {k}?",
    )  # fmt: skip
    if not scene.shapes:
        return random.choice(wordings).replace("{k}", "shape"), "There is no shape."
    shape = _unique(random, scene)
    if shape is None:
        return None
    noun = random.choice((shape.kind, shape.kind, f"{shape.colour} {shape.kind}"))
    if len(scene.shapes) == 1:
        noun = random.choice((noun, "shape"))
    return random.choice(wordings).replace("{k}", noun), shape.place


def ask_count(random: Random, scene: Scene) -> Question:
    if random.random() < 0.6:
        wording = random.choice((
            "How many shapes are there?", "How many shapes are there?", "How many shapes are in the image?",
            "How many shapes do you see?", "How many objects are there?", "What is the number of shapes?",
            "How many shapes are in this picture?", "How many shapes can you see?", "Count the shapes.",
            "how many shapes are there", "How many shapes are shown?",
        ))  # fmt: skip
        return wording, str(len(scene.shapes))
    present = [shape.kind for shape in scene.shapes]
    kind = random.choice(present) if present and random.random() < 0.65 else random.choice(KINDS)
    plural = {"cross": "crosses"}.get(kind, f"{kind}s")
    wording = random.choice((
        "How many {k} are there?", "How many {k} do you see?", "How many {k} are in the image?", "Count the {k}.",
        "How many {k} can you see?", "how many {k} are there",
    ))  # fmt: skip
    return wording.replace("{k}", plural), str(len(scene.find(kind)))


def ask_presence(random: Random, scene: Scene) -> Question:
    want = random.random() < 0.5 and bool(scene.shapes)
    form = random.random()
    if form < 0.55:
        absent = [kind for kind in KINDS if not scene.find(kind)]
        noun = random.choice(scene.shapes).kind if want else random.choice(absent)
    else:
        shape = random.choice(scene.shapes) if scene.shapes else None
        if want and shape is not None:
            kind, colour = shape.kind, shape.colour
        else:
            kind = shape.kind if shape is not None and random.random() < 0.5 else random.choice(KINDS)
            taken = {s.colour for s in scene.find(kind)}
            colour = random.choice([c for c in COLOURS if c not in taken])
        if form > 0.85 and len(scene.find(kind)) == 1:
            wording = random.choice(("Is the {k} {x}?", "Is the {c} of the {k} {x}?", "Is this {k} {x}?"))
            return _spell(random, wording).replace("{k}", kind).replace("{x}", colour), "yes" if want else "no"
        noun = f"{colour} {kind}"
    wording = random.choice((
        "Is there {a}?", "Is there {a}?", "Is there {a} in the image?", "Do you see {a}?", "Can you see {a}?",
        "Is {a} in the picture?", "Does the image show {a}?", "Does the picture contain {a}?", "is there {a}",
        "Is there {a} in this image?",
    ))  # fmt: skip
    return wording.replace("{a}", with_article(noun)), "yes" if want else "no"


def _pair(random: Random, scene: Scene) -> tuple[Shape, Shape] | None:
    alone = [shape for shape in scene.shapes if len(scene.find(shape.kind)) == 1]
    if len(alone) < 2:
        return None
    first, second = random.sample(alone, 2)
    return first, second


def ask_size(random: Random, scene: Scene) -> Question | None:
    pair = _pair(random, scene)
    if pair is None:
        return None
    a, b = pair
    ratio = a.extent / b.extent
    if 1 / 1.3 < ratio < 1.3:
        return None
    word, bigger = random.choice((("bigger", True), ("larger", True), ("smaller", False)))
    if random.random() < 0.5:
        wording = random.choice(
            (
                "Is the {a} {w} than the {b}?",
                "Is the {a} {w} than the {b}?",
                "Would you say the {a} is {w} than the {b}?",
            )
        )
        answer = "yes" if (ratio > 1) == bigger else "no"
    else:
        wording = random.choice((
            "Which is {w}, the {a} or the {b}?", "Which is {w}, the {a} or the {b}?",
            "Which shape is {w}, the {a} or the {b}?", "What is {w}, the {a} or the {b}?",
        ))  # fmt: skip
        answer = (a if (ratio > 1) == bigger else b).kind
    return wording.replace("{a}", a.kind).replace("{b}", b.kind).replace("{w}", word), answer


def ask_side(random: Random, scene: Scene) -> Question | None:
    pair = _pair(random, scene)
    if pair is None:
        return None
    a, b = pair
    left = random.random() < 0.5
    side = "left" if left else "right"
    form = random.random()
    if form < 0.55:
        wording = random.choice((
            "Is the {a} left of the {b}?", "Is the {a} to the left of the {b}?",
            "Is the {a} on the left of the {b}?",
        ))  # fmt: skip
        answer = "yes" if (a.x < b.x) == left else "no"
    elif form < 0.8:
        wording = "Which is further left, the {a} or the {b}?"
        answer = (a if (a.x < b.x) == left else b).kind
    else:
        wording = random.choice(
            ("Which shape is on the left?", "What is on the left?", "Which shape is furthest left?")
        )
        answer = scene.shapes[0 if left else -1].kind
    return wording.replace("left", side).replace("{a}", a.kind).replace("{b}", b.kind), answer


def ask_contents(random: Random, scene: Scene) -> Question:
    wording = random.choice((
        "What is in this image?", "What is in this image?", "What is in the image?", "What do you see?",
        "What is this?", "What can you see?", "What does the image show?", "What do we see in this image?",
        "What is shown in the picture?", "And what is in this image?", "What is in the picture?",
        "Describe the image.", "What's in this picture?", "And how about this image?", "And what is this?",
    ))  # fmt: skip
    return wording, caption(scene)


def ask_about_absent(random: Random, scene: Scene) -> Question:
    kind = random.choice([kind for kind in KINDS if not scene.find(kind)])
    wording = random.choice(
        ("What {c} is the {k}?", "Where is the {k}?", "What is the {c} of the {k}?", "Which {c} is the {k}?")
    )
    return _spell(random, wording).replace("{k}", kind), f"There is no {kind}."


def _spell(random: Random, wording: str) -> str:
    return wording.replace("{c}", random.choice(("colour", "color")))


QUESTION_KINDS: dict[str, Callable[[Random, Scene], Question | None]] = {
    "colour by name": ask_colour_by_name,
    "colour": ask_colour,
    "kind": ask_kind,
    "ground": ask_ground,
    "place": ask_place,
    "count": ask_count,
    "presence": ask_presence,
    "size": ask_size,
    "side": ask_side,
    "contents": ask_contents,
    "absent": ask_about_absent,
}
"""Each returns None where the scene gives no such question (one shape has no side, twins have no name)."""


def ask(random: Random, scene: Scene, weights: dict[str, float]) -> Question:
    """A question of a kind drawn by weight, among those the scene allows."""
    names = list(weights)
    while True:
        question = QUESTION_KINDS[random.choices(names, list(weights.values()))[0]](random, scene)
        if question is not None:
            return question
