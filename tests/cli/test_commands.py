"""Commands through the real command line, answered from a script."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.cli.options import DecodingOptions
from idefics_cli.cli.resolve import resolve
from idefics_cli.errors import AnswerError
from idefics_cli.values import Answer, ImagePart, Request, TextPart
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_one_image_prints_the_text_alone(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, *MODEL, backend=ScriptedBackend())
    assert (result.code, result.stdout, result.stderr) == (0, "A red circle.\n", "")


def test_several_images_print_source_and_text_in_order(run: Program, two_images: tuple[Path, Path]) -> None:
    backend = ScriptedBackend(lambda request: f" line one\nand\ttwo of {Path(request.images[0]).name}")
    result = run("caption", *two_images, *MODEL, backend=backend)
    a, b = two_images
    assert result.stdout == f"{a}\tline one and two of a.png\n{b}\tline one and two of b.png\n"


def test_labels_with_the_whole_text(run: Program, red_circle: Path) -> None:
    asked = ("classify", red_circle, "--labels", "circle,square", "--generate", "--full-text", *MODEL)
    result = run(*asked, backend=ScriptedBackend(" circle"))
    assert (result.code, result.stdout) == (0, "the prompt circle\n"), result.stderr


def test_beams_cannot_stream_and_that_is_said(run: Program, red_circle: Path) -> None:
    result = run("write", red_circle, "--stream", *MODEL, backend=ScriptedBackend())
    assert "2 beams cannot stream" in result.stderr
    assert "--num-beams 1" in result.stderr


def test_a_row_has_the_promised_fields(run: Program, red_circle: Path) -> None:
    result = run("vqa", red_circle, "-q", "What is it?", *MODEL, "--format", "jsonl", backend=ScriptedBackend())
    (row,) = rows(result)
    assert len(row.pop("key")) == 25
    data = red_circle.read_bytes()
    (content,) = row.pop("content")
    assert (content["sha256"], content["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert [row] == [
        {
            "id": str(red_circle),
            "images": [str(red_circle)],
            "task": "vqa",
            "fields": {"question": "What is it?"},
            "text": "A red circle.",
            "data": None,
            "finish_reason": "stop",
            "label": None,
            "scores": None,
            "confidence": None,
            "model": "idefics-9b",
            "revision": "abc123",
            "template": "vqa@1",
            "decoding": {"max_new_tokens": 60},
            "usage": {"prompt_tokens": 10, "shared_tokens": 0, "new_tokens": 3},
            "seconds": 0.25,
            "warnings": [],
            "error": None,
        }
    ]


def test_each_question_is_a_row(run: Program, two_images: tuple[Path, Path]) -> None:
    backend = ScriptedBackend(lambda request: " " + dict(request.fields)["question"].upper())
    a, b = two_images
    result = run("vqa", a, b, "-q", "who?", "-q", "où?", *MODEL, backend=backend)
    assert result.stdout == f"{a}\twho?\tWHO?\n{a}\toù?\tOÙ?\n{b}\twho?\tWHO?\n{b}\toù?\tOÙ?\n"
    assert len({request.id for request in backend.requests}) == 4


def test_vqa_without_a_question_says_so(run: Program, red_circle: Path) -> None:
    result = run("vqa", red_circle, *MODEL, backend=ScriptedBackend())
    assert result.code == 2
    assert "question" in result.stderr


def test_together_puts_all_images_in_one_prompt(run: Program, two_images: tuple[Path, Path]) -> None:
    backend = ScriptedBackend()
    result = run("caption", *two_images, "--together", *MODEL, backend=backend)
    assert result.stdout == "A red circle.\n"
    assert [part.source for part in backend.requests[0].prompt[0].parts if isinstance(part, ImagePart)] == [
        str(image) for image in two_images
    ]


def test_a_prompted_caption_reads_as_a_sentence(run: Program, red_circle: Path) -> None:
    command = ("caption", red_circle, "--prompt", "This is an image of ", *MODEL)
    for answer in (" a circle.", "a circle."):
        result = run(*command, backend=ScriptedBackend(answer))
        assert result.stdout.startswith("This is an image of")
    assert run(*command, backend=ScriptedBackend(" a circle.")).stdout == "This is an image of a circle.\n"
    streamed = run(*command, "--stream", backend=ScriptedBackend(" a circle.\n "))
    assert streamed.stdout == "This is an image of a circle.\n"


def test_full_text_has_the_prompt_before_the_answer(run: Program, red_circle: Path) -> None:
    assert run("write", red_circle, "--full-text", *MODEL, backend=ScriptedBackend(" x")).stdout == "the prompt x\n"


def test_stream_is_for_one_text(run: Program, two_images: tuple[Path, Path]) -> None:
    for arguments in ((*two_images,), (two_images[0], "--format", "jsonl"), (two_images[0], "--full-text")):
        result = run("caption", *arguments, "--stream", *MODEL, backend=ScriptedBackend())
        assert (result.code, result.stdout) == (2, "")
        assert "--stream" in result.stderr


def test_classify_ranks_and_top_prints_probabilities(run: Program, red_circle: Path) -> None:
    command = ("classify", red_circle, "--labels", "circle, square,star", *MODEL)
    backend = ScriptedBackend()
    assert run(*command, backend=backend).stdout == "circle\n"
    assert [choice.continuation for choice in backend.requests[0].choices] == [
        " circle\n",
        " square\n",
        " star\n",
    ]
    assert run(*command, "--top", "2", backend=backend).stdout == "circle\t0.5714\nsquare\t0.2857\n"
    row = rows(run(*command, "--format", "jsonl", backend=backend))[0]
    assert (row["label"], row["text"], len(row["scores"])) == ("circle", "circle", 3)
    assert len(rows(run(*command, "--top", "2", "--format", "jsonl", backend=backend))[0]["scores"]) == 2


def test_labels_may_come_from_a_file(run: Program, tmp_path: Path, red_circle: Path) -> None:
    (tmp_path / "labels.txt").write_text("red, round\n\nblue\n")
    labels = f"@{tmp_path / 'labels.txt'}"
    assert run("classify", red_circle, "--labels", labels, *MODEL, backend=ScriptedBackend()).stdout == "red, round\n"
    missing = run("classify", red_circle, "--labels", "@nowhere.txt", *MODEL, backend=ScriptedBackend())
    assert missing.code == 2
    assert "nowhere.txt" in missing.stderr


@pytest.mark.parametrize(("said", "label"), [(" Circle.\n", "circle"), (" a circle", None), (" circles", None)])
def test_a_generated_label_is_exact_or_fails(run: Program, red_circle: Path, said: str, label: str | None) -> None:
    command = ("classify", red_circle, "--labels", "circle,square", "--generate", "--format", "jsonl", *MODEL)
    backend = ScriptedBackend(said)
    result = run(*command, backend=backend)
    row = rows(result)[0]
    assert not backend.requests[0].choices
    assert row["label"] == label
    assert (result.code, row["error"] and row["error"]["code"]) == ((0, None) if label else (1, "no_label"))


def test_run_fills_in_any_template(run: Program, tmp_path: Path, red_circle: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nversion: 3\ndescription: d\nfields: [what]\ncompletion: {turn: [image, 'Find $what:']}\n"
    )
    backend = ScriptedBackend()
    result = run("run", tmp_path / "mine.yaml", red_circle, "--set", "what=$what=x", *MODEL, backend=backend)
    assert result.code == 0
    assert backend.requests[0].prompt[0].parts[1] == TextPart("Find $what=x:")
    assert backend.requests[0].template == "mine@3"
    for wrong, word in (("--set=what", "name=value"), ("--set=other=1", "other"), ("--quiet", "what")):
        failed = run("run", tmp_path / "mine.yaml", red_circle, wrong, *MODEL, backend=backend)
        assert failed.code == 2
        assert word in failed.stderr


def test_a_template_that_needs_no_image_runs_without(run: Program) -> None:
    backend = ScriptedBackend(" hello")
    assert run("run", "dialogue", "--set", "message=hi", "--model", "idefics2", backend=backend).stdout == "hello\n"


def test_examples_become_shots(run: Program, tmp_path: Path, two_images: tuple[Path, Path]) -> None:
    examples = tmp_path / "shots.yaml"
    examples.write_text("- {image: b.png, answer: A blue circle.}\n- {image: b.png, answer: Another.}\n")
    backend = ScriptedBackend()
    run("caption", two_images[0], "--examples", examples, "--shots", "1", *MODEL, backend=backend)
    parts = backend.requests[0].prompt[0].parts
    assert parts == (
        ImagePart(str(two_images[1])),
        TextPart("A blue circle.\n"),
        ImagePart(str(two_images[0])),
    )
    too_many = run("caption", two_images[0], "--examples", examples, "--shots", "3", *MODEL, backend=backend)
    assert too_many.code == 2
    assert "has 2" in too_many.stderr
    assert run("caption", two_images[0], "--shots", "3", *MODEL, backend=backend).code == 2


def test_every_decoding_option_reaches_the_request(run: Program, red_circle: Path) -> None:
    backend = ScriptedBackend()
    options = (
        "--max-new-tokens 7 --num-beams 3 --temperature 0.5 --top-p 0.9 --top-k 4 --repetition-penalty 1.2 "
        "--no-repeat-ngram-size 2 --length-penalty 0.8 --seed 11 --batch-size 5"
    )
    stops = ("--stop", "a b", "--stop", "c")
    assert run("caption", red_circle, *options.split(), *stops, *MODEL, backend=backend).stderr == ""
    decoding = backend.requests[0].decoding
    assert (decoding.max_new_tokens, decoding.num_beams, decoding.temperature, decoding.top_p) == (
        7,
        3,
        0.5,
        0.9,
    )
    assert (decoding.top_k, decoding.repetition_penalty, decoding.no_repeat_ngram_size) == (4, 1.2, 2)
    assert (decoding.length_penalty, decoding.seed, decoding.stop) == (0.8, 11, ("a b", "c"))
    assert backend.batch_size == 5


def test_model_options_reach_the_spec(run: Program, red_circle: Path) -> None:
    backend = ScriptedBackend()
    options = "--revision r1 --style chat --dtype float32 --device cpu --4bit --attention eager --detail low"
    run("caption", red_circle, *options.split(), "--model", "smolvlm", backend=backend)
    spec = backend.spec
    assert (spec.checkpoint, spec.revision, spec.style) == ("HuggingFaceTB/SmolVLM-Instruct", "r1", "chat")
    assert (spec.dtype, spec.device, spec.quantization) == ("float32", "cpu", "4bit")
    assert (spec.attention, spec.detail) == ("eager", "low")
    assert run("caption", red_circle, "--4bit", "--quantize", "int8", *MODEL, backend=backend).code == 2
    assert run("caption", red_circle, "--offline", *MODEL, backend=backend).code == 0
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_options_without_effect_are_told(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, "--seed", "3", "--length-penalty", "2", *MODEL, backend=ScriptedBackend())
    assert "--seed changes nothing" in result.stderr
    assert "--length-penalty changes nothing" in result.stderr
    ranked = run("classify", red_circle, "--labels", "a,b", "--top-k", "3", *MODEL, backend=ScriptedBackend())
    assert "--top-k changes nothing without --generate" in ranked.stderr


def test_failed_rows_do_not_stop_the_others(run: Program, tmp_path: Path, red_circle: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    backend = ScriptedBackend()
    command = ("caption", tmp_path / "missing.png", red_circle, tmp_path / "bad.png", *MODEL)
    result = run(*command, backend=backend)
    assert (result.code, result.stdout) == (1, f"{red_circle}\tA red circle.\n")
    assert len(result.stderr.splitlines()) == 3
    assert "2 of 3 failed" in result.stderr
    assert len(backend.requests) == 1
    codes = [row["error"] and row["error"]["code"] for row in rows(run(*command, "--format=jsonl", backend=backend))]
    assert codes == ["not_found", None, "not_an_image"]


def test_an_error_of_the_backend_is_its_items_row(run: Program, two_images: tuple[Path, Path]) -> None:
    def reply(request: Request) -> str | AnswerError:
        is_a = request.images[0].endswith("a.png")
        return AnswerError("too large", code="out_of_memory", hint="use --4bit") if is_a else " fine"

    result = run("caption", *two_images, *MODEL, backend=ScriptedBackend(reply))
    assert (result.code, result.stdout) == (1, f"{two_images[1]}\tfine\n")
    assert "a.png: too large; use --4bit" in result.stderr


def test_what_decoding_changed_is_a_note_and_in_the_row(run: Program, tmp_path: Path) -> None:
    import PIL.Image

    PIL.Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "t.png")
    result = run("caption", tmp_path / "t.png", "--format", "jsonl", *MODEL, backend=ScriptedBackend())
    warning = rows(result)[0]["warnings"][0]
    assert f"t.png: {warning}" in result.stderr
    assert run("caption", tmp_path / "t.png", "--quiet", *MODEL, backend=ScriptedBackend()).stderr == ""


def test_background_and_pixel_limit_reach_the_decoder(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, "--max-pixels", "100", "--format=jsonl", *MODEL, backend=ScriptedBackend())
    assert rows(result)[0]["error"]["code"] == "too_large"
    assert run("caption", red_circle, "--background", "#00ff00", *MODEL, backend=ScriptedBackend()).code == 0
    assert run("caption", red_circle, "--background", "greenish", *MODEL, backend=ScriptedBackend()).code == 2


def test_folders_and_nothing_to_do(run: Program, tmp_path: Path) -> None:
    import PIL.Image

    (tmp_path / "deep" / "er").mkdir(parents=True)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "deep" / "er" / "x.png")
    empty = run("caption", tmp_path / "deep", *MODEL, backend=ScriptedBackend())
    assert empty.code == 4
    assert "--recursive" in empty.stderr
    assert run("caption", tmp_path / "deep", "-r", *MODEL, backend=ScriptedBackend()).stdout == "A red circle.\n"
    assert run("caption", *MODEL, backend=ScriptedBackend()).code == 4


def test_standard_input_is_an_image(run: Program, red_circle: Path) -> None:
    result = run("vqa", "-", "-q", "a?", "-q", "b?", *MODEL, backend=ScriptedBackend(), stdin=red_circle.read_bytes())
    assert result.stdout == "-\ta?\tA red circle.\n-\tb?\tA red circle.\n"


def test_an_address_that_is_no_bucket_is_no_place_for_rows(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, *MODEL, "-o", "https://a.example/rows.jsonl", backend=ScriptedBackend())
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert "https://a.example/rows.jsonl is not in a bucket" in result.stderr


def test_output_files_are_not_replaced_unasked(run: Program, tmp_path: Path, two_images: tuple[Path, Path]) -> None:
    out = tmp_path / "rows.jsonl"
    command = ("caption", *two_images, *MODEL, "-o", out)
    assert run(*command, "--format", "text", backend=ScriptedBackend()).stdout == ""
    assert out.read_text() == "".join(f"{image}\tA red circle.\n" for image in two_images)
    backend = ScriptedBackend(" new")
    for more in ((), ("--format", "text"), ("--format", "text", "--existing", "resume")):
        refused = run(*command, *more, backend=backend)
        assert refused.code == 2
        assert refused.stderr.startswith("idefics: error: ")
        assert backend.requests == []
    run(*command, "--existing", "overwrite", "--format", "text", backend=backend)
    assert out.read_text().endswith("b.png\tnew\n")
    assert run("caption", two_images[0], *MODEL, "-o", tmp_path / "no" / "x", backend=backend).code == 2


def test_controls_in_an_answer_do_not_reach_the_terminal(run: Program, red_circle: Path) -> None:
    backend = ScriptedBackend(Answer(" a \x1b[31mred\x07 circle"))
    assert run("caption", red_circle, *MODEL, backend=backend).stdout == "a [31mred circle\n"


def test_verbose_says_what_answers_cost(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, "--verbose", *MODEL, backend=ScriptedBackend())
    assert "10 + 3 tokens in 0.25 s" in result.stderr


def test_classify_normalizes_as_asked(run: Program, red_circle: Path) -> None:
    command = ("classify", red_circle, "--labels", "circle,square", *MODEL)
    for arguments, expected in (((), "none"), (("--normalize", "pmi"), "pmi")):
        backend = ScriptedBackend()
        assert run(*command, *arguments, backend=backend).code == 0
        assert backend.requests[0].normalize == expected
    refused = run(*command, "--normalize", "tokens", "--generate", backend=ScriptedBackend())
    assert refused.code == 2
    assert "--normalize" in refused.stderr


@pytest.mark.parametrize(
    ("size", "count"), [("0", 0), ("512MB", 512_000_000), ("1.5 GiB", 3 * 2**29), ("2g", 2 * 10**9)]
)
def test_memory_for_caches_is_a_size(size: str, count: int) -> None:
    assert resolve(DecodingOptions(cache_memory=size)).cache_bytes == count


def test_a_wrong_size_is_a_usage_error(run: Program, red_circle: Path) -> None:
    result = run("caption", red_circle, "--cache-memory", "much", *MODEL, backend=ScriptedBackend())
    assert result.code == 2
    assert "512MB" in result.stderr


def test_fast_decoding_is_told_in_the_row_and_is_another_run(run: Program, tmp_path: Path) -> None:
    import PIL.Image

    photo, rows = tmp_path / "photo.jpg", tmp_path / "answers.jsonl"
    PIL.Image.new("RGB", (1600, 1200), "white").save(photo)
    given = ("caption", photo, "--model", "shapes", "-o", rows)
    assert run(*given, "--fast-decode").code == 0
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert any("of its size, as --fast-decode allows" in warning for warning in row["warnings"])
    assert run(*given).code == 2, "pixels are others without it"
    assert run("caption", photo, "--fast-decode", "--server", "http://127.0.0.1:1").code == 2
