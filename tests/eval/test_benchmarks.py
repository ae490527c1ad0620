"""Benchmarks by name through the real command line, on datasets that the test writes in the layout of the hub's."""

from __future__ import annotations

import gc
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest

from idefics_cli.config import SHAPES
from idefics_cli.eval.benchmarks import KEPT_FOR_SHOTS, load_benchmarks
from idefics_cli.shapes.training.scenes import paint, sample_scene
from tests.program import Run
from tests.review.rows import read_rows

Program = Callable[..., Run]
ASKED = 6


def write_split(folder: Path, split: str, rows: list[dict[str, object]], features: dict[str, object]) -> None:
    """A split as the hub has it: Parquet, and what its columns are in the schema's metadata."""
    table = pyarrow.Table.from_pylist(rows)
    described = json.dumps({"info": {"features": features}})
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({"huggingface": described}), folder / f"{split}-00000-of-00001.parquet"
    )


def make_image(number: int) -> tuple[dict[str, object], str]:
    """A picture as a dataset holds it, and what is on it."""
    random = Random(f"benchmark {number}")
    scene = sample_scene(random, 1)
    written = io.BytesIO()
    paint(scene, random).save(written, "PNG")
    return {"bytes": written.getvalue(), "path": None}, scene.shapes[0].kind


IMAGE = {"_type": "Image"}
TEXT = {"_type": "Value", "dtype": "string"}


@pytest.fixture(autouse=True)
def _collect_loops() -> Iterator[None]:
    """The library leaves event loops to the collector, which would be held against whatever test runs then."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def vqav2(tmp_path: Path) -> Path:
    """The layout of lmms-lab/VQAv2: ten annotators an answer."""
    rows = []
    for number in range(KEPT_FOR_SHOTS + ASKED):
        image, kind = make_image(number)
        answers = [{"answer": kind if one < 8 else "thing", "answer_id": one} for one in range(10)]
        rows.append({"question_id": number, "image": image, "question": "What shape is this?", "answers": answers})
    features: dict[str, object] = {
        "question_id": {"_type": "Value", "dtype": "int64"},
        "image": IMAGE,
        "question": TEXT,
        "answers": {
            "_type": "List",
            "feature": {"answer": TEXT, "answer_id": {"_type": "Value", "dtype": "int64"}},
        },
    }
    write_split(tmp_path / "vqav2", "validation", rows, features)
    return tmp_path / "vqav2"


def test_a_benchmark_is_fetched_asked_resumed_and_scored(run: Program, vqav2: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    words = ("eval", "vqav2", "--data", vqav2, "--model", "shapes", "--shots", "2", "-o", rows)
    result = run(*words, "--limit", "3", "--json")
    assert result.code == 0, result.stderr
    said = json.loads(result.stdout)["metrics"]
    assert [(one["metric"], one["cases"]) for one in said] == [("vqa", 3)]
    assert said[0]["value"] > 60
    assert "nothing is published for shapes (shots: 2; " in result.stderr
    made = read_rows(rows)
    assert [row["id"] for row in made] == [str(KEPT_FOR_SHOTS + place) for place in range(3)]
    assert {row["template"] for row in made} == {"vqa-brief@1"}
    before = rows.read_bytes()
    again = run(*words, "--limit", "3", "--json")
    assert json.loads(again.stdout)["metrics"] == said
    assert rows.read_bytes() == before
    more = run(*words, "--json")
    assert json.loads(more.stdout)["metrics"][0]["cases"] == ASKED
    assert rows.read_bytes().startswith(before)


def test_shots_may_come_without_their_images(run: Program, vqav2: Path) -> None:
    result = run(
        *("eval", "vqav2", "--data", vqav2, "--model", "shapes", "--limit", "2"),
        *("--shots", "2", "--shots-without-image", "--json", "-o", vqav2 / "rows.jsonl"),
    )
    assert result.code == 0, result.stderr
    assert "published for shapes (shots: 2 without images; " in result.stderr


def test_labels_of_the_dataset_are_ranked(run: Program, tmp_path: Path) -> None:
    names = ["circle", "square, box", "star", "triangle", "heart", "diamond", "cross", "moon"]
    plain = [name.partition(",")[0] for name in names]
    rows: list[dict[str, object]] = []
    for number in range(ASKED):
        image, kind = make_image(number)
        rows.append({"image": image, "label": plain.index(kind)})
    features: dict[str, object] = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": names}}
    write_split(tmp_path / "imagenet", "validation", rows, features)
    words = ("eval", "imagenet", "--data", tmp_path / "imagenet", "--model", "shapes", "--json")
    result = run(*words, "-o", tmp_path / "rows.jsonl")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"][0]["value"] > 60
    assert {score["label"] for score in read_rows(tmp_path / "rows.jsonl")[0]["scores"]} == set(plain)


def test_lettered_options_are_ranked_by_their_letters(run: Program, tmp_path: Path) -> None:
    image, _ = make_image(0)
    asked: dict[str, object] = {
        "id": "a",
        "question": "Which?",
        "options": "['circle', 'star']",
        "answer": "A",
    }
    open_one: dict[str, object] = {"id": "b", "question": "What?", "options": "[]", "answer": "42"}
    rows = [row | {"image_1": image} for row in (asked, open_one)]
    features: dict[str, object] = dict.fromkeys(("id", "question", "options", "answer"), TEXT)
    write_split(tmp_path / "mmmu", "validation", rows, features | {"image_1": IMAGE})
    words = ("eval", "mmmu", "--data", tmp_path / "mmmu", "--model", "shapes", "--json")
    result = run(*words, "-o", tmp_path / "rows.jsonl")
    assert result.code == 0, result.stderr
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert {score["label"] for score in row["scores"]} == {"A", "B"}
    assert row["fields"]["question"].endswith("\nA. circle\nB. star")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vqav3",), "neither a file of rows nor a benchmark"),
        (("vqav2", "--offline"), "cannot read lmms-lab/VQAv2"),
        (("vqav2", "--data", "."), "cannot read lmms-lab/VQAv2"),
        (("vqav2", "--shots-without-image"), "add --shots 2"),
        (("vqav2", "--references", "x.jsonl"), "has its own references"),
        (("rows.jsonl", "--limit", "5"), "are for a benchmark"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    run: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    result = run("eval", *words, "--model", "shapes")
    assert result.code == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_every_benchmark_can_be_asked() -> None:
    """Each names a metric that there is, and a template that has its field."""
    from idefics_cli.eval.metrics import METRICS
    from idefics_cli.prompts.templates import Template, load_template

    for name, benchmark in load_benchmarks().items():
        assert benchmark.metric in METRICS, name
        template = (
            load_template(benchmark.template)
            if isinstance(benchmark.template, str)
            else Template.model_validate(benchmark.template)
        )
        assert benchmark.columns.text is None or benchmark.field in template.fields, name
        assert benchmark.source
        assert SHAPES not in benchmark.published
