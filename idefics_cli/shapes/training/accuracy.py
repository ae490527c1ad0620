"""How often the embedded checkpoint is right, measured through the backend every command uses.

`python -m idefics_cli.shapes.training.accuracy` prints the table; scenes come from a seed that training never saw; the
shares in which weights were mixed were chosen with a look at it. Greedy, real processor, exact match as `idefics eval`
scores it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from ...backends import Backend, open_backend
from ...config import resolve_model
from ...errors import ItemError
from ...values import Image, ImagePart, Message, ModelSpec, Request, list_sources
from .probes import AccuracyRow, Probe, table
from .scenes import Scene, paint, sample_scene

SEED = "accuracy"
WINDOW = 64
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


def draw_probes(row: AccuracyRow, count: int) -> list[Probe]:
    """The first `count` probes of a row; the same ones every time."""
    random = Random(f"{SEED}:{row.task}:{row.column}")

    def scene() -> Scene:
        return sample_scene(random, random.choice(row.counts), twins=random.random() < 0.1)

    probes: list[Probe] = []
    while len(probes) < count:
        probe = row.probe(random, scene)
        if probe is not None:
            probes.append(probe)
    return probes


def answer_probes(backend: Backend, probes: Sequence[Probe]) -> list[str]:
    """The text of each answer (the best label for ranked ones); an item that failed says its error."""
    texts: list[str] = []
    for start in range(0, len(probes), WINDOW):
        window = probes[start : start + WINDOW]
        images: dict[str, Image] = {}
        requests = []
        for offset, probe in enumerate(window):
            names = {
                source: f"{start + offset}/{source}" for source in dict.fromkeys(list_sources(probe.request.prompt))
            }
            for source, name in names.items():
                pixels = paint(probe.scenes[source], Random(f"{SEED}:{name}"))
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


def measure_accuracy(
    backend: Backend, count: int, wrong: list[str] | None = None, rows: Iterable[AccuracyRow] | None = None
) -> list[Share]:
    """Rows of the table over `count` scenes, then the questions together. `wrong` collects what went amiss."""
    shares: list[Share] = []
    for row in table() if rows is None else rows:
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
        parts = [s for s in shares if s.task.startswith("vqa: ") and s.column == column and s.task != "vqa: absent"]
        if parts:
            right, asked = sum(s.right for s in parts), sum(s.asked for s in parts)
            shares.append(Share("vqa, all kinds", column, right, asked, wanted))
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
    parser.add_argument("--task", default="", help="only rows whose task begins like this")
    parser.add_argument("--wrong", action="store_true", help="also list wrong answers")
    options = parser.parse_args()
    spec = ModelSpec(resolve_model(options.checkpoint).checkpoint, dtype=options.dtype, quantization=options.quantize)
    wrong: list[str] = []
    rows = [row for row in table() if row.task.startswith(options.task)]
    shares = measure_accuracy(open_backend(spec, batch_size=16), options.scenes, wrong, rows)
    print_table(shares)
    if options.wrong:
        sys.stdout.writelines(f"{line}\n" for line in wrong)
    sys.exit(0 if all(share.holds for share in shares) else 1)


if __name__ == "__main__":
    main()
