"""What it costs to keep answers to a format: a batch of 16, and a vocabulary as large as SmolVLM's."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from idefics_cli.backends.local import LocalBackend
from idefics_cli.models.random import checkpoint
from idefics_cli.prompts.answer_format import check_schema
from idefics_cli.values import (
    Answer,
    AnswerFormat,
    Decoding,
    ImagePart,
    Message,
    ModelSpec,
    Request,
    TextPart,
)
from tests.models.tiny import picture

ROWS, NEW_TOKENS, ROUNDS = 16, 24, 3
VOCABULARY = 49_152
ENDLESS = check_schema(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["circle", "square"]},
            "text": {"type": "string", "minLength": 3000},
        },
        "required": ["kind", "text"],
        "additionalProperties": False,
    }
)
"""No answer comes to its end within the limit, so that all are equally long."""


@pytest.mark.slow
def test_a_format_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {**checkpoint.SHAPES["small"], "vocab_size": VOCABULARY}  # type: ignore[dict-item]
    monkeypatch.setitem(checkpoint.SHAPES, "wide", sizes)
    checkpoint.write_checkpoint("wide", tmp_path, ["What is it?"])
    backend = LocalBackend(ModelSpec(str(tmp_path), device="cpu", dtype="float32"), batch_size=ROWS)
    images = {str(place): picture(place) for place in range(ROWS)}

    def measure(wanted: AnswerFormat | None) -> float:
        """The processor's seconds: who else is on the machine does not count."""
        requests = [
            Request(
                str(place),
                "vqa",
                (Message("user", (ImagePart(str(place)), TextPart("What is it?"))),),
                Decoding(max_new_tokens=NEW_TOKENS),
                images=(str(place),),
                answer_format=wanted,
            )
            for place in range(ROWS)
        ]
        began = time.process_time()
        answers = backend.answer(requests, images)
        seconds = time.process_time() - began
        assert all(isinstance(one, Answer) and one.usage.new_tokens == NEW_TOKENS for one in answers)
        return seconds

    measure(None)
    first = measure(ENDLESS)
    pairs = [(measure(None), measure(ENDLESS)) for _ in range(ROUNDS)]
    free, kept = (min(one) for one in zip(*pairs, strict=True))
    setup = first - kept
    assert setup < 2, f"setting up {VOCABULARY:,} tokens took {setup:.1f} s"
    assert kept < 1.15 * free, f"{kept / free:.2f} times as long"
    sys.stdout.write(f"\n{kept / free:.2f} times as long, set up in {setup:.2f} s\n")
