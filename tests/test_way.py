"""The way of a question from its command to the model stays short enough to be read in one go."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from idefics_cli.backends import close_backends

PACKAGE = Path(__file__).parents[1] / "idefics_cli"
CIRCLE = PACKAGE / "shapes" / "samples" / "red-circle.png"


@pytest.mark.parametrize(
    ("options", "most_calls", "most_files"),
    [((), 10, 6), (("--num-beams", "2"), 11, 8)],  # beams may find a prefix that an earlier question left
)
def test_the_way_of_a_question_to_the_model_is_short(
    run: Any, options: tuple[str, ...], most_calls: int, most_files: int
) -> None:
    ways: set[tuple[tuple[str, str], ...]] = set()

    def look(module: Any, inputs: Any) -> None:
        if type(module).__name__ == "IdeficsForVisionText2Text":
            frames = [frame for frame in traceback.extract_stack() if str(PACKAGE) in frame.filename]
            names = [(Path(frame.filename).name, frame.name) for frame in frames]
            ways.add(tuple(names[names.index(("vqa.py", "vqa")) :]))

    close_backends()  # what earlier questions left to share would be another way
    hook = register_module_forward_pre_hook(look)
    try:
        result = run("vqa", CIRCLE, "-q", "What colour is the circle?", "--model", "shapes", *options)
    finally:
        hook.remove()
    assert result.stdout == "red\n"
    assert ways
    for way in ways:
        assert len(way) <= most_calls, way
        assert len({file for file, _ in way}) <= most_files, way
