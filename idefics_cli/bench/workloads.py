"""The workloads: what is asked, in how many requests, about which generated images.

A workload is the same on every machine and in every arm. Another `seed` gives other images of the same kind, so that
warming up leaves nothing useful in a cache.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw

from ..prompts.compose import compose
from ..prompts.tasks import name_labels
from ..prompts.templates import load_template
from ..values import Example, Image, Item, Request, Style
from .corpus import CAPTIONS, QUESTIONS, list_labels

SIZE = (640, 480)
LONGEST = 16
"""How many times longer than usual an answer may be."""
MIXED_SHOTS = 4
MIXED_LABELS = 10
MIXED_TASKS = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table. `images` is how many images are asked about; `shots` have images of their own."""

    name: str
    title: str
    images: int
    shots: int = 0
    questions: int = 0
    labels: int = 0
    is_mixed: bool = False
    answers: Literal["alike", "log-normal", "one long"] = "alike"
    longer: int = 1
    """How many times longer its usual answers are than those of others."""
    is_read: bool = False
    """Whether its pictures are photos in files, to be read while the clock runs."""
    device_seconds: float = 0.0
    """The seconds of a simulated device for an answer, where there is one; then all photos are large."""
    compared: bool = True
    """Whether the other arms run it too; a thousand full prompts an image would take them hours."""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("caption-0", "caption, no shots", 64),
        Workload("caption-4", "caption, 4 shots", 64, shots=4),
        Workload("caption-8", "caption, 8 shots", 64, shots=8),
        Workload("questions", "16 questions an image", 8, questions=16),
        Workload("rank-20", "rank 20 labels", 8, labels=20),
        Workload("rank-100", "rank 100 labels", 4, labels=100),
        Workload("rank-1000", "rank 1000 labels", 4, labels=1000, compared=False),
        Workload("mixed", "5 tasks, shuffled", 64, is_mixed=True),
        Workload("lengths", "answers of log-normal length", 64, answers="log-normal", longer=4),
        Workload("one-long", "one long answer among short", 64, answers="one long", longer=4),
        Workload("photos", "photos of 12 and 0.3 megapixels", 16, is_read=True),
        Workload("device", "a device of 30 ms an image", 32, is_read=True, device_seconds=0.03, compared=False),
    )
}


@dataclass(frozen=True, slots=True)
class WorkloadRequests:
    """A workload as requests for one style of checkpoint, with every image in memory."""

    requests: tuple[Request, ...]
    images: Mapping[str, Image]


def compose_work(
    workload: Workload, style: Style, *, images: int, new_tokens: int, seed: int = 0, folder: str = ""
) -> WorkloadRequests:
    """The requests about `images` images, each answer `new_tokens` long. Files to be read are in the folder."""
    form = f"{folder}/{workload.name}-{seed}-{{}}.jpg" if workload.is_read else f"{workload.name}-{{}}.png"
    names = [form.format(index) for index in range(images)]
    shots = [f"shot-{index}.png" for index in range(max(workload.shots, MIXED_SHOTS * workload.is_mixed))]
    composer = _Composer(style, {"max_new_tokens": new_tokens, "num_beams": 1, "stop": ()}, shots)
    if workload.is_mixed:
        requests = list(composer.mix(names))
        random.Random(3).shuffle(requests)
    elif workload.questions:
        requests = [composer.ask(name, question) for name in names for question in QUESTIONS[: workload.questions]]
    elif workload.labels:
        labels = list_labels(workload.labels)
        requests = [composer.word("classify-photo", name, choices=labels) for name in names]
    else:
        requests = [composer.word("caption", name, shots=workload.shots) for name in names]
    requests = list(_vary(requests, workload, workload.longer * new_tokens))
    pictures = draw_pictures([*names, *shots], seed)
    return WorkloadRequests(tuple(requests), {picture.source: picture for picture in pictures})


def _vary(requests: Sequence[Request], workload: Workload, new_tokens: int) -> Iterator[Request]:
    """Each request with the length of its own answer."""
    chance = random.Random(5)
    for index, request in enumerate(requests):
        count = new_tokens
        if workload.answers == "log-normal":
            count = round(min(chance.lognormvariate(math.log(new_tokens), 1.0), LONGEST * new_tokens)) or 1
        elif workload.answers == "one long" and index == 0:
            count = LONGEST * new_tokens
        yield replace(request, decoding=replace(request.decoding, max_new_tokens=count))


def draw_pictures(sources: Sequence[str], seed: int = 0) -> Iterator[Image]:
    """Images with soft colours, hard edges and noise, all different."""
    generator = np.random.default_rng(seed)
    width, height = SIZE
    for source in sources:
        coarse = PIL.Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture = coarse.resize(SIZE, PIL.Image.Resampling.BICUBIC)
        draw = PIL.ImageDraw.Draw(picture)
        for x, y, radius, *colour in generator.integers(0, (width, height, 150, 256, 256, 256), (5, 6)).tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour))
        grain = generator.integers(0, 16, (height, width, 1), dtype=np.uint8)
        picture = PIL.Image.fromarray(np.asarray(picture) ^ grain)
        yield Image(source, picture, hashlib.sha256(picture.tobytes()).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class _Composer:
    style: Style
    decoding: Mapping[str, Any]
    shots: Sequence[str]

    def word(
        self,
        template: str,
        image: str,
        fields: tuple[tuple[str, str], ...] = (),
        *,
        shots: int = 0,
        choices: Sequence[str] = (),
    ) -> Request:
        examples = [
            Example((source,), (), CAPTIONS[index % len(CAPTIONS)]) for index, source in enumerate(self.shots[:shots])
        ]
        return compose(
            load_template(template),
            self.style,
            Item(image, (image,), fields),
            task=template,
            examples=examples,
            decoding=self.decoding,
            choices=choices,
        )

    def ask(self, image: str, question: str) -> Request:
        return self.word("vqa", image, (("question", question),))

    def mix(self, images: Sequence[str]) -> Iterator[Request]:
        """Five tasks in turn, each about an image of its own."""
        labels = list_labels(MIXED_LABELS)
        for index, image in enumerate(images):
            task = index % MIXED_TASKS
            if task == 0:
                yield self.word("caption", image)
            elif task == 1:
                yield self.word("describe", image, shots=MIXED_SHOTS)
            elif task == 2:
                yield self.ask(image, QUESTIONS[index // MIXED_TASKS % len(QUESTIONS)])
            elif task == 3:
                yield self.word("classify", image, (("labels", name_labels(labels)),), choices=labels)
            else:
                yield self.word("story", image)
