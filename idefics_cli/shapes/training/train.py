"""Train the embedded checkpoint: `python -m idefics_cli.shapes.training.train`. Seeded, resumable, one command.

Pictures are painted once; stage one trains the vision tower alone, stage two everything on the prompts the templates
write. State goes to `.training/` every minute, the finished checkpoint to `checkpoint/` beside this file.

`--from CHECKPOINT --phase answers` goes on from finished weights at a phase of stage two, with fewer pictures, of its
own. `make shapes` does one, then the other: the phases after `settle` are run only so.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import argparse
import ctypes
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoProcessor, GenerationConfig, IdeficsForVisionText2Text, IdeficsProcessor

from ...engine.grammar import Grammars
from ...models.families.idefics import IdeficsFamily
from ...values import TextPart
from .architecture import new_config, new_model, train_processor
from .language_stage import (
    EVERYTHING,
    FURTHER_PHASES,
    PHASES,
    SHIPPED,
    draw_rows,
    find_phase,
    group_rows,
    measure,
    mix_weights,
    rate_factor,
)
from .lessons import draw_lesson
from .pictures import load_all, paint_all, scene_number
from .scenes import Scene
from .vision_stage import Heads, targets
from .words import WordHeads, read_words

SEED = "train"
EVERY_PHASE = (*PHASES, *FURTHER_PHASES)
SAVE_SECONDS = 60.0
WARM_STEPS = 30
HEAD_STEPS = 120
"""What heads that are new learn before the weights learn from them."""
# CLIP's statistics, which IdeficsImageProcessor normalises with.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def keep_freed_memory() -> None:
    """Have glibc keep freed memory: asking the kernel for it anew at every step cost a seventh of the time."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc has no mallopt
            libc = ctypes.CDLL(None)
            libc.mallopt(-4, 0)  # M_MMAP_MAX
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def normalise(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """`[n, 80, 80, 3]` bytes to `[n, 3, 80, 80]` floats as the image processor gives them."""
    return ((torch.tensor(pictures).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def warm_cosine(steps: int) -> Callable[[int], float]:
    """Learning-rate factor by step: linear warm-up over 150 steps, then a half cosine to zero."""
    return lambda step: min((step + 1) / 150, 0.5 * (1 + math.cos(math.pi * max(0, step - 150) / (steps - 150))))


class Stage:
    """A resumable loop: `loss_of(prepare(step))`, one optimiser step each, state saved every minute."""

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        steps: int,
        rate: float,
        factor: Callable[[int], float],
        first: int = 0,
    ):
        self.path, self.modules, self.steps, self.rate, self.factor = path, modules, steps, rate, factor
        weights = [w for module in modules.values() for w in module.parameters() if w.requires_grad]
        self.weights = weights
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.05},
                {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
            ],
            lr=rate,
            betas=(0.9, 0.98),
        )
        self.step = first
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step = state["step"]
            self.optimizer.load_state_dict(state["optimizer"])
            for name, module in modules.items():
                module.load_state_dict(state[name])
            say(f"{path.stem}: going on at step {self.step}")

    def save(self) -> None:
        state: dict[str, Any] = {"step": self.step, "optimizer": self.optimizer.state_dict()}
        state |= {name: module.state_dict() for name, module in self.modules.items()}
        draft = self.path.with_suffix(".draft")
        torch.save(state, draft)
        draft.replace(self.path)

    def run(self, prepare: Callable[[int], Any], loss_of: Callable[[Any], tuple[Tensor, dict[str, float]]]) -> None:
        """Train to the last step. `prepare(step)` depends on nothing but the step.

        It runs in this thread: tensors made in another one would start OpenMP threads of their own, which then fight
        over the cores.
        """
        saved = time.monotonic()
        while self.step < self.steps:
            loss, said = loss_of(prepare(self.step))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * self.factor(self.step)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            if self.step % 50 == 0:
                figures = "  ".join(f"{name} {value:.3f}" for name, value in said.items())
                say(f"{self.path.stem} {self.step}/{self.steps}  loss {loss.item():.3f}  {figures}")
            self.step += 1
            if time.monotonic() - saved > SAVE_SECONDS or self.step == self.steps:
                self.save()
                saved = time.monotonic()


def train_vision(
    model: IdeficsForVisionText2Text,
    scenes: list[Scene],
    pictures: npt.NDArray[np.uint8],
    folder: Path,
    steps: int,
) -> None:
    """Stage one: 64 pictures a step, two in three of them with several shapes, which are the smaller ones."""
    tower, heads = model.model.vision_model, Heads()
    shares = np.array([2.0 if len(scene.shapes) > 1 else 1.0 for scene in scenes])
    shares /= shares.sum()

    def prepare(step: int) -> Any:
        picks = np.random.default_rng([1, step]).choice(len(scenes), 64, p=shares)
        return normalise(pictures[picks]), targets([scenes[i] for i in picks])

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        pixels, truth = batch
        with torch.autocast("cpu", torch.bfloat16):
            features = tower(pixel_values=pixels).last_hidden_state
        return heads.loss(features.float(), truth)

    Stage(folder / "vision.pt", {"tower": tower, "heads": heads}, steps, 2e-3, warm_cosine(steps)).run(prepare, loss_of)


def train_language(
    model: IdeficsForVisionText2Text,
    family: IdeficsFamily,
    scenes: list[Scene],
    pictures: npt.NDArray[np.uint8],
    folder: Path,
    first: int = 0,
) -> None:
    """Stage two, in its phases, from step `first` on."""
    by_number = dict(enumerate(scenes))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tallies: deque[dict[str, tuple[int, int]]] = deque(maxlen=50)

    heads, words, forms = WordHeads(), read_words(family.tokenizer), Grammars(family)
    several = [number for number, scene in by_number.items() if len(scene.shapes) > 1]
    others = [number for number, scene in by_number.items() if len(scene.shapes) <= 1]

    def prepare(step: int) -> Any:
        random = Random(f"{SEED}:language:{step}")
        phase, _ = find_phase(step)
        crowded = round(phase.pictures * phase.several)
        picks = random.sample(several, crowded) + random.sample(others, phase.pictures - crowded)
        random.shuffle(picks)
        rows = draw_rows(family, by_number, picks, random, phase, words, forms)
        groups = group_rows(rows, family.image_id or 0, phase.groups[0])
        return normalise(pictures[picks]), groups, phase.word_share, bool(first) and step < first + HEAD_STEPS

    def loss_of(batch: Any) -> tuple[Tensor, dict[str, float]]:
        pixels, groups, word_share, has_new_heads = batch
        loss, tally = measure(model, heads, pixels, groups, word_share, has_new_heads=has_new_heads)
        tallies.append(tally)
        return loss, summarise(tallies)

    def factor(step: int) -> float:
        # An optimizer without a past takes its first steps too far.
        return rate_factor(step) * (min(1.0, (step - first + 1) / WARM_STEPS) if first else 1.0)

    steps = sum(phase.steps for phase in PHASES)
    path = folder / (f"language-from-{first}.pt" if first else "language.pt")
    stage = Stage(path, {"model": model, "heads": heads}, steps, 1.2e-3, factor, first)
    if not first:
        stage.run(prepare, loss_of)
        return
    kept, end = {"": before}, sum(phase.steps for phase in PHASES)
    for phase in FURTHER_PHASES:
        start, end = end, end + phase.steps
        if phase.begins and stage.step == start:
            model.load_state_dict(mix_weights(kept, phase.begins))
        if (done := folder / f"{phase.name}.pt").exists():
            kept[phase.name] = torch.load(done, weights_only=True)
            continue
        stage.steps = end
        stage.run(prepare, loss_of)
        kept[phase.name] = {name: weight.clone() for name, weight in model.state_dict().items()}
        torch.save(kept[phase.name], done)
    model.load_state_dict(mix_weights(kept, SHIPPED))


def summarise(tallies: Iterable[dict[str, tuple[int, int]]]) -> dict[str, float]:
    """Share of right answers per lesson kind."""
    sums: dict[str, list[int]] = {}
    for tally in tallies:
        for kind, (right, asked) in tally.items():
            total = sums.setdefault(kind, [0, 0])
            total[0] += right
            total[1] += asked
    return {kind: right / asked for kind, (right, asked) in sorted(sums.items())}


def sample_texts(count: int) -> Iterator[str]:
    """Words of lessons for the tokenizer: the parts of their prompts and their answers."""
    scenes = {index: scene_number("words", index) for index in range(2_000)}
    numbers = list(scenes)
    for n in range(count):
        random = Random(f"words:{n}")
        lesson = draw_lesson(random, scenes, n % len(numbers), random.sample(numbers, 8), EVERYTHING)
        for message in lesson.request.prompt:
            yield from (part.text for part in message.parts if isinstance(part, TextPart))
        yield lesson.continuation
        yield "User: Assistant:"


def open_processor(folder: Path) -> IdeficsProcessor:
    """The processor of this training: its vocabulary belongs to the weights, so it is made once."""
    if not folder.exists():
        train_processor(sample_texts(20_000)).save_pretrained(folder)
    processor: IdeficsProcessor = AutoProcessor.from_pretrained(folder, backend="pil")
    return processor


def save_checkpoint(model: IdeficsForVisionText2Text, processor: IdeficsProcessor, folder: Path) -> None:
    """Write the finished checkpoint as any other is laid out: bf16 safetensors and the processor's files."""
    trained = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
    finished = IdeficsForVisionText2Text._from_config(model.config, dtype=torch.bfloat16)
    finished.load_state_dict(trained)
    finished.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    finished.save_pretrained(folder)
    processor.save_pretrained(folder)


def collect(iterable: Iterable[int], label: str) -> None:
    for left in iterable:
        say(f"{label}: {left} blocks left")


def open_model(folder: Path) -> IdeficsForVisionText2Text:
    """Finished weights, to be trained on."""
    model: IdeficsForVisionText2Text = IdeficsForVisionText2Text.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    model.requires_grad_(True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".training"), help="where the state is kept")
    parser.add_argument("--pictures", type=int, help="128,000; 48,000 with --from")
    parser.add_argument("--vision-steps", type=int, default=3_600)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "checkpoint")
    parser.add_argument("--stage", choices=("pictures", "vision", "all"), default="all")
    parser.add_argument("--from", dest="origin", type=Path, metavar="CHECKPOINT", help="go on from it, at --phase")
    parser.add_argument("--phase", choices=[phase.name for phase in EVERY_PHASE], help="the first phase after --from")
    options = parser.parse_args()
    if (options.origin is None) != (options.phase is None):
        parser.error("--from and --phase belong together")
    torch.manual_seed(20)
    keep_freed_memory()

    seed = SEED if options.phase is None else f"{SEED}:{options.phase}"
    count = options.pictures or (128_000 if options.phase is None else 48_000)
    kept = options.folder / ("pictures" if options.phase is None else f"pictures-{options.phase}")
    collect(paint_all(kept, seed, count, workers=2), "painting")
    if options.stage == "pictures":
        return
    pictures = load_all(kept, count)
    scenes = [scene_number(seed, index) for index in range(count)]
    processor = open_processor(options.origin or options.folder / "processor")
    first_added = processor.tokenizer.convert_tokens_to_ids("<fake_token_around_image>")
    model = new_model(new_config(first_added, 2)) if options.origin is None else open_model(options.origin)
    family = IdeficsFamily(processor, model.config)
    say(
        f"{len(scenes)} pictures, {first_added} words, {sum(w.numel() for w in model.parameters()) / 1e6:.2f} M weights"
    )
    first = 0
    if options.origin is None:
        train_vision(model, scenes, pictures, options.folder, options.vision_steps)
        if options.stage == "vision":
            return
    else:
        first = sum(phase.steps for phase in takewhile(lambda phase: phase.name != options.phase, EVERY_PHASE))
    train_language(model, family, scenes, pictures, options.folder, first)
    save_checkpoint(model, processor, options.output)


if __name__ == "__main__":
    main()
