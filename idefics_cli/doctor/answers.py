"""Whether this machine computes correctly: the embedded checkpoint answers known questions, in each precision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from ..backends import Outcome
from ..backends.local import LocalBackend
from ..config import PACKAGE, SHAPES, resolve_model
from ..errors import IdeficsError
from ..figures import format_bytes
from ..images import Limits, load
from ..models.quantization.table import QUANTIZATIONS
from ..prompts.compose import compose
from ..prompts.templates import load_template
from ..values import Answer, Item, ModelSpec
from .machine import Check

SAMPLES = PACKAGE / "shapes" / "samples"


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question about a sample, and its answer."""

    template: str
    image: str
    truth: str
    fields: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """A precision, and the package that it needs."""

    name: str
    dtype: str = "auto"
    quantization: str | None = None
    needs: str | None = None
    hint: str = ""


PROBES = (
    KnownQuestion("caption", "red-circle.png", "A red circle on a white background."),
    KnownQuestion("vqa", "blue-star.png", "yellow", (("question", "What colour is the background?"),)),
    KnownQuestion("classify-photo", "green-triangle.png", "triangle", choices=("circle", "square", "triangle", "star")),
)
PRECISIONS = (
    PrecisionCheck("float32", "float32"),
    PrecisionCheck("bfloat16", "bfloat16"),
    *(PrecisionCheck(name, quantization=name, needs=row.library, hint=row.hint) for name, row in QUANTIZATIONS.items()),
)


def check_answers(device: str) -> Iterator[Check]:
    """Ask in one precision after the other."""
    for precision in PRECISIONS:
        yield _check(precision, device)


def _check(precision: PrecisionCheck, device: str) -> Check:
    name = f"model, {precision.name}"
    if precision.needs is not None and not _is_installed(precision.needs):
        return Check(name, "skipped", f"{precision.needs} is not installed", precision.hint)
    spec = ModelSpec(
        resolve_model(SHAPES).checkpoint,
        dtype=precision.dtype,
        quantization=precision.quantization,
        device=device,
        keeps_quantized=False,
    )
    began = time.perf_counter()
    backend = None
    try:
        backend = LocalBackend(spec)
        weights = backend.count_weights()
        images = {probe.image: load(str(SAMPLES / probe.image), Limits()) for probe in PROBES}
        requests = [
            compose(
                load_template(probe.template),
                backend.style,
                Item(probe.image, (probe.image,), probe.fields),
                task=probe.template,
                choices=probe.choices,
            )
            for probe in PROBES
        ]
        answers = backend.answer(requests, images)
    except IdeficsError as error:
        return Check(name, "broken", str(error), "no question can be asked in this precision")
    finally:
        if backend is not None:
            backend.close()
    wrong = [
        f"{probe.image} is answered {_read(answer)!r}, not {probe.truth!r}"
        for probe, answer in zip(PROBES, answers, strict=True)
        if _read(answer) != probe.truth
    ]
    seconds = time.perf_counter() - began
    values = {
        "right": len(PROBES) - len(wrong),
        "asked": len(PROBES),
        "quantized_modules": weights.quantized_modules,
        "quantized_bytes": weights.quantized_bytes,
        "weights_bytes": weights.total_bytes,
        "seconds": round(seconds, 3),
    }
    if wrong:
        hint = "do not trust answers in this precision on this machine"
        return Check(name, "broken", "; ".join(wrong), hint, values)
    packed = (
        f"{weights.quantized_modules} modules quantized to {format_bytes(weights.quantized_bytes)}, "
        if weights.quantized_modules
        else ""
    )
    text = f"{len(PROBES)} answers right, {packed}{format_bytes(weights.total_bytes)} of weights, {seconds:.1f} s"
    return Check(name, "ok", text, values=values)


def _read(answer: Outcome) -> str:
    return answer.text.strip() if isinstance(answer, Answer) else str(answer)


def _is_installed(module: str) -> bool:
    """Whether a module could be imported, also if its package is not installed."""
    parent = module.partition(".")[0]
    return find_spec(parent) is not None and find_spec(module) is not None
