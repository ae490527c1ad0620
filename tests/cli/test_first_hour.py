"""What somebody meets in the first hour: what is skipped, what failed, what is meant."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.errors import AnswerError, PromptError
from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, nine files that are not images, and what is skipped."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a", "b", "c", "more/d"):
        PIL.Image.new("RGB", (8, 8), "red").save(folder / f"{name}.png")
    for number in range(9):
        (folder / f"x{number}.jpg").write_text("no image")
    for name in ("one.CR2", "two.CR2", "film.mp4", ".hidden.txt"):
        (folder / name).write_text("raw")
    return folder


def test_failures_are_named_then_counted_and_the_file_lists_them(run: Program, photos: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    first = run("caption", photos, *MODEL, "-o", rows, backend=ScriptedBackend())
    assert first.code == 1
    assert first.stderr.count("error:") == 5
    assert "3 answered, 9 of 12 failed (9 not images)" in first.stderr
    assert len(first.stderr.splitlines()) <= 12
    assert f"jq -r 'select(.error) | [.id, .error.message] | @tsv' {rows} lists" in first.stderr
    again = run("caption", photos, *MODEL, "-o", rows, backend=ScriptedBackend())
    assert again.code == 1
    assert "3 done before, 9 failed before (9 not images; --existing retry-errors tries" in again.stderr


def test_failures_can_be_listed_without_jq(
    run: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    monkeypatch.setenv("PATH", str(tmp_path))
    told = run("caption", photos, *MODEL, "-o", rows, backend=ScriptedBackend()).stderr
    words = f"find {rows} is:failed --format jsonl"
    assert f"idefics {words} lists what failed and why" in told
    listed = [json.loads(line) for line in run(*words.split()).stdout.splitlines()]
    assert len([row for row in listed if row["error"]["message"]]) == 9


def test_failures_are_named_whatever_the_format(run: Program, photos: Path) -> None:
    for more in ((), ("--format", "jsonl")):
        result = run("caption", photos / "a.png", photos / "x1.jpg", *MODEL, *more, backend=ScriptedBackend())
        assert result.stderr.count("x1.jpg is text, not an image") == 1, result.stderr


def test_verbose_names_every_failure(run: Program, photos: Path) -> None:
    result = run("caption", photos, *MODEL, "--verbose", backend=ScriptedBackend())
    assert result.stderr.count("error:") == 9


def test_failures_that_are_accepted_end_well_the_next_time(run: Program, photos: Path, tmp_path: Path) -> None:
    words = ("caption", photos, *MODEL, "-o", tmp_path / "rows.jsonl", "--existing", "accept-errors")
    assert run(*words, backend=ScriptedBackend()).code == 1
    again = run(*words, backend=ScriptedBackend())
    assert again.code == 0
    assert "9 failed before (9 not images; accepted)" in again.stderr


def test_a_photo_is_one_item_however_it_is_spelled(
    run: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    rows = tmp_path / "rows.jsonl"
    for name in ("photos/a.png", "./photos/a.png", "photos//a.png", str(photos / "a.png")):
        result = run("caption", name, *MODEL, "-o", rows, backend=ScriptedBackend())
        assert result.code == 0, result.stderr
    assert len(rows.read_text().splitlines()) == 1
    other = tmp_path / "absolute.jsonl"
    for name in (str(photos / "a.png"), "photos/a.png"):
        run("caption", name, *MODEL, "-o", other, backend=ScriptedBackend())
    assert len(other.read_text().splitlines()) == 1


def test_a_failed_photo_is_tried_again_under_another_spelling(
    run: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    rows = tmp_path / "rows.jsonl"

    def fail(request: Request) -> AnswerError:
        return AnswerError("no memory", code="out_of_memory")

    run("caption", "a.png", *MODEL, "-o", rows, backend=ScriptedBackend(fail))
    words = (*MODEL, "-o", rows, "--existing", "retry-errors")
    assert run("caption", photos / "a.png", *words, backend=ScriptedBackend()).code == 0
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert row["error"] is None


def test_labels_are_a_list_in_a_row(run: Program, photos: Path) -> None:
    words = ("classify", photos / "a.png", *MODEL, "--labels", "cat,dog", "--format", "jsonl")
    assert json.loads(run(*words, backend=ScriptedBackend()).stdout)["fields"] == {"labels": ["cat", "dog"]}


def test_what_a_folder_holds_besides_is_told_once(run: Program, photos: Path) -> None:
    result = run("caption", photos, *MODEL, backend=ScriptedBackend())
    told = "skipped files that are not images: .CR2 2, .mp4 1; 1 subfolder (-r reads them too)"
    assert result.stderr.count(told) == 1, result.stderr
    assert "subfolder" not in run("caption", photos, "-r", *MODEL, backend=ScriptedBackend()).stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ("vqa", "{a}", "what is it?"),
            "there is no file 'what is it?'; a question? write -q \"what is it?\"",
        ),
        (("caption", "{a}", "An oil painting of"), 'write --prompt "An oil painting of"'),
        (("caption", "nowhere/*.jpg"), "no file matches nowhere/*.jpg"),
        (("{a}",), "'{a}' is not a command; write: idefics caption {a}"),
        (("describe", "{a}"), "there is no command 'describe'; write: idefics caption {a}"),
        (("captoin", "{a}"), "caption"),
    ],
)
def test_what_was_meant_is_said(run: Program, photos: Path, words: tuple[str, ...], hint: str) -> None:
    photo = str(photos / "a.png")
    backend = ScriptedBackend()
    result = run(*(word.format(a=photo) for word in words), backend=backend)
    assert result.code in (2, 4)
    assert hint.format(a=photo) in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert backend.requests == []


def test_names_on_standard_input_are_no_image(run: Program, photos: Path) -> None:
    result = run("caption", "-", *MODEL, backend=ScriptedBackend(), stdin=f"{photos / 'a.png'}\n".encode())
    assert "standard input has names of files, not an image; use --files-from -" in result.stderr


SHOTS = """
- {{image: a.png, {question} answer: red}}
"""


def test_a_shot_has_its_fields_beside_its_answer_and_is_never_asked_with_another_question(
    run: Program, photos: Path
) -> None:
    shots = photos / "shots.yaml"
    words = ("vqa", photos / "b.png", "-q", "Is it blue?", "--examples", shots, *MODEL)
    backend = ScriptedBackend()
    shots.write_text(SHOTS.format(question="question: Which colour?,"))
    assert run(*words, backend=backend).code == 0
    assert "Which colour?" in str(backend.requests[0].prompt)
    shots.write_text(SHOTS.format(question=""))
    refused = run(*words, "--format", "jsonl", backend=backend)
    assert refused.code == 2
    assert "an example has no question" in refused.stderr
    assert len(backend.requests) == 1


def test_shots_of_classify_share_its_labels(run: Program, photos: Path) -> None:
    shots = photos / "shots.yaml"
    shots.write_text(SHOTS.format(question=""))
    words = ("classify", photos / "b.png", "--labels", "red,blue", "--examples", shots, *MODEL)
    for style in ("completion", "chat"):
        assert run(*words, "--style", style, backend=ScriptedBackend()).code == 0


def test_meta_is_copied_to_the_row(run: Program, photos: Path) -> None:
    items = photos / "items.jsonl"
    items.write_text('{"task": "caption", "image": "a.png", "meta": {"sku": 7, "tags": ["x"]}}\n')
    (row,) = map(json.loads, run("batch", items, *MODEL, backend=ScriptedBackend()).stdout.splitlines())
    assert row["meta"] == {"sku": 7, "tags": ["x"]}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[\n{"task": "caption"}]', "is a JSON array, not one item a line; convert it: jq -c '.[]'"),
        ("image,question\na.png,what\n", "is a table (CSV), not JSON lines"),
        ('{"task": "vqa", "image": "a.png", "question": ["x", "y"]}', "give one text, or a line for each"),
        ('{"task": "caption", "image": "a.png", "temprature": 1}', "did you mean temperature?"),
        ('{"task": "caption", "image": "a.png", "temprature": "1"}', "did you mean temperature?"),
        ('{"task": "ocr", "image": "a.png"}', 'there is no task \'ocr\'; write "template": "ocr"'),
    ],
)
def test_a_batch_file_says_what_is_wrong_with_it(run: Program, photos: Path, content: str, hint: str) -> None:
    items = photos / "items.jsonl"
    items.write_text(content)
    backend = ScriptedBackend()
    result = run("batch", items, *MODEL, backend=backend)
    assert result.code in (1, 2)
    assert hint in result.stderr, result.stderr
    assert backend.requests == []


def test_a_prompt_too_long_is_said_once_with_a_way_out(run: Program, photos: Path) -> None:
    def too_long(request: Request) -> PromptError:
        return PromptError("the prompt takes 900 tokens, the model has room for 512", code="prompt_too_long")

    labels = ",".join(f"kind-{number}" for number in range(20))
    words = ("classify", photos, "-r", "--labels", labels, "--generate", *MODEL)
    result = run(*words, backend=ScriptedBackend(too_long))
    assert result.stderr.count("the prompt takes") == 1
    assert "; use --template classify-photo, which names no labels" in result.stderr
    assert "--shots" not in result.stderr
    assert "4 prompts too long" in result.stderr


def test_the_help_shows_a_shot_that_works(run: Program, photos: Path) -> None:
    shown = run("vqa", "--help").stdout
    shots = photos / "shots.jsonl"
    shots.write_text(shown[shown.index("{") : shown.index("}") + 1])
    words = ("vqa", photos / "b.png", "-q", "Is it blue?", "--examples", shots, *MODEL)
    backend = ScriptedBackend()
    assert run(*words, backend=backend).code == 0
    assert all(word in str(backend.requests[0].prompt) for word in ("Which colour?", "red", "Is it blue?"))


def test_labels_that_do_not_fit_are_ranked_without_being_named(run: Program, tmp_path: Path) -> None:
    labels, rows = tmp_path / "labels.txt", tmp_path / "rows.jsonl"
    labels.write_text("\n".join((*(f"a thing of kind {number}" for number in range(198)), "circle", "star")))
    images = (SAMPLES / "red-circle.png", SAMPLES / "blue-star.png")
    words = ("classify", *images, "--labels", f"@{labels}", "--model", "shapes")
    result = run(*words, "-o", rows)
    assert result.code == 0
    told = "using --template classify-photo, which does not name the 200 labels"
    assert (result.stderr.count(told), len(result.stderr.splitlines())) == (1, 2), result.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["label"], row["template"]) for row in found] == [
        ("circle", "classify-photo@1"), ("star", "classify-photo@1"),
    ]  # fmt: skip
    assert "2 done before" in run(*words, "-o", rows).stderr
    assert "a photo of a\n" in run(*words, "--dry-run").stdout
    refused = run(*words, "--template", "classify")
    assert refused.code == 1
    assert refused.stderr.count("the prompt takes") == 1
    few = run("classify", images[0], "--labels", "circle,star", "--model", "shapes")
    assert (few.stdout, few.stderr) == ("circle\n", "")


def test_a_variable_that_nothing_reads_is_told(run: Program, photos: Path) -> None:
    os.environ["IDEFICS_TEMPRATURE"] = "1"
    result = run("caption", photos / "a.png", *MODEL, backend=ScriptedBackend())
    assert result.code == 0
    assert "nothing reads IDEFICS_TEMPRATURE; did you mean IDEFICS_TEMPERATURE?" in result.stderr


def test_a_key_that_is_no_option_is_nearly_one(run: Program, photos: Path) -> None:
    folder = Path(os.environ["IDEFICS_CONFIG_DIR"])
    folder.mkdir()
    (folder / "config.yaml").write_text("max-new-token: 3\n")
    result = run("caption", photos / "a.png", *MODEL, backend=ScriptedBackend())
    assert (result.code, "did you mean max-new-tokens?" in result.stderr) == (2, True)


def test_pull_without_a_network_does_not_advise_itself(run: Program) -> None:
    result = run("models", "pull", "smolvlm-256m")
    assert result.code == 3
    assert "models pull" not in result.stderr
    assert len(result.stderr.splitlines()) == 1
