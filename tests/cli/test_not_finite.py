"""Weights that compute what is no number are said to, and never give an answer: alone, in company, and in a server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import idefics_cli.shapes
from idefics_cli.backends.local import LocalBackend
from idefics_cli.errors import AnswerError
from idefics_cli.values import Answer, Choice, Decoding, ModelSpec, Request
from tests.backends.test_local import words_of
from tests.models.tiny import checkpoint, document, picture
from tests.program import Run
from tests.serve.running import chat, running

SHAPES = Path(idefics_cli.shapes.__file__).parent / "checkpoint"
HINT = "--dtype float32"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The embedded checkpoint after a download that went wrong."""
    folder = Path(shutil.copytree(SHAPES, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.down_proj.weight"))
    weights[name] = weights[name].clone()
    weights[name][:4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "asked",
    [
        ("caption",),
        ("caption", "--num-beams", "3"),
        ("caption", "--temperature", "0.8"),
        ("caption", "--temperature", "0.8", "--num-beams", "2", "--top-k", "5"),
        ("caption", "--stop", "red", "--stream"),
        ("classify", "--labels", "circle,square"),
        ("classify", "--labels", "circle,square", "--normalize", "pmi"),
        ("classify", "--labels", "circle,square", "--generate"),
    ],
    ids=" ".join,
)
def test_a_model_that_computes_no_number_cannot_run(
    run: Callable[..., Run], broken: Path, two_images: tuple[Path, Path], asked: tuple[str, ...]
) -> None:
    images = two_images[:1] if "--stream" in asked else two_images
    ended = run(asked[0], *images, *asked[1:], "--model", broken)
    assert ended.code == 3
    assert ended.stdout == ""
    errors = [line for line in ended.stderr.splitlines() if "error" in line]
    assert len(errors) == 1, ended.stderr
    assert HINT in errors[0]


def test_chat_ends_with_a_line(run: Callable[..., Run], broken: Path) -> None:
    ended = run("chat", "--model", broken, stdin=b"What is this?\nAnd now?\n")
    assert (ended.code, ended.stdout) == (3, "")
    assert HINT in ended.stderr


def test_a_server_answers_no_call_with_it_and_stays(run: Callable[..., Run], broken: Path, two_images: Any) -> None:
    with running("--model", str(broken)) as server:
        for body in (chat("What is this?"), chat("What?", temperature=1.0)):
            status, said = server.ask("/v1/chat/completions", body | {"model": str(broken)})
            assert (status, said["error"]["code"]) == (503, "model"), said
            assert HINT in said["error"]["message"]
        os.environ["IDEFICS_RUNTIME_DIR"] = str(server.folder)
        ended = run("caption", *two_images, "--model", broken)
        assert (ended.code, ended.stdout) == (3, "")
        assert HINT in ended.stderr, server.log.read_text()
        assert server.ask("/health")[0] == 200


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
def test_a_prompt_that_overflows_harms_no_other(kind: str) -> None:
    backend = LocalBackend(ModelSpec(str(checkpoint(kind))))
    image = picture(1)
    images = {image.source: image}
    short = Decoding(max_new_tokens=4)
    choices = tuple(Choice(label, f" {label}\n") for label in ("red", "circle"))
    ways: tuple[tuple[Decoding, tuple[Choice, ...]], ...] = (
        (short, ()),
        (replace(short, num_beams=2), ()),
        (replace(short, temperature=1.0), ()),
        (Decoding(), choices),
    )
    requests = [
        Request(f"{text} {number}", "t", document(image, text), decoding, own)
        for number, (decoding, own) in enumerate(ways)
        for text in ("a car", "a dog", "a cat")
    ]
    expected = backend.answer(requests, images)
    assert all(isinstance(one, Answer) for one in expected)
    (dog,) = backend._family.tokenizer(" dog", add_special_tokens=False)["input_ids"][-1:]

    def overflow(module: Any, given: Any, output: Any) -> Any:
        return output.masked_fill((given[0] == dog)[..., None], torch.nan)

    assert backend._engine is not None
    backend._engine.free()
    backend._model.get_input_embeddings().register_forward_hook(overflow)
    for before, after in zip(expected, backend.answer(requests, images), strict=True):
        if isinstance(after, AnswerError):
            assert after.code == "not_finite"
            assert HINT in str(after)
        else:
            assert words_of([after]) == words_of([before])
    failed = [
        one.id
        for one, after in zip(requests, backend.answer(requests, images), strict=True)
        if isinstance(after, AnswerError)
    ]
    assert failed == [one.id for one in requests if "dog" in one.id]
