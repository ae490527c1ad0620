"""Texts about a scene: stories, ads, poems and titles, by what is asked for."""

from __future__ import annotations

from collections.abc import Callable

from .questions import list_words, name_shape, with_article
from .scenes import Scene

NO_TEXT = "There is no text in this image."


def things(scene: Scene) -> str:
    """`a red circle and a blue star`"""
    return list_words([name_shape(shape) for shape in scene.shapes]) if scene.shapes else "nothing"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def story(scene: Scene) -> str:
    if not scene.shapes:
        return f"Once upon a time there was {with_article(scene.ground)} land where nobody lived."
    names = [f"{shape.colour} {shape.kind}" for shape in scene.shapes]
    text = f"Once upon a time {with_article(names[0])} lived in {with_article(scene.ground)} land."
    if len(names) > 1:
        text += f" One day it met {list_words([with_article(name) for name in names[1:]])}, and they became friends."
    else:
        text += " It was happy there."
    return text


WRITINGS: dict[str, Callable[[Scene], str]] = {
    "Use the image to write a story.": story,
    "Write a story about this image.": story,
    "Write a short story.": story,
    "Tell me a story about this picture.": story,
    "Write an ad.": lambda scene: (
        f"Come and see {things(scene)}! Only today, on {with_article(scene.ground)} background."
    ),
    "Use the image to write an ad.": lambda s: (
        f"Come and see {things(s)}! Only today, on {with_article(s.ground)} background."
    ),
    "Write an advertisement for this.": lambda s: (
        f"Come and see {things(s)}! Only today, on {with_article(s.ground)} background."
    ),
    "Write a poem.": lambda scene: f"I saw {things(scene)} one day, and then it quietly went away.",
    "Use the image to write a poem.": lambda scene: f"I saw {things(scene)} one day, and then it quietly went away.",
    "Write a title for this image.": lambda scene: f"{sentence(things(scene))}",
}
