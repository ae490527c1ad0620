"""`--sidecar`, and templates that use the image's name and the text beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from idefics_cli.errors import AnswerError, ItemError
from idefics_cli.values import Request, TextPart
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def folder(tmp_path: Path, red_circle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("cat.jpg", "dog.png", "sub/cat.jpg"):
        (tmp_path / "in" / name).write_bytes(red_circle.read_bytes())
    monkeypatch.chdir(tmp_path)
    return Path("in")


def name_it(request: Request) -> str | ItemError:
    return AnswerError("no", code="out_of_memory") if "dog" in request.images[0] else f" It is {request.images[0]}."


def test_the_text_is_beside_each_image(run: Program, folder: Path) -> None:
    result = run("caption", folder, "-r", "--sidecar", ".txt", *MODEL, backend=ScriptedBackend(name_it))
    assert (result.code, result.stdout) == (1, "")
    assert (folder / "cat.txt").read_text() == "It is in/cat.jpg.\n"
    assert (folder / "sub" / "cat.txt").read_text() == "It is in/sub/cat.jpg.\n"
    assert not (folder / "dog.txt").exists()
    assert "in/dog.png: no" in result.stderr


def test_a_text_of_somebody_else_is_kept_until_it_is_asked_for(run: Program, folder: Path) -> None:
    (folder / "cat.txt").write_text("by hand")
    command = ("caption", folder, "-r", "--sidecar", "txt", *MODEL)
    backend = ScriptedBackend()
    result = run(*command, backend=backend)
    assert (folder / "cat.txt").read_text() == "by hand"
    assert [request.images[0] for request in backend.requests] == ["in/dog.png", "in/sub/cat.jpg"]
    assert "1 text that idefics did not write is kept; --overwrite-foreign replaces it" in result.stderr
    again = run(*command, backend=backend)
    assert again.code == 0
    assert "0 answered, 2 done before" in again.stderr
    assert len(backend.requests) == 2
    run(*command, "--existing", "overwrite", backend=backend)
    assert (folder / "cat.txt").read_text() == "by hand"
    assert len(backend.requests) == 4
    run(*command, "--overwrite-foreign", backend=backend)
    assert (folder / "cat.txt").read_text() == "A red circle.\n"
    assert len(backend.requests) == 5


def test_a_text_of_another_wording_is_kept_until_it_is_asked_for(run: Program, folder: Path) -> None:
    words = ("caption", folder, "--sidecar", ".txt", *MODEL, "--prompt")
    assert run(*words, "A photo of", backend=ScriptedBackend(" one.")).code == 0
    other = run(*words, "A drawing of", backend=ScriptedBackend(" two."))
    assert other.code == 0
    assert "2 texts of another wording are kept; --existing overwrite replaces them" in other.stderr
    assert (folder / "cat.txt").read_text() == "A photo of one.\n"
    same = run(*words, "A photo of", backend=ScriptedBackend(" three."))
    assert "2 done before" in same.stderr
    run(*words, "A drawing of", "--existing", "overwrite", backend=ScriptedBackend(" two."))
    assert (folder / "cat.txt").read_text() == "A drawing of two.\n"


def test_a_text_that_was_mended_by_hand_is_its_writers(run: Program, folder: Path) -> None:
    words = ("caption", folder, "--sidecar", ".txt", *MODEL)
    run(*words, backend=ScriptedBackend())
    (folder / "cat.txt").write_text("A red circle, mended.\n")
    run(*words, "--existing", "overwrite", backend=ScriptedBackend(" New."))
    assert (folder / "cat.txt").read_text() == "A red circle, mended.\n"
    assert (folder / "dog.txt").read_text() == "New.\n"


def test_without_the_index_all_texts_are_somebody_elses(run: Program, folder: Path) -> None:
    words = ("caption", folder, "--sidecar", ".txt", *MODEL)
    run(*words, backend=ScriptedBackend())
    (folder / ".idefics-sidecars.jsonl").write_bytes(b"{}\nno line\n")
    result = run(*words, "--existing", "overwrite", backend=ScriptedBackend(" New."))
    assert "2 texts that idefics did not write are kept" in result.stderr
    assert (folder / "cat.txt").read_text() == "A red circle.\n"


def test_a_text_of_somebody_else_is_kept_beside_its_row(run: Program, folder: Path) -> None:
    (folder / "cat.txt").write_text("by hand")
    words = ("caption", folder, "--sidecar", ".txt", "-o", "out.jsonl", *MODEL)
    result = run(*words, backend=ScriptedBackend())
    assert len(Path("out.jsonl").read_text().splitlines()) == 2
    assert (folder / "cat.txt").read_text() == "by hand"
    assert "1 text that idefics did not write is kept" in result.stderr


def test_collisions_are_found_before_a_model_is_opened(run: Program, folder: Path) -> None:
    (folder / "cat.png").symlink_to("cat.jpg")
    backend = ScriptedBackend()
    refused = run("caption", folder, "--sidecar", ".txt", *MODEL, backend=backend)
    assert (refused.code, backend.batch_size) == (2, 0)
    assert "in/cat.jpg and in/cat.png would share in/cat.txt; add --sidecar-name full" in refused.stderr
    assert run("caption", folder, "--sidecar=.txt", "--sidecar-name=full", *MODEL, backend=backend).code == 0
    assert sorted(path.name for path in folder.glob("*.txt")) == ["cat.jpg.txt", "cat.png.txt", "dog.png.txt"]
    for wrong in (("--sidecar-name", "full"), ("--sidecar", ".jpg"), ("--sidecar", ".txt", "--together")):
        assert run("caption", folder, *wrong, *MODEL, backend=backend).code == 2


def test_rows_and_sidecars_together_survive_a_crash_between_them(run: Program, folder: Path) -> None:
    command = ("caption", folder, "-r", "--sidecar", ".txt", "-o", "out.jsonl", *MODEL)
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    (folder / "cat.txt").unlink()  # as if the run had died after the row
    (folder / "sub" / "cat.txt").unlink()
    lines = Path("out.jsonl").read_text().splitlines(keepends=True)
    Path("out.jsonl").write_text("".join(lines[:-1]))  # and once before it
    assert run(*command, backend=backend).code == 0
    assert len(backend.requests) == 4
    assert (folder / "cat.txt").read_text() == "A red circle.\n"
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()] == [
        "in/cat.jpg", "in/dog.png", "in/sub/cat.jpg",
    ]  # fmt: skip


TEMPLATE = """
name: tags
version: 1
description: d
fields: {fields}
completion: {{turn: [image, "$parent/$stem: $sidecar ="]}}
"""


def words(request: Request) -> str:
    part = request.prompt[0].parts[-1]
    assert isinstance(part, TextPart)
    return part.text


def test_templates_use_the_name_and_the_text_beside(run: Program, folder: Path) -> None:
    Path("tags.yaml").write_text(TEMPLATE.format(fields="{}"))
    (folder / "cat.txt").write_text("whiskers, fur\n")
    command = ("run", "./tags.yaml", folder, *MODEL, "--format=jsonl")
    backend = ScriptedBackend()
    result = run(*command, backend=backend)
    assert [words(request) for request in backend.requests] == ["in/cat: whiskers, fur ="]
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert good["fields"] == {"sidecar": "whiskers, fur"}
    assert (bad["error"]["code"], "in/dog.txt is not there" in bad["error"]["message"]) == ("not_found", True)
    Path("tags.yaml").write_text(TEMPLATE.format(fields="{sidecar: no tags}"))
    run(*command, "--sidecar", ".text", "--set", "stem=X", backend=backend)
    assert [words(request) for request in backend.requests[1:]] == ["in/X: no tags ="] * 2


def test_a_name_cannot_smuggle_in_a_marker_or_half_a_character(run: Program, folder: Path) -> None:
    Path("tags.yaml").write_text(TEMPLATE.format(fields="{sidecar: none}"))
    odd = os.fsdecode(b"in/caf\xe9 $sidecar.png")
    Path(odd).write_bytes((folder / "cat.jpg").read_bytes())
    backend = ScriptedBackend()
    assert run("run", "./tags.yaml", odd, *MODEL, backend=backend).code == 0
    assert words(backend.requests[0]) == "in/caf\ufffd $sidecar: none ="
    stdin = run("run", "./tags.yaml", "-", *MODEL, backend=backend, stdin=(folder / "cat.jpg").read_bytes())
    assert stdin.code == 2
    assert "parent, stem" in stdin.stderr


def test_a_text_beside_another_image_than_it_was_written_for_is_told(
    run: Program, folder: Path, two_images: tuple[Path, Path]
) -> None:
    command = ("caption", folder, "--sidecar", "txt", *MODEL)
    run(*command, backend=ScriptedBackend(" old"))
    (folder / "cat.jpg").write_bytes(two_images[1].read_bytes())
    again = run(*command, backend=ScriptedBackend(" new"))
    assert "1 image was replaced since the answer; --existing retry-changed asks about it again" in again.stderr
    assert (folder / "cat.txt").read_text() == "old\n"
    retried = run(*command, "--existing", "retry-changed", backend=ScriptedBackend(" new"))
    assert "1 answered, 1 done before" in retried.stderr
    assert [(folder / name).read_text() for name in ("cat.txt", "dog.txt")] == ["new\n", "old\n"]
    assert "0 answered, 2 done before" in run(*command, "--existing", "retry-changed").stderr
    # Of an index of an earlier version nothing is known.
    index = folder / ".idefics-sidecars.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(f"{json.dumps(line | {'image': ''})}\n" for line in lines))
    (folder / "cat.jpg").write_bytes(two_images[0].read_bytes())
    assert "replaced since" not in run(*command).stderr
