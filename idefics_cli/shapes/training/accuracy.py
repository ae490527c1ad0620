"""How often the embedded checkpoint is right, measured through the backend every command uses.

`python -m idefics_cli.shapes.training.accuracy` prints the table; scenes come from a seed that training and choosing
never saw. Greedy, real processor, exact match as `idefics eval` scores it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from ...backends import Backend, open_backend
from ...config import resolve_model
from ...errors import ItemError
from ...eval.answers import is_exact
from ...prompts.compose import compose
from ...prompts.templates import load_template
from ...values import Example, Image, ImagePart, Item, Message, ModelSpec, Request, Style, list_sources
from .lessons import FORMATS, inline
from .questions import QUESTION_KINDS, caption
from .scenes import KINDS, Scene, paint, sample_scene

SEED = "accuracy"
WINDOW = 64
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


def _probe(
    template: str, style: Style, scenes: Sequence[Scene], judge: Judge, *, fields: Mapping[str, str] | None = None,
    examples: Sequence[Example] = (), choices: Sequence[str] = (),
) -> Probe:  # fmt: skip
    """A probe about the last scene; earlier scenes are those of the examples, whose sources are "0", "1", …"""
    item = Item("probe", (str(len(scenes) - 1),), tuple((fields or {}).items()))
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
    return _probe(
        "dialogue", "chat", scenes, _equals(second[1]), fields={"message": second[0]}, examples=examples
    )


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


def table() -> Iterator[AccuracyRow]:
    """The promises, one by one."""
    one, more = ("one shape", (1,)), ("two or three", (2, 3))

    def rows(
        task: str, wanted: tuple[float, float], probe: Callable[..., Probe | None]
    ) -> Iterator[AccuracyRow]:
        for (column, counts), share in zip((one, more), wanted, strict=True):
            yield AccuracyRow(task, column, share, probe, counts)

    yield from rows("caption", (0.99, 0.94), probe_caption)
    yield from rows("prompted caption", (0.99, 0.94), probe_prompted)
    for kind in QUESTION_KINDS:
        for column, counts in (one, more):
            if (kind == "colour" and column != one[0]) or (kind in ("size", "side") and column == one[0]):
                continue
            yield AccuracyRow(
                f"vqa: {kind}", column, 0.90 if column == one[0] else 0.85, probe_question(kind), counts
            )
    yield from rows("classify, ranked", (0.99, 0.95), probe_ranking)
    yield from rows("few-shot, 2 shots", (0.96, 0.93), probe_few_shot)
    yield from rows("dialogue", (0.95, 0.92), probe_dialogue)
    yield AccuracyRow("no shape", "none", 0.95, probe_blank, (0,))


VQA_WANTED = {"one shape": 0.96, "two or three": 0.93}
"""The share promised over all kinds of questions in equal parts."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a row of the table came to."""

    task: str
    column: str
    right: int
    asked: int
    wanted: float

    @property
    def value(self) -> float:
        return self.right / self.asked

    @property
    def holds(self) -> bool:
        return self.value >= self.wanted


def draw_probes(row: AccuracyRow, count: int, seed: str = SEED) -> list[Probe]:
    """The first `count` probes of a row; the same ones every time."""
    random = Random(f"{seed}:{row.task}:{row.column}")

    def scene() -> Scene:
        return sample_scene(random, random.choice(row.counts), twins=random.random() < 0.1)

    probes: list[Probe] = []
    while len(probes) < count:
        probe = row.probe(random, scene)
        if probe is not None:
            probes.append(probe)
    return probes


def answer_probes(backend: Backend, probes: Sequence[Probe], seed: str = SEED) -> list[str]:
    """The text of each answer (the best label for ranked ones); an item that failed says its error."""
    texts: list[str] = []
    for start in range(0, len(probes), WINDOW):
        window = probes[start : start + WINDOW]
        images: dict[str, Image] = {}
        requests = []
        for offset, probe in enumerate(window):
            names = {
                source: f"{start + offset}/{source}"
                for source in dict.fromkeys(list_sources(probe.request.prompt))
            }
            for source, name in names.items():
                pixels = paint(probe.scenes[source], Random(f"{seed}:{name}"))
                images[name] = Image(name, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
            requests.append(_rename(probe.request, names))
        for answer in backend.answer(requests, images):
            if isinstance(answer, ItemError):
                texts.append(f"[{answer}]")
            else:
                texts.append(answer.scores[0].label if answer.scores else answer.text)
    return texts


def _rename(request: Request, names: Mapping[str, str]) -> Request:
    prompt = tuple(
        Message(m.role, tuple(ImagePart(names[p.source]) if isinstance(p, ImagePart) else p for p in m.parts))
        for m in request.prompt
    )
    return replace(request, prompt=prompt, images=tuple(names[source] for source in request.images))


def measure_accuracy(backend: Backend, count: int, wrong: list[str] | None = None) -> list[Share]:
    """Every row of the table over `count` scenes, then the questions together. `wrong` collects what went amiss."""
    shares: list[Share] = []
    for row in table():
        probes = draw_probes(row, count)
        texts = answer_probes(backend, probes)
        verdicts = [probe.is_right(text) for probe, text in zip(probes, texts, strict=True)]
        shares.append(Share(row.task, row.column, sum(verdicts), count, row.wanted))
        if wrong is not None:
            wrong += [
                f"{row.task}: {text!r} for {dict(probe.request.fields)} {list(probe.scenes.values())[-1]}"
                for probe, text, verdict in zip(probes, texts, verdicts, strict=True)
                if not verdict
            ]
    for column, wanted in VQA_WANTED.items():
        parts = [
            s for s in shares if s.task.startswith("vqa: ") and s.column == column and s.task != "vqa: absent"
        ]
        shares.append(
            Share("vqa, all kinds", column, sum(s.right for s in parts), sum(s.asked for s in parts), wanted)
        )
    return shares


def print_table(shares: Sequence[Share]) -> None:
    for share in shares:
        verdict = "" if share.holds else "  below"
        sys.stdout.write(
            f"{share.task:<22} {share.column:<13} {share.value:7.1%}  of {share.asked:<5} "
            f"promised {share.wanted:.0%}{verdict}\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="scenes a row")
    parser.add_argument("--checkpoint", default="shapes")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default=None)
    parser.add_argument("--wrong", action="store_true", help="also list wrong answers")
    options = parser.parse_args()
    spec = ModelSpec(
        resolve_model(options.checkpoint).checkpoint, dtype=options.dtype, quantization=options.quantize
    )
    wrong: list[str] = []
    shares = measure_accuracy(open_backend(spec, batch_size=16), options.scenes, wrong)
    print_table(shares)
    if options.wrong:
        sys.stdout.writelines(f"{line}\n" for line in wrong)
    sys.exit(0 if all(share.holds for share in shares) else 1)


if __name__ == "__main__":
    main()
