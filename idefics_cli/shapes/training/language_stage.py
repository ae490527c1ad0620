"""Stage two of the training: all weights, on lessons worded by the templates.

The vision tower runs once per picture of a step and serves all lessons about it; the loss is taken on answers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import IdeficsForVisionText2Text

from ...engine.grammar import Grammars
from ...models.families.idefics import IdeficsFamily
from ...values import list_sources
from .lessons import Lesson, draw_lesson
from .scenes import Scene
from .words import LAYER, Finding, WordHeads, Words, find_words

LENGTH_STEP = 16
WORD_SHARE = 0.3
"""Weight of what words find, beside the answers."""
SEVERAL, FORMS = 2, 3
"""Groups of rows that are known by what is asked; of the others, the shorter ones are the first."""


@dataclass(frozen=True, slots=True)
class LessonPhase:
    """A part of the stage: what is taught, and the factors of the learning rate it begins and ends with.

    `groups` are the rows a step: short ones about one image, longer ones, those with several images, and forms. Their
    counts and coarse lengths never vary, because oneDNN compiles its kernels anew for every shape.
    """

    name: str
    steps: int
    shares: Mapping[str, float]
    groups: tuple[int, int, int, int]
    several: float
    """Share of pictures with two or three shapes."""
    rates: tuple[float, float]
    lessons_each: int = 4
    """Lessons a picture, about: fewer show more pictures, which keeps the tower from learning them by heart."""
    word_share: float = WORD_SHARE
    has_ends: bool = False
    """Whether a document ends where its answer does; if not, it is left open what comes after an answer."""
    skips_forced: bool = False
    """Whether nothing is learnt of what a form's schema leaves no choice about."""
    begins: Mapping[str, float] = field(default_factory=dict)
    """Shares of the weights after earlier phases that this one begins with; none for those of the last one."""

    @property
    def pictures(self) -> int:
        return sum(self.groups) // self.lessons_each


EVERYTHING = {
    "caption": 11, "prompted": 9, "question": 26, "lookup": 14, "label": 13, "writing": 7, "few-shot": 11,
    "dialogue": 9,
}  # fmt: skip
SEARCH = {
    "caption": 5, "prompted": 3, "question": 10, "lookup": 56, "label": 12, "writing": 2, "few-shot": 7, "dialogue": 5,
}  # fmt: skip
POLISH = {
    "caption": 18, "prompted": 11, "question": 13, "lookup": 14, "label": 8, "writing": 4, "few-shot": 23,
    "dialogue": 9,
}  # fmt: skip
ANSWERS = {
    "caption": 15, "prompted": 8, "question": 12, "lookup": 14, "place": 7, "label": 8, "writing": 4, "ending": 10,
    "few-shot": 18, "dialogue": 7, "form": 18,
}  # fmt: skip
FINISH = {
    "caption": 17, "prompted": 9, "question": 13, "lookup": 14, "place": 7, "label": 8, "writing": 3, "ending": 7,
    "few-shot": 22, "dialogue": 8, "plain form": 18,
}  # fmt: skip
AGAIN = {
    "caption": 16, "prompted": 9, "question": 16, "lookup": 12, "place": 8, "label": 7, "writing": 3, "ending": 11,
    "few-shot": 20, "dialogue": 15, "plain form": 18,
}  # fmt: skip
HOLD = {
    "caption": 10, "prompted": 5, "question": 26, "lookup": 16, "place": 6, "label": 6, "writing": 3, "ending": 7,
    "few-shot": 16, "dialogue": 40, "plain form": 12,
}  # fmt: skip
PHASES = (
    LessonPhase("everything", 650, EVERYTHING, (96, 48, 32, 0), 0.5, (1.0, 0.4)),
    # Finding a shape by its name comes late; see `words`.
    LessonPhase("search", 250, SEARCH, (112, 24, 8, 0), 0.75, (0.5, 0.4)),
    LessonPhase("polish", 650, POLISH, (96, 32, 32, 0), 0.8, (0.5, 0.0)),
    LessonPhase("settle", 590, POLISH, (88, 32, 40, 0), 0.85, (0.4, 0.0), lessons_each=2),
)
"""What is taught from random weights on."""
FURTHER_PHASES = (
    LessonPhase(
        "answers",
        140,
        ANSWERS,
        (72, 28, 32, 18),
        0.8,
        (0.3, 0.3),
        lessons_each=2,
        has_ends=True,
        skips_forced=True,
    ),
    LessonPhase(
        "finish",
        350,
        FINISH,
        (72, 28, 36, 16),
        0.85,
        (0.3, 0.0),
        lessons_each=2,
        has_ends=True,
        skips_forced=True,
    ),
    LessonPhase(
        "again",
        100,
        AGAIN,
        (72, 28, 40, 16),
        0.65,
        (0.13, 0.0),
        lessons_each=2,
        has_ends=True,
        skips_forced=True,
    ),
    LessonPhase(
        "hold",
        56,
        HOLD,
        (64, 28, 52, 8),
        0.8,
        (0.13, 0.0),
        lessons_each=2,
        has_ends=True,
        skips_forced=True,
        begins={"": 0.08, "finish": 0.46, "again": 0.46},
    ),
)
"""What is taught from finished weights on: to end texts and to fill in forms, and what that unsettled again."""
SHIPPED = {"": 0.16, "finish": 0.252, "again": 0.252, "hold": 0.336}
"""Shares of the weights after each phase, "" those before all: a mean is right more often than any of them."""


def mix_weights(kept: Mapping[str, Mapping[str, Tensor]], shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Each weight as a mean over what it was after the phases."""
    names = kept[next(iter(shares))]
    return {name: sum((kept[one][name] * part for one, part in shares.items()), torch.zeros(())) for name in names}


def find_phase(step: int) -> tuple[LessonPhase, float]:
    """The phase of a step, and how far into it the step is, from 0 to 1."""
    for phase in (*PHASES, *FURTHER_PHASES):
        if step < phase.steps:
            return phase, step / phase.steps
        step -= phase.steps
    raise IndexError("the stage is over")


def rate_factor(step: int) -> float:
    """Learning-rate factor: a warm-up of 150 steps; each phase goes from one rate to the other by half a cosine."""
    if step < 150:
        return (step + 1) / 150
    phase, progress = find_phase(step)
    begin, end = phase.rates
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class LessonRow:
    """One lesson as ids: the answer is `ids[start:]`; `pictures` are rows of the step's pictures, in prompt order."""

    kind: str
    ids: tuple[int, ...]
    start: int
    pictures: tuple[int, ...]
    findings: tuple[Finding, ...]
    forced: frozenset[int] = frozenset()
    """Places of the answer that nothing is learnt of."""

    @property
    def group(self) -> int:
        return SEVERAL if len(self.pictures) > 1 else FORMS if self.kind == "form" else 0


def encode_lesson(
    family: IdeficsFamily,
    lesson: Lesson,
    places: Mapping[str, int],
    scenes: Mapping[int, Scene],
    words: Words,
    *,
    has_end: bool = False,
    forms: Grammars | None = None,
) -> LessonRow:
    prompt = lesson.request.prompt
    sources = list_sources(prompt)
    asked = family.tokenize_prompt(prompt)
    ids = family.tokenize_prompt(prompt, lesson.continuation)
    if has_end and prompt[0].role == "document" and lesson.continuation.endswith("\n"):
        ids = (*ids, family.tokenizer.eos_token_id)
    start = next((i for i, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b), len(asked))
    forced = frozenset[int]()
    if forms is not None and lesson.answer_format is not None:
        told = forms.list_forced(lesson.answer_format, ids[start:])
        forced = frozenset(start + place for place, is_forced in enumerate(told) if is_forced)
    findings = find_words(ids, [scenes[int(source)] for source in sources], words, family.image_id or 0)
    return LessonRow(lesson.kind, ids, start, tuple(places[source] for source in sources), findings, forced)


def draw_rows(
    family: IdeficsFamily,
    scenes: Mapping[int, Scene],
    picks: Sequence[int],
    random: Random,
    phase: LessonPhase,
    words: Words,
    forms: Grammars | None = None,
) -> list[LessonRow]:
    """The lessons of a step about the picked scenes, as many as the groups take."""
    places = {str(pick): place for place, pick in enumerate(picks)}
    room = {0: phase.groups[0] + phase.groups[1], SEVERAL: phase.groups[SEVERAL], FORMS: phase.groups[FORMS]}
    rows: list[LessonRow] = []
    for place, pick in cycle(enumerate(picks)):
        others = [*picks[:place], *picks[place + 1 :]]
        lesson = draw_lesson(random, scenes, pick, others, phase.shares)
        row = encode_lesson(
            family,
            lesson,
            places,
            scenes,
            words,
            has_end=phase.has_ends,
            forms=forms if phase.skips_forced else None,
        )
        if room[row.group]:
            room[row.group] -= 1
            rows.append(row)
        elif not any(room.values()):
            break
    return rows


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of similar length and image count as tensors. `answer` marks the positions that predict answer tokens."""

    findings: tuple[tuple[int, Finding], ...]

    kinds: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    seen: Tensor
    pictures: Tensor
    answer: Tensor
    weights: Tensor


def group_rows(rows: Sequence[LessonRow], image_id: int, short: int) -> list[Group]:
    """The `short` shortest of the one-image rows, the others, the rows with several images, and forms if there are."""
    parts = {group: [row for row in rows if row.group == group] for group in (0, SEVERAL, FORMS)}
    single = sorted(parts[0], key=lambda row: len(row.ids))
    groups = (single[:short], single[short:], parts[SEVERAL], parts[FORMS])
    return [_stack(part, image_id) for part in groups if part]


def _stack(rows: Sequence[LessonRow], image_id: int) -> Group:
    # Right padding: nothing attends to what comes after it.
    width = -(-max(len(row.ids) for row in rows) // LENGTH_STEP) * LENGTH_STEP
    count = max(len(row.pictures) for row in rows)
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.long),
    )
    answer = torch.zeros(len(rows), width, dtype=torch.bool)
    weights = torch.zeros(len(rows), width)
    pictures = torch.zeros(len(rows), count, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids)
        mask[index, :length] = 1
        answer[index, row.start - 1 : length - 1] = True
        answer[index, [place - 1 for place in row.forced]] = False
        weights[index, row.start - 1 : length - 1] = (length - row.start - len(row.forced)) ** -0.5
        pictures[index, : len(row.pictures)] = torch.tensor(row.pictures)
    latest = (ids == image_id).cumsum(1) - 1
    seen = F.one_hot(latest.clamp(min=0), count) * (latest >= 0)[..., None]
    findings = tuple((index, finding) for index, row in enumerate(rows) for finding in row.findings)
    return Group(findings, tuple(row.kind for row in rows), ids, mask, seen, pictures, answer, weights)


def measure(
    model: IdeficsForVisionText2Text,
    heads: WordHeads,
    pixels: Tensor,
    groups: Sequence[Group],
    word_share: float = WORD_SHARE,
    *,
    has_new_heads: bool = False,
) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """The loss of a step, and per lesson kind how many answers were right token for token, and of how many.

    Heads that are new learn alone: what they say first would only mislead the weights.
    """
    tally: dict[str, list[int]] = {}
    losses, word_losses, total = [], [], torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16):
        features = model.model.vision_model(pixel_values=pixels).last_hidden_state
        for group in groups:
            states: list[Tensor] = []
            hook = model.model.layers[LAYER].register_forward_hook(lambda _, __, out, kept=states: kept.append(out))
            hidden = model.model(
                input_ids=group.ids,
                attention_mask=group.mask,
                image_encoder_embeddings=features[group.pictures],
                image_attention_mask=group.seen,
                use_cache=False,
            ).last_hidden_state
            hook.remove()
            if group.findings and word_share:
                word_loss, (right, asked) = heads.loss(
                    states[0].detach() if has_new_heads else states[0], group.findings
                )
                word_losses.append(word_loss)
                tally.setdefault("words", [0, 0])
                tally["words"] = [tally["words"][0] + right, tally["words"][1] + asked]
            logits = model.lm_head(hidden[group.answer]).float()
            wanted = group.ids.roll(-1, 1)[group.answer]
            weights = group.weights[group.answer]
            losses.append((F.cross_entropy(logits, wanted, reduction="none") * weights).sum())
            total = total + weights.sum()
            wrong = torch.zeros_like(group.answer)
            wrong[group.answer] = logits.argmax(-1) != wanted
            for kind, is_wrong in zip(group.kinds, wrong.any(1).tolist(), strict=True):
                right, asked = tally.setdefault(kind, [0, 0])
                tally[kind] = [right + (not is_wrong), asked + 1]
    loss = torch.stack(losses).sum() / total
    if word_losses:
        loss = loss + word_share * torch.stack(word_losses).mean()
    return loss, {kind: (right, asked) for kind, (right, asked) in tally.items()}
